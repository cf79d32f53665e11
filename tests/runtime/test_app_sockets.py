"""Paths of an app's own whose connections speak one dialect: from the first word to the last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import (
    App,
    Close,
    DalsegnoError,
    Event,
    Limits,
    Receipt,
    Reject,
    renamed,
    workspace_stream,
)
from dalsegno.protocol.dialects import (
    Ack,
    AnyRequest,
    Beginning,
    Begun,
    CommandRequest,
    Dialect,
    Opening,
    Ping,
    Socket,
    SubscribeRequest,
    Text,
    encode_said,
)
from dalsegno.protocol.routes import OfCaller
from dalsegno.runtime._server import ServeConfig, serve
from tests._http import PLAIN
from tests._patience import fail_after
from tests._raw_client import RawClient
from tests.runtime._serving import Person, Site, add_member, serving, set_up
from tests.runtime.test_first_message import (
    OFFERS,
    TOKENS,
    authenticate,
    hear as first_message,
    hear_end,
    token,
)
from tests.tasks_domain import AddTask, FinishTask, tasks


class Connected(msgspec.Struct, tag="Connected"):
    team: str


class Disconnected(msgspec.Struct, tag="Disconnected"):
    reason: str


class Failed(msgspec.Struct, tag="Error"):
    message: str


class TaskAdded(msgspec.Struct, tag="TaskAdded"):
    title: str


class Counted(msgspec.Struct, tag="Counted"):
    number: int


class TeamDialect(Dialect):
    """As a system speaks that never numbered its events, and knows no answers."""

    name = "team"
    says = (Connected, Disconnected, Failed, TaskAdded, Counted)

    def entity_event(self, event: Event) -> bytes:
        raise AssertionError

    def workspace_event(self, event: Event, payload: object) -> Sequence[bytes]:
        """Show what was added as two messages, and what was finished not at all."""
        if event.type != "task_added":
            return ()
        title = msgspec.json.decode(event.payload)["title"]
        if title == "boom":
            raise ZeroDivisionError
        return encode_said(TaskAdded(title)), encode_said(Counted(event.event_seq))

    def hidden(self, stream_id: str, first: int, last: int, chain: int) -> None:
        return

    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> None:
        return

    def committed(self, asked: CommandRequest, receipt: Receipt) -> None:
        return

    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> None:
        return

    def heartbeat(self, now: object) -> None:
        return

    def error(self, error: DalsegnoError, request_id: str | None, **context: Any) -> bytes:
        return encode_said(Failed(error.code))


TEAM = TeamDialect()


class FollowTeam(SubscribeRequest, tag="FollowTeam", frozen=True, kw_only=True):
    dialect: ClassVar[Dialect] = TEAM
    from_now: ClassVar[bool] = True

    workspace_id: Text

    @property
    def stream_id(self) -> str:
        return workspace_stream(self.workspace_id)


def begin(opening: Opening) -> Beginning:
    team = opening.path["team"]
    if opening.query.get("please") == "no":
        raise Reject("ROLE_FORBIDDEN", "not like this")
    return Beginning(
        state=0,
        says=[encode_said(Connected(team))],
        follows=[FollowTeam(workspace_id=team, cursor=opening.query.get("cursor"))],
    )


def begin_mine(opening: Opening) -> Beginning:
    """Begin on the workspace that the request names, or that alone can be meant."""
    mine = opening.workspace_id
    follow = FollowTeam(workspace_id=mine)
    return Beginning(state=0, says=[encode_said(Connected(mine))], follows=[follow])


def in_their_words(error: DalsegnoError) -> DalsegnoError:
    if error.code == "WORKSPACE_NOT_FOUND":
        return error
    return renamed(error, f"THEIR_{error.code}", 429 if error.code == "OVERLOADED" else None)


def hears(heard: int, received: str | bytes) -> tuple[int, AnyRequest | None]:
    """Pass over everything but a ping, and three words that test the limits of patience."""
    if received == "boom":
        raise ZeroDivisionError
    if received == "no":
        raise Reject("BAD_REQUEST", f"heard {heard} before")
    if received == "ack":
        return heard + 1, Ack(stream_id="workspace:elsewhere", seq=1)
    return heard + 1, Ping() if received == "ping" else None


def farewell(heard: int, code: Close, reason: str) -> bytes | None:
    if reason == "boom":
        raise ZeroDivisionError
    return encode_said(Disconnected(f"{int(code)} after {heard}"))


UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}

APP = App(
    [tasks],
    dialects=[
        Socket("/v1/teams/{team}/ws", TEAM, begin, hears, farewell),
        Socket("/v1/plain", TEAM),
        Socket(
            "/v1/mine",
            TEAM,
            begin_mine,
            at=OfCaller("x-team", param="team"),
            shows_error=in_their_words,
        ),
    ],
)


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    stop = trio.Event()
    config = ServeConfig(port=0, database=migrated, data_dir=Path("unused"), app=APP)
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(partial(serve, config, stop=stop))
        yield Site(f"http://127.0.0.1:{ready.port}", ready.port, ready.runtime)
        stop.set()


@pytest.fixture
async def owner(site: Site) -> Person:
    owner = await set_up(site)
    await site.runtime.workspace(owner.workspace).send(AddTask("t0", "Before"))
    return owner


@asynccontextmanager
async def connected(
    site: Site, owner: Person, path: str, **named: str
) -> AsyncIterator[WebSocketConnection]:
    url = f"ws://127.0.0.1:{site.port}{path}"
    headers = [(b"cookie", owner.cookie.encode())]
    headers += [(name.replace("_", "-").encode(), text.encode()) for name, text in named.items()]
    async with open_websocket_url(url, extra_headers=headers) as ws:
        try:
            yield ws
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def hear(ws: WebSocketConnection) -> dict[str, Any]:
    with fail_after(20):
        said: dict[str, Any] = msgspec.json.decode(await ws.get_message())
        return said


async def refused(site: Site, path: str, **headers: str) -> httpx.Response:
    """Ask for an upgrade, which is refused."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    async with httpx.AsyncClient(**PLAIN) as http:
        return await http.get(site.url + path, headers=UPGRADE | named)


