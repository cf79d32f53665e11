"""The input of a WebSocket: frames, and the messages that need no parser.

Nearly all that clients send is short texts of one frame.  `websockets` takes 6.3 µs for one of 200
bytes (four generators, an enum, a checked frame); recognising it by its first two bytes and
unmasking it in C takes 1.1, which makes a whole command a tenth cheaper.  So those are extracted
here, and every byte of all other frames goes to `websockets`, which alone implements the rules of
RFC 6455.  It need not see the extracted frames: no rule of framing spans whole messages.
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
"""A longer payload is not extracted here: its beginning would be copied at each read."""


class Inbound:
    """Splits the bytes of one client into frames and messages."""

    __slots__ = ("_begun", "_owed", "_partial", "_partial_is_text", "_protocol", "_short_bytes")

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._short_bytes = min(_SHORT_BYTES, protocol.max_message_size or _SHORT_BYTES)
        self._begun = b""
        """The beginning of a frame that is incomplete."""
        self._owed = 0
        """Bytes of the parser's current frame that have not arrived."""
        self._partial: bytearray | None = None
        """The fragments of an incomplete message."""
        self._partial_is_text = False

    def feed(self, data: bytes) -> list[Frame | str]:
        """Return what is complete, in order: a plain text as `str`, anything else as a frame."""
        if self._begun:
            data = self._begun + data
            self._begun = b""
        found: list[Frame | str] = []
        at, end = self._owed, len(data)
        if at:
            self._pass_on(data[:at], found)
        # After a close frame, or a violation of a rule, the rest is ignored (§1.4, §7.1.7).
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
                and self._protocol.current_size is None  # not within a fragmented message
            ):
                if after > end:
                    break
                found.append(_text(apply_mask(data[body:after], data[body - 4 : body])))
            else:
                # An unmasked frame is shorter, but it is refused for its second byte.
                self._owed = after - at
                self._pass_on(data[at:after], found)
            at = after
        if at < end and not self._protocol.eof_sent:
            self._begun = data[at:]
        return found

    def message(self, frame: Frame) -> str | bytes | None:
        """Return the message that a frame completes; None for other frames.

        Raises:
            UnicodeDecodeError: a text message is not UTF-8.

        """
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                return _decoded(frame.data, opcode is Opcode.TEXT)
            # One buffer, not a list of pieces: a million fragments of a byte cost a megabyte.
            self._partial = bytearray(frame.data)
            self._partial_is_text = opcode is Opcode.TEXT
        elif opcode is Opcode.CONT:
            assert self._partial is not None
            self._partial += frame.data
            if frame.fin:
                whole, self._partial = self._partial, None
                return _decoded(whole, self._partial_is_text)
        return None

    def clear(self) -> None:
        """Drop the fragments of a message that will not be completed."""
        self._partial = None

    def _pass_on(self, part: bytes, found: list[Frame | str]) -> None:
        self._owed -= len(part)
        self._protocol.receive_data(part)
        found += cast("list[Frame]", self._protocol.events_received())


def _decoded(data: bytes | bytearray | memoryview, is_text: bool) -> str | bytes:
    return str(data, "utf-8") if is_text else bytes(data)


def _text(payload: bytes) -> Frame | str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        # Refused in its turn, after the messages before it.
        return Frame(Opcode.TEXT, payload)
