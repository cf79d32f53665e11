"""TLS under the connections of a port: streams for requests, and sockets for WebSockets.

Both are faces of one `ssl.SSLSocket` that never blocks.  `trio.SSLStream` would serve requests as
well, but a WebSocket of ours writes to all its readers without waiting (`NativeTransport`), which
that cannot, and a connection may be asked for a WebSocket after any number of requests; it also has
no end of its own direction, which a refusal needs (`send_eof`), and copies each byte once more.

OpenSSL has two habits to know (SSL_write(3), SSL_shutdown(3)).  What it could write only in part
has to be given to it again, from the same byte on: a cut send leaves a connection nothing can be
sent on.  And a direction that ends without a ``close_notify`` was cut off: so an answer that was
not written whole ends without one, and any other with it.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

ResultT = TypeVar("ResultT")

Wait: TypeAlias = "Callable[[ssl.SSLSocket], Awaitable[None]]"

_READING: dict[type[OSError], Wait] = {
    ssl.SSLWantReadError: trio.lowlevel.wait_readable,
    BlockingIOError: trio.lowlevel.wait_readable,  # behind `send_eof`
}
_WRITING: dict[type[OSError], Wait] = {ssl.SSLWantWriteError: trio.lowlevel.wait_writable}
"""What a step may wait for: a reader for no writing, which another task may be waiting for."""

_READ_BYTES = 16 * 1024
_RECORD_BYTES = 16 * 1024
"""The longest plaintext of a record (RFC 8446 §5.1)."""


class TlsStream(trio.abc.HalfCloseableStream):
    """A client's connection under TLS.

    `do_handshake` comes first.  Hypercorn knows by that, `selected_alpn_protocol` and
    `transport_stream`, which are those of `trio.SSLStream`, that it is one.
    """

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        """Take over a connection, of which nothing was read.

        Raises:
            trio.BrokenResourceError: it has ended already.

        """
        plain = detached(stream)
        plain.setblocking(False)
        try:
            self.socket: ssl.SSLSocket = context.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            )
        except OSError as error:
            plain.close()
            raise trio.BrokenResourceError(_reason(error)) from error
        self._is_sending = False
        self._is_whole = False
        """Whether there is a session, and nothing was sent by halves."""

    @property
    def transport_stream(self) -> TlsStream:
        """The stream that has the socket."""
        return self

    def selected_alpn_protocol(self) -> str | None:
        """Return what the client and this server have agreed to speak."""
        return self.socket.selected_alpn_protocol()

    async def do_handshake(self) -> None:
        """Agree on keys, unless that is done.

        Raises:
            trio.BrokenResourceError: it failed, or the client speaks no TLS.

        """
        await self._retry({**_READING, **_WRITING}, self.socket.do_handshake)
        self._is_whole = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for some bytes; none at the end.

        Behind `send_eof` they are as they were sent, encrypted, and good for nothing but waiting
        for the end.

        Raises:
            trio.BrokenResourceError: the connection has failed; see `TlsSocket.recv`.

        """
        return await self._retry(_READING, self.socket.recv, max_bytes or _READ_BYTES)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; cancelled or failed, nothing more can be sent."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
        if not self._is_whole:
            raise trio.BrokenResourceError("a send was cut off, or the handshake is not done")
        self._is_sending, self._is_whole = True, False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            for record in _records([data]):
                rest = memoryview(record)
                while rest:
                    rest = rest[await self._retry(_WRITING, self.socket.send, rest) :]
            self._is_whole = True
        finally:
            self._is_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be sent."""
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """Send the end; the client's own is not waited for."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
        if self._is_whole:
            self._is_whole = False
            await self._retry(_WRITING, self._notify)
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._ended(error) from error

    def _notify(self) -> None:
        try:
            self.socket.unwrap()
        except ssl.SSLWantWriteError:
            raise
        except (OSError, ValueError):
            pass  # it is sent, and the client has not answered; or the client is gone

    async def aclose(self) -> None:
        """Close at once."""
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()
        await trio.lowlevel.checkpoint()

    def detach(self) -> TlsSocket:
        """Hand the connection over; it is no stream from now on."""
        return TlsSocket(self.socket)

    async def _retry(
        self,
        waits: dict[type[OSError], Wait],
        step: Callable[..., ResultT],
        *arguments: Any,  # noqa: ANN401 - the step's
    ) -> ResultT:
        """Call a step of OpenSSL's until it needs to wait for none of these."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                result = step(*arguments)
            except OSError as error:
                if (wait := waits.get(type(error))) is None:
                    raise self._ended(error) from error
                await wait(self.socket)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return result

    def _ended(self, error: OSError) -> Exception:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError("this was closed already")
        return trio.BrokenResourceError(_reason(error))


class TlsSocket:
    """A connection under TLS with the methods of a socket that `NativeTransport` calls.

    As with a plain one, what was not counted as sent is given again: it comes first in whatever is
    sent next.  So nothing is kept here but the end of a record in OpenSSL's buffer.
    """

    __slots__ = ("_sock",)

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Set whether calls wait."""
        self._sock.setblocking(flag)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket's."""
        self._sock.setsockopt(level, option, value)

    def send(self, data: bytes | memoryview) -> int:
        """Send as much as goes without waiting; return how much that was.

        Raises:
            BlockingIOError: none of it.
            OSError: the connection has failed.

        """
        return self.sendmsg((data,))

    def sendmsg(self, blobs: Sequence[bytes | memoryview]) -> int:
        """Send these behind each other, as `send` does, in as few records as possible."""
        sent = 0
        for record in _records(blobs):
            try:
                count = self._sock.send(record)
            except ssl.SSLWantWriteError:
                if not sent:
                    raise BlockingIOError from None
                break
            sent += count
            if count < len(record):
                break
        return sent

    def recv(self, max_bytes: int) -> bytes:
        """Return the bytes that have arrived, as many as are asked for; none at the end.

        Raises:
            BlockingIOError: there are none yet.
            OSError: the connection has failed.  Also where the client asks for new keys
                (RFC 8446 §4.6.3) and has so much unread that the answer cannot be sent: what is
                read of such a client costs writes, and those have to end.

        """
        try:
            data = self._sock.recv(max_bytes)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        if 0 < len(data) < max_bytes:
            data += self._more(max_bytes - len(data))
        return data

    def _more(self, max_bytes: int) -> bytes:
        """Return what has arrived in further records: OpenSSL reads one at a time."""
        records: list[bytes] = []
        try:
            while max_bytes and (record := self._sock.recv(max_bytes)):
                records.append(record)
                max_bytes -= len(record)
        except ssl.SSLWantReadError:
            return b"".join(records)
        except OSError:
            pass
        if max_bytes:
            # The end, which is read again: so that a wait for it does not last for ever.
            with suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RD)
        return b"".join(records)

    def shutdown(self, how: int) -> None:
        """End this direction; what is received from now on is good for nothing."""
        self._notify()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close at once, and say so if that is possible without waiting."""
        self._notify()
        self._sock.close()

    def _notify(self) -> None:
        with suppress(OSError, ValueError):  # the client's own end is not waited for
            self._sock.unwrap()


def detached(stream: trio.SocketStream) -> socket.socket:
    """Return a stream's socket as the standard library's; the stream has none from now on."""
    family, kind = stream.socket.family, stream.socket.type
    return socket.socket(family, kind, fileno=stream.socket.detach())


def _records(blobs: Sequence[bytes | bytearray | memoryview]) -> Iterator[bytes | memoryview]:
    """Cut what is to be sent into pieces of a record; small blobs share one.

    The first piece begins where the last one did that was not sent, and is no shorter: OpenSSL
    insists on both.
    """
    parts: list[memoryview] = []
    room = _RECORD_BYTES
    for blob in blobs:
        rest = memoryview(blob)
        while rest:
            parts.append(rest[:room])
            rest = rest[room:]
            room -= len(parts[-1])
            if not room:
                yield _joined(parts)
                parts, room = [], _RECORD_BYTES
    if parts:
        yield _joined(parts)


def _joined(parts: list[memoryview]) -> bytes | memoryview:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _reason(error: OSError) -> str:
    """Return why a connection failed, in OpenSSL's words or the system's."""
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else error.strerror or str(error)
