"""Removes a session's oldest events: what is left of its log takes the log's place.

1. What is kept is written beside the log, and synced.
2. The marker says up to which number events were removed: nobody reads these from here on.
3. The new log is renamed over the old one, and the folder synced.
4. The head becomes the new log's.

Each step may be the last before a crash.  Before the second nothing has happened.  Behind it the
log has rows that nobody reads; the next compaction removes them.  Behind the third the log has no
head of its own, so that it is verified as a whole.  The head that is there meanwhile names the old
log's inode, which is in use until the third step: it is never taken for the new log's.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.runtime.disk import copy

from ._rows import read_lines, read_row
from ._sequence import Head, read_head, write_head, write_number

if TYPE_CHECKING:
    from ._folder import SessionFolder
    from ._logs import Known, Logs


class _Removed(NamedTuple):
    rows: int = 0
    last_seq: int = 0
    size: int = 0


def compact(folder: SessionFolder, logs: Logs, session_id: str, before_seq: int) -> int:
    """Remove the events with numbers below one, but for the last event; return how many.

    Raises:
        EventStoreError: the session is halted, or its log cannot be read.

    """
    known, disk, layout = logs.open(session_id), folder.disk, folder.layout
    if known.identity is None:
        return 0
    if read_head(disk, layout.head(session_id)) != known.head():
        write_head(disk, layout.head(session_id), known.head())
    # What an interrupted compaction has removed for its readers goes too, whatever is asked for.
    below = max(min(before_seq, known.verified.last_seq), known.compacted + 1)
    removed = _look(folder, session_id, known, below)
    if removed.rows == 0:
        return 0
    log, new_log = layout.log(session_id), layout.new_log(session_id)
    try:
        copy(disk, log, new_log, removed.size, known.verified.size)
        identity = disk.identity(new_log)
        assert identity is not None, "it was just written"
        # Written also where it is there already: a crash may have come before that was durable.
        last_removed = max(removed.last_seq, known.compacted)
        write_number(disk, layout.compacted(session_id), last_removed)
        disk.rename(new_log, log)
    except OSError:
        with suppress(OSError):
            disk.remove(new_log)
        raise
    disk.sync_folder(layout.root)
    head = Head(
        seq=known.verified.last_seq,
        size=identity.size,
        device=identity.device,
        inode=identity.inode,
        epoch=known.epoch + 1,
    )
    write_head(disk, layout.head(session_id), head)
    return removed.rows


def _look(folder: SessionFolder, session_id: str, known: Known, below: int) -> _Removed:
    """Return what there is of rows with lower numbers: they are the beginning of the log."""
    rows = last_seq = 0
    log = folder.layout.log(session_id)
    for place, line in read_lines(folder.disk, log, 0, known.verified.size):
        if not line.strip():
            continue
        row = read_row(line)
        if row.seq >= below:
            return _Removed(rows, last_seq, place)
        rows, last_seq = rows + 1, row.seq
    return _Removed()
