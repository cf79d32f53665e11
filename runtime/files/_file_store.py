"""Sessions' events in plain files, with a durable order of steps; `_layout` says which files.

One append, under the lock: number, write all rows in one go, sync the log, replace the owner,
replace the head.  So what was acknowledged is below the head, and a crash leaves at most whole rows
behind it, which count, and a torn one, which does not.  The owner may stand behind the log, which
then knows better, or before it, which leaves a gap; it is never taken from this process's memory or
from what a projector wrote.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime.disk import RealDisk, make_durable_folder
from dalsegno.runtime.seams import WORLD

from ._compaction import compact
from ._errors import EventCompactedError, EventConflictError, EventStoreStateError
from ._event_store import PAGE_MAX, EventStore, check_session_id, is_session_id
from ._events import EVENT_SCHEMA_VERSION, EventPage, Inserted, Replayed, StoredEvent
from ._folder import SessionFolder
from ._halts import clear_halt, read_halt, record_halt
from ._logs import Logs
from ._rows import line_of
from ._sequence import OWNER, read_head, read_number, write_head, write_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors import World
    from dalsegno.runtime.disk import Disk

    from ._event_store import Hold
    from ._events import Appended, EventEnvelope, EventProjectionHaltMarker


class FileEventStore(EventStore):
    """Sessions' events in plain files; several processes may have one folder."""

    def __init__(
        self,
        root: Path | str,
        *,
        world: World = WORLD,
        disk: Disk | None = None,
        lock_deadline_s: float = 10.0,
    ) -> None:
        """Open a folder, which is made with the first append.

        Args:
            root: the folder.
            world: time and ids.
            disk: the file system, for tests.
            lock_deadline_s: how long to wait for a session that another process appends to.

        """
        super().__init__(world)
        self.root = Path(root)
        self.folder = SessionFolder(
            self.root, world=world, disk=disk or RealDisk(), lock_deadline_s=lock_deadline_s
        )
        """Its files, which `check` and `repair` look at one by one."""
        self._logs = Logs(self.folder)
        self._is_rooted = False
        """Whether the folder's own name is known to be durable: a crash may have come before."""

    def __repr__(self) -> str:
        return f"<FileEventStore {self.root}, {len(self._logs)} sessions known>"

    # ------------------------------------------------------------------------------- appending

    async def _append_all(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> int:
        async with self.folder.held(session_id, shared=False):
            return await self.folder.in_thread(self._append, session_id, envelopes)

    async def _append_each_once(
        self, session_id: str, envelopes: Sequence[EventEnvelope]
    ) -> Appended:
        async with self.folder.held(session_id, shared=False):
            return await self.folder.in_thread(self._append_once, session_id, envelopes)

    def _append_once(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> Appended:
        known = self._logs.open(session_id).verified
        stored = [known.ids.get(envelope.event_id) for envelope in envelopes]
        there = [seq for seq in stored if seq is not None]
        if not there:
            return Inserted(self._append(session_id, envelopes))
        if len(there) < len(envelopes):
            raise EventConflictError("some of these events are stored, and others are not")
        for envelope, seq in zip(envelopes, there, strict=True):
            (row,) = self._logs.rows(session_id, known, seq, limit=1)[0]
            if row.to_envelope() != envelope:
                raise EventConflictError(f"event {envelope.event_id} is stored, as another one")
        return Replayed(there[-1])

    def _append(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> int:
        known, disk, layout = self._logs.open(session_id), self.folder.disk, self.folder.layout
        verified, log = known.verified, layout.log(session_id)
        tail = verified.last_seq
        base = max(read_number(disk, layout.owner(session_id), OWNER) or 0, tail)  # ME-L3
        if base > SEQ_MAX - len(envelopes):
            raise EventStoreStateError("event sequence overflow while allocating range")
        now = self._world.now()
        rows = [
            StoredEvent(
                seq=base + number,
                schema_version=EVENT_SCHEMA_VERSION,
                timestamp=now,
                source=envelope.source,
                mob_id=envelope.mob_id,
                stream_seq=envelope.seq,
                event_id=envelope.event_id,
                timestamp_ms=envelope.timestamp_ms,
                event=envelope.payload,
            )
            for number, envelope in enumerate(envelopes, 1)
        ]
        lines = [line_of(row) for row in rows]
        is_new = known.identity is None
        self._logs.forget(session_id)  # until all of it is durable
        size = verified.size
        try:
            disk.write(log, size, b"".join(lines))
            disk.sync(log)
            if is_new or not self._is_rooted:
                disk.sync_folder(self.root)
                disk.sync_folder(self.root.parent)
                self._is_rooted = True
            write_number(disk, layout.owner(session_id), rows[-1].seq)
            at = size
            for row, line in zip(rows, lines, strict=True):
                verified.take(row, at, len(line))
                at += len(line)
            known = known._replace(identity=disk.identity(log))
            write_head(disk, layout.head(session_id), known.head())
        except OSError:
            with suppress(OSError):
                self._take_back(session_id, tail, size, base)
            raise
        self._logs.remember(session_id, known)
        return verified.last_seq

    def _take_back(self, session_id: str, tail: int, size: int, base: int) -> None:
        """Remove the rows of an append that failed, and their numbers: nobody was told of them.

        In the order in which a crash, or another failure, leaves what can be read: a head is never
        ahead of its log, and an owner behind it counts for nothing.
        """
        disk, layout = self.folder.disk, self.folder.layout
        log = layout.log(session_id)
        head, identity = read_head(disk, layout.head(session_id)), disk.identity(log)
        if identity is None:
            return
        if head is not None and head.is_of(identity) and head.size > size:
            before = msgspec.structs.replace(head, seq=tail, size=size)
            write_head(disk, layout.head(session_id), before)
        disk.write(log, size, b"")
        disk.sync(log)
        if disk.identity(layout.owner(session_id)) is not None:
            write_number(disk, layout.owner(session_id), base)

    # --------------------------------------------------------------------------------- reading

    async def read_page(
        self, session_id: str, from_seq: int | None = None, *, limit: int = PAGE_MAX
    ) -> EventPage:
        """Read events in order, from a number on, that included: none of an unknown session."""
        self._check_not_halted_here(session_id)
        async with self.folder.held(session_id, shared=True):
            return await self.folder.in_thread(self._page, session_id, from_seq, limit)

    def _page(self, session_id: str, from_seq: int | None, limit: int) -> EventPage:
        known = self._logs.open(session_id)
        after = known.compacted if from_seq is None else max(from_seq - 1, 0)
        if after < known.compacted:
            raise EventCompactedError(after, known.compacted)
        limit = min(limit, PAGE_MAX)
        rows, has_more = self._logs.rows(session_id, known.verified, after + 1, limit=limit)
        return EventPage(rows, has_more)

    async def last_seq(self, session_id: str) -> int:
        """Return the number of a session's last event, 0 where there is none."""
        self._check_not_halted_here(session_id)
        async with self.folder.held(session_id, shared=True):
            known = await self.folder.in_thread(self._logs.open, session_id)
            return known.verified.last_seq

    async def min_available(self, session_id: str) -> int:
        """Return the lowest cursor from which a session can be read."""
        self._check_not_halted_here(session_id)
        async with self.folder.held(session_id, shared=True):
            return (await self.folder.in_thread(self._logs.open, session_id)).compacted

    async def session_ids(self, *, after: str = "", limit: int = PAGE_MAX) -> list[str]:
        """List the ids of sessions that have a log, in order, behind one."""
        names = await self.folder.in_thread(self.folder.disk.names, self.root)
        ids = (name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl"))
        found = sorted(each for each in ids if each > after and is_session_id(each))
        return found[: min(limit, PAGE_MAX)]

    async def compact(self, session_id: str, before_seq: int) -> int:
        """Remove a session's events with numbers below one, for good; return how many these were.

        The session is held meanwhile, for as long as it takes to read its log and to write what is
        left of it.
        """
        self._check_not_halted_here(session_id)
        async with self.folder.held(session_id, shared=False):
            return await self.folder.in_thread(
                compact, self.folder, self._logs, session_id, before_seq
            )

    # ----------------------------------------------------------------------------------- halts

    async def _record_halt(self, session_id: str, reason: str) -> None:
        async with self.folder.held(session_id, shared=False):
            await self.folder.in_thread(record_halt, self.folder, session_id, reason)

    async def _read_halt(self, session_id: str) -> EventProjectionHaltMarker | None:
        return await self.folder.in_thread(read_halt, self.folder, session_id)

    async def _clear_halt(self, session_id: str, *, by: str, reason: str) -> bool:
        async with self.folder.held(session_id, shared=False):
            return await self.folder.in_thread(
                clear_halt, self.folder, session_id, by=by, reason=reason
            )

    async def try_hold_turn(self, session_id: str) -> Hold | None:
        """Hold a session's turn, until it is released or this process ends."""
        path = self.folder.layout.turn(check_session_id(session_id))
        return await self.folder.in_thread(self._try_hold, path)

    def _try_hold(self, path: Path) -> Hold | None:
        make_durable_folder(self.folder.disk, path.parent)
        return self.folder.disk.try_lock(path, shared=False)
