"""The one port: natively served WebSockets beside an ASGI application, over real sockets."""

from __future__ import annotations

import errno
import os
import re
import socket
from dataclasses import replace
from functools import partial

import httpx
import pytest
import structlog
import trio
import trio_websocket as tw
import websockets.exceptions
import websockets.trio.client

from dalsegno.actors import TransportClosedError
from dalsegno.protocol import Close, Limits, OverloadedError, Reject
from dalsegno.runtime.web._handshake import UpgradeRequest
from dalsegno.runtime.web._native import NativeTransport
from tests._patience import until
from tests._port import (
    HELLO,
    LIMITS,
    Port,
    application,
    closed,
    connect_and_leave,
    echo,
    envelope,
    head,
    read_all,
    read_until,
    serving,
)

# The upgrade


async def test_an_upgrade_is_served_natively() -> None:
    async with serving() as port:
        async with websockets.trio.client.connect(
            port.url + "?since=3&since=4&empty=",
            subprotocols=["other", "dalsegno.v1"],  # type: ignore[list-item]  # a NewType of str
            additional_headers=[("Cookie", "a=1"), ("Cookie", "b=2"), ("X-Request-Id", "mine")],
        ) as client:
            assert client.subprotocol == "dalsegno.v1"
            await client.send("hello")
            await client.send(b"bytes")
            assert [await client.recv(), await client.recv()] == ["hello", "bytes"]
            assert port.counts() == (1, 0)
        await until(lambda: port.counts() == (0, 0))
        (asked,) = port.upgrades
        assert (asked.path, asked.peer) == ("/ws", "127.0.0.1")
        assert asked.query == {"since": ["3", "4"], "empty": [""]}
        assert asked.headers["cookie"] == "a=1; b=2"
        assert asked.request_id == "mine"


async def test_another_implementation_is_served_too() -> None:
    async with serving() as port, tw.open_websocket_url(port.url) as client:
        assert client.subprotocol is None
        await client.send_message("x" * 100_000)
        assert await client.get_message() == "x" * 100_000
        await client.ping()


async def test_an_upgrade_may_come_in_single_bytes_and_with_its_first_frame() -> None:
    async with serving(limits=Limits(head_deadline_s=5)) as port, await port.connect() as stream:
        frame = websockets.frames.Frame(websockets.frames.Opcode.TEXT, b"early")
        for byte in head()[:-1]:
            await stream.send_all(bytes([byte]))
        await stream.send_all(head()[-1:] + frame.serialize(mask=True))
        answer = await read_until(stream, b"early")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
        assert answer.endswith(b"\r\n\r\n\x81\x05early")


async def test_a_refused_upgrade_is_answered_with_the_envelope() -> None:
    async def accept(asked: UpgradeRequest) -> None:
        raise Reject("SESSION_EXPIRED", "log in again", since="1970")

    async with serving(accept=accept) as port:
        status, headers, body = envelope(await port.ask(head({"X-Request-Id": "r-1"})))
        assert (status, headers["connection"], headers["x-request-id"]) == (401, "close", "r-1")
        assert body == {
            "code": "SESSION_EXPIRED",
            "message": "log in again",
            "details": {"since": "1970"},
            "request_id": "r-1",
        }
        with pytest.raises(websockets.exceptions.InvalidStatus, match="401"):
            await connect_and_leave(port)


async def test_an_overloaded_server_says_when_to_come_back() -> None:
    async def accept(asked: UpgradeRequest) -> None:
        raise OverloadedError(retry_after_s=2.5)

    async with serving(accept=accept) as port:
        status, headers, body = envelope(await port.ask(head()))
        assert (status, headers["retry-after"], body["code"]) == (503, "3", "OVERLOADED")


