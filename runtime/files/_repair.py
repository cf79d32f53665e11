"""Repairs a session's files: keeps what can be read, and says in the session what was lost.

1. The damaged log is copied aside, and synced.
2. Who repairs it, why, and what was found is on record, and synced.
3. The good lines are written beside the log, with one more that says how many were lost; that file
   is synced, and renamed over the log.
4. The owner, the compaction marker and the head are written, where they have to be.
5. The halt is cleared, on record as ever.

Each step may be the last before a crash.  Up to the third the session is as damaged as before; from
then on its log is good, though without a head of its own, and a second repair does what is left.
What is lost is said once, under a number that nothing else ever had.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import SEQ_MAX
from dalsegno.runtime.disk import append_line, copy, make_empty, settle_folder

from ._diagnosis import Repaired, examine
from ._errors import EventStoreStateError, SchemaVersionMismatchError
from ._event_store import ms_of
from ._events import EVENT_SCHEMA_VERSION, REPAIR, StoredEvent
from ._halts import clear_halt
from ._rows import line_of
from ._sequence import Head, write_head, write_number
from ._sifting import sift

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dalsegno.runtime.disk import Identity

    from ._diagnosis import Diagnosis, Findings
    from ._file_store import FileEventStore
    from ._folder import SessionFolder

BY_CHARS_MAX, REASON_CHARS_MAX = 200, 1_000
_PART = 1024 * 1024
"""Bytes of a new log that are written at a time."""


async def repair(store: FileEventStore, session_id: str, *, by: str, reason: str) -> Diagnosis:
    """Repair a session's files; of one with which nothing is wrong nothing is written.

    Every good line of the log is kept (`Diagnosis`), and the rest is not.  Where that, or the end
    of the log, was durable, a ``session_repaired`` event of ``ExternalSource("repair")`` says so.
    A durable halt is cleared.  Cancelled, or interrupted at any step, it is completed by repeating
    it.

    Args:
        store: where the session is.
        session_id: the session.
        by: who repairs it, at most 200 characters.
        reason: and why, at most 1,000.

    Returns:
        What was wrong, and what was done.

    Raises:
        SchemaVersionMismatchError: the log has rows of another version: they are not damaged.
        EventStoreStateError: it is not said by whom or why; there are no numbers left; another
            process holds the session.
        EventIoError: the files are out of reach.

    """
    check_repairer(by=by, reason=reason)
    folder = store.folder
    async with folder.held(session_id, shared=False):
        return await folder.in_thread(_repair, folder, session_id, by, reason)


def check_repairer(*, by: str, reason: str) -> None:
    """Raise unless it can go on record who repairs something, and why.

    Raises:
        EventStoreStateError: one is blank, too long, or no text.

    """
    for what, text, chars_max in (("by", by, BY_CHARS_MAX), ("reason", reason, REASON_CHARS_MAX)):
        is_text = not any("\ud800" <= char <= "\udfff" for char in text)
        if not is_text or not text.strip() or len(text) > chars_max:
            raise EventStoreStateError(f"{what}: 1 to {chars_max} characters, and not only blanks")


def _repair(folder: SessionFolder, session_id: str, by: str, reason: str) -> Diagnosis:
    disk, layout = folder.disk, folder.layout
    for each in (layout.root, layout.sequences, layout.halts):
        if disk.identity(each) is not None:
            disk.sync_folder(each)  # what another repair had begun, before nothing is left to do
    found = examine(folder, session_id)
    told = found.diagnosis
    if told.other_version is not None:
        raise SchemaVersionMismatchError(told.other_version)
    if told.is_sound:
        return told
    event = _event(folder, found, by, reason) if told.lines_lost else None
    set_aside = None
    if told.is_log_damaged and found.identity is not None:
        set_aside = _set_aside(folder, session_id, found.identity)
    _record(folder, told, by=by, reason=reason, set_aside=set_aside)

    head = None
    if told.is_log_damaged:
        head = _write_log(folder, found, event)
    elif told.head_error is not None:
        head = _settle(folder, found)
    owner = compacted = None
    if event is not None:
        owner = event.seq
    elif told.owner_error is not None:
        owner = found.last_given
    if owner is not None:
        write_number(disk, layout.owner(session_id), owner)
    if told.compacted_error is not None:
        first_seq = found.tally.first_seq or (0 if event is None else event.seq)
        compacted = max(first_seq - 1, 0)
        write_number(disk, layout.compacted(session_id), compacted)
    if head is not None:
        write_head(disk, layout.head(session_id), head)
    is_halt_cleared = clear_halt(folder, session_id, by=by, reason=reason)
    done = Repaired(
        set_aside=set_aside,
        seq=None if event is None else event.seq,
        owner=owner,
        compacted=compacted,
        is_log_written=told.is_log_damaged,
        is_head_written=head is not None,
        is_halt_cleared=is_halt_cleared,
    )
    return msgspec.structs.replace(told, done=done)


def _event(folder: SessionFolder, found: Findings, by: str, reason: str) -> StoredEvent:
    """Return the event that says what was lost.

    Raises:
        EventStoreStateError: there is no number left for it.

    """
    if found.last_given >= SEQ_MAX:
        raise EventStoreStateError("event sequence overflow: no number is left for what to say")
    now = folder.world.now()
    return StoredEvent(
        seq=found.last_given + 1,
        schema_version=EVENT_SCHEMA_VERSION,
        timestamp=now,
        source=REPAIR,
        event_id=folder.world.new_id(),
        timestamp_ms=ms_of(now),
        event={
            "type": "session_repaired",
            "by": by,
            "reason": reason,
            "lines_lost": found.diagnosis.lines_lost,
            "last_seq_before": found.last_durable,
        },
    )


def _set_aside(folder: SessionFolder, session_id: str, identity: Identity) -> str:
    """Copy a damaged log to where it is kept, and return where that is within the folder."""
    disk, layout = folder.disk, folder.layout
    settle_folder(disk, layout.repairs)
    name = re.compile(re.escape(session_id) + r"-(\d+)\.jsonl", re.ASCII)
    kept = [match for each in disk.names(layout.repairs) if (match := name.fullmatch(each))]
    path = layout.set_aside(session_id, max((int(match[1]) for match in kept), default=0) + 1)
    temporary = path.with_name(path.name + ".new")
    with _removed_on_failure(folder, temporary):
        copy(disk, layout.log(session_id), temporary, 0, identity.size)
        disk.rename(temporary, path)
    disk.sync_folder(layout.repairs)
    return str(path.relative_to(layout.root))


def _record(
    folder: SessionFolder, told: Diagnosis, *, by: str, reason: str, set_aside: str | None
) -> None:
    record = {
        "by": by,
        "reason": reason,
        "at": folder.world.now(),
        "set_aside": set_aside,
        "found": told,
    }
    append_line(folder.disk, folder.layout.repaired(told.session_id), msgspec.json.encode(record))


def _write_log(folder: SessionFolder, found: Findings, event: StoredEvent | None) -> Head:
    """Put the good lines in the place of a log, with one more for what was lost.

    Returns:
        The head of this one.

    """
    disk, layout, session_id = folder.disk, folder.layout, found.diagnosis.session_id
    log, new_log, head = layout.log(session_id), layout.new_log(session_id), found.beside.head
    if head is not None and (found.identity is None or not head.is_of(found.identity)):
        # It names an inode that nobody uses, which the new log may be given.
        write_head(disk, layout.head(session_id), head.detached())
    disk.sync_folder(layout.sequences)  # so that no earlier head comes back either
    with _removed_on_failure(folder, new_log):
        make_empty(disk, new_log)
        size = 0
        for part in _parts(folder, found, event):
            disk.write(new_log, size, part)
            size += len(part)
        disk.sync(new_log)
        identity = disk.identity(new_log)
        assert identity is not None, "it was just written"
        disk.rename(new_log, log)
    disk.sync_folder(layout.root)
    return _head(folder, found, identity, found.tally.last_seq if event is None else event.seq)


def _parts(folder: SessionFolder, found: Findings, event: StoredEvent | None) -> Iterator[bytes]:
    lines, size = list[bytes](), 0
    log = folder.layout.log(found.diagnosis.session_id)
    for line in sift(folder.disk, log, found.identity, found.beside.head):
        if line.seq is None:
            continue
        lines.append(line.data)
        size += len(line.data)
        if size >= _PART:
            yield b"".join(lines)
            lines, size = [], 0
    if event is not None:
        lines.append(line_of(event))
    yield b"".join(lines)


def _settle(folder: SessionFolder, found: Findings) -> Head:
    """Make durable what a log without a readable head has, and return its head."""
    layout, identity = folder.layout, found.identity
    assert identity is not None, "a log that is gone is written anew"
    folder.disk.sync(layout.log(found.diagnosis.session_id))
    folder.disk.sync_folder(layout.root)
    identity = identity._replace(size=found.tally.size)
    return _head(folder, found, identity, found.tally.last_seq)


def _head(folder: SessionFolder, found: Findings, identity: Identity, last_seq: int) -> Head:
    """Return the head of a log, with an epoch that no other log of the session had."""
    head = found.beside.head
    if found.beside.head_error is not None:
        epoch = ms_of(folder.world.now())  # more than were ever counted
    else:
        epoch = 1 if head is None else head.epoch + 1
    return Head(last_seq, identity.size, identity.device, identity.inode, epoch)


@contextmanager
def _removed_on_failure(folder: SessionFolder, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        with suppress(OSError):
            folder.disk.remove(path)
        raise
