"""One client's WebSocket over a TCP socket: an idle one costs a socket and a parser.

Inbound bytes go through the sans-I/O layer of `websockets`, which enforces RFC 6455, except for the
plainest messages (`Inbound`).  Outbound data do not: a commit's frames are encoded once for all its
readers (`Frames.wire`), so this module writes those bytes as they are, and the parser contributes
only pongs and the close frame.  Four rules hold them together:

* **One queue out.**  All output goes through `_kept`, in order, unless that is empty and the socket
  accepts everything at once.  So a control frame never lands inside a half-written frame.
* **One pong owed.**  RFC 6455 §5.5.3 lets the latest pong answer every earlier ping, so a client
  that pings and never reads costs one frame.  The pong is sent before the next write; a client
  that does not read cannot notice the delay.
* **The close frame is last.**  The parser sees a client's close frame as soon as its bytes arrive,
  but messages before it may yet be answered: it is echoed once `receive` gets to it.

* **Input in turns.**  What one read brought is parsed some frames at a time, with a schedule point
  between (`Inbound`), and nothing of it after a close.

There are no tasks here.  Readers take turns, and so do writers (`_Turn`): normally there is one of
each, and only a closing handshake adds another.
"""

from __future__ import annotations

import logging
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import trio
from websockets.protocol import OPEN, Protocol, Side

from dalsegno.actors import TransportClosedError
from dalsegno.protocol import Close

from ._inbound import Inbound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.protocol import Frames, Limits

    from ._tls import TlsSocket

_READ_BYTES = 16 * 1024
"""Bytes of one read."""
_BLOBS_A_WRITE = 64
"""Blobs handed to one `sendmsg`; POSIX promises 16, Linux and macOS take 1024."""
_REASON_BYTES = 123
"""What RFC 6455 §5.5 leaves for a close frame's reason."""
_ABNORMAL = 1006
"""RFC 6455 §7.4.1: the connection ended without a close frame; never sent."""
_PING = b"\x89\x00"
_RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, zero seconds: close sends RST and frees the kernel's buffers."""
_QUIET = logging.getLogger("dalsegno.websocket")
"""The parser's own log, silenced: `TransportClosedError` has what matters of it."""
_QUIET.setLevel(logging.WARNING)


