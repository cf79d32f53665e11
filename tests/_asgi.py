"""A server of ASGI applications as a program has it: Hypercorn's worker for Trio."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

SENT_BYTES = 16 * 1024
"""What the kernel keeps for a client that reads nothing."""
RAW_UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def their_own(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """A program's application beside ours."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})  # type: ignore[misc,arg-type]
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"their", "more_body": False})


@asynccontextmanager
async def hypercorn(app: ASGIFramework, **settings: Any) -> AsyncIterator[tuple[str, int]]:
    """Serve an application for the length of a block; then cut its connections off."""
    config = Config()
    config.graceful_timeout = 0.0
    for name, value in settings.items():
        setattr(config, name, value)
    config.loglevel = "ERROR"
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES)
    listener.bind(("127.0.0.1", 0))
    address = listener.getsockname()
    config.bind = [f"fd://{listener.detach()}"]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        try:
            yield address
        finally:
            stop.set()
