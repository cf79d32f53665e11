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
from hypercorn.typing import ASGIFramework

SENT_BYTES = 16 * 1024
"""What the kernel keeps for a client that reads nothing."""


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
