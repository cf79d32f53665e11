"""A runtime in a program's own ASGI server: mounted, refused, batched, drained; and its traps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import h11
import httpx
import msgspec
import pytest
import trio
import trio.testing
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope
from trio_websocket import WebSocketConnection, open_websocket_url, wrap_client_stream
from websockets.frames import Frame, Opcode

from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Close, Frames, Limits, Reject
from dalsegno.runtime import Runtime
from dalsegno.runtime.client import open_client
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.serving import AsgiApp, asgi, serve_asgi
from dalsegno.runtime.store import MemoryAccounts
from dalsegno.runtime.web._asgi_transport import AsgiTransport
from tests._asgi import RAW_UPGRADE, hypercorn, their_own
from tests._certificates import NAME, certified
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._blocks import Blocks, following
from tests.runtime._serving import SOON, Person, Site, set_up
from tests.runtime.test_serving import TOKENS, hear_the_end, serving
from tests.runtime.test_tokens_on_the_wire import UPGRADE
from tests.tasks_domain import AddTask, app as tasks_app

BASE = "/board"


@asynccontextmanager
async def runtime(**limits: Any) -> AsyncIterator[Runtime]:
    async with Runtime.open(
        app=tasks_app,
        store=MemoryStore(WORLD),
        accounts=MemoryAccounts(WORLD),
        limits=Limits(**limits),
    ) as rt:
        yield rt


@asynccontextmanager
async def served(
    *, settings: dict[str, Any] | None = None, base: str = "", tokens: Any = None, **limits: Any
) -> AsyncIterator[tuple[Site, AsgiApp, Person]]:
    async with runtime(**limits) as rt, asgi(rt, tokens=tokens) as app:
        whole: ASGIFramework = app
        if base:
            whole = TrioDispatcherMiddleware({base: app, "": their_own})
        async with hypercorn(whole, **(settings or {})) as (host, port):
            site = Site(f"http://{host}:{port}{base}", port, rt)
            yield site, app, await set_up(site)


@asynccontextmanager
async def socket(person: Person, query: str = "") -> AsyncIterator[WebSocketConnection]:
    url = person.url.replace("http", "ws", 1) + f"/ws{query}"
    headers = [(b"cookie", person.cookie.encode())]
    async with open_websocket_url(url, extra_headers=headers) as ws:
        try:
            yield ws
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def subscribe(ws: WebSocketConnection, person: Person, **more: Any) -> None:
    await say(ws, "subscribe", stream_id=f"workspace:{person.workspace}", **more)


async def say(ws: WebSocketConnection, kind: str, **fields: Any) -> None:
    await ws.send_message(msgspec.json.encode({"type": kind, **fields}).decode())


async def hear(ws: WebSocketConnection) -> Any:
    with fail_after(20):
        return msgspec.json.decode(await ws.get_message())


async def write(site: Site, person: Person, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for index in range(count):
            send = site.runtime.workspace(person.workspace).send
            nursery.start_soon(send, AddTask(f"t{index}", "x"))


async def status(url: str, **headers: str) -> int:
    async with httpx.AsyncClient(timeout=20, **PLAIN) as http:
        return (await http.get(url, headers=headers)).status_code


# ------------------------------------------------------------------------------------- mounted


async def test_it_is_mounted_below_a_path_beside_a_program_of_its_own() -> None:
    async with served(base=BASE) as (site, _, person):
        await write(site, person, 3)
        beside = site.url.removesuffix(BASE)
        async with httpx.AsyncClient(**PLAIN) as http:
            assert (await http.get(f"{beside}/anything")).text == "their"
        async with open_client(
            site.url, cookie=person.cookie, app=tasks_app, limits=SOON
        ) as client:
            there = client.workspace(person.workspace)
            with fail_after(20):
                receipt = await there.send(AddTask("mounted", "x"))
                async with there.subscribe(after=0) as events:
                    seqs = [(await anext(events)).seq for _ in range(receipt.event_seq)]
        assert seqs == [*range(1, receipt.event_seq + 1)]
        async with following(person, f"{BASE}/api/workspaces/{person.workspace}/events") as page:
            assert page.status == 200
        path = f"{BASE}/api/v1/workspaces/{person.workspace}/events"
        async with following(person, path, cursor=str(receipt.event_seq - 1)) as blocks:
            assert (await blocks.hear("task_added")).said["seq"] == receipt.event_seq


async def test_it_is_served_over_tls(tmp_path: Path) -> None:
    cert, key = certified().write(tmp_path)
    settings = {"certfile": str(cert), "keyfile": str(key)}
    async with served(settings=settings) as (site, _, person):
        await write(site, person, 2)

        async def connect() -> trio.SSLStream[trio.SocketStream]:
            plain, trust = await trio.open_tcp_stream("127.0.0.1", site.port), certified().trust()
            return trio.SSLStream(plain, trust, server_hostname=NAME, https_compatible=True)

        async with trio.open_nursery() as nursery:
            headers = [(b"cookie", person.cookie.encode())]
            secured: Any = await connect()
            ws = await wrap_client_stream(nursery, secured, NAME, "/ws", extra_headers=headers)
            await subscribe(ws, person, cursor=0)
            assert (await hear(ws))["type"] == "subscribed"
            assert [(await hear(ws))["seq"] for _ in range(2)] == [1, 2]
            await ws.aclose()
            nursery.cancel_scope.cancel()
        async with await connect() as streaming:
            blocks = Blocks(streaming)
            await blocks.ask(f"{streams_of(person)}?cursor=1", {"cookie": person.cookie})
            assert (await blocks.hear("task_added")).said["seq"] == 2


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/ws", {}, 401),
        ("/ws", {"cookie": "theirs", "origin": "http://evil.example"}, 403),
        ("/ws?batch=2", {"cookie": "theirs"}, 400),
        ("/ws?" + "&".join(f"a{index}=" for index in range(101)), {"cookie": "theirs"}, 400),
        ("/ws?client_id=" + "x" * 300, {"cookie": "theirs"}, 400),
        ("/nothing", {"cookie": "theirs"}, 404),
    ],
)
async def test_an_upgrade_is_refused_with_the_status_and_the_envelope(
    path: str, headers: dict[str, str], expected: int
) -> None:
    async with served() as (site, _, person):
        given = {
            name: person.cookie if value == "theirs" else value for name, value in headers.items()
        }
        refused = await upgrade(f"{site.url}{path}", **given)
        assert refused.status_code == expected
        assert refused.headers["content-type"] == "application/json"
        said = refused.json()
        assert said["code"]
        assert said["request_id"] == refused.headers["x-request-id"]


async def upgrade(url: str, **headers: str) -> httpx.Response:
    """Ask for an upgrade that is refused."""
    async with httpx.AsyncClient(timeout=20, **PLAIN) as http:
        return await http.get(url, headers=UPGRADE | headers)


async def test_a_client_may_say_first_who_it_is() -> None:
    async with served(tokens=TOKENS) as (site, _, _person):
        url = site.url.replace("http", "ws", 1) + "/ws"
        offers = ["dalsegno.auth", "dalsegno.v1"]
        async with open_websocket_url(url, subprotocols=offers) as ws:
            assert ws.subprotocol == "dalsegno.v1"
            await ws.send_message("x" * 20_000)
            assert (await hear_the_end(ws))[1] == Close.UNAUTHORIZED
            await trio.aclose_forcefully(ws._stream)


async def test_what_is_read_ahead_is_bounded_though_messages_be_empty() -> None:
    arrived = 0

    async def receive() -> Any:
        nonlocal arrived
        arrived += 1
        await trio.lowlevel.checkpoint()
        return {"type": "websocket.receive", "text": "", "bytes": None}

    async def send(_: Any) -> None:
        await trio.lowlevel.checkpoint()

    transport = AsgiTransport(receive, send, Limits())
    async with transport.serving():
        await trio.testing.wait_all_tasks_blocked()
        assert 100 < arrived < 1_000
        before = arrived
        for _ in range(before):
            assert await transport.receive() == ""
        await trio.testing.wait_all_tasks_blocked()
        assert arrived == 2 * before


async def test_a_server_that_never_takes_a_message_holds_no_connection_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As a program's own server has it: it waits for a client that reads nothing."""

    async def never(*_: object) -> Any:
        await trio.sleep_forever()

    limits = Limits()
    transport = AsgiTransport(never, never, limits)
    began = trio.current_time()
    with trio.fail_after(10 * limits.close_deadline_s):
        async with transport.serving():
            transport.send_nowait([Frames([b"1"])])
            await trio.testing.wait_all_tasks_blocked()
            await transport.aclose(Close.GOING_AWAY, "")
            assert trio.current_time() - began == pytest.approx(limits.close_deadline_s)
            transport.abort()
            await transport.aclose(Close.GOING_AWAY, "")


