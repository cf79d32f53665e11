"""What is derived of a session's events, in files that people and tools read.

    {out}/sessions/{id}/events.jsonl    the rows, a line each
    {out}/sessions/{id}/summary.txt     the last text of the assistant that is not empty
    {out}/sessions/{id}/session.json    which events there are
    {out}/sessions/{id}/checkpoint      how far these are: {"last_seq": N, "events_len": BYTES}

The checkpoint is written last, and all of it durably, so that `SessionProjector.resume` knows what
to believe.  None of these files is ever a source of truth: a number, a text or an event is taken
from the log, and whatever does not fit the log is made anew.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import msgspec
import trio
from msgspec import Meta

from dalsegno.actors.domains.sessions import assistant_text
from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime.disk import RealDisk, make_durable_folder, replace

from ._errors import EventCompactedError, EventIoError, EventStoreStateError
from ._event_store import check_session_id
from ._events import REPAIR
from ._rows import line_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dalsegno.runtime.disk import Disk

    from ._event_store import EventStore
    from ._events import StoredEvent

P = ParamSpec("P")
T = TypeVar("T")

_LOCK_DEADLINE_S = 10.0


Count = Annotated[int, Meta(ge=0, le=SEQ_MAX)]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far a session was projected."""

    last_seq: Count
    events_len: Count


