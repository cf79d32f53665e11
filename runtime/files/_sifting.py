"""Reads a log that may be damaged: past what a store stops at, line by line, good or bad.

A good line is a row whose number is above that of the good one before it, and not above the head's
where that covers the line: a number that a disk has garbled upwards makes no bad lines of all that
follow it.  A torn tail behind the durable part is no line at all, as for a store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.protocol import SEQ_MAX

from ._errors import EventSerializationError, SchemaVersionMismatchError
from ._rows import read_lines, read_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dalsegno.runtime.disk import Disk, Identity

    from ._sequence import Head

BAD_LINES_MAX = 100
"""Bad lines that are listed by their numbers."""


class Line(NamedTuple):
    """A line of a log."""

    number: int
    """Which line it is, from 1 on."""
    data: bytes
    end: int
    is_durable: bool
    seq: int | None = None
    """The number of a good one."""
    other_version: int | None = None
    """The schema version of a row that is another program's."""


def sift(disk: Disk, log: Path, identity: Identity | None, head: Head | None) -> Iterator[Line]:
    """Read the lines of a log; blank ones are left out."""
    if identity is None:
        return
    durable = head.size if head is not None and head.is_of(identity) else None
    last_seq = 0
    for number, (place, data) in enumerate(read_lines(disk, log, 0, identity.size), 1):
        is_whole = data.endswith(b"\n")
        is_durable = is_whole if durable is None else place < durable
        line = Line(number, data, place + len(data), is_durable)
        if is_whole and not data.strip():
            continue
        try:
            row = read_row(data) if is_whole else None
        except SchemaVersionMismatchError as error:
            yield line._replace(other_version=error.found)
            continue
        except EventSerializationError:
            row = None
        if row is None and not is_durable:
            return
        most = head.seq if head is not None and durable is not None and is_durable else SEQ_MAX
        if row is not None and last_seq < row.seq <= most:
            last_seq = row.seq
            line = line._replace(seq=row.seq)
        yield line


@dataclass(slots=True)
class Tally:
    """What the lines of a log come to."""

    rows: int = 0
    first_seq: int = 0
    """The number of the first good line; 0 where there is none."""
    last_seq: int = 0
    size: int = 0
    """Where the last good line ends."""
    bad_lines: int = 0
    bad_line_numbers: list[int] = field(default_factory=list)
    """Of the first `BAD_LINES_MAX`."""
    lost: int = 0
    """Bad lines that are durable, before the last good one …"""
    lost_at_end: int = 0
    """… and behind it."""
    other_version: int | None = None

    def add(self, line: Line) -> None:
        """Add a line."""
        if line.other_version is not None:
            self.other_version = self.other_version or line.other_version
        elif line.seq is not None:
            self.rows, self.last_seq, self.size = self.rows + 1, line.seq, line.end
            self.first_seq = self.first_seq or line.seq
            self.lost, self.lost_at_end = self.lost + self.lost_at_end, 0
        else:
            self.bad_lines += 1
            self.lost_at_end += line.is_durable
            if len(self.bad_line_numbers) < BAD_LINES_MAX:
                self.bad_line_numbers.append(line.number)
