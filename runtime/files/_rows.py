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


def verify(verified: Verified, data: bytes, durable_size: int) -> None:
    """Add the rows of what follows a verified part; a torn tail is left out.

    Args:
        verified: the part before it.
        data: what follows it, to the end of the log.
        durable_size: how many bytes of the log are known to be durable; nothing is torn there.

    Raises:
        EventSerializationError: a row below that which is no event.
        SchemaVersionMismatchError: a row of another version, wherever.
        EventStoreStateError: a row's number is not above those before it.

    """
    began = verified.size
    for at, line in _lines(data):
        place = began + at
        if place >= durable_size and not line.endswith(b"\n"):
            return
        if not line.strip():
            verified.size = place + len(line)
            continue
        try:
            row = read_row(line)
        except EventSerializationError:
            if place >= durable_size:
                return
            raise
        verified.take(row, place, len(line))


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        end = data.find(b"\n", at) + 1 or len(data)
        yield at, data[at:end]
        at = end
