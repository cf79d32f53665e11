"""One client's WebSocket over a plain TCP socket: an idle one costs a socket and a parser.

Inbound bytes go through the sans-I/O layer of `websockets`, which keeps the rules of RFC 6455, save
for the plainest of messages (`Inbound`).  Outbound data does not: a commit's frames are prepared
once for all its readers (`Frames.wire`), so this module writes those bytes as they are, and the
parser contributes only pongs and the close frame.  Three rules keep the two apart:

* **One line out.**  Whatever leaves goes through `_kept`, in order, unless it is empty and the
  socket takes all at once.  A control frame thus never lands inside a half-written frame.
* **One pong owed.**  RFC 6455 §5.5.3 lets the latest pong answer every earlier ping, so a client
  that pings and never reads costs one frame.  It leaves before the next write, and a client
  that reads nothing misses nothing until then.
* **The close frame is last.**  The parser sees a client's close as soon as its bytes are there,
  but the messages before it may yet be answered: it is echoed when `receive` gets to it.

There is no task and no lock here.  Who reads and who writes take turns (`_Turn`): normally there is
one of each, and only a closing handshake meets them.
"""

from __future__ import annotations

import logging
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import trio
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from dalsegno.actors import TransportClosedError
from dalsegno.protocol import Close

from ._inbound import Inbound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from dalsegno.protocol import Frames, Limits

_READ_BYTES = 16 * 1024
"""Read at a time: bounds the frames of one read, some thousands of the shortest."""
_BLOBS_A_WRITE = 64
"""Blobs handed to one `sendmsg`; POSIX promises 16, Linux and macOS take 1024."""
_REASON_BYTES = 123
"""What RFC 6455 §5.5 leaves for a close frame's reason."""
_ABNORMAL = 1006
"""RFC 6455 §7.4.1: ended without a close frame; never sent."""
_PING = b"\x89\x00"
_RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, zero seconds: close sends RST and frees what the kernel holds."""
_NOTHING: tuple[Frame, ...] = ()
_QUIET = logging.getLogger("dalsegno.websocket")
"""The parser's own log: what it has to tell is in `TransportClosedError`."""
_QUIET.setLevel(logging.WARNING)