class SessionProjector:
    """Keeps the files of sessions in step with a store."""

    def __init__(
        self,
        out: Path | str,
        store: EventStore,
        *,
        summarise: Callable[[str | None, Any], str | None] = assistant_text,
        disk: Disk | None = None,
    ) -> None:
        """Make it.

        Args:
            out: the folder in which ``sessions/`` is.
            store: where the events are.
            summarise: returns the summary after an event, from the one before it, or None.
            disk: the file system, for tests.

        """
        self.out = Path(out)
        self._store = store
        self._summarise = summarise
        self._disk: Disk = disk or RealDisk()

    def __repr__(self) -> str:
        return f"<SessionProjector into {self.out}>"

    # ------------------------------------------------------------------------------- projecting

    async def project(self, session_id: str, from_seq: int) -> int:
        """Add the events from a number on, and return the last one's.

        Where there are none, ``from_seq - 1`` is returned and nothing is written.

        Raises:
            EventStoreError: the store cannot be read, or the files not be written.

        """
        async with self._held(session_id):
            return await self._project(session_id, from_seq)

    async def _project(self, session_id: str, from_seq: int | None) -> int:
        """Add the events from a number on; without one make anew what is kept.

        Anew also where a repair is among them: earlier ones were lost, and are derived no longer.
        """
        anew, last_seq = from_seq is None, 0 if from_seq is None else from_seq - 1
        while True:
            page = await self._store.read_page(session_id, None if anew else last_seq + 1)
            if from_seq is not None and any(row.source == REPAIR for row in page.events):
                return await self._replay(session_id)
            if page.events:
                opening = await self._store.read_page(session_id, limit=1)
                await _in_thread(self._add, session_id, opening.events[0], page.events, anew=anew)
                last_seq, anew = page.events[-1].seq, False
            if not page.has_more:
                return last_seq

    def _add(
        self, session_id: str, first: StoredEvent, rows: list[StoredEvent], *, anew: bool
    ) -> None:
        folder, disk = self._folder(session_id), self._disk
        events, summary = folder / "events.jsonl", folder / "summary.txt"
        make_durable_folder(disk, folder)
        identity = None if anew else disk.identity(events)
        at = 0 if identity is None else identity.size
        lines = b"".join(map(line_of, rows))
        disk.write(events, at, lines)
        disk.sync(events)
        text = None if anew else _text_of(disk.read(summary))
        after = text
        for row in rows:
            after = self._summarise(after, row.event)
        if after is None:
            disk.remove(summary)
        elif after != text:
            replace(disk, summary, after.encode())
        about = {
            "session_id": session_id,
            "first_seq": first.seq,
            "first_timestamp": first.timestamp,
            "last_seq": rows[-1].seq,
            "last_timestamp": rows[-1].timestamp,
        }
        indented = msgspec.json.format(msgspec.json.encode(about), indent=2)
        replace(disk, folder / "session.json", indented + b"\n")
        checkpoint = Checkpoint(last_seq=rows[-1].seq, events_len=at + len(lines))
        replace(disk, folder / "checkpoint", msgspec.json.encode(checkpoint))

    async def replay(self, session_id: str) -> int:
        """Make a session's files anew of what is kept, whatever is there.

        Returns:
            The last event's number.

        Raises:
            EventStoreError: the store cannot be read, or the files not be written.

        """
        async with self._held(session_id):
            return await self._replay(session_id)

    async def _replay(self, session_id: str) -> int:
        await _in_thread(self._remove, session_id)
        return await self._project(session_id, None)

    def _remove(self, session_id: str) -> None:
        folder = self._folder(session_id)
        for name in ("checkpoint", "events.jsonl", "summary.txt", "session.json"):
            self._disk.remove(folder / name)
        if self._disk.identity(folder) is not None:
            self._disk.sync_folder(folder)

    # --------------------------------------------------------------------------------- resuming

    async def read_checkpoint(self, session_id: str) -> int:
        """Return the number up to which a session was projected; 0 if that is not known."""
        check_session_id(session_id)
        found = await _in_thread(self._checkpoint, session_id)
        return 0 if found is None else found.last_seq

    async def resume(self, session_id: str) -> int:
        """Bring a session's files up to the store; return the last event's number.

        What the checkpoint says is believed where it fits the log and the file of events; what
        stands behind it there is cut off.  Everything else is made anew (`replay`).

        Raises:
            EventStoreError: the store cannot be read, or the files not be written.

        """
        async with self._held(session_id):
            checkpoint = await _in_thread(self._checkpoint, session_id)
            with suppress(EventCompactedError):  # while it was looked at: it is anew then
                if checkpoint is not None and await self._is_true(session_id, checkpoint):
                    await _in_thread(self._cut, session_id, checkpoint.events_len)
                    return await self._project(session_id, checkpoint.last_seq + 1)
            return await self._replay(session_id)

    async def _is_true(self, session_id: str, checkpoint: Checkpoint) -> bool:
        """Return whether the file of events has the log's rows where it begins and ends."""
        if checkpoint.last_seq > await self._store.last_seq(session_id):
            return False
        opening = await self._store.read_page(session_id, limit=1)
        if not opening.events or checkpoint.last_seq < opening.events[0].seq:
            return False
        page = await self._store.read_page(session_id, checkpoint.last_seq, limit=1)
        if not page.events or page.events[0].seq != checkpoint.last_seq:
            return False
        first, last = line_of(opening.events[0]), line_of(page.events[0])
        return await _in_thread(self._has, session_id, checkpoint.events_len, first, last)

    def _has(self, session_id: str, events_len: int, first: bytes, last: bytes) -> bool:
        """Return whether the file of events begins with a line, and ends there with another one."""
        events = self._folder(session_id) / "events.jsonl"
        at = events_len - len(last)
        if at < 0 or not self._is_file(events):
            return False
        before = self._disk.read(events, max(at - 1, 0), min(at, 1))
        return (
            (at == 0 or before == b"\n")
            and self._disk.read(events, 0, len(first)) == first
            and self._disk.read(events, at, len(last)) == last
        )

    def _cut(self, session_id: str, events_len: int) -> None:
        events = self._folder(session_id) / "events.jsonl"
        identity = self._disk.identity(events)
        if identity is not None and identity.size > events_len:
            self._disk.write(events, events_len, b"")
            self._disk.sync(events)

    def _checkpoint(self, session_id: str) -> Checkpoint | None:
        path = self._folder(session_id) / "checkpoint"
        if not self._is_file(path):
            return None
        text = self._disk.read(path, 0, 1_000)
        try:
            return msgspec.json.decode(text or b"", type=Checkpoint)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _is_file(self, path: Path) -> bool:
        try:
            return self._disk.read(path, 0, 1) is not None
        except OSError:  # a folder, or what may not be read: to be made anew
            return False

    # ------------------------------------------------------------------------------------ files

    def _folder(self, session_id: str) -> Path:
        return self.out / "sessions" / session_id

    @asynccontextmanager
    async def _held(self, session_id: str) -> AsyncIterator[None]:
        """Hold a session's projection for the length of a block.

        Raises:
            EventStoreStateError: another projector does so for too long.

        """
        check_session_id(session_id)
        folder = self._folder(session_id)
        lock = None
        with trio.move_on_after(_LOCK_DEADLINE_S):
            while lock is None:
                lock = await _in_thread(self._try_lock, folder)
                if lock is None:
                    await trio.sleep(0.01)
        if lock is None:
            raise EventStoreStateError(f"another projector is at work in '{folder}'")
        try:
            yield
        finally:
            lock.release()

    def _try_lock(self, folder: Path) -> Any:  # noqa: ANN401 - a lock of the disk's
        make_durable_folder(self._disk, folder)
        return self._disk.try_lock(folder / ".lock", shared=False)


def _text_of(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await trio.to_thread.run_sync(partial(function, *args, **kwargs))
    except OSError as error:
        raise EventIoError(f"IO error: {error}") from error
