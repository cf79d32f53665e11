"""The lines of a log file: how a row is written, and what a part of a log is worth.

A log is read in parts.  Rows below the durable head were acknowledged, and nothing about them is
excused.  Behind the head is what an append wrote that was interrupted: whole rows are good, and
what comes after the last good one is a torn tail that nobody was told of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ._errors import EventSerializationError, EventStoreStateError, SchemaVersionMismatchError
from ._events import EVENT_SCHEMA_VERSION, StoredEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dalsegno.runtime.disk import Disk

_CHUNK = 4 * 1024 * 1024
"""Bytes of a log that are read at a time."""
STRIDE = 64
"""Rows between two places that are remembered, so that a page begins to be read near its start."""


class _Version(msgspec.Struct):
    schema_version: int


_decode_version = msgspec.json.Decoder(_Version).decode
_decode_row = msgspec.json.Decoder(StoredEvent).decode
_encoder = msgspec.json.Encoder()


def line_of(row: StoredEvent) -> bytes:
    """Return a row as a line."""
    return _encoder.encode(row) + b"\n"


def read_row(line: bytes) -> StoredEvent:
    """Read a line.

    Raises:
        SchemaVersionMismatchError: its version is another; looked at before anything else.
        EventSerializationError: it is no row.

    """
    try:
        version = _decode_version(line).schema_version
        if version != EVENT_SCHEMA_VERSION:
            raise SchemaVersionMismatchError(version)
        return _decode_row(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventSerializationError(f"a row that is no event: {error}") from None


@dataclass(slots=True)
class Verified:
    """What is known of the rows of a log from its beginning, which all were read."""

    size: int = 0
    """How many bytes they take."""
    last_seq: int = 0
    rows: int = 0
    places: list[tuple[int, int]] = field(default_factory=list)
    """Of one row in `STRIDE`: its number, and where it begins."""
    ids: dict[str, int] = field(default_factory=dict)
    """The number under each event's id."""

    def place_of(self, seq: int) -> int:
        """Return where to begin to read for a number: at that row, or a few before it."""
        low, high = 0, len(self.places)
        while low < high:
            middle = (low + high) // 2
            if self.places[middle][0] <= seq:
                low = middle + 1
            else:
                high = middle
        return 0 if low == 0 else self.places[low - 1][1]

    def take(self, row: StoredEvent, at: int, size: int) -> None:
        """Add a row that begins and ends there.

        Raises:
            EventStoreStateError: its number is not above those before it.

        """
        if row.seq <= self.last_seq:
            raise EventStoreStateError(f"row {row.seq} comes behind row {self.last_seq}")
        if self.rows % STRIDE == 0:
            self.places.append((row.seq, at))
        if row.event_id:
            self.ids[row.event_id] = row.seq
        self.rows += 1
        self.last_seq, self.size = row.seq, at + size


def take_line(verified: Verified, place: int, line: bytes, *, is_durable: bool) -> bool:
    """Add the line that follows a verified part; return False where a torn tail begins.

    Args:
        verified: the part before it.
        place: where the line begins.
        line: the line.
        is_durable: whether it begins where the log is known to be durable: nothing is torn there.

    Raises:
        EventSerializationError: a durable line that is no event.
        SchemaVersionMismatchError: a row of another version, wherever.
        EventStoreStateError: a row's number is not above those before it.

    """
    if not line.endswith(b"\n"):
        if is_durable:
            raise EventSerializationError("a row without its end")
        return False
    if not line.strip():
        verified.size = place + len(line)
        return True
    try:
        row = read_row(line)
    except EventSerializationError:
        if is_durable:
            raise
        return False
    verified.take(row, place, len(line))
    return True


def read_lines(disk: Disk, path: Path, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Read a part of a file: its lines, each with the place where it begins.

    Raises:
        EventStoreStateError: the file became shorter.

    """
    place, begun = at, list[bytes]()
    while at < end:
        part = disk.read(path, at, min(_CHUNK, end - at))
        if not part:
            raise EventStoreStateError("the log became shorter while it was read")
        at += len(part)
        *lines, rest = part.split(b"\n")
        for line in lines:
            whole = b"".join((*begun, line, b"\n"))
            begun.clear()
            yield place, whole
            place += len(whole)
        if rest:
            begun.append(rest)
    if begun:
        yield place, b"".join(begun)
