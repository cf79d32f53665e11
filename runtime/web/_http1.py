"""Hypercorn's server of one connection, kept to HTTP/1, and strict about it.

By itself it would switch to HTTP/2 in clear text, by the preface (``PRI``) or by ``Upgrade: h2c``,
on the first request or a later one, and no setting turns that off.  A proxy in front that passes an
upgrade on sees nothing of what follows, so its rules would be evaded; and the streams, pings and
resets of HTTP/2 have no bounds of ours.

It would also read a head more kindly than some proxy did before it: lines that end with LF alone,
lines folded in two, a body with two lengths.  Where two readers of one connection disagree about
where a request ends, a client can put a request of its own between those of others ("request
smuggling", RFC 9112, 11.2).  So what is ambiguous is refused, and the connection closed.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import h11
import msgspec
import trio
from h11._receivebuffer import ReceiveBuffer  # not public: pyproject.toml pins h11
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dalsegno.protocol import Limits

_LENGTH, _ENCODING = b"content-length", b"transfer-encoding"


class Handed(Protocol):
    """The stream, as far as this is about giving it back."""

    def release(self) -> None:
        """Leave it open from now on."""


END_OF_HEAD = re.compile(rb"\n\r?\n")
_READ_BYTES = 2**16


class Http1Server(TCPServer):
    """Serves a connection, as Hypercorn does, except that its protocol stays HTTP/1.

    It stops where the client asks for something else between two requests: proxies use a connection
    again, also for the upgrade to a WebSocket.  The stream is left open then, and `taken` is what
    was read of that request.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - as Hypercorn's
        handed: Handed,
        takes: Callable[[bytes], bool],
        limits: Limits,
    ) -> None:
        super().__init__(*args)
        self.taken: tuple[bytes, bytes] | None = None
        """The head of a request that is not for Hypercorn, and what came behind it."""
        self._handed = handed
        self._takes = takes
        self._limits = limits

    async def _read_data(self) -> None:
        protocol = self._keep_to_http1()
        while True:
            try:
                data = bytes(await self.stream.receive_some(_READ_BYTES))
                if data:
                    await protocol.wait_answered()
                if data and b"GET ".startswith(data[:4]) and protocol.is_between_requests:
                    data = await self._rest_of_head(data)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            if protocol.is_between_requests and self._takes_over(data):
                self._handed.release()
                await self.idle_task.stop()
                return
            await protocol.handle(RawData(data))
            if not data:
                break
        await protocol.handle(Closed())

    async def _rest_of_head(self, data: bytes) -> bytes:
        """Return a head that may have been cut, with its end if that comes in time."""
        limits, head, seen = self._limits, bytearray(data), 0
        with trio.move_on_after(limits.head_deadline_s):
            while END_OF_HEAD.search(head, seen) is None and len(head) <= limits.head_bytes_max:
                seen = max(0, len(head) - 2)  # the empty line may be cut in two
                if not (more := await self.stream.receive_some(_READ_BYTES)):
                    break  # what is told of the end is told again
                head += more
        return bytes(head)

    def _takes_over(self, data: bytes) -> bool:
        end = END_OF_HEAD.search(data)
        if end is None or not self._takes(data[: end.end()]):
            return False
        self.taken = data[: end.end()], data[end.end() :]
        return True

    def _keep_to_http1(self) -> _Http1:
        switching = self.protocol
        switching.protocol = _Http1(
            switching.app,
            switching.config,
            switching.context,
            switching.task_group,
            switching.state,
            switching.ssl,
            switching.client,
            switching.server,
            switching.send,
        )
        return switching.protocol


class _Http1(H11Protocol):
    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - as Hypercorn's
        super().__init__(*args)
        self._answered: trio.Event | None = None
        """Set once the request that is being worked on is answered; None between requests."""
        assert isinstance(self.connection, h11.Connection)
        self.connection._receive_buffer = _StrictBuffer()  # noqa: SLF001 - see the import

    @property
    def is_between_requests(self) -> bool:
        """Whether all that was asked is answered, and nothing more has been read."""
        connection = self.connection
        return (
            isinstance(connection, h11.Connection)
            and connection.our_state is connection.their_state is h11.IDLE
            and not connection.trailing_data[0]
        )

    async def wait_answered(self) -> None:
        """Wait for the answer to a request that was read whole.

        A client may have its last byte, and ask for the next thing, a moment before that is noted.
        Hypercorn, too, looks at what comes next only then.
        """
        if self._answered is not None and self.connection.their_state is h11.DONE:
            await self._answered.wait()

    async def _maybe_recycle(self) -> None:
        await super()._maybe_recycle()
        if self._answered is not None:
            self._answered.set()
            self._answered = None

    async def _check_protocol(self, event: h11.Request) -> None:
        """Decline to switch: the request is answered over HTTP/1.1 (RFC 9110 §7.8).

        Java's HTTP client offers ``h2c`` with every first request, and so does ``curl --http2``.
        """

    async def _create_stream(self, request: h11.Request) -> None:
        """Begin a request, or refuse one of another major version (RFC 9110 §15.6.6)."""
        if not request.http_version.startswith(b"1."):
            await self._refuse(request, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif _is_ambiguous(request):
            await self._refuse(request, HTTPStatus.BAD_REQUEST)
        else:
            self._answered = trio.Event()
            await super()._create_stream(request)

    async def _refuse(self, request: h11.Request, status: int) -> None:
        if request.method == b"HEAD":  # whose answer has no body
            await super()._send_error_response(status)
        else:
            await self._send_error_response(status)
        await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        """Answer what is no request; there is no id of one to name."""
        status = HTTPStatus(status_code)
        body = msgspec.json.encode(
            {
                "code": "BAD_REQUEST",
                "message": f"this is not read as a request: {status.phrase.lower()}",
                "details": None,
                "request_id": None,
            }
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _StrictBuffer(ReceiveBuffer):
    """h11's buffer, which refuses lines that end with LF alone, or are folded (RFC 9112, 2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self._extracted = bytearray()

    def _extract(self, count: int) -> bytearray:
        self._extracted = super()._extract(count)
        return self._extracted

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines of a head or a trailer once they are complete."""
        lines = super().maybe_extract_lines()
        if lines is None:
            return None
        head, self._extracted = self._extracted, bytearray()
        if head.count(b"\n") != head.count(b"\r\n"):
            raise h11.LocalProtocolError("a line ends with LF alone")
        if b"\n " in head or b"\n\t" in head:
            raise h11.LocalProtocolError("a line is folded")
        return lines


def _is_ambiguous(request: h11.Request) -> bool:
    """Return whether a request's body has two lengths, or one that its version does not know.

    RFC 9112, 6.1: such a message ought to be handled as an error.
    """
    names = [name for name, _ in request.headers]
    return _ENCODING in names and (_LENGTH in names or request.http_version == b"1.0")