async def test_a_fault_in_authentication_is_logged_and_tells_nothing() -> None:
    async def accept(asked: UpgradeRequest) -> None:
        raise ValueError("secret")

    async with serving(accept=accept) as port:
        with structlog.testing.capture_logs() as logged:
            answer = await port.ask(head())
        status, _, body = envelope(answer)
        assert (status, body["code"], body["details"]) == (500, "INTERNAL_ERROR", None)
        assert b"secret" not in answer
        assert [(entry["event"], entry["log_level"]) for entry in logged] == [
            ("accept_raised", "error")
        ]
        assert logged[0]["request_id"] == body["request_id"]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Connection": "keep-alive"}, 426),
        ({"Host": None}, 400),
        ({"Content-Length": "5"}, 400),
        ({"Bad Name": "x"}, 400),
    ],
)
async def test_a_malformed_handshake_is_refused(
    changed: dict[str, str | None], status: int
) -> None:
    async with serving() as port:
        got, headers, body = envelope(await port.ask(head(changed)))
        assert (got, body["code"]) == (status, "BAD_REQUEST")
        if "Sec-WebSocket-Version" in changed:
            assert headers["sec-websocket-version"] == "13"
        assert not port.upgrades


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://example.com", "example.com", 101),
        ("http://EXAMPLE.com", "example.com:80", 101),
        ("https://example.com:8443", "example.com:8443", 101),
        ("https://friend.example", "example.com", 101),
        ("https://evil.example", "example.com", 403),
        ("https://example.com.evil.example", "example.com", 403),
        ("https://example.com:444", "example.com", 403),
        ("null", "example.com", 403),
        ("https://[", "example.com", 403),
    ],
)
async def test_another_sites_page_may_not_connect(origin: str, host: str, status: int) -> None:
    allowed = {"https://friend.example"}
    async with serving(origins=allowed) as port, await port.connect() as stream:
        await stream.send_all(head({"Origin": origin, "Host": host}))
        answer = await read_until(stream, b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (b"ORIGIN_FORBIDDEN" in answer) == (status == 403)


# The head


async def test_a_head_that_takes_too_long_is_answered_with_408() -> None:
    async with serving() as port, await port.connect() as stream:
        await stream.send_all(b"GET /ws HTTP/1.1\r\nHost: ")
        status, _, body = envelope(await read_all(stream))
        assert (status, body["code"]) == (408, "BAD_REQUEST")


async def test_a_connection_that_asks_nothing_is_closed_without_a_word() -> None:
    async with serving() as port, await port.connect() as stream:
        assert await stream.receive_some() == b""


@pytest.mark.parametrize("ends", [True, False])
async def test_a_head_that_is_too_long_is_answered_with_431(ends: bool) -> None:
    async with serving() as port:
        long = head({"X-Long": "x" * 20_000})
        answer = await port.ask(long if ends else long[:-2] + b"X-Longer: " + bytes(500_000))
        assert envelope(answer)[0] == 431


# The rest of HTTP


async def test_http_goes_to_the_application_and_connections_are_kept_alive() -> None:
    async with serving() as port, await port.connect() as stream:
        for _ in range(2):
            await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b'{"hello":"world"}' in await read_until(stream, b"}\n")
        assert port.counts() == (0, 1)


async def test_bytes_after_the_first_head_are_not_lost() -> None:
    async with serving() as port:
        body = b"x" * 50_000
        answers = await port.ask(
            b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n%b"
            b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % body
        )
        assert re.findall(rb"\{.*\}", answers) == [b'{"size":50000}', b'{"hello":"world"}']


async def test_a_library_client_is_served() -> None:
    async with serving() as port, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port.address[1]}"
        assert (await client.get(url + "/hello")).json() == {"hello": "world"}
        answer = await client.post(url + "/size", content=b"x" * 1_000_000)
        assert answer.json() == {"size": 1_000_000}


async def test_what_is_not_an_upgrade_of_a_path_of_ours_is_the_applications() -> None:
    async with serving() as port:
        for asked in (
            head({"Upgrade": None, "Connection": "close"}),
            head({"Connection": "close"}).replace(b"GET", b"POST"),
            head({"Connection": "close"}, target="/wsx"),
        ):
            assert not port.upgrades
            answer = await port.ask(asked)
            assert re.match(rb"HTTP/1.1 40[045] ", answer)
            assert b"request_id" not in answer


EARLY = websockets.frames.Frame(websockets.frames.Opcode.TEXT, b"early").serialize(mask=True)


async def asked_before(stream: trio.SocketStream, times: int = 1) -> None:
    """Use a connection as a proxy has used one that it keeps."""
    for _ in range(times):
        await stream.send_all(HELLO)
        await read_until(stream, b"}\n")