def team_of(owner: Person) -> str:
    return f"/v1/teams/{owner.workspace}/ws"


async def test_the_server_speaks_first_and_follows_by_itself(site: Site, owner: Person) -> None:
    workspace = site.runtime.workspace(owner.workspace)
    async with connected(site, owner, team_of(owner)) as ws:
        assert await hear(ws) == {"type": "Connected", "team": owner.workspace}
        await workspace.send(AddTask("t1", "One"))
        await workspace.send(FinishTask("t1"))
        await workspace.send(AddTask("t2", "Two"))
        heard = [await hear(ws) for _ in range(4)]
    # From now on, so without what was before; what is hidden has no word here.
    assert heard == [
        {"type": "TaskAdded", "title": "One"},
        {"type": "Counted", "number": 2},
        {"type": "TaskAdded", "title": "Two"},
        {"type": "Counted", "number": 4},
    ]


async def test_a_cursor_in_the_url_begins_earlier(site: Site, owner: Person) -> None:
    async with connected(site, owner, f"{team_of(owner)}?cursor=0") as ws:
        heard = [(await hear(ws))["type"] for _ in range(3)]
    assert heard == ["Connected", "TaskAdded", "Counted"]


async def test_what_is_heard_passes_through_the_state(site: Site, owner: Person) -> None:
    async with connected(site, owner, team_of(owner)) as ws:
        await hear(ws)
        for message in ("anything", b"\x00binary", "{", "[" * 100):
            await ws.send_message(message)
        await ws.send_message("no")
        assert await hear(ws) == {"type": "Error", "message": "BAD_REQUEST"}
        await ws.send_message("ack")
        assert await hear(ws) == {"type": "Error", "message": "NOT_SUBSCRIBED"}
        await ws.send_message("ping")  # which it answers as all dialects do
        assert (await hear(ws))["type"] == "pong"
        await ws.send_message("boom")  # its fault ends this connection alone …
        assert (await hear(ws))["type"] == "Disconnected"
        with pytest.raises(ConnectionClosed):
            await hear(ws)
        assert ws.closed is not None
        assert ws.closed.code == Close.INTERNAL
    async with connected(site, owner, team_of(owner)) as ws:  # … and nothing else
        assert (await hear(ws))["type"] == "Connected"


