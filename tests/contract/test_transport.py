"""What every transport promises its connection; see `dalsegno.actors.Transport`."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

import pytest
import trio
import trio_websocket as tw

from dalsegno.actors import Transport, TransportClosedError
from dalsegno.actors.testing import memory_connection
from dalsegno.protocol import Close, Frames, Limits
from dalsegno.runtime import _seams
from dalsegno.runtime.web._handshake import UpgradeRequest
from dalsegno.runtime.web._listener import serve
from dalsegno.runtime.web._native import NativeTransport

LIMITS = Limits(message_bytes_max=4096, send_buffer_bytes=16 * 1024, close_deadline_s=0.5)
BIG = b"x" * 64 * 1024


class Client(Protocol):
    """The other end."""

    transport: Transport

    async def send(self, message: str | bytes) -> None: ...
    async def receive(self) -> str: ...
    async def close(self, code: int, reason: str) -> None: ...
    async def vanish(self) -> None: ...


class MemoryClient:
    def __init__(self) -> None:
        self._client = memory_connection(LIMITS, room_bytes=16 * 1024)
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
    """trio-websocket: another implementation of the RFC, by other people."""

    def __init__(self, transport: Transport, connection: tw.WebSocketConnection) -> None:
        self.transport = transport
        self._connection = connection

    async def send(self, message: str | bytes) -> None:
        await self._connection.send_message(message)

    async def receive(self) -> str:
        try:
            return str(await self._connection.get_message())
        except tw.ConnectionClosed:
            reason = self._connection.closed or tw.CloseReason(1006, None)
            raise TransportClosedError(reason.code, reason.reason or "") from None

    async def close(self, code: int, reason: str) -> None:
        await self._connection.aclose(code, reason)

    async def vanish(self) -> None:
        await trio.aclose_forcefully(self._connection._stream)


@asynccontextmanager
async def open_memory() -> AsyncIterator[Client]:
    with trio.fail_after(10):
        yield MemoryClient()


async def no_http(*_: object) -> None:
    raise NotImplementedError


@asynccontextmanager
async def open_native() -> AsyncIterator[Client]:
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
                limits=LIMITS,
                world=_seams.WORLD,
                task_status=task_status,
            )
        )
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        await sock.connect(address)
        stream = trio.SocketStream(sock)
        connection = await tw.wrap_client_stream(nursery, stream, "127.0.0.1", "/ws")
        with trio.fail_after(10):
            yield NativeClient(await transports.receive(), connection)
        nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)


Opener = Callable[[], AbstractAsyncContextManager[Client]]


@pytest.fixture(params=[open_memory, open_native], ids=["memory", "native"])
def open_client(request: pytest.FixtureRequest) -> Opener:
    opener: Opener = request.param
    return opener


def frames(*texts: str | bytes) -> Frames:
    return Frames([text.encode() if isinstance(text, str) else text for text in texts])


async def fill(transport: Transport) -> int:
    """Send until the client's side is full and the rest stays here; tell how many that took."""
    for count in range(1, 1000):
        if not transport.send_nowait([frames(b"%d " % count + BIG)]):
            with trio.move_on_after(0.05):
                await transport.flush()
                continue
            return count
    raise AssertionError("an endless buffer")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await trio.sleep(0.001)
    raise AssertionError("it never came true")


async def test_messages_arrive_whole_and_in_order_both_ways(open_client: Opener) -> None:
    async with open_client() as client:
        for message in ("one", b"\x00two\xff", "dréi", ""):
            await client.send(message)
        received = [await client.transport.receive() for _ in range(4)]
        assert received == ["one", b"\x00two\xff", "dréi", ""]

        assert client.transport.send_nowait([frames("a", "b"), frames("ç")])
        assert client.transport.send_nowait([])
        assert client.transport.send_nowait([frames()])
        assert client.transport.send_nowait([frames("d")])
        assert [await client.receive() for _ in range(4)] == ["a", "b", "ç", "d"]


async def test_a_message_of_the_greatest_size_passes_and_a_longer_one_ends_it(
    open_client: Opener,
) -> None:
    async with open_client() as client:
        await client.send("x" * 4096)
        assert await client.transport.receive() == "x" * 4096

        async def send_too_much() -> None:
            with suppress(TransportClosedError, tw.ConnectionClosed):
                await client.send("é" * 2049)
            with pytest.raises(TransportClosedError) as caught:
                await client.receive()
            assert caught.value.code == Close.MESSAGE_TOO_BIG

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_too_much)
            with pytest.raises(TransportClosedError) as caught:
                await client.transport.receive()
            assert caught.value.code == Close.MESSAGE_TOO_BIG


async def test_a_slow_reader_is_told_apart_and_loses_nothing(open_client: Opener) -> None:
    async with open_client() as client:
        transport = client.transport
        count = await fill(transport)
        flushed = trio.Event()

        async def flush() -> None:
            await transport.flush()
            flushed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            assert not flushed.is_set()
            for number in range(1, count + 1):
                assert (await client.receive()).startswith(f"{number} x")
        assert flushed.is_set()
        assert transport.send_nowait([frames("after")])
        assert await client.receive() == "after"