class _Turn:
    """Who goes first, of tasks that rarely meet: `trio.Lock` would cost 0.4 KB while idle."""

    __slots__ = ("_left", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._left: trio.Event | None = None

    async def take(self) -> None:
        """Wait for the turn; no checkpoint where it is free."""
        while self.is_taken:
            if self._left is None:
                self._left = trio.Event()
            await self._left.wait()
        self.is_taken = True

    def leave(self) -> None:
        """Let the next one go."""
        self.is_taken = False
        if self._left is not None:
            self._left.set()
            self._left = None


class NativeTransport:
    """A `Transport` over a connected, non-blocking TCP socket whose upgrade is done.

    It owns the socket.  The socket is the standard library's, not Trio's: `send_nowait` has to
    write without waiting, which Trio's has no public way for.  `SocketStream.socket.detach()`
    gives the descriptor up, so none is duplicated.
    """

    __slots__ = (
        "_close_deadline_s",
        "_inbound",
        "_inbox",
        "_kept",
        "_over",
        "_partial",
        "_partial_is_text",
        "_pong",
        "_protocol",
        "_reading",
        "_sock",
        "_writing",
        "last_heard",
        "last_pong",
        "last_taken",
    )

    def __init__(self, sock: socket.socket, limits: Limits, early: bytes = b"") -> None:
        sock.setblocking(False)
        self._sock = sock
        self._close_deadline_s = limits.close_deadline_s
        self._protocol = Protocol(Side.SERVER, max_size=limits.message_bytes_max, logger=_QUIET)
        self._inbound = Inbound(self._protocol)
        self._inbox: Iterator[Frame | str] = iter(_NOTHING)
        self._partial: bytearray | None = None
        self._partial_is_text = False
        self._kept: list[bytes | memoryview] = []
        self._pong = b""
        self._over: tuple[int, str] | None = None
        self._reading = _Turn()
        self._writing = _Turn()
        self.last_heard = trio.current_time()
        """Trio's time of the last bytes from the client."""
        self.last_pong = self.last_taken = self.last_heard
        """Trio's time of the last pong; of the opening before the first."""
        if early:
            with suppress(TransportClosedError):  # `receive` tells
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
        wire = frame.joined or frame.wire
        try:
            sent = self._sock.send(wire)
        except OSError as error:
            sent = self._none_sent(error)
        return sent == len(wire) or self._keep(wire, sent)

    async def flush(self) -> None:
        """Write what is kept; see `Transport`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._write_out()
        if self._sock.fileno() < 0:
            raise self._closed()

    def ping_nowait(self) -> None:
        """Send a ping unless something is on its way already."""
        if self._over is None and not self._kept:
            self._kept.append(_PING)
            with suppress(TransportClosedError):  # the reader meets it too
                self._push()

    def _none_sent(self, error: OSError) -> int:
        """Take it that the socket is full, if that is what it says."""
        if not isinstance(error, BlockingIOError):
            self._lose(error)
        return 0

    def _keep(self, wire: bytes, sent: int) -> bool:
        """Keep what the socket did not take; tell that there is something left."""
        self._kept.append(memoryview(wire)[sent:])
        return False

    def _push(self) -> bool:
        """Write what is kept, and the pong owed, until the socket takes no more."""
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
        """Take what was sent off the line; tell whether that was all of these blobs."""
        for done, blob in enumerate(blobs):
            if sent < len(blob):
                self._kept[: done + 1] = [memoryview(blob)[sent:]]
                return False
            sent -= len(blob)
        del self._kept[: len(blobs)]
        return True

    async def _write_out(self) -> None:
        """Wait until the line is empty, also behind another task that writes."""
        await self._writing.take()
        try:
            while not self._push():
                await self._wait(trio.lowlevel.wait_writable)
                self.last_taken = trio.current_time()
        finally:
            self._writing.leave()

    # In

    def receive_nowait(self) -> str | bytes | None:
        """Take the next message of those that came in one read; see `Transport`."""
        return None if self._reading.is_taken else self._next()

    async def receive(self) -> str | bytes:
        """Wait for the next message; see `Transport`.

        Messages that came in one read are handed out without letting others run in between.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._reading.take()
        try:
            while True:
                if (message := self._next()) is not None:
                    return message
                if self._protocol.eof_sent:
                    await self._part()
                if not (data := await self._read()):
                    self._end(_ABNORMAL, "the client left without a close frame")
                self._feed(data)
        finally:
            self._reading.leave()

    def _next(self) -> str | bytes | None:
        """Take the next message from the inbox; None where there is no more."""
        while (item := next(self._inbox, None)) is not None:
            message = item if isinstance(item, str) else self._message(item)
            if message is not None and self._over is None:
                return message
        return None

    async def _read(self) -> bytes:
        """Read some bytes, empty at the end; one checkpoint, and cancelled none is lost."""
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
            return self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            self._lose(error)

    def _feed(self, data: bytes) -> None:
        """Parse what was read: messages and frames to the inbox, the latest pong to the line."""
        self.last_heard = trio.current_time()
        self._inbox = iter(self._inbound.feed(data))
        protocol = self._protocol
        if protocol.eof_sent:
            return  # a close frame is among what it wants to say: `_part` says it, in its turn
        if (pongs := protocol.data_to_send()) and self._over is None:
            self._pong = pongs[-1]
            self._push()

    def _message(self, frame: Frame) -> str | bytes | None:
        """Give the message that a frame completes; note a pong; None for the rest."""
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                return self._decoded(frame.data, opcode is Opcode.TEXT)
            # One buffer, not a list of pieces: a million fragments of a byte cost a megabyte.
            self._partial = bytearray(frame.data)
            self._partial_is_text = opcode is Opcode.TEXT
        elif opcode is Opcode.CONT:
            assert self._partial is not None
            self._partial += frame.data
            if frame.fin:
                whole, self._partial = self._partial, None
                return self._decoded(whole, self._partial_is_text)
        elif opcode is Opcode.PONG:
            self.last_pong = self.last_heard
        return None

    def _decoded(self, data: bytes | bytearray | memoryview, is_text: bool) -> str | bytes | None:
        if not is_text:
            return bytes(data)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            # RFC 6455 §8.1; what came after it is not looked at (§7.1.7).
            self._protocol.fail(Close.INVALID_TEXT, f"{error.reason} at byte {error.start}")
            self._inbox = iter(_NOTHING)
            return None

    # The end

    async def aclose(self, code: Close, reason: str) -> None:
        """Close with a handshake of at most ``close_deadline_s``; see `Transport`.

        The close frame is written before the first checkpoint where the socket takes it, so
        that also a cancelled caller has told the client.
        """
        if self._over is not None:
            await trio.lowlevel.checkpoint()
            return
        self._over = (int(code), reason)
        if self._protocol.state is OPEN:
            clipped = reason.encode()[:_REASON_BYTES].decode(errors="ignore")
            self._protocol.send_close(int(code), clipped)
        try:
            self._say_the_last()
            with trio.move_on_after(self._close_deadline_s):
                await self._write_out()
                await self._reading.take()
                try:
                    await self._hear_the_last()
                finally:
                    self._reading.leave()
        except TransportClosedError:
            pass  # gone meanwhile, which is what was wanted
        finally:
            self._close()

    def abort(self) -> None:
        """End the connection at once, with a reset; who waits gets `TransportClosedError`."""
        if self._over is None:
            self._over = (_ABNORMAL, "aborted")
        self._close(reset=True)

    async def _part(self) -> NoReturn:
        """Finish what the client's close frame, or its breach of the rules, began."""
        if self._over is None:
            close = self._protocol.close_rcvd or self._protocol.close_sent
            assert close is not None
            self._over = (close.code, close.reason)
        try:
            self._say_the_last()
            with trio.move_on_after(self._close_deadline_s):
                await self._write_out()
                await self._hear_the_last()
        finally:
            self._close()
        raise self._closed()

    def _say_the_last(self) -> None:
        self._pong = b""  # nothing follows a close frame
        if last := b"".join(self._protocol.data_to_send()):
            self._kept.append(last)
            self._push()

    async def _hear_the_last(self) -> None:
        """Read up to the client's close frame; after a breach of the rules, until it hangs up.

        After both close frames the server hangs up first (RFC 6455 §7.1.1).  A client that broke
        the rules may still be sending, and hanging up with unread bytes would reset the
        connection, so that it might never read why.
        """
        protocol = self._protocol
        while not protocol.eof_sent:
            if not (data := await self._read()):
                return
            self._feed(data)
        if protocol.close_rcvd is None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            while await self._read():
                pass

    async def _wait(self, wait_ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self._sock.fileno() < 0:
            raise self._closed()
        try:
            await wait_ready(self._sock)
        except trio.ClosedResourceError:
            raise self._closed() from None

    def _lose(self, error: OSError) -> NoReturn:
        """The socket failed, or was closed here by another task."""
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
        """Close the socket and wake who waits for it; what could not be written goes with it."""
        if self._sock.fileno() < 0:
            return
        if reset or self._kept:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        self._kept.clear()
        self._pong = b""
        self._partial = None
        self._inbox = iter(_NOTHING)
