"""The one port under TLS, over real sockets: what holds without it holds with it."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from websockets.frames import Frame, Opcode

from dalsegno.actors import TransportClosedError
from dalsegno.protocol import Close, Frames, Reject
from dalsegno.runtime import seams
from dalsegno.runtime.web import Tls
from dalsegno.runtime.web._handshake import UpgradeRequest
from dalsegno.runtime.web._native import NativeTransport
from dalsegno.runtime.web._tls import TlsStream
from tests._certificates import NAME, certified
from tests._patience import fail_after, until
from tests._port import HELLO, LIMITS, Port, envelope, head, read_all, read_until, serving

CLOSING = HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
RESET = struct.pack("ii", 1, 0)


def text(data: bytes) -> bytes:
    return Frame(Opcode.TEXT, data).serialize(mask=True)


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(*certified().write(tmp_path))


@asynccontextmanager
async def secure(tls: Tls, **more: Any) -> AsyncIterator[Port]:
    # What waits for a head has the patience of a busy machine, unless the test is about that.
    more.setdefault("limits", replace(LIMITS, head_deadline_s=5))
    async with serving(tls=tls, trust=certified().trust(), **more) as port:
        yield port


def strict(stream: trio.SSLStream[trio.SocketStream]) -> trio.SSLStream[trio.SocketStream]:
    """A client that tells an end from a connection that was cut (RFC 8446 §6.1)."""
    stream._https_compatible = False
    return stream


async def test_requests_and_then_an_upgrade_share_a_connection(tls: Tls) -> None:
    async with secure(tls) as port, await port.secured() as stream:
        for _ in range(2):
            await stream.send_all(HELLO)
            assert b'{"hello":"world"}' in await read_until(stream, b"}\n")
        assert port.counts() == (0, 1)
        for byte in head():  # each in a record of its own
            await stream.send_all(bytes([byte]))
        assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await stream.send_all(text(b"one") + text(b"two"))
        assert await read_until(stream, b"two") == b"\x81\x03one\x81\x03two"
        assert port.counts() == (1, 0)
        long = bytes(range(256)) * 1024
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, Frame(Opcode.BINARY, long).serialize(mask=True))
            assert await read_until(stream, long) == b"\x81\x7f" + len(long).to_bytes(8) + long
        assert [asked.peer for asked in port.upgrades] == ["127.0.0.1"]
        port.cancel()
        assert (await read_until(stream, b"\x03\xe9"))[:4] == b"\x88\x0f\x03\xe9"  # a close, 1001


async def test_an_upgrade_may_come_first_and_with_its_first_frame(tls: Tls) -> None:
    async with secure(tls) as port, await port.secured() as stream:
        await stream.send_all(head() + text(b"early"))
        assert (await read_until(stream, b"early")).endswith(b"\r\n\r\n\x81\x05early")


async def test_http_1_1_is_what_is_spoken_and_tls_1_2_the_least(tls: Tls) -> None:
    async with secure(tls) as port:
        assert port.trust is not None
        for offered, chosen in {("h2", "http/1.1"): "http/1.1", ("h2",): None, (): None}.items():
            port.trust = certified().trust()
            if offered:
                port.trust.set_alpn_protocols(list(offered))
            async with await port.secured() as stream:
                assert stream.selected_alpn_protocol() == chosen
                await stream.send_all(CLOSING)
                assert b'{"hello":"world"}' in await read_all(stream)
        port.trust = certified().trust()
        port.trust.maximum_version = ssl.TLSVersion.TLSv1_2
        async with await port.secured() as stream:
            assert stream.version() == "TLSv1.2"
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            port.trust.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            port.trust.maximum_version = ssl.TLSVersion.TLSv1_1
        port.trust.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await port.secured()
        assert "PROTOCOL_VERSION" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5_000, b"\x16\x03\x01\x02\x00\x01\xff", b"?"]
)
async def test_what_is_no_tls_is_closed_without_a_word_in_the_log(tls: Tls, said: bytes) -> None:
    async with secure(tls) as port, await port.secured() as neighbour:
        with structlog.testing.capture_logs() as logged:
            async with await port.connect() as stream:
                await stream.send_all(said)
                await stream.send_eof()
                # An alert, perhaps, and an end: no reset, though most of it was not looked at.
                assert len(b"".join([part async for part in stream])) < 16
            await until(lambda: port.unsecured() == 1)
        assert [entry["log_level"] for entry in logged] == ["debug"]
        await neighbour.send_all(HELLO)
        await read_until(neighbour, b"}\n")


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
async def test_a_handshake_has_a_deadline(tls: Tls, said: bytes) -> None:
    async with secure(tls, limits=LIMITS) as port, await port.connect() as stream:
        await stream.send_all(said)
        assert await read_all(stream) == b""
        assert (port.unsecured(), port.accepted()) == (1, 1)


async def test_handshakes_count_as_the_sockets_that_they_are(tls: Tls) -> None:
    """Those that come to a full server are told so, where there is room to tell them."""
    limits = replace(LIMITS, head_deadline_s=5, connections_max=1, handshakes_max=1)
    async with (
        secure(tls, limits=limits) as port,
        await port.connect(),  # neither of the two says a word
        await port.connect(),
    ):
        await until(lambda: port.accepted() == 2)
        status, headers, body = envelope(await port.ask(CLOSING))
        assert (status, body["code"]) == (503, "OVERLOADED")
        assert int(headers["retry-after"]) >= 1


async def test_an_answer_ends_with_an_end_and_one_that_is_cut_off_does_not(tls: Tls) -> None:
    size = 1_000_000
    asked = CLOSING.replace(b"/hello", b"/big?size=%d" % size)
    async with secure(tls) as port:
        async with strict(await port.secured()) as stream:
            await stream.send_all(asked)
            assert len(await read_all(stream)) > size
        async with strict(await port.secured()) as stream:
            await stream.send_all(asked.replace(b"1000000", b"50000000"))
            await stream.receive_some()
            port.cancel()
            with pytest.raises(trio.BrokenResourceError):
                await read_all(stream)


async def test_a_refusal_is_read_by_who_goes_on_sending(tls: Tls) -> None:
    async def accept(_: UpgradeRequest) -> None:
        raise Reject("AUTH_REQUIRED", "log in")

    async with secure(tls, accept=accept) as port, strict(await port.secured()) as stream:
        await stream.send_all(HELLO)
        await read_until(stream, b"}\n")
        await stream.send_all(head() + bytes(200_000))
        status, _, body = envelope(await read_all(stream))
        assert (status, body["code"]) == (401, "AUTH_REQUIRED")


async def test_who_reads_nothing_of_an_answer_is_cut_off(tls: Tls) -> None:
    async with secure(tls) as port, await port.secured() as stream:
        await stream.send_all(HELLO.replace(b"/hello", b"/big"))
        await until(lambda: port.counts() == (0, 1))
        await until(lambda: port.counts() == (0, 0))


async def test_a_socket_that_is_written_to_without_waiting_keeps_every_byte_in_order(
    tls: Tls,
) -> None:
    """Small ones, long ones, pings between; the reader stops, and goes on."""
    sizes = [1, 70_000, 5, 16_384, 16_383, 300_000, *range(1, 400), 1_000_000, 2]
    written = trio.Event()

    async def handle(transport: NativeTransport, _: object) -> None:
        waits = 0
        for number, size in enumerate(sizes):
            wire = Frames([b"%d" % number + b"x" * size])
            if number % 7 == 0:
                transport.ping_nowait()
            if not transport.send_nowait([wire, Frames([b"-"])]):
                written.set()
                waits += 1
                # Cancelled, and begun again, in the middle of a record.
                with trio.move_on_after(0.001):
                    await transport.flush()
                await transport.flush()
        assert waits
        with suppress(TransportClosedError):
            await transport.receive()

    async with secure(tls, handle=handle) as port, await port.secured() as stream:
        await stream.send_all(head())
        await written.wait()
        got = bytearray(await read_until(stream, b"\r\n\r\n"))
        del got[: got.index(b"\r\n\r\n") + 4]
        for number, size in enumerate(sizes):
            for payload in (b"%d" % number + b"x" * size, b"-"):
                frame = Frame(Opcode.TEXT, payload).serialize(mask=False)
                while len(got) < len(frame) or (got[0] == 0x89 and len(got) < len(frame) + 2):
                    got += await stream.receive_some()
                while got[:1] == b"\x89":
                    del got[:2]
                while len(got) < len(frame):
                    got += await stream.receive_some()
                assert got[: len(frame)] == frame, number
                del got[: len(frame)]
        await stream.send_all(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
        assert await read_until(stream, b"\x88\x02\x03\xe8")
        await until(lambda: port.counts() == (0, 0))


async def test_a_stop_reader_of_a_socket_holds_no_more_than_was_given(tls: Tls) -> None:
    given = trio.Event()

    async def handle(transport: NativeTransport, _: object) -> None:
        while transport.send_nowait([Frames([bytes(10_000)])]):
            pass
        kept = int(repr(transport).split(", ")[1].split()[0])
        assert 0 < kept <= 10_004
        given.set()
        with trio.move_on_after(0.05):
            await transport.flush()
        await transport.aclose(Close.TRY_AGAIN, "too slow")

    async with secure(tls, handle=handle) as port, await port.secured() as stream:
        await stream.send_all(head())
        await given.wait()
        await until(lambda: port.counts() == (0, 0))


async def test_a_message_and_an_end_in_one_read_are_both_noticed(tls: Tls) -> None:
    """The client says goodbye in TLS, not in its WebSocket, and keeps the connection."""
    heard: list[object] = []

    async def handle(transport: NativeTransport, _: object) -> None:
        heard.append(await transport.receive())
        with pytest.raises(TransportClosedError) as caught:
            await transport.receive()
        heard.append(caught.value.code)

    async with secure(tls, handle=handle) as port:
        plain = await port.connect()
        corked = Corked(plain)
        assert port.trust is not None
        stream = trio.SSLStream(corked, port.trust, server_hostname=NAME, https_compatible=True)
        await stream.send_all(head())
        await read_until(stream, b"\r\n\r\n")
        corked.kept = b""
        await stream.send_all(text(b"last words"))
        with suppress(trio.BrokenResourceError):
            with trio.move_on_after(0.1):
                await stream.unwrap()
        sent, corked.kept = corked.kept, None
        await plain.send_all(sent)
        await until(lambda: len(heard) == 2)
        assert heard == ["last words", 1006]
        await trio.aclose_forcefully(plain)


class Corked(trio.abc.Stream):
    """A stream that can keep what is to be sent."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.kept: bytes | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.kept is None:
            await self._stream.send_all(data)
        else:
            self.kept += bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_connections_that_end_in_every_way_leave_nothing_open(tls: Tls) -> None:
    async def handle(transport: NativeTransport, _: object) -> None:
        if await transport.receive() == "abort":
            transport.abort()
        await transport.receive()

    async def open_and_leave(port: Port, way: int) -> None:
        plain = await port.connect()
        try:
            if way == 0:
                return
            if way == 1:
                await plain.send_all(b"\x16\x03\x01")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return
            assert port.trust is not None
            stream = trio.SSLStream(plain, port.trust, server_hostname=NAME, https_compatible=True)
            await stream.send_all(HELLO if way == 2 else head())
            await read_until(stream, b"\n")
            if way == 4:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return
            if way == 5:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(text(b"abort"))
                    await read_all(stream)
                return
            if way == 6:  # a record that was tampered with
                await plain.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
                with suppress(trio.BrokenResourceError):
                    await read_all(stream)
                return
            with suppress(trio.BrokenResourceError):
                await stream.aclose()
        finally:
            await trio.aclose_forcefully(plain)

    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    with structlog.testing.capture_logs() as logged:
        async with secure(tls, handle=handle, limits=replace(LIMITS, head_deadline_s=10)) as port:
            await open_and_leave(port, 2)
            await until(lambda: port.counts() == (0, 0))
            before = descriptors()
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(28):
                        nursery.start_soon(open_and_leave, port, number % 7)
            await until(lambda: port.counts() == (0, 0))
            await until(lambda: descriptors() <= before)
    assert [each for each in logged if each["log_level"] not in {"debug", "warning"}] == []


