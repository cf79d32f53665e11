"""A runtime that a program has opened, served beside the program's own tasks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import httpx
import jwt
import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Close, Limits, Reject
from dalsegno.runtime import NoAccountsError, Runtime
from dalsegno.runtime.client import ClientLimits, open_client
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.serving import Ready, SessionCookie, TokenIssuer, serve
from dalsegno.runtime.store import MemoryAccounts
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._serving import SOON, Person, Site, proxied, set_up
from tests.tasks_domain import AddTask, FinishTask, Task, app, tasks

ISSUER, AUDIENCE = "https://id.example.org", "dalsegno"
SECRET = b"a secret of thirty-two bytes, or more"
TOKENS = TokenIssuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)
PATIENCE_S = 20.0


@pytest.fixture
async def rt(migrated: str) -> AsyncIterator[Runtime]:
    async with Runtime.open(migrated, app=app) as rt:
        yield rt


@asynccontextmanager
async def serving(rt: Runtime, **settings: Any) -> AsyncIterator[tuple[Site, Callable[[], None]]]:
    """Serve it; yields where, and what stops it."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        bind = settings.pop("bind", "127.0.0.1:0")
        ready: Ready = await nursery.start(partial(serve, rt, bind, stop=stop, **settings))
        assert ready.runtime is rt
        try:
            yield Site(ready.url, ready.port, rt), stop.set
        finally:
            stop.set()


@asynccontextmanager
async def socket(owner: Person) -> AsyncIterator[WebSocketConnection]:
    url = owner.url.replace("http", "ws", 1) + "/ws"
    async with open_websocket_url(url, extra_headers=[(b"cookie", owner.cookie.encode())]) as ws:
        try:
            yield ws
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def hear_the_end(ws: WebSocketConnection) -> tuple[list[dict[str, Any]], int]:
    said: list[dict[str, Any]] = []
    with fail_after(PATIENCE_S):
        while True:
            try:
                message = msgspec.json.decode(await ws.get_message())
            except ConnectionClosed:
                break
            if message["type"] != "heartbeat":
                said.append(message)
    assert ws.closed is not None
    return said, ws.closed.code


async def test_host_and_clients_work_on_the_same_workspaces(rt: Runtime) -> None:
    """… and after the port has ended the host goes on, and may open another one."""
    async with serving(rt) as (site, _):
        owner = await set_up(site)
        here = rt.workspace(owner.workspace)
        async with (
            open_client(site.url, cookie=owner.cookie, app=app) as client,
            here.subscribe(after=0) as events,
        ):
            there = client.workspace(owner.workspace)
            with fail_after(PATIENCE_S):
                await there.send(AddTask("t1", "By a client"))
                assert await here.get(tasks, "t1") == Task("By a client")
                async with there.subscribe(after=0) as remote:
                    await here.send(FinishTask("t1"))
                    assert [(await anext(remote)).seq for _ in range(2)] == [1, 2]
                    assert [(await anext(events)).event_seq for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="failed"):
        await trio.open_tcp_stream("127.0.0.1", site.port)
    await here.send(AddTask("t2", "By the host"))
    async with (
        serving(rt) as (site, _),
        open_client(site.url, cookie=owner.cookie, app=app) as client,
    ):
        with fail_after(PATIENCE_S):
            there = client.workspace(owner.workspace)
            assert await there.get(tasks, "t2") == Task("By the host")


async def test_what_was_asked_is_answered_before_the_close_and_the_runtime_goes_on(
    rt: Runtime,
) -> None:
    async with serving(rt) as (site, stop):
        owner = await set_up(site)
        async with socket(owner) as ws:
            for index in range(50):
                message = {
                    "type": "command",
                    "workspace_id": owner.workspace,
                    "name": "add_task",
                    "payload": {"task_id": f"t{index}", "title": "T"},
                    "request_id": str(index),
                }
                await ws.send_message(msgspec.json.encode(message).decode())
            first = msgspec.json.decode(await ws.get_message())
            stop()
            # The host's own work is neither refused nor waited for.
            await rt.workspace(owner.workspace).send(AddTask("mine", "M"))
            said, code = await hear_the_end(ws)
    assert code == Close.GOING_AWAY
    kinds = [message["type"] for message in [first, *said]]
    assert kinds.count("reconnect") == 1
    answers = [message for message in [first, *said] if message["type"] != "reconnect"]
    assert {message["type"] for message in answers} == {"committed"}
    assert [message["request_id"] for message in answers] == [str(n) for n in range(len(answers))]
    # Whatever took effect was answered.
    assert await rt.workspace(owner.workspace).head() == len(answers) + 1


