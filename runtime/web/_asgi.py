"""The application as ASGI has it: requests go to Quart, and WebSockets by a way of our own.

A WebSocket of an ASGI server becomes a connection as one of the listener does: admitted by the same
rules, served by the same actor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._asgi_transport import AsgiTransport
from ._handshake import HandshakeRefusedError, refusal_of, upgrade_of
from ._paths import within

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGISendCallable,
        Scope,
        WebsocketScope,
    )

    from dalsegno.actors import World
    from dalsegno.protocol import Limits

    from ._door import Door
    from ._hosts import Hosts

_DENIAL = "websocket.http.response"
"""The extension by which a refusal has a status and a body."""


class AsgiApplication:
    """An ASGI application, for whatever server: HTTP, event streams and WebSockets."""

    def __init__(
        self,
        http: ASGIFramework,
        door: Door[Any, Any],
        *,
        owns: Callable[[str], bool],
        hosts: Hosts,
        limits: Limits,
        world: World,
    ) -> None:
        """Make it.

        Args:
            http: answers requests.
            door: lets sockets in.
            owns: which paths have sockets.
            hosts: what the server is called, and whose pages may connect.
            limits: the bounds.
            world: ids.

        """
        self._http = http
        self._door = door
        self._owns = owns
        self._hosts = hosts
        self._limits = limits
        self._world = world

    def __repr__(self) -> str:
        return f"<AsgiApplication {self._door!r}>"

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve a request, a WebSocket, or the server's lifespan."""
        if scope["type"] == "websocket":
            here = within(scope)
            if self._owns(here["raw_path"].decode("latin-1")):
                await self._serve_socket(here, receive, send)
                return
        await self._http(scope, receive, send)

    async def _serve_socket(
        self, scope: WebsocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await receive()  # websocket.connect
        request_id = self._world.new_id()
        try:
            request, chosen = upgrade_of(scope, new_request_id=request_id, hosts=self._hosts)
            request_id = request.request_id
            accepted = await self._door.admit(request)
        except HandshakeRefusedError as refusing:
            await _refuse(scope, send, refusing, request_id)
            return
        try:
            await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        except BaseException:
            self._door.release(accepted)
            raise
        first = self._limits.authenticate_bytes_max if request.is_deferred else None
        transport = AsgiTransport(
            receive,
            send,
            self._limits,
            batches=request.takes_batches,
            first_bytes_max=first,
        )
        async with transport.serving():
            await self._door.serve(transport, accepted)


async def _refuse(
    scope: WebsocketScope,
    send: ASGISendCallable,
    refusing: HandshakeRefusedError,
    request_id: str,
) -> None:
    """Refuse a handshake: with its status where the server can say it, else with 403."""
    if _DENIAL not in scope["extensions"]:
        await send({"type": "websocket.close", "code": 1008, "reason": refusing.error.code})
        return
    fields, body = refusal_of(refusing.error, request_id, *refusing.headers)
    headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields]
    await send(
        {"type": "websocket.http.response.start", "status": refusing.status, "headers": headers}
    )
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
