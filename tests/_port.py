"""A port of the listener alone, over real sockets, with an application that answers little."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
import websockets.exceptions
import websockets.trio.client
from hypercorn.typing import ASGIFramework
from quart import request, websocket
from quart_trio import QuartTrio
from websockets.trio.client import ClientConnection

from dalsegno.protocol import Frames, Limits
from dalsegno.runtime import seams
from dalsegno.runtime.web import Tls
from dalsegno.runtime.web._handshake import UpgradeRequest
from dalsegno.runtime.web._hosts import Hosts
from dalsegno.runtime.web._listener import Serving, serve
from dalsegno.runtime.web._native import NativeTransport
from tests._certificates import NAME
from tests._patience import fail_after

LIMITS = Limits(
    head_deadline_s=0.2,
    close_deadline_s=0.3,
    write_deadline_s=0.3,
    drain_deadline_s=2,
    send_buffer_bytes=16 * 1024,
)
UPGRADE = {
    "Host": "example.com",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"


def head(changed: Mapping[str, str | None] = {}, target: str = "/ws") -> bytes:
    """An upgrade's head, with some fields changed or, by None, left out."""
    fields = {**UPGRADE, **changed}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode()


@dataclass
class Port:
    """A port that serves, and what it was asked."""

    address: tuple[str, int] = ("", 0)
    serving: Serving | None = None
    cancel: Callable[[], None] = lambda: None
    trust: ssl.SSLContext | None = None
    """What clients go by; None: there is no TLS."""
    upgrades: list[UpgradeRequest] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.address[1]}/ws"

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    async def secured(self) -> trio.SSLStream[trio.SocketStream]:
        assert self.trust is not None
        plain = await self.connect()
        stream = trio.SSLStream(plain, self.trust, server_hostname=NAME, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return stream

    async def ask(self, data: bytes) -> bytes:
        """Send this and read until the server hangs up."""
        async with await (self.secured() if self.trust else self.connect()) as stream:
            await stream.send_all(data)
            return await read_all(stream)

    def counts(self) -> tuple[int, int]:
        assert self.serving is not None
        statistics = self.serving.statistics()
        return statistics.native, statistics.http

    def accepted(self) -> int:
        assert self.serving is not None
        return self.serving.statistics().accepted

    def unsecured(self) -> int:
        assert self.serving is not None
        return self.serving.statistics().unsecured


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([data async for data in stream])


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    while end not in data:
        more = await stream.receive_some()
        assert more, f"the connection ended after {data!r}"
        data += more
    return data


async def closed(client: ClientConnection) -> int | None:
    """Wait for the server's close frame; return its code."""
    with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
        await client.recv()
    return None if caught.value.rcvd is None else int(caught.value.rcvd.code)


async def connect_and_leave(port: Port) -> None:
    async with websockets.trio.client.connect(port.url):
        pass


async def echo(transport: NativeTransport, _: object) -> None:
    while True:
        message = await transport.receive()
        text = message.encode() if isinstance(message, str) else message
        if not transport.send_nowait([Frames([text])]):
            await transport.flush()


def application() -> QuartTrio:
    app = QuartTrio(__name__)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @app.post("/size")
    async def size() -> dict[str, int]:
        return {"size": len(await request.get_data())}

    @app.get("/big")
    async def big() -> bytes:
        return bytes(int(request.args.get("size", 20_000_000)))

    @app.get("/slow")
    async def slow() -> dict[str, bool]:
        await trio.sleep(0.2)
        return {"slow": True}

    @app.get("/never")
    async def never() -> str:
        await trio.sleep_forever()
        return ""

    @app.websocket("/ws")
    async def ws() -> None:
        await websocket.send("through Quart")

    return app


async def let_in(_: UpgradeRequest) -> None:
    return None


@asynccontextmanager
async def serving(
    *,
    app: ASGIFramework | None = None,
    accept: Callable[[UpgradeRequest], Awaitable[Any]] = let_in,
    handle: Callable[[NativeTransport, Any], Awaitable[None]] = echo,
    limits: Limits = LIMITS,
    wrap: Callable[[trio.SocketListener], trio.abc.Listener[trio.SocketStream]] = lambda each: each,
    origins: Collection[str] = (),
    tls: Tls | None = None,
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[Port]:
    port = Port(trust=trust)

    async def accept_noted(asked: UpgradeRequest) -> object:
        port.upgrades.append(asked)
        return await accept(asked)

    async def run(task_status: trio.TaskStatus[Serving]) -> None:
        with trio.CancelScope() as scope:
            port.cancel = scope.cancel
            await serve(
                [wrap(listener) for listener in listeners],
                app=app or application(),
                accept=accept_noted,
                handle=handle,
                limits=limits,
                world=seams.WORLD,
                task_status=task_status,
                hosts=Hosts(origins=frozenset(origins)),
                tls=tls,
            )
        port.ended.set()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port.address = listeners[0].socket.getsockname()
    with fail_after(20):
        async with trio.open_nursery() as nursery:
            port.serving = await nursery.start(run)
            yield port
            port.cancel()


def envelope(answer: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    raw, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = raw.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert headers["content-length"] == str(len(body))
    return int(status.split()[1]), headers, msgspec.json.decode(body)
