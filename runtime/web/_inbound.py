"""The input of a WebSocket: frames, and the messages that need no parser.

Nearly all that clients send is short texts of one frame.  `websockets` takes 6.3 µs for one of 200
bytes (four generators, an enum, a checked frame); recognising it by its first two bytes and
unmasking it in C takes 1.1, which makes a whole command a tenth cheaper.  So those are extracted
here, and every byte of all other frames goes to `websockets`, which alone implements the rules of
RFC 6455.  It need not see the extracted frames: no rule of framing spans whole messages.

What one read brings is taken apart in turns of ``read_frames_max`` frames: 16 KiB hold 2,700 empty
ones, each of which costs the parser as much as a long one.  Two kinds that no message needs many of
have a budget besides, past which the connection fails with 1008 and nothing more of it is parsed:
fragments of a message, and control frames.

While nobody knows who the client is, its first message alone is parsed, and may be short only: a
longer one fails with 4001 when the head of its frame is seen, before any of it is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from websockets.frames import Frame, Opcode

from dalsegno.protocol import Close, RateBudget

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel with C for this platform
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.protocol import Protocol

    from dalsegno.protocol import Limits

_WHOLE_TEXT = 0x81
"""FIN, no extension, opcode 1 (RFC 6455 §5.2)."""
_MASKED = 0x80
_OPCODE = 0x0F
_CONTROL = 0x08
"""The bit of an opcode that makes it a control frame's (RFC 6455 §5.5)."""
_SHORT_BYTES = 16 * 1024
"""A longer payload is not extracted here: its beginning would be copied at each read."""


class Inbound:
    """Splits the bytes of one client into frames and messages, some at a time."""

    __slots__ = (
        "_at",
        "_control_frames",
        "_data",
        "_first_bytes",
        "_fragments",
        "_fragments_max",
        "_owed",
        "_partial",
        "_partial_is_text",
        "_protocol",
        "_short_bytes",
        "_turn_frames",
        "has_more",
        "inbox",
    )

    def __init__(
        self, protocol: Protocol, limits: Limits, *, first_bytes_max: int | None = None
    ) -> None:
        """Make it; with ``first_bytes_max`` for one message of that length, until `lift_bound`."""
        self._protocol = protocol
        self._first_bytes: int | None
        self.lift_bound(limits)
        if first_bytes_max is not None:
            self._first_bytes = first_bytes_max
            self._short_bytes, self._turn_frames = min(_SHORT_BYTES, first_bytes_max), 1
        self._fragments_max = limits.fragments_max
        self._control_frames = RateBudget(limits.control_frames_per_s)
        self._data = b""
        """What is not parsed yet, from `_at` on."""
        self._at = 0
        self.has_more = False
        """Whether more was fed than one turn parses: `parse` again."""
        self._owed = 0
        """Bytes of the parser's current frame that have not arrived."""
        self.inbox: Iterator[Frame | str] = iter(())
        """What is complete, in order: a plain text as `str`, anything else as a frame."""
        self._partial: bytearray | None = None
        """The fragments of an incomplete message."""
        self._partial_is_text = False
        self._fragments = 0
        """How many frames the current message has had."""

    def lift_bound(self, limits: Limits) -> None:
        """Take messages of any client's length from now on, some at a time."""
        self._first_bytes = None
        """What the first message may have still; None: it need not be short."""
        self._short_bytes = min(_SHORT_BYTES, limits.message_bytes_max)
        self._turn_frames = limits.read_frames_max

    def feed(self, data: bytes) -> None:
        """Take what was read; `parse` comes next."""
        assert not self.has_more, "parsed before more is read"
        self._data = self._data + data if self._data else data

    def parse(self, now: float) -> bool:
        """Parse the next frames of what was fed, at most a turn's; call it with an empty inbox.

        Args:
            now: the time in seconds, for the budget of control frames.

        Returns:
            Whether a pong was among them.

        """
        data, at, protocol = self._data, self._at, self._protocol
        found: list[Frame | str] = []
        end = len(data)
        ponged = self.has_more = False
        if self._owed and data:
            at = min(self._owed, end)
            ponged = self._pass_on(data[:at], found)
        # After a close frame, or a violation of a rule, the rest is ignored (§1.4, §7.1.7).
        while at < end and not protocol.eof_sent:
            if len(found) >= self._turn_frames:
                self.has_more = True
                break
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
                and protocol.current_size is None  # not within a fragmented message
            ):
                if after > end:
                    break
                found.append(_text(apply_mask(data[body:after], data[body - 4 : body])))
            elif self._afford(data[at] & _OPCODE, length, now):
                if data[at] & _OPCODE == Opcode.CLOSE:
                    protocol.current_size = None  # no rule holds a client to ending its message
                # An unmasked frame is shorter, but it is refused for its second byte.
                self._owed = after - at
                ponged = self._pass_on(data[at:after], found) or ponged
            at = after
        if self.has_more:
            self._data, self._at = data, at
        else:
            self._data, self._at = b"" if protocol.eof_sent else data[at:], 0
        self.inbox = iter(found)
        return ponged

    def next(self) -> str | bytes | None:
        """Return the next message that was parsed; None if there is none."""
        while (item := next(self.inbox, None)) is not None:
            message = item if isinstance(item, str) else self._message(item)
            if message is not None:
                return message
        return None

    def _afford(self, opcode: int, length: int, now: float) -> bool:
        """Count a frame; fail the connection, and return False, past its kind's budget."""
        if opcode & _CONTROL:
            if self._control_frames.spend(now):
                return True
            self._protocol.fail(Close.POLICY, "too many control frames")
            return False
        if self._first_bytes is not None:
            self._first_bytes -= length
            if self._first_bytes < 0:
                self._protocol.fail(Close.UNAUTHORIZED, "the first message is too long")
                return False
        self._fragments = 1 if opcode else self._fragments + 1
        if self._fragments <= self._fragments_max:
            return True
        self._protocol.fail(Close.POLICY, "a message in too many fragments")
        return False

    def _message(self, frame: Frame) -> str | bytes | None:
        """Return the message that a frame completes; None for other frames."""
        try:
            return self._completed(frame)
        except UnicodeDecodeError as error:
            # RFC 6455 §8.1; what follows is ignored (§7.1.7).
            self._protocol.fail(Close.INVALID_TEXT, f"{error.reason} at byte {error.start}")
            self.clear()
            return None

    def _completed(self, frame: Frame) -> str | bytes | None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                return _decoded(frame.data, opcode is Opcode.TEXT)
            # One buffer, not a list of pieces: a thousand fragments of a byte cost a kilobyte.
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
        """Drop what was parsed, what was not, and a message that will not be completed."""
        self.inbox = iter(())
        self._data, self._at, self.has_more = b"", 0, False
        self._partial = None

    def _pass_on(self, part: bytes, found: list[Frame | str]) -> bool:
        """Let `websockets` parse a frame, or some of it; return whether that was a pong."""
        self._owed -= len(part)
        self._protocol.receive_data(part)
        frames = cast("list[Frame]", self._protocol.events_received())
        found += frames
        return any(frame.opcode is Opcode.PONG for frame in frames)


def _decoded(data: bytes | bytearray | memoryview, is_text: bool) -> str | bytes:
    return str(data, "utf-8") if is_text else bytes(data)


def _text(payload: bytes) -> Frame | str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        # Refused in its turn, after the messages before it.
        return Frame(Opcode.TEXT, payload)
