"""Sessions' events in plain files, with a durable order of steps.

    {root}/{session}.jsonl                  the log: one row a line
    {root}/.sequence/{session}.seq          the sequence's owner: the last number that was given
    {root}/.sequence/{session}.head         the head: how much of the log is durable
    {root}/.sequence/{session}.lock         held by who appends, shared by who reads
    {root}/.projection-halts/{session}.json the marker of a session that was halted
    {root}/.projection-halts/{session}.log  who cleared such a marker, and why

One append, under the lock: number, write all rows in one go, sync the log, replace the owner,
replace the head.  So what was acknowledged is below the head, and a crash leaves at most whole rows
behind it, which count, and a torn one, which does not.  The owner may stand behind the log, which
then knows better, or before it, which leaves a gap; it is never taken from this process's memory or
from what a projector wrote.

A log is read whole once, and again where its length or its identity are not what the head says.
After that an append reads nothing of it, and a page is read where it begins.
"""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

import msgspec
import trio
from cachetools import LRUCache

from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime.seams import WORLD

from ._disk import RealDisk, make_durable_folder, replace
from ._errors import (
    EventConflictError,
    EventIoError,
    EventProjectionHaltedError,
    EventSerializationError,
    EventStoreStateError,
)
from ._event_store import (
    PAGE_BYTES_MAX,
    PAGE_MAX,
    EventStore,
    check_session_id,
    is_session_id,
)
from ._events import (
    EVENT_SCHEMA_VERSION,
    EventPage,
    EventProjectionHaltMarker,
    Inserted,
    Replayed,
    StoredEvent,
)
from ._rows import Verified, line_of, read_row, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from dalsegno.actors import World

    from ._disk import Disk, Identity, Lock
    from ._events import Appended, EventEnvelope

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 4 * 1024 * 1024
"""Bytes of a log that are read at a time."""
_THREADS = 8
"""Threads that a store uses; each is in one session's files at a time."""
_SESSIONS_KNOWN = 256
"""Logs whose verified part is remembered."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05


class _Head(msgspec.Struct, frozen=True):
    """How much of a log is durable, and of which file."""

    seq: int
    size: int
    device: int
    inode: int

    def is_of(self, identity: Identity) -> bool:
        """Return whether it is of this file, and not of one that took its place."""
        return (self.device, self.inode) == (identity.device, identity.inode)


class _Known(NamedTuple):
    """What was verified of a log, and of which file."""

    verified: Verified
    identity: Identity | None
    """None: there is no log yet."""


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
        self._disk: Disk = disk or RealDisk()
        self._lock_deadline_s = lock_deadline_s
        self._threads = trio.CapacityLimiter(_THREADS)
        self._known: LRUCache[str, _Known] = LRUCache(_SESSIONS_KNOWN)
        self._turns: dict[str, trio.StrictFIFOLock] = {}
        self._is_rooted = False
        """Whether the folder's own name is known to be durable: a crash may have come before."""

    def __repr__(self) -> str:
        return f"<FileEventStore {self.root}, {len(self._known)} sessions known>"

    # ------------------------------------------------------------------------------- appending

    async def _append_all(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> int:
        async with self._held(session_id, shared=False):
            return await self._in_thread(self._append, session_id, envelopes)

    async def _append_each_once(
        self, session_id: str, envelopes: Sequence[EventEnvelope]
    ) -> Appended:
        async with self._held(session_id, shared=False):
            return await self._in_thread(self._append_once, session_id, envelopes)

    def _append_once(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> Appended:
        known = self._open(session_id).verified
        stored = [known.ids.get(envelope.event_id) for envelope in envelopes]
        there = [seq for seq in stored if seq is not None]
        if not there:
            return Inserted(self._append(session_id, envelopes))
        if len(there) < len(envelopes):
            raise EventConflictError("some of these events are stored, and others are not")
        for envelope, seq in zip(envelopes, there, strict=True):
            (row,) = self._rows(session_id, known, seq, limit=1)[0]
            if row.to_envelope() != envelope:
                raise EventConflictError(f"event {envelope.event_id} is stored, as another one")
        return Replayed(there[-1])

    def _append(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> int:
        known = self._open(session_id)
        verified, log = known.verified, self._log(session_id)
        tail = verified.last_seq
        base = self._base(session_id, tail)
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
        self._known.pop(session_id, None)  # until all of it is durable
        size = verified.size
        try:
            self._disk.write(log, size, b"".join(lines))
            self._disk.sync(log)
            if is_new or not self._is_rooted:
                self._disk.sync_folder(self.root)
                self._disk.sync_folder(self.root.parent)
                self._is_rooted = True
            replace(self._disk, self._owner(session_id), b"%d\n" % rows[-1].seq)
            identity = self._disk.identity(log)
            assert identity is not None, "it was just written"
            at = size
            for row, line in zip(rows, lines, strict=True):
                verified.take(row, at, len(line))
                at += len(line)
            head = _Head(verified.last_seq, at, identity.device, identity.inode)
            replace(self._disk, self._head(session_id), msgspec.json.encode(head))
        except OSError:
            with suppress(OSError):
                self._take_back(session_id, tail, size, base)
            raise
        self._known[session_id] = _Known(verified, identity)
        return verified.last_seq

    def _take_back(self, session_id: str, tail: int, size: int, base: int) -> None:
        """Remove the rows of an append that failed, and their numbers: nobody was told of them.

        In the order in which a crash, or another failure, leaves what can be read: a head is never
        ahead of its log, and an owner behind it counts for nothing.
        """
        log = self._log(session_id)
        head, identity = self._read_head(session_id), self._disk.identity(log)
        if identity is None:
            return
        if head is not None and head.is_of(identity) and head.size > size:
            before = _Head(tail, size, identity.device, identity.inode)
            replace(self._disk, self._head(session_id), msgspec.json.encode(before))
        self._disk.write(log, size, b"")
        self._disk.sync(log)
        if self._disk.identity(self._owner(session_id)) is not None:
            replace(self._disk, self._owner(session_id), b"%d\n" % base)

    def _base(self, session_id: str, tail: int) -> int:
        """Return the number behind which the next one is (ME-L3, ME-L4)."""
        path = self._owner(session_id)
        text = self._disk.read(path)
        if text is None:
            return tail
        stripped = text.strip()
        if not stripped:
            raise EventStoreStateError(f"durable sequence owner '{path}' is empty")
        if not stripped.isdigit() or len(stripped) > 19 or int(stripped) > SEQ_MAX:
            shown = stripped[:40].decode("ascii", "replace")
            raise EventStoreStateError(f"durable sequence owner '{path}' is invalid: {shown!r}")
        return max(int(stripped), tail)

    # --------------------------------------------------------------------------------- reading

    async def read_page(
        self, session_id: str, from_seq: int = 1, *, limit: int = PAGE_MAX
    ) -> EventPage:
        """Read events in order, from a number on, that included: none of an unknown session."""
        async with self._held(session_id, shared=True):
            return await self._in_thread(self._page, session_id, from_seq, limit)

    async def last_seq(self, session_id: str) -> int:
        """Return the number of a session's last event, 0 where there is none."""
        async with self._held(session_id, shared=True):
            return await self._in_thread(lambda: self._open(session_id).verified.last_seq)

    async def session_ids(self, *, after: str = "", limit: int = PAGE_MAX) -> list[str]:
        """List the ids of sessions that have a log, in order, behind one."""
        names = await self._in_thread(self._disk.names, self.root)
        ids = (name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl"))
        found = sorted(each for each in ids if each > after and is_session_id(each))
        return found[: min(limit, PAGE_MAX)]

    def _page(self, session_id: str, from_seq: int, limit: int) -> EventPage:
        known = self._open(session_id).verified
        rows, has_more = self._rows(session_id, known, from_seq, limit=min(limit, PAGE_MAX))
        return EventPage(rows, has_more)

    def _rows(
        self, session_id: str, known: Verified, from_seq: int, *, limit: int
    ) -> tuple[list[StoredEvent], bool]:
        """Read rows of the verified part, and whether there are more."""
        rows: list[StoredEvent] = []
        at, size, left = known.place_of(from_seq), 0, b""
        while at + len(left) < known.size:
            length = min(_CHUNK, known.size - at - len(left))
            part = self._disk.read(self._log(session_id), at + len(left), length) or b""
            if len(part) < length:
                raise EventStoreStateError("the log became shorter while it was read")
            *lines, left = (left + part).split(b"\n")
            for line in lines:
                at += len(line) + 1
                if not line.strip():
                    continue
                row = read_row(line)
                if row.seq < from_seq:
                    continue
                if len(rows) >= limit or (rows and size + len(line) > PAGE_BYTES_MAX):
                    return rows, True
                rows.append(row)
                size += len(line)
        return rows, False

    def _open(self, session_id: str) -> _Known:
        """Return what is known of a log, of which as much is read as has to be.

        Raises:
            EventProjectionHaltedError: the session was halted.
            EventStoreStateError: the log has lost something that was durable.
            EventSerializationError, SchemaVersionMismatchError: it cannot be read.

        """
        marker = self._marker(session_id)
        if marker is not None:
            raise EventProjectionHaltedError(marker)
        log = self._log(session_id)
        head, identity = self._read_head(session_id), self._disk.identity(log)
        known = self._known.get(session_id)
        if identity is None:
            if head is not None and head.size:
                raise EventStoreStateError(f"the log '{log}' is gone, which had {head.size} bytes")
            return _Known(Verified(), None)
        durable = None if head is None or not head.is_of(identity) else head.size
        if durable is not None and identity.size < durable:
            message = f"the log '{log}' has {identity.size} bytes of {durable} that were durable"
            raise EventStoreStateError(message)
        was = None if known is None else known.identity
        is_known = was is not None and (
            was == identity or (identity.size == durable and was.is_before(identity))
        )
        verified = known.verified if known is not None and is_known else Verified()
        if verified.size < identity.size:
            self._known.pop(session_id, None)  # a part that cannot be read leaves it half read
            self._verify(log, verified, identity.size, durable)
            if verified.size > (durable or 0):
                self._settle(log)
        self._known[session_id] = found = _Known(verified, identity)
        return found

    def _settle(self, log: Path) -> None:
        """Make durable what was found behind the head, before anybody is told of it."""
        try:
            self._disk.sync(log)
            self._disk.sync_folder(self.root)
            self._disk.sync_folder(self.root.parent)
        except OSError as error:
            # What this process may not write to was not written by one that crashed just now.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise

    def _verify(self, log: Path, verified: Verified, size: int, durable: int | None) -> None:
        """Read what was not verified of a log, a part at a time.

        A log without a head of its own is durable up to its last whole line.
        """
        left = b""
        while verified.size + len(left) < size:
            at = verified.size + len(left)
            part = self._disk.read(log, at, min(_CHUNK, size - at))
            if not part:
                break
            left += part
            is_last = verified.size + len(left) >= size
            whole = len(left) if is_last else left.rfind(b"\n") + 1
            least = durable if durable is not None else verified.size + left.rfind(b"\n") + 1
            if whole:
                before = verified.size
                verify(verified, left[:whole], least if is_last else min(least, before + whole))
                if is_last or verified.size < before + whole:
                    return
                left = left[whole:]
        if durable is not None and verified.size < durable:
            raise EventStoreStateError(f"the log has lost some of {durable} bytes")

    # ----------------------------------------------------------------------------------- halts

    async def record_projection_halt(self, session_id: str, reason: str) -> None:
        """Halt a session durably: it is neither read nor written until that is cleared."""
        async with self._held(session_id, shared=False):
            await self._in_thread(self._halt, session_id, reason)

    def _halt(self, session_id: str, reason: str) -> None:
        marker = EventProjectionHaltMarker(
            session_id=session_id, reason=reason, recorded_at=self._world.now()
        )
        path = self._halt_path(session_id)
        make_durable_folder(self._disk, path.parent)
        text = msgspec.json.format(msgspec.json.encode(marker), indent=2)
        replace(self._disk, path, text + b"\n")

    async def projection_halt(self, session_id: str) -> EventProjectionHaltMarker | None:
        """Return the marker of a halted session, None where it is not halted."""
        check_session_id(session_id)
        return await self._in_thread(self._marker, session_id)

    def _marker(self, session_id: str) -> EventProjectionHaltMarker | None:
        text = self._disk.read(self._halt_path(session_id))
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=EventProjectionHaltMarker)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EventSerializationError(f"a halt marker that is none: {error}") from None

    async def clear_projection_halt(self, session_id: str, *, by: str, reason: str) -> bool:
        """Clear the halt of a session; who did so, and why, is on record beside the marker."""
        async with self._held(session_id, shared=False):
            return await self._in_thread(self._clear, session_id, by, reason)

    def _clear(self, session_id: str, by: str, reason: str) -> bool:
        path = self._halt_path(session_id)
        text = self._disk.read(path)
        if text is None:
            return False
        record = {
            "by": by,
            "reason": reason,
            "at": self._world.now(),
            "cleared": text.decode("utf-8", "replace").strip(),
        }
        log = path.with_suffix(".log")
        written = self._disk.identity(log)
        at = 0 if written is None else written.size
        self._disk.write(log, at, msgspec.json.encode(record) + b"\n")
        self._disk.sync(log)
        self._disk.remove(path)
        self._disk.sync_folder(path.parent)
        return True

    # ----------------------------------------------------------------------------------- files

    def _log(self, session_id: str) -> Path:
        return self.root / f"{session_id}.jsonl"

    def _owner(self, session_id: str) -> Path:
        return self.root / ".sequence" / f"{session_id}.seq"

    def _head(self, session_id: str) -> Path:
        return self.root / ".sequence" / f"{session_id}.head"

    def _halt_path(self, session_id: str) -> Path:
        return self.root / ".projection-halts" / f"{session_id}.json"

    def _read_head(self, session_id: str) -> _Head | None:
        path = self._head(session_id)
        text = self._disk.read(path)
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=_Head)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EventStoreStateError(f"durable head '{path}' is invalid: {error}") from None

    @asynccontextmanager
    async def _held(self, session_id: str, *, shared: bool) -> AsyncIterator[None]:
        """Hold a session for the length of a block: in this process, and among all of them.

        Raises:
            EventStoreStateError: another process holds it for too long.

        """
        check_session_id(session_id)
        turn = self._turns.setdefault(session_id, trio.StrictFIFOLock())
        try:
            async with turn:
                lock = await self._lock(session_id, shared=shared)
                try:
                    yield
                finally:
                    if lock is not None:
                        lock.release()
        finally:
            if not turn.statistics().tasks_waiting and not turn.locked():
                self._turns.pop(session_id, None)

    async def _lock(self, session_id: str, *, shared: bool) -> Lock | None:
        path, wait_s = self.root / ".sequence" / f"{session_id}.lock", _FIRST_WAIT_S
        with trio.move_on_after(self._lock_deadline_s):
            while True:
                is_free, lock = await self._in_thread(self._try_lock, path, shared=shared)
                if is_free:
                    return lock
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        message = f"failed to acquire durable sequence lock '{path}': another process has it"
        raise EventStoreStateError(message)

    def _try_lock(self, path: Path, *, shared: bool) -> tuple[bool, Lock | None]:
        """Return whether it can go on, and the lock; there is none where nothing can be made."""
        if shared:
            if self._disk.identity(self.root) is None:
                return True, None
        else:
            make_durable_folder(self._disk, path.parent)
        try:
            lock = self._disk.try_lock(path, shared=shared)
        except FileNotFoundError:
            return True, None  # nobody has appended yet
        except PermissionError:
            if not shared:
                raise
            return True, None
        except OSError as error:
            if shared and error.errno == errno.EROFS:
                return True, None
            raise
        return lock is not None, lock

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what blocks; cancelled, it is finished first.

        Raises:
            EventIoError: the file system failed.

        """
        try:
            return await trio.to_thread.run_sync(
                partial(function, *args, **kwargs), limiter=self._threads
            )
        except OSError as error:
            raise EventIoError(f"IO error: {error}") from error
