"""How far a job has come, as those see it who look at the job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_STEPS = 20
"""Times that it is recorded: each is an event of the workspace."""


class Progressed(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job has come."""

    done: int
    total: int
    unit: str


class Progress(Protocol):
    """Is told how much was done."""

    async def add(self, count: int) -> None:
        """Count so much more as done."""


class RecordedProgress:
    """Records with the run how far it has come, each twentieth of the way."""

    def __init__(self, save: Callable[[Any], Awaitable[None]], total: int, unit: str) -> None:
        self._save = save
        self._total = total
        self._unit = unit
        self._done = 0
        self._saved = 0

    def __repr__(self) -> str:
        return f"<RecordedProgress, {self._done} of {self._total} {self._unit}>"

    async def add(self, count: int) -> None:
        """Count so much more as done, and record it where it is a step further."""
        self._done += count
        step = self._done * _STEPS // max(self._total, 1)
        if self._saved < step < _STEPS:  # the last one is the end
            self._saved = step
            said = Progressed(done=self._done, total=self._total, unit=self._unit)
            await self._save(msgspec.to_builtins(said))
