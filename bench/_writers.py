"""Writers to a runtime in the same process, and how fast they are."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.notes import ApplyPatch, CreateNote
from dalsegno.protocol import PatchOp
from dalsegno.runtime import Runtime, Workspace

from ._domain import AddTask, RenameOften, RenameTask
from ._harness import Sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._servers import Postgres

    Send = Callable[[], Awaitable[object]]

NOTE_CHARS = 1_000
HUNDRED = 100
_PATCH_CHARS = 20


@dataclass(slots=True)
class NoteWriter:
    """Overwrites twenty characters of a note, at random; the note keeps its length."""

    workspace: Workspace
    note_id: str
    random: random.Random
    chars: int = NOTE_CHARS
    has_keys: bool = False
    """Whether every patch has an idempotency key."""
    version: int = 0

    async def create(self) -> None:
        """Write the note."""
        await self.workspace.send(CreateNote(self.note_id, "x" * self.chars, note_id=self.note_id))
        self.version = 1

    async def send(self) -> None:
        """Change the note."""
        place = self.random.randrange(self.chars - _PATCH_CHARS)
        ops = [
            PatchOp(retain=place),
            PatchOp(insert="y" * _PATCH_CHARS),
            PatchOp(delete=_PATCH_CHARS),
        ]
        key = f"patch {self.version}" if self.has_keys else None
        await self.workspace.send(ApplyPatch(self.note_id, ops, self.version), key=key)
        self.version += 1


@dataclass(slots=True)
class TaskWriter:
    """Renames a task, or adds one after the other."""

    workspace: Workspace
    task_id: str = "t"
    added: int = 0

    async def create(self) -> None:
        """Add the task."""
        await self.workspace.send(AddTask(self.task_id, "first"))

    async def send(self) -> None:
        """Rename the task."""
        await self.workspace.send(RenameTask(self.task_id, "again"))

    async def send_hundred(self) -> None:
        """Rename the task a hundred times with one command."""
        await self.workspace.send(RenameOften(self.task_id, "again", HUNDRED))

    async def add(self) -> None:
        """Add another task, which the runtime first has to look for in the store."""
        self.added += 1
        await self.workspace.send(AddTask(f"t{self.added}", "another"))


def round_robin(writers: Sequence[TaskWriter]) -> Send:
    """Combine many writers into one, which uses them in turn."""
    turn = 0

    async def send() -> None:
        nonlocal turn
        turn += 1
        await writers[turn % len(writers)].send()

    return send


async def create(writers: Sequence[NoteWriter | TaskWriter]) -> None:
    """Send the first command of each writer."""
    async with trio.open_nursery() as nursery:
        for writer in writers:
            nursery.start_soon(writer.create)


async def write(
    runtime: Runtime,
    database: Postgres,
    senders: Sequence[Send],
    seconds: float,
    *,
    events: int = 1,
) -> Sample:
    """Send one command after the other from every sender, of so many events each, for so long."""
    latencies: list[float] = []
    statistics = runtime.service.committer.statistics
    before = statistics()
    cpu, postgres = time.process_time(), database.cpu_s()
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for send in senders:
            nursery.start_soon(_send_until, began + seconds, send, latencies)
    return Sample(
        count=len(latencies) * events,
        wall_s=time.perf_counter() - began,
        cpu_s=time.process_time() - cpu,
        postgres_s=database.cpu_s() - postgres,
        commits=statistics().statements - before.statements,
        latencies_s=latencies,
    )


async def _send_until(end: float, send: Send, latencies: list[float]) -> None:
    now = time.perf_counter()
    while now < end:
        began = now
        await send()
        now = time.perf_counter()
        latencies.append(now - began)
