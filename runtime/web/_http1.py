"""Hypercorn's server of one connection, kept to HTTP/1.

By itself it would switch to HTTP/2 in clear text, by the preface (``PRI``) or by ``Upgrade: h2c``,
on the first request or a later one, and no setting turns that off.  A proxy in front that passes an
upgrade on sees nothing of what follows, so its rules would be evaded; and the streams, pings and
resets of HTTP/2 have no bounds of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercorn.events import Closed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer

if TYPE_CHECKING:
    import h11


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
    async def _check_protocol(self, event: h11.Request) -> None:
        """Decline to switch: the request is answered over HTTP/1.1 (RFC 9110 §7.8).

        Java's HTTP client offers ``h2c`` with every first request, and so does ``curl --http2``.
        """

    async def _create_stream(self, request: h11.Request) -> None:
        """Begin a request, or refuse one of another major version (RFC 9110 §15.6.6)."""
        if request.http_version.startswith(b"1."):
            await super()._create_stream(request)
        else:
            await self._send_error_response(505)
            await self.send(Closed())
