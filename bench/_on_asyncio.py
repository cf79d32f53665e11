"""References on asyncio: ``python -m bench._on_asyncio picows | websockets | socketio``.

picows
    The WebSocket server in C; a broadcast is a loop around ``transport.send``, as in its examples.
websockets
    `websockets.broadcast`, which is made for this.
socketio
    ``AsyncServer.emit`` under uvicorn, as in the documentation.  It makes the JSON itself, once for
    all clients, and Engine.IO and Socket.IO prepend four characters and the event's name.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import TYPE_CHECKING

from ._references import obey_on_asyncio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from picows import WSTransport, WSUpgradeRequest
    from websockets.asyncio.server import ServerConnection

_NEVER_S = 86_400


async def _picows() -> None:
    from picows import WSListener, WSMsgType, ws_create_server

    clients: set[WSTransport] = set()

    class Client(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            clients.add(transport)

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            clients.discard(transport)

    def accept(_request: WSUpgradeRequest) -> Client:
        return Client()

    async def send(commit: Sequence[bytes]) -> None:
        for message in commit:
            for client in clients:
                client.send(WSMsgType.TEXT, message)

    server = await ws_create_server(accept, "127.0.0.1", 0)
    await obey_on_asyncio(server.sockets[0].getsockname()[1], send)


async def _websockets() -> None:
    from websockets.asyncio.server import broadcast, serve

    clients: set[ServerConnection] = set()

    async def handle(client: ServerConnection) -> None:
        clients.add(client)
        await client.wait_closed()
        clients.discard(client)

    async def send(commit: Sequence[bytes]) -> None:
        for message in commit:
            broadcast(clients, message.decode())

    async with serve(
        handle, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=0.1
    ) as server:
        await obey_on_asyncio(next(iter(server.sockets)).getsockname()[1], send)


async def _socketio() -> None:
    import socketio  # type: ignore[import-untyped] # it has no types
    import uvicorn

    hub = socketio.AsyncServer(async_mode="asgi", ping_interval=_NEVER_S)
    config = uvicorn.Config(
        socketio.ASGIApp(hub),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_level="critical",  # its clients are cut off at the end, which is not an error
    )

    async def send(commit: Sequence[bytes]) -> None:
        for message in commit:
            await hub.emit("event", json.loads(message))

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[listener]))
        await obey_on_asyncio(listener.getsockname()[1], send)
        serving.cancel()


_REFERENCES = {"picows": _picows, "websockets": _websockets, "socketio": _socketio}

if __name__ == "__main__":
    asyncio.run(_REFERENCES[sys.argv[1]]())