async def test_as_many_as_may_be_and_no_more_are_let_in() -> None:
    async with served(connections_max=2) as (site, _, person), AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(socket(person)) for _ in range(2)]
        refused = await upgrade(f"{person.url}/ws", cookie=person.cookie)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        await opened[0].aclose()
        await until(lambda: len(site.runtime.service.connections) == 1)
        await stack.enter_async_context(socket(person))


# ------------------------------------------------------------------------------------- batches


async def test_who_asks_for_batches_is_given_what_waits_as_one_message() -> None:
    async with served() as (site, _, person):
        await write(site, person, 50)
        async with socket(person, "?batch=1") as ws:
            await subscribe(ws, person, cursor=0)
            messages, seen = 0, list[int]()
            while len(seen) < 50:
                said = await hear(ws)
                messages += 1
                many = said if isinstance(said, list) else [said]
                assert not isinstance(said, list) or len(said) > 1
                seen += [each["seq"] for each in many if each["type"] == "event"]
            assert seen == [*range(seen[0], seen[0] + len(seen))]
            assert messages <= 10
            await say(ws, "ping", request_id="r")
            assert (await hear(ws))["type"] == "pong", "what is alone is no array"


async def test_who_does_not_ask_is_given_each_alone() -> None:
    async with served() as (site, _, person):
        await write(site, person, 20)
        for query in ("", "?batch=0"):
            async with socket(person, query) as ws:
                await subscribe(ws, person, cursor=0)
                assert (await hear(ws))["type"] == "subscribed"
                assert [(await hear(ws))["type"] for _ in range(20)] == ["event"] * 20


