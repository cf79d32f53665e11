"""Server-sent events, parsed: bytes in, however they are cut, and events out.

By the HTML standard, "9.2.6 Interpreting an event stream", without ``id`` and ``retry``, which are
for who reconnects; and with two bounds.  What it costs is linear in the bytes: each is looked at
once, whether a line comes in one piece or in a thousand.
"""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """An event."""

    name: str
    """Its type; ``message`` where none is given."""
    data: str


class SseTooLongError(ValueError):
    """A line, or an event's data, is longer than it may be."""


class SseParser:
    """Makes events of bytes; after an error it is of no more use."""

    def __init__(self, *, line_bytes_max: int, event_bytes_max: int) -> None:
        """Begin a stream.

        Args:
            line_bytes_max: of a line, without its end.
            event_bytes_max: of the data of an event, all of its lines together.

        """
        self._line_bytes_max = line_bytes_max
        self._event_bytes_max = event_bytes_max
        self._pieces: list[bytes] = []
        """Of a line that has not ended."""
        self._piece_bytes = 0
        self._is_after_cr = False
        """Whether a line has ended by a CR, so that an LF right now belongs to it."""
        self._is_first_line = True
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[SseEvent]:
        """Take bytes; return the events that they complete.

        An event is complete at its blank line: what is left at the end of a stream is none.

        Raises:
            SseTooLongError: a bound is passed.

        """
        if self._is_after_cr and data:
            self._is_after_cr = False
            data = data.removeprefix(b"\n")
        if data.endswith(b"\r"):
            self._is_after_cr = True
        *ended, last = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for piece in ended:
            self._add(piece)
            event = self._end_line()
            if event is not None:
                events.append(event)
        self._add(last)
        return events

    def _add(self, piece: bytes) -> None:
        if not piece:
            return
        self._piece_bytes += len(piece)
        if self._piece_bytes > self._line_bytes_max:
            raise SseTooLongError(f"a line of more than {self._line_bytes_max} bytes")
        self._pieces.append(piece)

    def _end_line(self) -> SseEvent | None:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._piece_bytes = 0
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._end_event()
        field, _, value = line.partition(b":")  # a comment's field is empty
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._event_bytes_max:
                raise SseTooLongError(f"an event of more than {self._event_bytes_max} bytes")
            self._data.append(value)
        elif field == b"event":
            self._name = value
        return None

    def _end_event(self) -> SseEvent | None:
        name, data = self._name, self._data
        self._name, self._data, self._data_bytes = b"", [], 0
        if not data:
            return None
        return SseEvent(
            name.decode("utf-8", "replace") or "message",
            b"\n".join(data).decode("utf-8", "replace"),
        )
