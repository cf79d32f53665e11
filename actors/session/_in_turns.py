"""Long computations, with others' turns in between (I10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

ResultT = TypeVar("ResultT")


async def in_turns(steps: Generator[None, None, ResultT]) -> ResultT:
    """Return what a computation returns that yields between its steps: a checkpoint at each."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            result: ResultT = finished.value
            return result
        await trio.lowlevel.checkpoint()