# ------------------------------------------------------------------------------------- the end


async def test_a_drained_application_tells_its_clients_when_to_come_back() -> None:
    async with served() as (site, app, person):
        path = f"/api/v1/workspaces/{person.workspace}/events"
        async with socket(person) as ws, following(person, path) as blocks:
            await blocks.hear("head")
            await say(ws, "ping", request_id="r")
            await hear(ws)
            await app.drain()
            said, code = await hear_the_end(ws)
            assert code == Close.GOING_AWAY
            assert [each["type"] for each in said] == ["reconnect"]
            assert (await blocks.rest())[-1].retry is not None
        assert (await upgrade(f"{site.url}/ws", cookie=person.cookie)).status_code == 503
        async with following(person, path) as blocks:
            assert blocks.status == 200
            (last,) = await blocks.rest()
            assert last.retry is not None
        assert await status(f"{site.url}/healthz") == 200
        await app.drain()  # once is enough
        await write(site, person, 1)  # the runtime goes on


async def test_it_lasts_no_longer_than_its_block() -> None:
    apps: list[AsgiApp] = []
    ends: list[int] = []

    async def theirs(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await (apps[0] if apps else their_own)(scope, receive, send)

    async def stay(person: Person, task_status: trio.TaskStatus[None]) -> None:
        async with socket(person) as ws:
            await say(ws, "ping", request_id="r")
            await hear(ws)
            task_status.started()
            ends.append((await hear_the_end(ws))[1])

    async with runtime() as rt, hypercorn(theirs) as (host, port), trio.open_nursery() as nursery:
        async with asgi(rt) as app:
            apps.append(app)
            await nursery.start(stay, await set_up(Site(f"http://{host}:{port}", port, rt)))
        with fail_after(20):
            await until(lambda: ends == [Close.GOING_AWAY])


async def test_who_is_gone_without_a_word_leaves_nothing() -> None:
    async with served() as (site, _, person):
        async with socket(person) as ws:
            await subscribe(ws, person)
            await hear(ws)
            assert len(site.runtime.service.connections) == 1
            await trio.aclose_forcefully(ws._stream)
        await until(lambda: not len(site.runtime.service.connections))


async def test_settings_that_cannot_be_used_are_said_at_once() -> None:
    async with runtime() as rt:
        with pytest.raises(Reject) as caught:
            async with asgi(rt, public_url="ftp://board"):
                raise AssertionError("it was made")
        assert caught.value.code == "BAD_REQUEST"
        with pytest.raises(Reject):
            await serve_asgi(their_own, "nowhere")


# ------------------------------------------------------------------------------- what is ours


@asynccontextmanager
async def our_listener(app: ASGIFramework) -> AsyncIterator[tuple[str, int]]:
    stop, limits = trio.Event(), Limits(write_deadline_s=0.2)
    async with trio.open_nursery() as nursery:
        serve = partial(serve_asgi, app, "127.0.0.1:0", limits=limits, until=stop.wait)
        at = await nursery.start(serve)
        try:
            yield at
        finally:
            stop.set()


async def answer(at: tuple[str, int]) -> bytes:
    async with await trio.open_tcp_stream(*at) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with fail_after(5):
            return bytes(await stream.receive_some())[:12]


async def trip(at: tuple[str, int]) -> bytes:
    """Send one byte behind an upgrade, and ask for something on a connection of one's own."""
    stream = await trio.open_tcp_stream(*at)
    await stream.send_all(RAW_UPGRADE % b"/anything" + b"x")
    with trio.move_on_after(1), suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    await trio.aclose_forcefully(stream)
    return await answer(at)


async def test_a_byte_behind_an_upgrade_ends_hypercorn() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with hypercorn(their_own) as at:
            await trip(at)
    assert caught.group_contains(h11.LocalProtocolError), "of one connection"


async def test_a_byte_behind_an_upgrade_ends_its_own_connection_on_our_listener() -> None:
    async with our_listener(their_own) as at:
        assert await trip(at) == b"HTTP/1.1 200"


async def test_an_upgrade_that_does_not_wait_for_the_answer_before_is_served() -> None:
    """… by the application, and not natively."""
    async with runtime() as rt, serving(rt) as (site, _):
        person = await set_up(site)
        async with await trio.open_tcp_stream("127.0.0.1", site.port) as stream:
            upgrade = RAW_UPGRADE.replace(b"\r\n\r\n", b"\r\nCookie: %b\r\n\r\n") % (
                b"/ws",
                person.cookie.encode(),
            )
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + upgrade)
            read = b""
            with fail_after(20):
                while b" 101 " not in read:
                    read += await stream.receive_some()
            assert read.startswith(b"HTTP/1.1 200")
            await until(lambda: len(rt.service.connections) == 1)