async def test_the_last_word_is_said_before_the_close(site: Site, owner: Person) -> None:
    service = site.runtime.service
    async with connected(site, owner, team_of(owner)) as ws:
        await hear(ws)
        (connection,) = service.connections
        connection.close(Close.GOING_AWAY, "later")
        assert await hear(ws) == {"type": "Disconnected", "reason": "1001 after 0"}
        with pytest.raises(ConnectionClosed):
            await hear(ws)
    async with connected(site, owner, team_of(owner)) as ws:
        await hear(ws)
        (connection,) = service.connections
        connection.close(Close.GOING_AWAY, "boom")  # that it cannot be said keeps nobody open
        with pytest.raises(ConnectionClosed):
            await hear(ws)
        assert ws.closed is not None
        assert ws.closed.code == Close.GOING_AWAY


async def test_who_is_removed_hears_so_in_the_dialect(site: Site, owner: Person) -> None:
    workspace = site.runtime.workspace(owner.workspace)
    editor = await add_member(site, owner.workspace)
    async with connected(site, editor, team_of(owner)) as ws:
        await hear(ws)
        await workspace.send(RemoveMember(editor.user_id))
        assert await hear(ws) == {"type": "Error", "message": "ROLE_FORBIDDEN"}


async def test_an_event_that_cannot_be_shown_ends_the_stream(site: Site, owner: Person) -> None:
    async with connected(site, owner, team_of(owner)) as ws:
        await hear(ws)
        await site.runtime.workspace(owner.workspace).send(AddTask("t1", "boom"))
        assert await hear(ws) == {"type": "Error", "message": "INTERNAL_ERROR"}


