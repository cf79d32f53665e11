"""State machines as tables: every legal step is an entry, and nothing else moves the state."""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

StateT = TypeVar("StateT", bound=Enum)
InputT = TypeVar("InputT", bound=Enum)


class IllegalStepError(AssertionError):
    """A bug of ours: the input is illegal in this state; nothing has changed."""


class Machine(Generic[StateT, InputT]):
    """The steps of one kind of machine, from state and input to state."""

    __slots__ = ("name", "steps")

    def __init__(self, name: str, steps: dict[StateT, dict[InputT, StateT]]) -> None:
        self.name = name
        self.steps = steps

    def step(self, state: StateT, input_: InputT) -> StateT:
        """Return the state that follows.

        Raises:
            IllegalStepError: the table has no such step.

        """
        try:
            return self.steps[state][input_]
        except KeyError:
            raise IllegalStepError(f"{self.name} {state.value}: {input_.value}") from None
