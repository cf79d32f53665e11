"""Finds out what is wrong with a session's files.

Whatever a store refuses is; and so is a log that ends before a number that was durable, though a
store takes an older copy in a log's place for what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

import msgspec

from ._errors import EventSerializationError, EventStoreStateError
from ._event_store import is_session_id
from ._halts import read_halt
from ._sequence import COMPACTED, OWNER, Head, read_head, read_number
from ._sifting import Tally, sift

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.runtime.disk import Identity

    from ._file_store import FileEventStore
    from ._folder import SessionFolder

P = ParamSpec("P")
T = TypeVar("T")


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair did."""

    set_aside: str | None = None
    """The copy of the damaged log, within the folder; None where there was none to be kept."""
    seq: int | None = None
    """The number of the event that says that events were lost."""
    owner: int | None = None
    """The owner, where it was written."""
    compacted: int | None = None
    """The number up to which events count as removed, where that was written."""
    is_log_written: bool = False
    is_head_written: bool = False
    is_halt_cleared: bool = False


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a session's files, and what was done about it."""

    session_id: str
    rows: int
    """Good lines of the log."""
    last_seq: int
    """The number of the last one, 0 where there is none."""
    bad_lines: int
    """Lines that are no row, or whose number is not above those before …"""
    bad_line_numbers: tuple[int, ...]
    """… and which these are, from 1 on: at most the first hundred."""
    lines_lost: int
    """Lines that were durable, and are bad or gone: at least so many, as far as is known."""
    is_gone: bool
    """Whether there is no log, though it had events."""
    is_short: bool
    """Whether the log ends before what was durable."""
    other_version: int | None
    """The schema version of rows that are another program's; those are not repaired."""
    owner_error: str | None
    head_error: str | None
    compacted_error: str | None
    halted: str | None
    """Why the session was halted."""
    done: Repaired | None = None

    @property
    def is_log_damaged(self) -> bool:
        """Return whether the log has to be written anew."""
        return self.bad_lines > 0 or self.lines_lost > 0

    @property
    def is_sound(self) -> bool:
        """Return whether nothing is wrong, and the session is not halted."""
        errors = (self.owner_error, self.head_error, self.compacted_error)
        others = (self.other_version, self.halted, *errors)
        return not self.is_log_damaged and all(each is None for each in others)


class Beside(NamedTuple):
    """What is kept beside a log, as far as it can be read."""

    head: Head | None
    head_error: str | None
    owner: int | None
    owner_error: str | None
    compacted: int | None
    compacted_error: str | None


class Findings(NamedTuple):
    """A diagnosis, and what it was made from."""

    diagnosis: Diagnosis
    identity: Identity | None
    beside: Beside
    tally: Tally

    @property
    def last_durable(self) -> int:
        """Return the highest number of an event that is known to have been there."""
        head_seq = 0 if self.beside.head is None else self.beside.head.seq
        return max(head_seq, self.beside.compacted or 0, self.tally.last_seq)

    @property
    def last_given(self) -> int:
        """Return the highest number that is known to have been given."""
        return max(self.beside.owner or 0, self.last_durable)


async def check(store: FileEventStore, session_id: str) -> Diagnosis:
    """Find out what is wrong with a session's files; nothing is changed.

    Raises:
        EventIoError: they are out of reach.
        EventStoreStateError: no id of a session; another process holds it.

    """
    folder = store.folder
    async with folder.held(session_id, shared=True):
        return (await folder.in_thread(examine, folder, session_id)).diagnosis


async def ids_to_check(store: FileEventStore) -> list[str]:
    """Return the ids of all sessions of which there is any file, in order."""
    return await store.folder.in_thread(_ids, store.folder)


def _ids(folder: SessionFolder) -> list[str]:
    layout, ids = folder.layout, set[str]()
    for place, suffixes in (
        (layout.root, (".jsonl",)),
        (layout.sequences, (".seq", ".head", ".compacted")),
        (layout.halts, (".json",)),
    ):
        for name in folder.disk.names(place):
            ids |= {name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)}
    return sorted(filter(is_session_id, ids))


def examine(folder: SessionFolder, session_id: str) -> Findings:
    """Find out what is wrong with a session's files, which are held."""
    log = folder.layout.log(session_id)
    beside, identity, tally = _beside(folder, session_id), folder.disk.identity(log), Tally()
    for line in sift(folder.disk, log, identity, beside.head):
        tally.add(line)
    missing = _missing(beside, identity, tally)
    is_cut = tally.other_version is None and _is_cut(beside.head, identity)
    diagnosis = Diagnosis(
        session_id=session_id,
        rows=tally.rows,
        last_seq=tally.last_seq,
        bad_lines=tally.bad_lines,
        bad_line_numbers=tuple(tally.bad_line_numbers),
        lines_lost=tally.lost + max(tally.lost_at_end, missing) or int(is_cut),
        is_gone=identity is None and missing > 0,
        is_short=identity is not None and (missing > 0 or is_cut),
        other_version=tally.other_version,
        owner_error=beside.owner_error,
        head_error=beside.head_error,
        compacted_error=beside.compacted_error,
        halted=_halted(folder, session_id),
    )
    return Findings(diagnosis, identity, beside, tally)


def _beside(folder: SessionFolder, session_id: str) -> Beside:
    disk, layout = folder.disk, folder.layout
    return Beside(
        *_attempt(read_head, disk, layout.head(session_id)),
        *_attempt(read_number, disk, layout.owner(session_id), OWNER),
        *_attempt(read_number, disk, layout.compacted(session_id), COMPACTED),
    )


def _attempt(
    read: Callable[P, T | None], *args: P.args, **kwargs: P.kwargs
) -> tuple[T | None, str | None]:
    """Return what can be read, or why it cannot."""
    try:
        return read(*args, **kwargs), None
    except EventStoreStateError as error:
        return None, error.message


def _halted(folder: SessionFolder, session_id: str) -> str | None:
    try:
        marker = read_halt(folder, session_id)
    except EventSerializationError as error:
        return error.message
    return None if marker is None else marker.reason


def _missing(beside: Beside, identity: Identity | None, tally: Tally) -> int:
    """Return how many numbers that were durable come behind the last good line.

    Nothing is known of this where lines are another program's.
    """
    if tally.other_version is not None:
        return 0
    compacted, last = beside.compacted or 0, 0
    if compacted:
        last = compacted + 1  # the last event is never removed
    if beside.head is not None and beside.head.size:
        last = max(last, beside.head.seq)
    if identity is None and (beside.head_error or beside.compacted_error):
        last = max(last, beside.owner or 1)  # there were events, hence a file of this kind
    return max(last - max(tally.last_seq, compacted), 0)


def _is_cut(head: Head | None, identity: Identity | None) -> bool:
    """Return whether a log has fewer bytes than its own head says."""
    if head is None or identity is None:
        return False
    return head.is_of(identity) and identity.size < head.size
