"""Our transports keep what every transport promises its connection."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio_websocket as tw

from dalsegno.actors import Transport, TransportClosedError
from dalsegno.actors.testing import memory_connection
from dalsegno.actors.testing.contract import TRANSPORT_LIMITS, TransportClient, TransportContract
from dalsegno.protocol import Close
from dalsegno.runtime import seams
from dalsegno.runtime.web import AsgiApplication, Door, Hosts, Tls, create_admission
from dalsegno.runtime.web._asgi_transport import AsgiTransport
from dalsegno.runtime.web._handshake import UpgradeRequest
from dalsegno.runtime.web._listener import serve
from dalsegno.runtime.web._native import NativeTransport
from tests._asgi import hypercorn
from tests._certificates import NAME, certified
from tests._patience import fail_after


class MemoryClient:
    hears_codes = True

    def __init__(self) -> None:
        self._client = memory_connection(TRANSPORT_LIMITS, room_bytes=16 * 1024)
        self.transport: Transport = self._client.transport

    async def send(self, message: str | bytes) -> None:
        await self._client.send(message)

    async def receive(self) -> str:
        return await self._client.receive()

    async def close(self, code: int, reason: str) -> None:
        self._client.close(code, reason)

    async def vanish(self) -> None:
        self._client.vanish()


class NativeClient:
    """trio-websocket: an independent implementation of the RFC."""

    hears_codes = True

    def __init__(self, transport: Transport, connection: tw.WebSocketConnection) -> None:
        self.transport = transport
        self._connection = connection

    async def send(self, message: str | bytes) -> None:
        try:
            await self._connection.send_message(message)
        except tw.ConnectionClosed:
            raise self._closed() from None

    async def receive(self) -> str:
        try:
            return str(await self._connection.get_message())
        except tw.ConnectionClosed:
            raise self._closed() from None

    async def close(self, code: int, reason: str) -> None:
        await self._connection.aclose(code, reason)

    async def vanish(self) -> None:
        await trio.aclose_forcefully(self._connection._stream)

    def _closed(self) -> TransportClosedError:
        reason = self._connection.closed or tw.CloseReason(1006, None)
        return TransportClosedError(reason.code, reason.reason or "")


class AsgiClient(NativeClient):
    hears_codes = False  # Hypercorn says 1006 of every client that leaves


@asynccontextmanager
async def open_memory() -> AsyncIterator[TransportClient]:
    with fail_after(10):
        yield MemoryClient()


async def no_http(*_: object) -> None:
    raise NotImplementedError


@asynccontextmanager
async def open_native(tls: Tls | None = None) -> AsyncIterator[TransportClient]:
    opened: trio.MemorySendChannel[Transport]
    opened, transports = trio.open_memory_channel(1)

    async def accept(_: UpgradeRequest) -> None:
        return None

    async def handle(transport: NativeTransport, _: None) -> None:
        opened.send_nowait(transport)
        await trio.sleep_forever()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve(
                listeners,
                app=no_http,
                accept=accept,
                handle=handle,
                limits=TRANSPORT_LIMITS,
                world=seams.WORLD,
                tls=tls,
                task_status=task_status,
            )
        )
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        await sock.connect(address)
        plain = trio.SocketStream(sock)
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
        if tls is not None:
            trust = certified().trust()
            stream = trio.SSLStream(plain, trust, server_hostname=NAME, https_compatible=True)
        connection = await tw.wrap_client_stream(nursery, stream, "127.0.0.1", "/ws")
        with fail_after(10):
            yield NativeClient(await transports.receive(), connection)
        nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(plain)


@asynccontextmanager
async def open_asgi() -> AsyncIterator[TransportClient]:
    """Hypercorn as a program has it, and no listener of ours."""
    opened: trio.MemorySendChannel[Transport]
    opened, transports = trio.open_memory_channel(1)

    async def accept(_: UpgradeRequest) -> None:
        return None

    async def handle(transport: AsgiTransport, _: None) -> None:
        opened.send_nowait(transport)
        await trio.sleep_forever()

    door: Door[AsgiTransport, None] = Door(
        accept,
        handle,
        lambda _: None,
        admission=create_admission(TRANSPORT_LIMITS, seams.WORLD),
        limits=TRANSPORT_LIMITS,
    )
    app = AsgiApplication(
        no_http,
        door,
        owns=lambda path: path == "/ws",
        hosts=Hosts(),
        limits=TRANSPORT_LIMITS,
        world=seams.WORLD,
    )
    async with hypercorn(app) as address, trio.open_nursery() as nursery:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        await sock.connect(address)
        stream = trio.SocketStream(sock)
        connection = await tw.wrap_client_stream(nursery, stream, "127.0.0.1", "/ws")
        with fail_after(10):
            yield AsgiClient(await transports.receive(), connection)
        nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)


Opener = Callable[[], AbstractAsyncContextManager[TransportClient]]


class TestTransport(TransportContract):
    @pytest.fixture(params=["memory", "native", "tls", "asgi"])
    def open_client(self, request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
        if request.param == "tls":
            return partial(open_native, Tls(*certified().write(tmp_path)))
        return {"memory": open_memory, "native": open_native, "asgi": open_asgi}[request.param]


async def test_a_deaf_client_in_memory_answers_nothing() -> None:
    client = memory_connection()
    client.deaf = True
    opened = client.transport.last_pong
    client.transport.ping_nowait()
    assert client.transport.last_pong == opened
    with trio.move_on_after(0.01) as scope:
        await client.transport.aclose(Close.GOING_AWAY, "deploy")
    assert scope.cancelled_caught
    with pytest.raises(TransportClosedError) as caught:
        await client.receive()
    assert caught.value.code == Close.GOING_AWAY
    assert repr(client.transport) == "<MemoryTransport over 1001, 0 messages kept>"
