"""Short turns of the event loop: nobody else can interrupt what is done without waiting (I10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

ResultT = TypeVar("ResultT")


class Turn:
    """One task's turn, from its last checkpoint on; work in portions asks it in between."""

    __slots__ = ("_began", "_turn_s")

    def __init__(self, turn_s: float) -> None:
        self._turn_s = turn_s
        self._began = trio.current_time()

    def __repr__(self) -> str:
        return f"<Turn of {trio.current_time() - self._began:.4f} s>"

    async def pause(self) -> None:
        """Yield to the other tasks once this turn has lasted `turn_s`."""
        if trio.current_time() - self._began >= self._turn_s:
            await trio.lowlevel.checkpoint()
            self._began = trio.current_time()


async def in_turns(steps: Generator[None, None, ResultT]) -> ResultT:
    """Return what a computation returns that yields between its steps: a checkpoint at each."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            result: ResultT = finished.value
            return result
        await trio.lowlevel.checkpoint()