@pytest.mark.parametrize("cut", [1, 50, 1_000_000])
async def test_an_upgrade_on_a_used_connection_is_served_natively(cut: int) -> None:
    async with serving(limits=Limits(head_deadline_s=5)) as port, await port.connect() as stream:
        await asked_before(stream, 3)
        assert port.counts() == (0, 1)
        sent = head({"X-Request-Id": "mine"}) + EARLY
        for start in range(0, len(sent), cut):
            await stream.send_all(sent[start : start + cut])
        answer = await read_until(stream, b"early")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert answer.endswith(b"\r\n\r\n\x81\x05early")
        assert port.counts() == (1, 0)
        assert [asked.request_id for asked in port.upgrades] == ["mine"]
        await stream.send_all(EARLY * 2)
        assert (await read_until(stream, b"early\x81\x05early")) == b"\x81\x05early" * 2
    await until(lambda: port.counts() == (0, 0))


async def test_a_used_connection_is_idle_for_as_long_as_any_and_then_upgraded() -> None:
    """The end of idleness, which Hypercorn watches, does not reach the socket after the upgrade."""
    limits = Limits(head_deadline_s=0.5)
    async with serving(limits=limits) as port, await port.connect() as stream:
        await asked_before(stream)
        await stream.send_all(head() + EARLY)
        await read_until(stream, b"early")
        await trio.sleep(1.2 * limits.head_deadline_s)
        await stream.send_all(EARLY)
        assert await read_until(stream, b"early") == b"\x81\x05early"


async def test_an_upgrade_on_a_used_connection_may_be_refused() -> None:
    async def accept(asked: UpgradeRequest) -> None:
        raise Reject("AUTH_REQUIRED", "log in")

    async with serving(accept=accept) as port, await port.connect() as stream:
        await asked_before(stream)
        await stream.send_all(head({"X-Request-Id": "r"}))
        status, headers, body = envelope(await read_all(stream))
        assert (status, headers["connection"], body["request_id"]) == (401, "close", "r")


async def test_what_follows_on_a_used_connection_is_otherwise_the_applications() -> None:
    async with serving(limits=Limits(head_deadline_s=0.5)) as port:
        for sent in (
            head(target="/wsx"),
            b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /he",  # and nothing more
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000,  # too long for a head
        ):
            async with await port.connect() as stream:
                await asked_before(stream)
                await stream.send_all(sent)
                assert not (answer := await read_all(stream)) or b"HTTP/1.1 4" in answer
        async with await port.connect() as stream:  # its end, amid a head
            await asked_before(stream)
            await stream.send_all(b"GET /ws HTTP/1.1\r\n")
            await stream.send_eof()
            assert not (answer := await read_all(stream)) or b"HTTP/1.1 400" in answer
        await until(lambda: port.counts() == (0, 0))
        assert not port.upgrades


async def test_an_upgrade_that_does_not_wait_for_the_answer_goes_through_the_application() -> None:
    async with serving() as port, await port.connect() as stream:
        await stream.send_all(HELLO + head())
        answer = await read_until(stream, b"through Quart")
        assert b"HTTP/1.1 101 " in answer
        assert not port.upgrades


async def test_a_used_connection_that_was_upgraded_ends_with_the_port() -> None:
    async with serving() as port, await port.connect() as stream:
        await asked_before(stream)
        await stream.send_all(head() + EARLY)
        await read_until(stream, b"early")
        port.cancel()
        assert (await read_all(stream))[:4] == b"\x88\x0f\x03\xe9"  # a close, 1001
        await port.ended.wait()


async def test_a_reader_of_a_big_answer_that_stops_is_cut_off() -> None:
    async with serving() as port, await port.connect() as stream:
        await stream.send_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: port.counts() == (0, 1))
        await until(lambda: port.counts() == (0, 0))


async def test_a_reader_of_a_big_answer_that_is_slow_gets_all_of_it() -> None:
    """The write deadline asks for progress: this takes twice as long in all."""
    size = 2_000_000
    async with serving() as port:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await sock.connect(port.address)
        async with trio.SocketStream(sock) as stream:
            await stream.send_all(
                b"GET /big?size=%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size
            )
            began, got = trio.current_time(), 0
            while data := await stream.receive_some(16 * 1024):
                got += len(data)
                await trio.sleep_until(began + 2 * LIMITS.write_deadline_s * got / size)
            assert got > size


