"""A client's connection in memory, both ends, for tests and simulations.

The line takes a bounded number of bytes that the client has not read, like a socket; beyond that
`send_nowait` keeps the rest.  The client answers pings and the closing handshake by itself, as a
library would, unless it is set to be deaf.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import TransportClosedError
from dalsegno.protocol import Close, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Frames

_ABNORMAL = 1006
_WAITING_MAX = 64
"""Messages of the client that may wait to be received."""


class _Signal:
    """A signal that wakes all tasks that wait for a change."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def set(self) -> None:
        self._event.set()
        self._event = trio.Event()


class _Line:
    """The line between the two ends."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self.to_client: deque[bytes] = deque()
        self.to_client_bytes = 0
        self.to_server: deque[str | bytes] = deque()
        self.closed: tuple[int, str] | None = None
        """The close code and reason, for both ends."""
        self.cut = False
        """Whether it ended without a handshake."""
        self.changed = _Signal()

    def put(self, text: bytes) -> bool:
        """Take a message if there is room; an empty line takes one of any length."""
        if self.to_client and self.to_client_bytes + len(text) > self.room_bytes:
            return False
        self.to_client.append(text)
        self.to_client_bytes += len(text)
        self.changed.set()
        return True

    def close(self, code: int, reason: str, *, cut: bool) -> None:
        if self.closed is None:
            self.closed = (code, reason)
        self.cut = self.cut or cut
        self.changed.set()

    def error(self) -> TransportClosedError:
        assert self.closed is not None
        return TransportClosedError(*self.closed)


class MemoryTransport:
    """The server's end: a `Transport`."""

    def __init__(self, line: _Line, client: MemoryClient) -> None:
        self._line = line
        self._client = client
        self._kept: deque[bytes] = deque()
        self.last_heard = self.last_pong = self.last_taken = trio.current_time()

    def __repr__(self) -> str:
        state = "open" if self._line.closed is None else f"over {self._line.closed[0]}"
        return f"<MemoryTransport {state}, {len(self._kept)} messages kept>"

    def send_nowait(self, frames: Sequence[Frames]) -> bool:
        """Put the messages on the line; see `Transport`."""
        if self._line.closed is not None:
            raise self._line.error()
        for frame in frames:
            self._kept.extend(frame.texts)
        return self._push()

    async def flush(self) -> None:
        """Wait until the line has taken everything; see `Transport`."""
        await trio.lowlevel.checkpoint()
        while not self._push():
            kept = len(self._kept)
            await self._line.changed.wait()
            if self._push() or len(self._kept) < kept:
                self.last_taken = trio.current_time()
        if self._line.cut:
            raise self._line.error()

    def receive_nowait(self) -> str | bytes | None:
        """Return the client's next message if it has arrived; see `Transport`."""
        line = self._line
        if not line.to_server:
            return None
        message = line.to_server.popleft()
        line.changed.set()
        return message

    async def receive(self) -> str | bytes:
        """Wait for the client's next message; see `Transport`."""
        await trio.lowlevel.checkpoint()
        while (message := self.receive_nowait()) is None:
            if self._line.closed is not None:
                raise self._line.error()
            await self._line.changed.wait()
        return message

    def ping_nowait(self) -> None:
        """Make the client answer, unless it is deaf or data is pending."""
        if self._line.closed is None and not self._kept and not self._client.deaf:
            self.last_heard = self.last_pong = trio.current_time()

    async def aclose(self, code: Close, reason: str) -> None:
        """Close after what is kept, and wait for the client's answer; see `Transport`."""
        line = self._line
        if line.closed is not None:
            await trio.lowlevel.checkpoint()
            return
        line.closed = (int(code), reason)
        line.to_server.clear()
        try:
            await self.flush()
            line.changed.set()
            while self._client.deaf and not line.cut:
                await line.changed.wait()
        except TransportClosedError:
            pass
        except trio.Cancelled:
            if self._kept:
                line.closed = (_ABNORMAL, "aborted")
            raise
        finally:
            self._cut()

    def abort(self) -> None:
        """End the connection at once."""
        self._kept.clear()
        self._line.close(_ABNORMAL, "aborted", cut=True)

    def heard(self) -> None:
        """Record that something came from the client."""
        self.last_heard = trio.current_time()

    def _push(self) -> bool:
        kept = self._kept
        if self._line.cut:
            kept.clear()
        while kept:
            if not self._line.put(kept[0]):
                return False
            kept.popleft()
        return True

    def _cut(self) -> None:
        self._kept.clear()
        self._line.cut = True
        self._line.changed.set()


class MemoryClient:
    """The client's end."""

    def __init__(self, limits: Limits, room_bytes: int) -> None:
        self._line = _Line(room_bytes)
        self._message_bytes_max = limits.message_bytes_max
        self.transport = MemoryTransport(self._line, self)
        """The server's end."""
        self.deaf = False
        """Whether it answers neither pings nor the closing handshake."""

    async def send(self, message: str | bytes) -> None:
        """Send a message; wait while too many are not received.

        Raises:
            TransportClosedError: the connection is over, or this message ends it with 1009.

        """
        await trio.lowlevel.checkpoint()
        line = self._line
        while line.closed is None and len(line.to_server) >= _WAITING_MAX:
            await line.changed.wait()
        if line.closed is not None:
            raise line.error()
        self.transport.heard()
        size = len(message) if isinstance(message, bytes) else len(message.encode())
        if size > self._message_bytes_max:
            line.close(Close.MESSAGE_TOO_BIG, "the message is too big", cut=True)
            raise line.error()
        line.to_server.append(message)
        line.changed.set()

    async def receive(self) -> str:
        """Wait for the server's next message.

        Raises:
            TransportClosedError: the connection is over, and everything before that was read.

        """
        await trio.lowlevel.checkpoint()
        line = self._line
        while not line.to_client:
            if line.closed is not None and line.cut:
                raise line.error()
            await line.changed.wait()
        text = line.to_client.popleft()
        line.to_client_bytes -= len(text)
        line.changed.set()
        return text.decode()

    def close(self, code: int = Close.NORMAL, reason: str = "") -> None:
        """Close with a handshake; the server still receives what was sent before."""
        self.transport.heard()
        self._line.close(code, reason, cut=True)

    def vanish(self) -> None:
        """End the connection without a handshake."""
        self._line.close(_ABNORMAL, "the client left without a close frame", cut=True)


def memory_connection(
    limits: Limits | None = None, *, room_bytes: int = 128 * 1024
) -> MemoryClient:
    """Open a connection; the server's end is its ``transport``.

    Args:
        limits: the bounds of the framing.
        room_bytes: how much the client may leave unread before the line takes no more.

    """
    return MemoryClient(limits or Limits(), room_bytes)