async def test_a_cancelled_flush_keeps_the_rest(open_client: Opener) -> None:
    async with open_client() as client:
        count = await fill(client.transport)
        with trio.move_on_after(0.01) as scope:
            await client.transport.flush()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.transport.flush)
            received = [await client.receive() for _ in range(count)]
        assert [int(text.split()[0]) for text in received] == list(range(1, count + 1))
        assert all(text.endswith(" " + BIG.decode()) for text in received)


async def test_a_cancelled_receive_loses_no_message(open_client: Opener) -> None:
    async with open_client() as client:
        with trio.move_on_after(0.01) as scope:
            await client.transport.receive()
        assert scope.cancelled_caught
        await client.send("still here")
        assert await client.transport.receive() == "still here"


async def test_what_came_together_is_taken_without_waiting(open_client: Opener) -> None:
    async with open_client() as client:
        transport = client.transport
        assert transport.receive_nowait() is None
        await client.send("one")
        await client.send("two")
        await trio.sleep(0.1)  # both are here, whoever carries them
        assert await transport.receive() == "one"
        assert transport.receive_nowait() == "two"
        assert transport.receive_nowait() is None
        await client.send("three")
        assert await transport.receive() == "three", "it goes on where there is nothing"
        transport.abort()
        assert transport.receive_nowait() is None, "`receive` tells why"
        with pytest.raises(TransportClosedError):
            await transport.receive()


async def test_abort_wakes_who_reads_and_who_writes(open_client: Opener) -> None:
    async with open_client() as client:
        transport = client.transport
        await fill(transport)
        ended: list[int] = []

        async def expect_the_end(wait: Callable[[], object]) -> None:
            with pytest.raises(TransportClosedError) as caught:
                await wait()  # type: ignore[misc]  # receive or flush
            ended.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_the_end, transport.receive)
            nursery.start_soon(expect_the_end, transport.flush)
            await trio.testing.wait_all_tasks_blocked()
            transport.abort()
        assert ended == [1006, 1006]
        transport.abort()
        transport.ping_nowait()
        with pytest.raises(TransportClosedError):
            transport.send_nowait([frames("late")])
        for wait in (transport.receive, transport.flush):
            with pytest.raises(TransportClosedError):
                await wait()


async def test_a_client_that_closes_is_heard_to_the_end_first(open_client: Opener) -> None:
    async with open_client() as client:
        async with trio.open_nursery() as nursery:

            async def say_goodbye() -> None:
                await client.send("last words")
                await client.close(4321, "had enough")

            nursery.start_soon(say_goodbye)
            assert await client.transport.receive() == "last words"
            with pytest.raises(TransportClosedError) as caught:
                await client.transport.receive()
        assert (caught.value.code, caught.value.reason) == (4321, "had enough")
        with pytest.raises(TransportClosedError):
            client.transport.send_nowait([frames("late")])


async def test_a_client_that_vanishes_ends_with_1006(open_client: Opener) -> None:
    async with open_client() as client:
        await client.vanish()
        with pytest.raises(TransportClosedError) as caught:
            await client.transport.receive()
        assert caught.value.code == 1006


async def test_closing_tells_why_after_what_was_sent(open_client: Opener) -> None:
    async with open_client() as client:
        transport = client.transport
        count = await fill(transport)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.aclose, Close.TRY_AGAIN, "too slow")
            for _ in range(count):
                await client.receive()
            with pytest.raises(TransportClosedError) as caught:
                await client.receive()
        assert (caught.value.code, caught.value.reason) == (1013, "too slow")
        for wait in (transport.receive, transport.flush):
            with pytest.raises(TransportClosedError) as caught:
                await wait()
            assert caught.value.code == 1013
        await transport.aclose(Close.NORMAL, "again")


async def test_closing_wakes_who_reads(open_client: Opener) -> None:
    async with open_client() as client, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(TransportClosedError) as caught:
                await client.transport.receive()
            assert caught.value.code == Close.GOING_AWAY

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client.transport.aclose, Close.GOING_AWAY, "")
        with pytest.raises(TransportClosedError):
            await client.receive()


async def test_a_cancelled_close_aborts(open_client: Opener) -> None:
    async with open_client() as client:
        await fill(client.transport)
        with trio.move_on_after(0.01) as scope:
            await client.transport.aclose(Close.GOING_AWAY, "")
        assert scope.cancelled_caught
        with pytest.raises(TransportClosedError):
            await client.transport.flush()


async def test_what_is_heard_is_noted(open_client: Opener) -> None:
    async with open_client() as client:
        transport = client.transport
        opened = trio.current_time()
        assert transport.last_heard <= opened
        assert transport.last_pong <= opened
        await trio.sleep(0.001)
        await client.send("hello")
        await transport.receive()
        heard = transport.last_heard
        assert heard > opened >= transport.last_pong

        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.receive)
            transport.ping_nowait()
            await until(lambda: transport.last_pong > heard)
            assert transport.last_heard >= transport.last_pong
            nursery.cancel_scope.cancel()


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