async def test_clients_are_taken_along_to_the_next_port(rt: Runtime) -> None:
    never = ClientLimits(at_once_s=3600, backoff_first_s=3600, backoff_max_s=3600)
    async with serving(rt) as (one, stop), serving(rt) as (two, _), proxied(one.port) as proxy:
        owner = await set_up(one)
        async with (
            open_client(proxy.url, cookie=owner.cookie, app=app, limits=never) as client,
            client.workspace(owner.workspace).subscribe(after=0) as events,
            socket(msgspec.structs.replace(owner, url=two.url)) as other,
        ):
            proxy.targets = (two.port,)
            stop()
            with fail_after(PATIENCE_S):
                await until(lambda: client.statistics().connections == 2)
                await client.workspace(owner.workspace).send(AddTask("t1", "There"))
                assert (await anext(events)).seq == 1
            # The other port's clients were not told to go.
            await other.send_message('{"type":"ping","request_id":"p"}')
            assert "pong" in await other.get_message()


async def test_cancelled_it_tells_its_clients_and_leaves_nothing(rt: Runtime) -> None:
    left: list[int] = []
    owner = None
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            ready, end = await nursery.start(serve_in_scope, rt)
            site = Site(ready.url, ready.port, rt)
            owner = owner or await set_up(site)
            async with socket(msgspec.structs.replace(owner, url=site.url)) as ws:
                await until(lambda: " 1 connections" in repr(rt))
                end()
                assert await hear_the_end(ws) == ([], Close.GOING_AWAY)
        await rt.workspace(owner.workspace).send(AddTask("t1", "It goes on"), key="k")
        left.append(trio.lowlevel.current_statistics().tasks_living)
    assert left[0] == left[1]


async def serve_in_scope(
    rt: Runtime, *, task_status: trio.TaskStatus[tuple[Ready, Callable[[], None]]]
) -> None:
    """Serve, and give out what cancels it."""
    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(serve, rt, "127.0.0.1:0")
        task_status.started((ready, nursery.cancel_scope.cancel))


async def test_a_client_that_asks_without_end_delays_the_end_by_no_more_than_the_bound(
    migrated: str,
) -> None:
    limits = Limits(drain_deadline_s=0.3)
    asked = 0

    async def ask(ws: WebSocketConnection, workspace_id: str) -> None:
        nonlocal asked
        with suppress(ConnectionClosed):
            while True:
                asked += 1
                message = {
                    "type": "command",
                    "workspace_id": workspace_id,
                    "name": "add_task",
                    "payload": {"task_id": f"t{asked}", "title": "T"},
                }
                await ws.send_message(msgspec.json.encode(message).decode())

    async with Runtime.open(migrated, app=app, limits=limits) as rt, serving(rt) as (site, stop):
        owner = await set_up(site)
        async with socket(owner) as ws, trio.open_nursery() as nursery:
            nursery.start_soon(ask, ws, owner.workspace)
            await until(lambda: asked > 10)
            stop()
            _, code = await hear_the_end(ws)
            assert code in {Close.GOING_AWAY, 1006}
        await rt.workspace(owner.workspace).send(AddTask("mine", "M"))


@pytest.mark.parametrize(
    "settings",
    [
        {"bind": "8000"},
        {"bind": "127.0.0.1:99999"},
        {"public_url": "board.example"},
        {"public_url": "https://user@board.example"},
        {"origins": ["board.example"]},
        {"proxies": ["10.0.0.0/33"]},
    ],
    ids=repr,
)
async def test_a_setting_that_cannot_be_used_is_refused(settings: dict[str, Any]) -> None:
    async with Runtime.open(app=app, store=MemoryStore(WORLD)) as rt:
        with pytest.raises(Reject, match="BAD_REQUEST"):
            await serve(rt, **{"bind": "127.0.0.1:0", **settings})


