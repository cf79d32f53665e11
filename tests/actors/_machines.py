"""Tables of states: each step in the table or a bug, and the edges that an object walks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import pytest

from dalsegno.protocol import IllegalStepError, Machine


def check_step(machine: Machine[Any, Any], state: Enum, given: Enum) -> None:
    """Take one step: to a state of the table, or as `IllegalStepError`, which names both."""
    if given in machine.steps[state]:
        assert machine.step(state, given) in machine.steps
    else:
        named = f"{machine.name} {state.value}: {given.value}"
        with pytest.raises(IllegalStepError, match=named):
            machine.step(state, given)


@contextmanager
def walked(
    patch: pytest.MonkeyPatch, owner: type, method: str, state_of: Callable[[Any], Enum]
) -> Iterator[set[tuple[Enum, Enum]]]:
    """Record every step that objects of a class take by a method of theirs."""
    edges: set[tuple[Enum, Enum]] = set()
    step = getattr(owner, method)

    def recorded(self: object, given: Enum) -> None:
        edges.add((state_of(self), given))
        step(self, given)

    patch.setattr(owner, method, recorded)
    yield edges