# Hypercorn's further traps, each with what a program can do about it (docs/deployment.md)


def streams_of(person: Person) -> str:
    return f"/api/v1/workspaces/{person.workspace}/events"


async def test_an_event_stream_outlasts_quarts_bound_of_an_answer() -> None:
    async with served() as (site, app, person):
        quart: Any = app._front.app._http
        assert quart.config["RESPONSE_TIMEOUT"] == 60
        quart.config["RESPONSE_TIMEOUT"] = 0.05
        async with following(person, streams_of(person)) as blocks:
            await blocks.hear("head")
            await trio.sleep(0.2)
            await write(site, person, 1)
            await blocks.hear("task_added")


class Http2:
    """A client of one connection."""

    def __init__(self, stream: trio.SocketStream, person: Person) -> None:
        self._stream = stream
        self._cookie = person.cookie
        self._http = h2.connection.H2Connection()

    async def begin(self) -> None:
        self._http.initiate_connection()
        await self._stream.send_all(self._http.data_to_send())

    async def ask(self, path: str) -> int:
        id_ = self._http.get_next_available_stream_id()
        named = {":method": "GET", ":path": path, ":scheme": "http", ":authority": "localhost"}
        headers = [*named.items(), ("cookie", self._cookie)]
        self._http.send_headers(id_, headers, end_stream=True)
        await self._stream.send_all(self._http.data_to_send())
        return id_

    async def upgrade(self, path: str) -> int:
        """Open a WebSocket on the connection (RFC 8441)."""
        while not self._http.remote_settings.enable_connect_protocol:
            self._http.receive_data(await self._stream.receive_some())
        id_ = self._http.get_next_available_stream_id()
        named = {":method": "CONNECT", ":protocol": "websocket", ":path": path}
        named |= {":scheme": "http", ":authority": "localhost", "sec-websocket-version": "13"}
        self._http.send_headers(id_, [*named.items(), ("cookie", self._cookie)])
        await self._stream.send_all(self._http.data_to_send())
        with fail_after(20):
            while True:
                for event in self._http.receive_data(await self._stream.receive_some()):
                    if isinstance(event, h2.events.ResponseReceived):
                        assert dict(event.headers)[b":status"] == b"200"
                        return id_

    async def say(self, id_: int, kind: str, **fields: Any) -> None:
        frame = Frame(Opcode.TEXT, msgspec.json.encode({"type": kind, **fields}))
        self._http.send_data(id_, frame.serialize(mask=True))
        await self._stream.send_all(self._http.data_to_send())

    async def hear(self, id_: int, what: bytes) -> None:
        """Read on to something that is said on a stream."""
        with fail_after(20):
            while True:
                for event in self._http.receive_data(await self._stream.receive_some()):
                    if not isinstance(event, h2.events.DataReceived) or event.stream_id != id_:
                        continue
                    if what in event.data:
                        return