@pytest.mark.parametrize("answers_read", [0, 1, 2])
@pytest.mark.parametrize(
    "asked",
    [HELLO * 20, HELLO * 5 + b"\0\r\n\r\n", HELLO + b"garbage", HELLO * 5 + HELLO[:-2]],
    ids=["pipelined", "then broken", "then garbage", "then half a head"],
)
async def test_a_client_that_leaves_pipelined_answers_unread_is_forgotten(
    asked: bytes, answers_read: int
) -> None:
    async with serving() as port:
        for _ in range(5):
            async with await port.connect() as stream:
                await stream.send_all(asked)
                for _ in range(answers_read):
                    await stream.receive_some(100)
        await until(lambda: port.accepted() == 5 and port.counts() == (0, 0))


async def test_a_client_that_resets_while_an_answer_is_made_is_forgotten() -> None:
    """The next request is read already, so nothing reads the reset; a write reveals it."""
    async with serving() as port:
        async with await port.connect() as stream:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO)
            await until(lambda: port.counts() == (0, 1))
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await until(lambda: port.counts() == (0, 0))


async def test_pipelined_requests_are_all_answered() -> None:
    async with serving() as port:
        last = HELLO.replace(b"Host", b"Connection: close\r\nHost")
        answers = await port.ask(HELLO * 19 + last)
        assert answers.count(b'{"hello":"world"}') == 20
        await until(lambda: port.counts() == (0, 0))


