"""A server that speaks TLS itself: what it says of itself, and all its connections at work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url
from websockets.frames import Frame, Opcode

from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.domains.notes import CreateNote, note_dialect, note_domains
from dalsegno.protocol import App, Close, Limits
from dalsegno.protocol.dialects import project_socket
from dalsegno.runtime import Runtime
from dalsegno.runtime.client import open_client
from dalsegno.runtime.serving import Ready, Tls, serve
from tests._certificates import NAME, certified
from tests._patience import fail_after, until
from tests._raw_client import RawClient
from tests.runtime._blocks import Blocks
from tests.runtime._serving import EMAIL, PASSWORD, SOON, Person, Site, add_member, set_up
from tests.runtime.test_tokens_on_the_wire import UPGRADE
from tests.tasks_domain import AddTask, app as tasks_app

pytestmark = pytest.mark.postgres

APP = App(note_domains, dialects=[note_dialect, project_socket])
COOKIE = "__Host-dalsegno_session"


@asynccontextmanager
async def serving(
    database: str,
    folder: Path,
    *,
    app: App = APP,
    bind: str = "127.0.0.1:0",
    limits: Limits | None = None,
) -> AsyncIterator[tuple[Site, Ready]]:
    stop = trio.Event()
    tls = Tls(*certified().write(folder))
    async with (
        Runtime.open(database, app=app, limits=limits) as rt,
        trio.open_nursery() as nursery,
    ):
        ready: Ready = await nursery.start(partial(serve, rt, bind, tls=tls, stop=stop))
        try:
            yield Site(f"https://localhost:{ready.port}", ready.port, rt), ready
        finally:
            stop.set()


def browser(site: Site) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=site.url, verify=certified().trust(), timeout=20, trust_env=False
    )


def cookie_of(person: Person) -> str:
    return f"{COOKIE}={person.cookie.partition('=')[2]}"


@asynccontextmanager
async def socket(
    site: Site, person: Person, path: str, **headers: str
) -> AsyncIterator[WebSocketConnection]:
    sent = {"cookie": cookie_of(person), **headers}
    async with open_websocket_url(
        f"wss://localhost:{site.port}{path}",
        ssl_context=certified().trust(),
        extra_headers=[(name.encode(), value.encode()) for name, value in sent.items()],
    ) as ws:
        try:
            yield ws
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def tls_stream(site: Site, *, receives: int | None = None) -> trio.SSLStream[Any]:
    plain = await trio.open_tcp_stream("127.0.0.1", site.port)
    if receives is not None:
        plain.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receives)
    return trio.SSLStream(plain, certified().trust(), server_hostname=NAME, https_compatible=True)


async def hear(ws: WebSocketConnection, *kinds: str) -> dict[str, Any]:
    with fail_after(20):
        while True:
            said: dict[str, Any] = msgspec.json.decode(await ws.get_message())
            if said["type"] in kinds:
                return said


async def test_it_says_that_it_is_https_and_marks_its_cookies_for_that(
    migrated: str, tmp_path: Path
) -> None:
    async with serving(migrated, tmp_path) as (site, ready), browser(site) as http:
        assert ready.url == f"https://127.0.0.1:{site.port}"
        assert ready.setup_token is None, "it is this machine's alone"
        who = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
        own = f"https://localhost:{site.port}"
        for origin in (own.replace("https", "http"), "https://evil.example"):
            answer = await http.post("/api/setup/register", json=who, headers={"origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "ORIGIN_FORBIDDEN")
        made = await http.post("/api/setup/register", json=who, headers={"origin": own})
        assert made.status_code == 201, made.text
        name_and_value, *attributes = made.headers["set-cookie"].split("; ")
        assert name_and_value.startswith(f"{COOKIE}=")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= {*attributes}
        assert (await http.get("/api/auth/session")).status_code == 200


async def test_on_another_bind_it_wants_the_token_and_takes_any_name(
    migrated: str, tmp_path: Path
) -> None:
    async with (
        serving(migrated, tmp_path, bind="0.0.0.0:0") as (site, ready),
        browser(site) as http,
    ):
        assert ready.setup_token is not None
        for scheme, code in {"http": "ORIGIN_FORBIDDEN", "https": "AUTH_REQUIRED"}.items():
            named = {"host": "board.example", "origin": f"{scheme}://board.example"}
            answer = await http.get("/ws", headers=UPGRADE | named)
            assert answer.json()["code"] == code


async def test_every_kind_of_connection_works_and_a_revocation_ends_it(
    migrated: str, tmp_path: Path
) -> None:
    async with serving(migrated, tmp_path) as (site, _):
        owner = await set_up(site)
        space = site.runtime.workspace(owner.workspace)
        member = await add_member(site, owner.workspace)
        events = f"/api/v1/workspaces/{owner.workspace}/events?cursor=0"
        async with (
            socket(site, owner, "/ws") as generic,
            socket(site, member, f"/ws/projects/{owner.workspace}") as project,
            await tls_stream(site) as stream,
            open_client(
                site.url,
                cookie=cookie_of(owner),
                app=APP,
                ssl_context=certified().trust(),
                limits=SOON,
            ) as client,
        ):
            blocks = Blocks(stream)
            await blocks.ask(events, {"cookie": cookie_of(member)})
            assert (blocks.status, blocks.headers["x-accel-buffering"]) == (200, "no")
            await generic.send_message(
                f'{{"type":"subscribe","stream_id":"workspace:{owner.workspace}"}}'
            )
            await hear(generic, "subscribed")
            with fail_after(20):
                receipt = await client.workspace(owner.workspace).send(CreateNote("A note", "x"))
            for ws in (generic, project):
                while (await hear(ws, "event"))["seq"] < receipt.event_seq:
                    pass
            assert (await blocks.hear("note_created")).said["seq"] == receipt.event_seq
            await space.send(RemoveMember(member.user_id))
            await space.send(CreateNote("Another", "x"))
            assert [each.event for each in await blocks.rest()][-1] == "problem"
            with fail_after(20), suppress(ConnectionClosed):
                while True:
                    message = msgspec.json.decode(await project.get_message())
                    assert message.get("seq", 0) <= receipt.event_seq + 1
            assert project.closed is not None
            assert project.closed.code == Close.FORBIDDEN
            assert (await hear(generic, "event"))["event_type"] == "member_removed"


async def test_a_slow_reader_misses_nothing_and_one_that_stopped_is_closed(
    migrated: str, tmp_path: Path
) -> None:
    """What is kept for both is bounded; the first catches up from the log."""
    limits = Limits(
        outbox_bytes_max=32 * 1024,
        send_buffer_bytes=16 * 1024,
        write_deadline_s=0.5,
        close_deadline_s=0.2,
    )
    async with serving(migrated, tmp_path, app=tasks_app, limits=limits) as (site, _):
        owner = await set_up(site)
        space = site.runtime.workspace(owner.workspace)
        async with (
            await tls_stream(site, receives=16 * 1024) as stopped,
            await tls_stream(site) as reading,
        ):
            slow = RawClient(reading)
            for client in (slow, RawClient(stopped)):
                await client.upgrade("localhost", cookie_of(owner))
                await client.send(subscribing(owner))
                assert (await said(client))["type"] == "subscribed"
            assert site.runtime.statistics().connections == 2
            seen: list[int] = []

            async def read() -> None:
                if (message := await said(slow))["type"] == "event":
                    seen.append(message["seq"])

            for number in range(40):
                receipt = await space.send(AddTask(f"t{number}", "x" * 20_000))
                if number % 3 == 0:
                    await read()
            with fail_after(20):
                while receipt.event_seq not in seen:
                    await read()
            assert seen == [*range(seen[0], receipt.event_seq + 1)]
            assert len(seen) == 40
            await until(lambda: site.runtime.statistics().connections == 1)


def subscribing(person: Person) -> Frame:
    message = {"type": "subscribe", "stream_id": f"workspace:{person.workspace}"}
    return Frame(Opcode.TEXT, msgspec.json.encode(message))


async def said(client: RawClient) -> dict[str, Any]:
    """The next message; a ping is none."""
    while True:
        opcode, payload = await client.frame()
        if opcode is Opcode.TEXT:
            message: dict[str, Any] = msgspec.json.decode(payload)
            return message