async def test_a_path_without_a_beginning_takes_the_dialects_messages(
    site: Site, owner: Person
) -> None:
    async with connected(site, owner, "/v1/plain") as ws:
        await ws.send_message('{"type":"subscribe","stream_id":"x"}')  # no word of this dialect
        assert await hear(ws) == {"type": "Error", "message": "BAD_REQUEST"}
        await ws.send_message(b"binary")
        assert await hear(ws) == {"type": "Error", "message": "BAD_REQUEST"}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/teams/none/ws", 404, "WORKSPACE_NOT_FOUND"),
        ("/v1/teams/a%20b/ws", 400, "BAD_REQUEST"),
        ("/v1/teams/$system/ws", 403, "ROLE_FORBIDDEN"),
        ("{own}?please=no", 403, "ROLE_FORBIDDEN"),
        ("{own}?" + "&".join(f"a{n}=1" for n in range(101)), 400, "BAD_REQUEST"),
        ("/v1/teams/ws", 404, "NOT_FOUND"),
    ],
)
async def test_who_may_not_is_refused_before_the_upgrade(
    site: Site, owner: Person, path: str, status: int, code: str
) -> None:
    headers = {"cookie": owner.cookie, **UPGRADE}
    async with httpx.AsyncClient(**PLAIN) as http:
        answer = await http.get(site.url + path.replace("{own}", team_of(owner)), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    del headers["cookie"]
    async with httpx.AsyncClient(**PLAIN) as http:
        answer = await http.get(site.url + team_of(owner), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "AUTH_REQUIRED")


# ----------------------------------------------------------------- the workspace of who connects


async def test_it_is_about_the_workspace_that_is_named_or_the_only_one(
    site: Site, owner: Person
) -> None:
    first, second = owner.workspace, "second"
    async with connected(site, owner, "/v1/mine") as ws:
        assert await hear(ws) == {"type": "Connected", "team": first}
        await site.runtime.workspace(first).send(AddTask("t1", "One"))
        assert await hear(ws) == {"type": "TaskAdded", "title": "One"}
    await site.runtime.workspace(second).send(PutMember(owner.user_id, "viewer"))
    for team in (first, second):
        ways: list[tuple[str, dict[str, str]]] = [
            ("", {"x_team": team}),
            (f"?team={team}", {}),
            (f"?team={team}", {"X_Team": team}),
        ]
        for query, named in ways:
            async with connected(site, owner, f"/v1/mine{query}", **named) as ws:
                assert await hear(ws) == {"type": "Connected", "team": team}


async def test_a_socket_about_none_is_refused(site: Site, owner: Person) -> None:
    first, cookie = owner.workspace, owner.cookie
    several = "x-team is missing, and who asks is a member of several"
    await site.runtime.workspace("second").send(PutMember(owner.user_id, "viewer"))
    no_id = "a workspace id has 1 to 64 of A-Z a-z 0-9 _ . -"
    for query, named, message in (
        ("", {}, several),
        ("?team=second", {"x_team": first}, "x-team and team differ"),
        ("", {"x_team": f"{first}, second"}, no_id),
        ("", {"x_team": ""}, no_id),
        ("?team=", {}, no_id),
    ):
        answer = await refused(site, f"/v1/mine{query}", cookie=cookie, **named)
        assert (answer.status_code, answer.json()["code"]) == (400, "THEIR_BAD_REQUEST")
        assert answer.json()["message"] == message
    for workspace_id in (first, "second"):
        await site.runtime.workspace(workspace_id).send(PutMember("somebody", "owner"))
        await site.runtime.workspace(workspace_id).send(RemoveMember(owner.user_id))
    answer = await refused(site, "/v1/mine", cookie=cookie)
    assert (answer.status_code, answer.json()["code"]) == (400, "THEIR_BAD_REQUEST")
    assert answer.json()["message"].endswith("is a member of none")


async def test_a_refused_upgrade_is_told_in_the_paths_own_words(site: Site, owner: Person) -> None:
    cookie = owner.cookie
    await site.runtime.workspace("elsewhere").send(PutMember("somebody", "owner"))
    answer = await refused(site, "/v1/mine?team=elsewhere", cookie=cookie)
    assert (answer.status_code, answer.json()["code"]) == (403, "THEIR_ROLE_FORBIDDEN")
    assert answer.json()["message"] == "not a member of this workspace"
    answer = await refused(site, "/v1/mine")
    assert (answer.status_code, answer.json()["code"]) == (401, "THEIR_AUTH_REQUIRED")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    answer = await refused(site, "/v1/mine?team=nowhere", cookie=cookie)
    assert (answer.status_code, answer.json()["code"]) == (404, "WORKSPACE_NOT_FOUND")
    # A path that says nothing of it refuses in the server's words.
    answer = await refused(site, "/v1/teams/elsewhere/ws", cookie=cookie)
    assert (answer.status_code, answer.json()["code"]) == (403, "ROLE_FORBIDDEN")


async def test_an_overloaded_upgrade_says_when_to_come_back(migrated: str) -> None:
    limits = Limits(sockets_per_user_max=1)
    async with serving(migrated, app=APP, limits=limits) as site:
        owner = await set_up(site)
        async with connected(site, owner, "/v1/mine") as ws:
            await hear(ws)
            answer = await refused(site, "/v1/mine", cookie=owner.cookie)
            assert (answer.status_code, answer.json()["code"]) == (429, "THEIR_OVERLOADED")
            assert int(answer.headers["retry-after"]) >= 1


async def test_who_says_who_it_is_later_is_asked_then(migrated: str) -> None:
    """By a parameter, as a page does; it is refused by a close, in the server's words."""
    async with serving(migrated, app=APP, tokens=TOKENS) as site, AsyncExitStack() as stack:
        for team in ("a", "b"):
            await site.runtime.workspace(team).send(PutMember("jwt:bob", "editor"))

        async def knock(path: str) -> RawClient:
            stream = await trio.open_tcp_stream("127.0.0.1", site.port)
            client = RawClient(await stack.enter_async_context(stream))
            await client.upgrade(f"127.0.0.1:{site.port}", offers=OFFERS, path=path)
            await client.send(authenticate(token()))
            return client

        with fail_after(20):
            client = await knock("/v1/mine?team=b")
            assert (await first_message(client))["type"] == "authenticated"
            assert await first_message(client) == {"type": "Connected", "team": "b"}
            for path, code, reason in (
                ("/v1/mine", Close.UNAUTHORIZED, "BAD_REQUEST"),
                ("/v1/mine?team=c", Close.NOT_FOUND, "WORKSPACE_NOT_FOUND"),
            ):
                client = await knock(path)
                assert await hear_end(client) == ([], code, reason)


async def test_it_is_in_the_document(site: Site, owner: Person) -> None:
    async with httpx.AsyncClient(**PLAIN) as http:
        answer = await http.get(f"{site.url}/api/asyncapi.json", headers={"cookie": owner.cookie})
    channel = answer.json()["channels"]["v1_teams_team_ws"]
    assert channel["address"] == "/v1/teams/{team}/ws"
    assert {"team.Connected", "team.TaskAdded", "every.ping"} <= channel["messages"].keys()
    assert "generic.subscribe" not in channel["messages"]
