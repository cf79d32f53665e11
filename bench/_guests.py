"""A process with many clients (`_crowd`), as the measurement uses it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ._machine import raise_file_limit
from ._processes import OTHER_CORE, Child, child, python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ._harness import Report
    from ._servers import Server

_OTHER_FILES = 500
"""Open files of a process beside its many connections."""


class Outcome(msgspec.Struct, frozen=True):
    """How clients fared."""

    wall_s: float
    cpu_s: float
    """Processor time of the clients themselves."""
    refused: int
    """How often a client was refused or cut off, and came back."""
    latencies_s: list[float]


@dataclass(frozen=True, slots=True)
class Guests:
    """Clients in a process of their own."""

    process: Child

    async def storm(self, clients: int, text: str, mark: str) -> Outcome:
        """Connect so many at once, send something and read up to a mark."""
        return await self._do("storm", clients=clients, texts=[text], mark=mark)

    async def connect(self, clients: int) -> Outcome:
        """Connect so many more, which stay."""
        return await self._do("connect", clients=clients)

    async def say(self, texts: Sequence[str], mark: str) -> Outcome:
        """Send some messages from all at once, and read up to a mark."""
        return await self._do("say", texts=texts, mark=mark)

    async def leave(self) -> None:
        """Disconnect all."""
        await self._do("leave")

    async def _do(self, what: str, **arguments: Any) -> Outcome:  # noqa: ANN401 - JSON
        answer = await self.process.ask(json.dumps({"do": what, **arguments}))
        return msgspec.json.decode(answer, type=Outcome)


def as_many(wanted: int, report: Report) -> int:
    """Return how many clients one server can have here; note it if they are fewer."""
    allowed = raise_file_limit(wanted + _OTHER_FILES) - _OTHER_FILES
    if allowed < wanted:
        report.notes.append(f"{allowed:,} clients instead of {wanted:,}: the limit of open files.")
    return min(allowed, wanted)


@asynccontextmanager
async def guests(server: Server) -> AsyncIterator[Guests]:
    """Open clients of a server for the length of a block, none of them connected yet."""
    command = python("bench._crowd", str(server.port), server.cookie)
    async with child("crowd", command, core=OTHER_CORE) as process:
        await process.hear()
        yield Guests(process)