class _Turn:
    """A lock for tasks that rarely meet; an idle `trio.Lock` would take 0.4 KB."""

    __slots__ = ("_left", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._left: trio.Event | None = None

    async def take(self) -> None:
        """Wait for the turn; without a checkpoint if it is free."""
        while self.is_taken:
            if self._left is None:
                self._left = trio.Event()
            await self._left.wait()
        self.is_taken = True

    def leave(self) -> None:
        """Wake the tasks that wait for the turn."""
        self.is_taken = False
        if self._left is not None:
            self._left.set()
            self._left = None


class NativeTransport:
    """A `Transport` over a connected, non-blocking TCP socket whose upgrade is done.

    It owns the socket.  The socket is the standard library's, not Trio's: `send_nowait` has to
    write without waiting, for which Trio's has no public method.  `SocketStream.socket.detach()`
    hands the descriptor over, so none is duplicated.  Under TLS it is a `TlsSocket`, of which all
    that is said here holds as well.
    """

    __slots__ = (
        "_close_deadline_s",
        "_inbound",
        "_is_drained",
        "_kept",
        "_over",
        "_pong",
        "_protocol",
        "_reading",
        "_sock",
        "_writing",
        "last_heard",
        "last_pong",
        "last_taken",
    )

    def __init__(
        self,
        sock: socket.socket | TlsSocket,
        limits: Limits,
        early: bytes = b"",
        *,
        first_bytes_max: int | None = None,
    ) -> None:
        """Make it.

        Args:
            sock: the connection.
            limits: the bounds.
            early: what was read of it already.
            first_bytes_max: the length of the first message, and that nothing behind it is looked
                at, until `lift_bound`; None: as all others.

        """
        sock.setblocking(False)
        self._sock = sock
        self._close_deadline_s = limits.close_deadline_s
        self._protocol = Protocol(Side.SERVER, max_size=limits.message_bytes_max, logger=_QUIET)
        self._inbound = Inbound(self._protocol, limits, first_bytes_max=first_bytes_max)
        self._is_drained = False
        """Whether the last read took all that had arrived: there is nothing to try for."""
        self._kept: list[bytes | memoryview] = []
        self._pong = b""
        self._over: tuple[int, str] | None = None
        self._reading = _Turn()
        self._writing = _Turn()
        self.last_heard = trio.current_time()
        """Trio's time of the last bytes from the client."""
        self.last_pong = self.last_taken = self.last_heard
        """Trio's time of the last pong; before the first, of the opening."""
        if early:
            with suppress(TransportClosedError):  # `receive` raises it again
                self._feed(early)

    def __repr__(self) -> str:
        kept = sum(map(len, self._kept))
        state = "open" if self._over is None else f"over {self._over[0]}"
        return f"<NativeTransport fd={self._sock.fileno()} {state}, {kept} bytes kept>"

    # Out

    def send_nowait(self, frames: Sequence[Frames]) -> bool:
        """Write the frames' shared bytes; see `Transport`."""
        if self._over is not None:
            raise self._closed()
        if len(frames) != 1 or self._kept or self._pong:
            self._kept += filter(None, [frame.wire for frame in frames])
            return self._push()
        frame = frames[0]
        wire = frame.wire
        try:
            sent = self._sock.send(wire)
        except OSError as error:
            sent = self._none_sent(error)
        if sent == len(wire):
            return True
        self._kept.append(memoryview(wire)[sent:])
        return False

    async def flush(self) -> None:
        """Write what is kept; see `Transport`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._write_out()
        if self._sock.fileno() < 0:
            raise self._closed()

    def ping_nowait(self) -> None:
        """Send a ping, unless output is waiting already."""
        if self._over is None and not self._kept:
            self._kept.append(_PING)
            with suppress(TransportClosedError):  # the reader gets it too
                self._push()

    def _none_sent(self, error: OSError) -> int:
        """Return 0 if the socket is full; end the connection on any other error."""
        if not isinstance(error, BlockingIOError):
            self._lose(error)
        return 0

    def _push(self) -> bool:
        """Write what is kept, and the pong owed, until the socket accepts no more."""
        kept = self._kept
        while kept or self._pong:
            if not kept:
                kept.append(self._pong)
                self._pong = b""
            blobs = kept[:_BLOBS_A_WRITE]
            try:
                sent = self._sock.sendmsg(blobs)
            except BlockingIOError:
                return False
            except OSError as error:
                self._lose(error)
            if not self._strike_off(blobs, sent):
                return False
        return True

    def _strike_off(self, blobs: list[bytes | memoryview], sent: int) -> bool:
        """Drop what was sent; return whether that was all of these blobs."""
        for done, blob in enumerate(blobs):
            if sent < len(blob):
                self._kept[: done + 1] = [memoryview(blob)[sent:]]
                return False
            sent -= len(blob)
        del self._kept[: len(blobs)]
        return True

    async def _write_out(self) -> None:
        """Wait until everything is written, also by another task."""
        await self._writing.take()
        try:
            while not self._push():
                await self._wait(trio.lowlevel.wait_writable)
                self.last_taken = trio.current_time()
        finally:
            self._writing.leave()

    # In

    def receive_nowait(self) -> str | bytes | None:
        """Return the next message that arrived in the last read; see `Transport`."""
        return None if self._reading.is_taken or self._over is not None else self._inbound.next()

    async def receive(self) -> str | bytes:
        """Wait for the next message; see `Transport`.

        Messages that were parsed in one turn are returned without a schedule point in between.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._reading.take()
        try:
            while True:
                if self._over is None and (message := self._inbound.next()) is not None:
                    return message
                if self._protocol.eof_sent:
                    await self._part()
                if not await self._parse_more():
                    self._end(_ABNORMAL, "the client disconnected without a close frame")
        finally:
            self._reading.leave()

    def lift_bound(self, limits: Limits) -> None:
        """Take what follows the first message: it is known now who the client is."""
        self._inbound.lift_bound(limits)

    async def _parse_more(self) -> bool:
        """Parse a turn's frames, after a checkpoint; False if the client sends nothing more."""
        if self._inbound.has_more:
            await trio.lowlevel.checkpoint()
            self._parse(trio.current_time())
            return True
        if data := await self._read():
            self._feed(data)
        return bool(data)

    async def _read(self) -> bytes:
        """Read some bytes, none at the end; one checkpoint, and no bytes lost if cancelled."""
        data = None
        if not self._is_drained:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._recv()
            if data is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
        while data is None:
            await self._wait(trio.lowlevel.wait_readable)
            data = self._recv()
        return data

    def _recv(self) -> bytes | None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            self._lose(error)
        self._is_drained = 0 < len(data) < _READ_BYTES
        return data

    def _feed(self, data: bytes) -> None:
        self.last_heard = trio.current_time()
        self._inbound.feed(data)
        self._parse(self.last_heard)

    def _parse(self, now: float) -> None:
        """Parse a turn's frames, and send the latest pong."""
        if self._inbound.parse(now):
            self.last_pong = self.last_heard
        protocol = self._protocol
        if protocol.eof_sent:
            return  # its output includes a close frame, which `_part` sends in its turn
        if (pongs := protocol.data_to_send()) and self._over is None:
            self._pong = pongs[-1]
            self._push()

    # The end

    async def aclose(self, code: Close, reason: str) -> None:
        """Close with a handshake of at most ``close_deadline_s``; see `Transport`.

        If the socket accepts it, the close frame is written before the first checkpoint, so that
        the client gets it even if the caller is cancelled.
        """
        if self._over is not None:
            await trio.lowlevel.checkpoint()
            return
        self._over = (int(code), reason)
        if self._protocol.state is OPEN:
            clipped = reason.encode()[:_REASON_BYTES].decode(errors="ignore")
            if code is Close.POLICY:
                self._protocol.fail(code, clipped)  # not even a close frame is looked for
            else:
                self._protocol.send_close(int(code), clipped)
        try:
            self._write_last()
            with trio.move_on_after(self._close_deadline_s):
                await self._write_out()
                await self._reading.take()
                try:
                    await self._read_last()
                finally:
                    self._reading.leave()
        except TransportClosedError:
            pass  # the connection has ended, as it should
        finally:
            self._close()

    def abort(self) -> None:
        """End the connection at once, with a reset; waiting tasks get `TransportClosedError`."""
        if self._over is None:
            self._over = (_ABNORMAL, "aborted")
        self._close(reset=True)

    async def _part(self) -> NoReturn:
        """Complete the close that the client's close frame, or its violation of a rule, began."""
        if self._over is None:
            close = self._protocol.close_rcvd or self._protocol.close_sent
            assert close is not None
            self._over = (close.code, close.reason)
        try:
            self._write_last()
            with trio.move_on_after(self._close_deadline_s):
                await self._write_out()
                await self._read_last()
        finally:
            self._close()
        raise self._closed()

    def _write_last(self) -> None:
        self._pong = b""  # nothing follows a close frame
        if last := b"".join(self._protocol.data_to_send()):
            self._kept.append(last)
            self._push()

    async def _read_last(self) -> None:
        """Read up to the client's close frame; after a violation of a rule, until it hangs up.

        After both close frames the server hangs up first (RFC 6455 §7.1.1).  A client that violated
        a rule may still be sending, and closing with unread bytes would reset the connection, so
        that it might never read the reason.
        """
        protocol = self._protocol
        while not protocol.eof_sent:
            if not await self._parse_more():
                return
        if protocol.close_rcvd is None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            while await self._read():
                pass

    async def _wait(
        self, wait_ready: Callable[[socket.socket | TlsSocket], Awaitable[None]]
    ) -> None:
        if self._sock.fileno() < 0:
            raise self._closed()
        try:
            await wait_ready(self._sock)
        except trio.ClosedResourceError:
            raise self._closed() from None

    def _lose(self, error: OSError) -> NoReturn:
        """End the connection whose socket failed, or was closed by another task."""
        if self._over is None:
            self._over = (_ABNORMAL, error.strerror or str(error))
        self._close()
        raise self._closed() from error

    def _end(self, code: int, reason: str) -> NoReturn:
        if self._over is None:
            self._over = (code, reason)
        self._close()
        raise self._closed()

    def _closed(self) -> TransportClosedError:
        assert self._over is not None
        return TransportClosedError(*self._over)

    def _close(self, *, reset: bool = False) -> None:
        """Close the socket and wake the tasks that wait for it; unwritten output is dropped."""
        if self._sock.fileno() < 0:
            return
        if reset or self._kept:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        self._kept.clear()
        self._pong = b""
        self._inbound.clear()
