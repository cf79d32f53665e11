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

from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import msgspec
from h11._receivebuffer import ReceiveBuffer  # not public: pyproject.toml pins h11
from hypercorn.events import Closed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer

if TYPE_CHECKING:
    from typing import Any

_LENGTH, _ENCODING = b"content-length", b"transfer-encoding"


class Http1Server(TCPServer):
    """Serves a connection, as Hypercorn does, except that its protocol stays HTTP/1."""

    async def _read_data(self) -> None:
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
        await super()._read_data()


class _Http1(H11Protocol):
    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - as Hypercorn's
        super().__init__(*args)
        assert isinstance(self.connection, h11.Connection)
        self.connection._receive_buffer = _StrictBuffer()  # noqa: SLF001 - see the import

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