async def test_the_applications_lifespan_runs_once_around_everything() -> None:
    steps: list[str] = []
    app = application()

    @app.before_serving
    async def begin() -> None:
        steps.append("begin")

    @app.after_serving
    async def end() -> None:
        steps.append("end")

    async with serving(app=app) as port:
        assert steps == ["begin"]
        await port.ask(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert steps == ["begin", "end"]


# What goes wrong


async def test_a_fault_in_a_handler_ends_its_connection_only() -> None:
    async def handle(transport: NativeTransport, _: object) -> None:
        if await transport.receive() == "fail":
            raise ValueError("a bug")
        await trio.sleep_forever()

    async with serving(handle=handle) as port, tw.open_websocket_url(port.url) as neighbour:
        with structlog.testing.capture_logs() as logged:
            async with websockets.trio.client.connect(port.url) as client:
                await client.send("fail")
                assert await closed(client) == Close.INTERNAL
        assert [(entry["event"], entry["exc_info"]) for entry in logged] == [
            ("handler_raised", True)
        ]
        await neighbour.ping()


async def test_a_handler_that_returns_closes_normally() -> None:
    async def handle(transport: NativeTransport, _: object) -> None:
        await transport.receive()

    async with serving(handle=handle) as port, websockets.trio.client.connect(port.url) as client:
        await client.send("enough")
        assert await closed(client) == Close.NORMAL


async def test_connections_that_end_in_every_way_leave_nothing_open() -> None:
    async def handle(transport: NativeTransport, _: object) -> None:
        message = await transport.receive()
        if message == "fail":
            raise TransportClosedError(1006)
        if message == "abort":
            transport.abort()
        await echo(transport, None)

    async def open_and_leave(port: Port, way: int) -> None:
        async with await port.connect() as stream:
            if way == 0:
                return
            if way == 1:
                await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
                await read_until(stream, b"}\n")
                return
            await stream.send_all(head())
            await read_until(stream, b"\r\n\r\n")
            if way == 2:
                return
            frame = websockets.frames.Frame(
                websockets.frames.Opcode.TEXT, [b"fail", b"abort", b"\xff"][way - 3]
            )
            await stream.send_all(frame.serialize(mask=True))
            with trio.CancelScope(), pytest.raises((trio.BrokenResourceError, EndOfStream)):
                await read_to_the_end(stream)

    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    # Forty at once on a busy machine: no head of theirs is late.
    async with serving(handle=handle, limits=replace(LIMITS, head_deadline_s=10)) as port:
        await open_and_leave(port, 1)
        await until(lambda: port.counts() == (0, 0))
        before = descriptors()
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for number in range(42):
                    nursery.start_soon(open_and_leave, port, number % 6)
        await until(lambda: port.counts() == (0, 0))
        await until(lambda: descriptors() <= before)
        assert port.serving is not None
        assert port.serving.statistics().accepted == 211


class EndOfStream(Exception):
    """What `read_to_the_end` ends with if the connection was not reset."""


async def read_to_the_end(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass
    raise EndOfStream


class Exhausted(trio.abc.Listener[trio.SocketStream]):
    """A listener of a process that is out of descriptors for a while."""

    def __init__(self, listener: trio.SocketListener, times: int) -> None:
        self._listener = listener
        self._times = times

    async def accept(self) -> trio.SocketStream:
        if self._times:
            self._times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


async def test_running_out_of_descriptors_is_waited_out() -> None:
    exhausted = partial(Exhausted, times=6)  # each time the kept descriptor was taken, too
    with structlog.testing.capture_logs() as logged:
        async with serving(wrap=exhausted) as port, tw.open_websocket_url(port.url) as client:
            await client.send_message("made it")
            assert await client.get_message() == "made it"
    retries = [entry["retry_s"] for entry in logged if entry["event"] == "accept_failed"]
    assert retries == [0.05, 0.1, 0.2]


# The end


async def test_stopping_lets_requests_and_handlers_finish() -> None:
    finish = trio.Event()

    async def handle(transport: NativeTransport, _: object) -> None:
        await finish.wait()
        await transport.aclose(Close.GOING_AWAY, "deploy")

    async with serving(handle=handle) as port:
        assert port.serving is not None
        idle = await port.connect()
        await idle.send_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(idle, b"}\n")
        busy = await port.connect()
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        async with websockets.trio.client.connect(port.url) as client:
            await until(lambda: port.counts() == (1, 2))
            port.serving.stop_accepting()
            port.serving.stop_accepting()
            with pytest.raises(OSError, match="all attempts to connect"):
                await until_refused(port)
            assert await read_all(idle) == b""
            assert b'{"slow":true}' in await read_all(busy)
            assert not port.ended.is_set()
            finish.set()
            assert await closed(client) == Close.GOING_AWAY
        for stream in (idle, busy):
            await stream.aclose()
        await port.ended.wait()


async def until_refused(port: Port) -> None:
    while True:
        async with await port.connect():
            await trio.lowlevel.checkpoint()


async def test_what_does_not_finish_is_cut_off_at_the_deadline() -> None:
    limits = Limits(drain_deadline_s=0.2, write_deadline_s=60, send_buffer_bytes=16 * 1024)

    async def handle(_transport: NativeTransport, _: object) -> None:
        await trio.sleep_forever()

    async with serving(limits=limits, handle=handle) as port:
        assert port.serving is not None
        stuck = await port.connect()
        await stuck.send_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        unread = await port.connect()
        await unread.send_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        async with websockets.trio.client.connect(port.url) as client:
            await until(lambda: port.counts() == (1, 2))
            await trio.testing.wait_all_tasks_blocked(0.01)
            before = trio.current_time()
            port.serving.stop_accepting()
            assert await closed(client) == Close.GOING_AWAY
            await port.ended.wait()
            assert trio.current_time() - before < 2
        assert await read_all(stuck) == b""
        for stream in (stuck, unread):
            await trio.aclose_forcefully(stream)


async def test_who_stops_it_may_say_how_long_the_rest_has() -> None:
    async def handle(_transport: NativeTransport, _: object) -> None:
        await trio.sleep_forever()

    async with serving(limits=Limits(drain_deadline_s=60), handle=handle) as port:
        assert port.serving is not None
        async with websockets.trio.client.connect(port.url) as client:
            await until(lambda: port.counts() == (1, 0))
            port.serving.stop_accepting(drain_s=0.1)
            assert await closed(client) == Close.GOING_AWAY
            await port.ended.wait()


async def test_cancelling_ends_everything_at_once() -> None:
    limits = Limits(write_deadline_s=60, send_buffer_bytes=16 * 1024)
    async with serving(limits=limits) as port:
        unread = await port.connect()
        await unread.send_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        async with websockets.trio.client.connect(port.url) as client:
            await until(lambda: port.counts() == (1, 1))
            await trio.testing.wait_all_tasks_blocked(0.01)
            before = trio.current_time()
            port.cancel()
            await port.ended.wait()
            assert trio.current_time() - before < 2
            assert await closed(client) == Close.GOING_AWAY
        await trio.aclose_forcefully(unread)