async def test_another_certificate_is_for_the_handshakes_that_follow(
    tls: Tls, tmp_path: Path
) -> None:
    async with secure(tls) as port, await port.secured() as before:
        certified(1).write(tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.run, seams.WORLD.now, 3600.0)
            tls.reload()
            await until(lambda: tls.statistics().reloads == 1)
            nursery.cancel_scope.cancel()
        port.trust = certified(1).trust()
        async with await port.secured() as after:
            for stream in (before, after):
                await stream.send_all(HELLO)
                await read_until(stream, b"}\n")
            assert after.getpeercert(binary_form=True) == certified(1).der
        with fail_after(10):
            await trio.aclose_forcefully(before)


@asynccontextmanager
async def pair(tls: Tls) -> AsyncIterator[tuple[TlsStream, trio.SSLStream[trio.SocketStream]]]:
    """Both ends of a connection, without a port."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        plain = await trio.open_tcp_stream(*listener.socket.getsockname())
        server = TlsStream(await listener.accept(), tls.context)
    trust = certified().trust()
    client = trio.SSLStream(plain, trust, server_hostname=NAME, https_compatible=True)
    async with server, trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
        await server.do_handshake()
        nursery.cancel_scope.deadline = trio.current_time() + 10
        yield server, client
        await trio.aclose_forcefully(plain)


async def test_nothing_follows_what_was_sent_by_halves_and_no_end_either(tls: Tls) -> None:
    async with pair(tls) as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, bytes(50_000_000))
        await trio.testing.wait_all_tasks_blocked()
        for step in (server.send_all(b"x"), server.send_eof()):
            with pytest.raises(trio.BusyResourceError):
                await step
        nursery.cancel_scope.cancel()
    async with pair(tls) as (server, client):
        with trio.move_on_after(0.05):
            await server.send_all(bytes(50_000_000))
        with pytest.raises(trio.BrokenResourceError):  # OpenSSL would take it for the rest
            await server.send_all(bytes(50_000))
        await server.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(strict(client))


async def test_after_its_end_a_stream_waits_for_the_clients_and_can_be_closed_twice(
    tls: Tls,
) -> None:
    async with pair(tls) as (server, client):
        await server.send_all(b"")
        await server.send_all(memoryview(b"last"))
        await server.send_eof()
        await server.send_eof()
        assert await read_all(strict(client)) == b"last"
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")
        await client.transport_stream.send_eof()
        while await server.receive_some():
            pass
        await server.aclose()
        await server.aclose()
        for step in (server.receive_some(), server.send_eof()):
            with pytest.raises(trio.ClosedResourceError):
                await step
