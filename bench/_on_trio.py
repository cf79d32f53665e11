"""References on Trio: ``python -m bench._on_trio trio-websocket | quart-trio``.

Both as in a tutorial: a channel a client, and the client's own task sends what comes through.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from ._references import obey_on_trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_websocket import WebSocketRequest

_WAITING_MAX = 4_096


class Clients:
    """The channels to the clients' tasks."""

    def __init__(self) -> None:
        self._channels: set[trio.MemorySendChannel[str]] = set()

    async def serve(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Send one client what there is to send, until it has gone."""
        incoming, outgoing = trio.open_memory_channel[str](_WAITING_MAX)
        self._channels.add(incoming)
        try:
            async for message in outgoing:
                await send(message)
        finally:
            self._channels.discard(incoming)

    async def send(self, commit: Sequence[bytes]) -> None:
        """Hand a commit's messages to every client."""
        for message in commit:
            text = message.decode()
            for channel in tuple(self._channels):
                try:
                    channel.send_nowait(text)
                except trio.WouldBlock:
                    await channel.send(text)
        await trio.lowlevel.checkpoint()


async def _trio_websocket() -> None:
    from trio_websocket import ConnectionClosed, serve_websocket

    clients = Clients()

    async def handle(request: WebSocketRequest) -> None:
        client = await request.accept()
        try:
            await clients.serve(client.send_message)
        except ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        await obey_on_trio(server.port, clients.send)
        nursery.cancel_scope.cancel()


async def _quart_trio() -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve
    from quart import websocket
    from quart_trio import QuartTrio

    app, clients = QuartTrio(__name__), Clients()

    @app.websocket("/")
    async def handle() -> None:
        await websocket.accept()
        await clients.serve(websocket.send)

    config = Config()
    config.bind, config.backlog, config.loglevel = ["127.0.0.1:0"], 1024, "WARNING"
    async with trio.open_nursery() as nursery:
        url, *_ = await nursery.start(serve, app, config)
        await obey_on_trio(int(url.rpartition(":")[2]), clients.send)
        nursery.cancel_scope.cancel()


_REFERENCES = {"trio-websocket": _trio_websocket, "quart-trio": _quart_trio}

if __name__ == "__main__":
    trio.run(_REFERENCES[sys.argv[1]])