async def test_what_cannot_be_served_says_why() -> None:
    async with Runtime.open(app=app, store=MemoryStore(WORLD)) as rt:
        with pytest.raises(NoAccountsError):
            await serve(rt, "127.0.0.1:0")
    async with memory() as rt, serving(rt) as (site, _):
        with pytest.raises(OSError, match="is in use by another program"):
            await serve(rt, f"127.0.0.1:{site.port}")


@asynccontextmanager
async def memory() -> AsyncIterator[Runtime]:
    accounts = MemoryAccounts(WORLD)
    async with Runtime.open(app=app, store=MemoryStore(WORLD), accounts=accounts) as rt:
        yield rt


async def test_setup_wants_a_token_where_others_can_connect() -> None:
    body = {"email": "a@b.example", "password": "long enough, is it", "display_name": "A"}
    async with memory() as rt:
        public = "https://board.example"
        cases: list[tuple[dict[str, Any], str | None]] = [
            ({}, None),
            ({"public_url": public}, "made"),
            ({"public_url": public, "setup_token": "given"}, "given"),
            ({"setup_token": "given"}, "given"),
        ]
        for settings, expected in cases:
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                ready: Ready = await nursery.start(
                    partial(serve, rt, "127.0.0.1:0", stop=stop, **settings)
                )
                if expected is not None:
                    async with httpx.AsyncClient(**PLAIN) as http:
                        refused = await http.post(f"{ready.url}/api/setup/register", json=body)
                    assert refused.json()["code"] == "SETUP_TOKEN_INVALID"
                made = expected == "made"
                assert (len(ready.setup_token or "") > 20) is made
                assert made or ready.setup_token == expected
                stop.set()


async def test_cookie_names_and_origins_are_those_that_were_given() -> None:
    body = {"email": "a@b.example", "password": "long enough, is it", "display_name": "A"}
    cookie = SessionCookie(secure=True)
    public = {"public_url": "https://board.example", "origins": ["https://other.example"]}
    async with (
        memory() as rt,
        serving(rt, **public, cookie=cookie, setup_token="s") as (site, _),
        httpx.AsyncClient(**PLAIN) as http,
    ):
        shows = {"x-setup-token": "s"}
        made = await http.post(f"{site.url}/api/setup/register", json=body, headers=shows)
        assert made.status_code == 201
        assert made.headers["set-cookie"].startswith("dalsegno_session=")
        assert "; Secure" in made.headers["set-cookie"]
    async with (
        memory() as rt,
        serving(rt, **public) as (site, _),
        httpx.AsyncClient(**PLAIN) as http,
    ):
        for origin, status in (("https://other.example", 401), ("https://evil.example", 403)):
            answer = await http.get(f"{site.url}/api/workspaces", headers={"origin": origin})
            assert answer.status_code == status


async def test_tokens_of_another_issuer_are_believed(rt: Runtime) -> None:
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "exp": time.time() + 60}
    token = jwt.encode(made, SECRET, "HS256")
    await rt.workspace("w").send(PutMember("jwt:bob", "editor"))
    async with (
        serving(rt, tokens=TOKENS) as (site, _),
        open_client(site.url, api_key=token, app=app, limits=SOON) as client,
    ):
        with fail_after(PATIENCE_S):
            assert (await client.workspace("w").send(AddTask("t", "T"))).event_seq == 2


async def test_a_runtime_with_an_address_is_known_by_it() -> None:
    accounts = MemoryAccounts(WORLD)
    address = "http://north.example:8000"
    async with (
        Runtime.open(app=app, store=MemoryStore(WORLD), accounts=accounts, address=address) as rt,
        serving(rt) as (site, _),
        httpx.AsyncClient(**PLAIN) as http,
    ):
        for host, status in (("north.example:8000", 401), ("evil.example", 403)):
            answer = await http.get(f"{site.url}/api/workspaces", headers={"host": host})
            assert answer.status_code == status
