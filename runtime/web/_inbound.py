"""What comes in on a WebSocket: frames, and the messages that need no parser.

Nearly all that clients send are short texts of one frame.  `websockets` takes 6.3 µs for one of
200 bytes (four generators, an enum, a checked frame); knowing it by its first two bytes and
unmasking it in C takes 1.1, which makes a whole command a tenth cheaper.  So those are taken out
here, and every byte of all other frames goes to `websockets`, which alone knows the rules of
RFC 6455.  It does not miss what was taken out: no rule of framing spans whole messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from websockets.frames import Frame, Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel with C for this platform
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from websockets.protocol import Protocol

_WHOLE_TEXT = 0x81
"""FIN, no extension, opcode 1 (RFC 6455 §5.2)."""
_MASKED = 0x80
_SHORT_BYTES = 16 * 1024
"""A longer payload is not taken out here: what there is of it would be copied at each read."""


class Inbound:
    """The frames of one client, from bytes as they come."""

    __slots__ = ("_begun", "_owed", "_protocol", "_short_bytes")

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._short_bytes = min(_SHORT_BYTES, protocol.max_message_size or _SHORT_BYTES)
        self._begun = b""
        """The beginning of a frame that was not yet given to anybody."""
        self._owed = 0
        """Bytes that the parser still has to get of the frame that it is in."""

    def feed(self, data: bytes) -> list[Frame | str]:
        """Give, in order, what is complete: a text where nothing was odd about it, or a frame."""
        if self._begun:
            data = self._begun + data
            self._begun = b""
        found: list[Frame | str] = []
        at, end = self._owed, len(data)
        if at:
            self._pass_on(data[:at], found)
        # After a close frame, or a breach of the rules, the rest counts for nothing (§1.4, §7.1.7).
        while at < end and not self._protocol.eof_sent:
            length = data[at + 1] & 0x7F if end - at > 1 else 0x7F
            body = at + (6 if length < 0x7E else 8 if length == 0x7E else 14)
            if body - 4 > end:
                break
            if length >= 0x7E:
                length = int.from_bytes(data[at + 2 : body - 4])
            after = body + length
            if (
                data[at] == _WHOLE_TEXT
                and data[at + 1] & _MASKED
                and length <= self._short_bytes
                and self._protocol.current_size is None  # not amid a fragmented message
            ):
                if after > end:
                    break
                found.append(_text(apply_mask(data[body:after], data[body - 4 : body])))
            else:
                # One that is not masked is shorter, but it is refused by its second byte.
                self._owed = after - at
                self._pass_on(data[at:after], found)
            at = after
        if at < end and not self._protocol.eof_sent:
            self._begun = data[at:]
        return found

    def _pass_on(self, part: bytes, found: list[Frame | str]) -> None:
        self._owed -= len(part)
        self._protocol.receive_data(part)
        found += cast("list[Frame]", self._protocol.events_received())


def _text(payload: bytes) -> Frame | str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        # Refused in its turn, behind the messages that came before it.
        return Frame(Opcode.TEXT, payload)