async def test_a_socket_over_http_2_is_served_like_any_other() -> None:
    async with served() as (site, _, person):
        stream = await trio.open_tcp_stream("127.0.0.1", site.port)
        async with stream:
            client = Http2(stream, person)
            await client.begin()
            socket = await client.upgrade("/ws")
            await client.say(socket, "subscribe", stream_id=f"workspace:{person.workspace}")
            await client.hear(socket, b'"type":"subscribed"')
            await write(site, person, 1)
            await client.hear(socket, b'"event_type":"task_added"')
            assert len(site.runtime.service.connections) == 1


@pytest.mark.parametrize("most", [10, 1_000_000])
async def test_over_http_2_a_stream_freezes_behind_a_thousand_requests_unless_more_may_be(
    most: int,
) -> None:
    """GOAWAY goes out, and nothing more of a stream that is open; nor does it end."""
    settings = {"keep_alive_max_requests": most}
    async with served(settings=settings) as (site, _, person):
        stream = await trio.open_tcp_stream("127.0.0.1", site.port)
        async with stream:
            client = Http2(stream, person)
            await client.begin()
            events = await client.ask(streams_of(person))
            await client.hear(events, b"event: head")
            for _ in range(12):
                await client.ask("/healthz")
            with trio.move_on_after(0.3):
                await client.hear(events, b"nothing")
            await write(site, person, 1)
            with trio.move_on_after(0.5) as scope:
                await client.hear(events, b"event: task_added")
            assert scope.cancelled_caught is (most == 10)


@pytest.mark.parametrize("is_ours", [False, True], ids=["hypercorn", "ours"])
async def test_who_reads_nothing_holds_up_the_end_of_hypercorn_and_not_that_of_our_listener(
    is_ours: bool,
) -> None:
    """Hypercorn shields what it sends; we cut off who takes nothing for `write_deadline_s`."""
    server = our_listener if is_ours else hypercorn
    stop, ended = trio.Event(), trio.Event()

    async def run(app: AsgiApp, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
        async with server(app) as at:
            task_status.started(at)
            await stop.wait()
        ended.set()

    async with (
        runtime(write_deadline_s=0.2) as rt,
        asgi(rt) as app,
        trio.open_nursery() as nursery,
    ):
        host, port = await nursery.start(run, app)
        site = Site(f"http://{host}:{port}", port, rt)
        person = await set_up(site)
        deaf = await ask_and_read_nothing(site, person)
        await until(lambda: len(rt.service.connections) == 1)
        (connection,) = rt.service.connections
        for index in range(40):
            await rt.workspace(person.workspace).send(AddTask(f"long{index}", "x" * 30_000))
        assert connection.statistics().is_sending
        stop.set()
        with trio.move_on_after(1):
            await ended.wait()
        assert ended.is_set() is is_ours
        await trio.aclose_forcefully(deaf)
        with fail_after(20):
            await ended.wait()


async def ask_and_read_nothing(site: Site, person: Person) -> trio.SocketStream:
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", site.port))
    stream = trio.SocketStream(sock)
    asked = f"GET {streams_of(person)} HTTP/1.1\r\nHost: localhost\r\n"
    await stream.send_all(f"{asked}Cookie: {person.cookie}\r\n\r\n".encode())
    return stream
