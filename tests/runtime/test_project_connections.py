"""Connections of projects over real sockets: begun, resumed, refused, and few (CF-1, CF-6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url
from websockets.frames import Opcode

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import CreateNote, note_dialect, note_domains
from dalsegno.actors.domains.standing import DeleteWorkspace
from dalsegno.protocol import App, Limits
from dalsegno.protocol.dialects import project_socket
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests._raw_client import RawClient
from tests.runtime._blocks import Blocks, following
from tests.runtime._serving import Person, Site, add_member, proxied, serving, set_up
from tests.runtime.test_first_message import OFFERS, TOKENS, authenticate, hear_end, token
from tests.runtime.test_tokens_on_the_wire import UPGRADE

pytestmark = pytest.mark.postgres

APP = App(note_domains, dialects=[note_dialect, project_socket])


@asynccontextmanager
async def sites(database: str, **given: Any) -> AsyncIterator[tuple[Site, Person]]:
    async with serving(database, app=APP, **given) as site:
        yield site, await set_up(site)


@asynccontextmanager
async def connected(
    person: Person, *, url: str | None = None, project: str | None = None, **query: str
) -> AsyncIterator[WebSocketConnection]:
    base = (url or person.url).replace("http", "ws", 1)
    target = f"{base}/ws/projects/{project or person.workspace}?{urlencode(query)}"
    headers = [(b"cookie", person.cookie.encode())]
    async with open_websocket_url(target, extra_headers=headers) as ws:
        try:
            yield ws
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def refused(person: Person, **query: str) -> int:
    """The status that refuses an upgrade."""
    url = f"{person.url}/ws/projects/{person.workspace}?{urlencode(query)}"
    async with httpx.AsyncClient(**PLAIN) as http:
        answer = await http.get(url, headers=UPGRADE | {"cookie": person.cookie})
    assert answer.status_code < 500 or int(answer.headers["retry-after"]) >= 1
    return answer.status_code


async def hear(ws: WebSocketConnection, kind: str | None = None) -> dict[str, Any]:
    """The next message, or the next of a kind."""
    with fail_after(20):
        while True:
            said: dict[str, Any] = msgspec.json.decode(await ws.get_message())
            if kind is None or said["type"] == kind:
                return said


async def end_of(ws: WebSocketConnection) -> tuple[int, str | None]:
    """How the server closes a connection, whatever it says before."""
    with fail_after(20), suppress(ConnectionClosed):
        while True:
            await ws.get_message()
    assert ws.closed is not None
    return ws.closed.code, ws.closed.reason


async def write(site: Site, person: Person, count: int = 1) -> None:
    for _ in range(count):
        await site.runtime.workspace(person.workspace).send(CreateNote("A note", "x"))


def events_of(person: Person) -> str:
    return f"/api/v1/projects/{person.workspace}/events"


async def lives(ws: WebSocketConnection, site: Site, person: Person) -> None:
    """Check that a connection is told of what happens."""
    await write(site, person)
    await hear(ws, "event")


# ---------------------------------------------------------------------------- sockets of projects


async def test_cf_1_1_and_1_4_a_project_is_followed_and_resumed(migrated: str) -> None:
    async with sites(migrated) as (site, person):
        await write(site, person, 2)
        async with connected(person) as ws:
            first = await hear(ws)
            assert (first["type"], first["project_id"]) == ("connected", person.workspace)
            assert first["cursor"] == f"0-{'0' * 16}"
            seen = [await hear(ws, "event") for _ in range(first["head"])]
            assert [each["seq"] for each in seen] == [*range(1, first["head"] + 1)]
            created = seen[-1]
            assert (created["event_type"], created["payload"]["version"]) == ("note_created", 1)
            assert created["cursor"].startswith(f"{created['seq']}-")
        await write(site, person, 3)
        async with connected(person, cursor=seen[-2]["cursor"]) as ws:
            again = await hear(ws)
            assert (again["cursor"], again["head"]) == (seen[-2]["cursor"], first["head"] + 3)
            missed = [await hear(ws, "event") for _ in range(4)]
            assert missed[0] == created, "the same event has the same words"
            ack = {"type": "ack", "stream_id": f"workspace:{person.workspace}"}
            await ws.send_message(msgspec.json.encode(ack | {"seq": created["seq"]}).decode())
        with fail_after(20):
            await until(lambda: site.runtime.statistics().connections == 0)
        async with connected(person) as ws:  # which says nothing of where it was
            assert (await hear(ws))["cursor"] == created["cursor"]
            assert (await hear(ws, "event"))["seq"] == created["seq"] + 1


async def test_cf_1_2_who_may_not_is_told_by_a_close(migrated: str) -> None:
    """A page in a browser is shown the code of a close, and no status of a handshake."""
    async with sites(migrated) as (site, person):
        nobody = Person(person.url, "", person.workspace, "a=b")
        forged = Person(person.url, "", person.workspace, "dalsegno_session=forged")
        stranger = await add_member(site, "elsewhere")
        for who, end in (
            (nobody, (4001, "Unauthorized")),
            (forged, (4001, "Unauthorized")),
            (stranger, (4003, "Forbidden")),
        ):
            async with connected(who, project=person.workspace) as ws:
                assert await end_of(ws) == end
        async with connected(person, project="nowhere") as ws:
            assert await end_of(ws) == (4004, "Not Found")
        assert await refused(person, cursor="nonsense") == 400
        with fail_after(20):
            await until(lambda: site.runtime.statistics().connections == 0)
        async with connected(person) as ws:
            assert (await hear(ws))["type"] == "connected"


async def test_heartbeats_say_where_the_project_is(migrated: str) -> None:
    limits = Limits(heartbeat_interval_s=0.05)
    async with sites(migrated, limits=limits) as (site, person), connected(person) as ws:
        await lives(ws, site, person)
        while True:
            beat = await hear(ws, "heartbeat")
            if beat["seq"] == beat["head"]:
                assert beat["server_ts"]
                return


# ------------------------------------------------------------------------------------ a user's few


async def test_x_lim_1_cf_6_1_the_sixth_connection_closes_the_oldest(migrated: str) -> None:
    async with sites(migrated) as (site, person), AsyncExitStack() as stack:
        other = await add_member(site, person.workspace)
        theirs = await stack.enter_async_context(connected(other))
        await hear(theirs)
        own = []
        for _ in range(6):
            own.append(await stack.enter_async_context(connected(person)))
            await hear(own[-1])
        assert await end_of(own[0]) == (4008, "connection limit")
        for each in (*own[1:], theirs):
            await lives(each, site, person)


async def test_sockets_and_event_streams_are_counted_together(migrated: str) -> None:
    async with sites(migrated) as (site, person), AsyncExitStack() as stack:
        events = await stack.enter_async_context(following(person, events_of(person)))
        await events.hear("head")
        own = [await stack.enter_async_context(connected(person)) for _ in range(5)]
        assert (events.status, (await events.rest())[-1].said["code"]) == (200, "CONNECTION_LIMIT")
        for each in own:
            await lives(each, site, person)
        latest = await stack.enter_async_context(following(person, events_of(person)))
        await latest.hear("head")
        assert await end_of(own[0]) == (4008, "connection limit")
        # What is of no project is counted as ever, and evicts nobody.
        async with following(person, cursor="head") as blocks:
            await blocks.hear("head")
            await lives(own[1], site, person)


async def test_x_hb_1_cf_1_3_pings_want_a_pong_in_time_and_heartbeats_say_where_one_is(
    migrated: str,
) -> None:
    """The clocks are shrunk a hundredfold: a ping every 0.3 s, a tenth of a second for the pong."""
    limits = Limits(heartbeat_interval_s=0.1, ping_interval_s=0.3, pong_deadline_s=0.1)
    async with sites(migrated, limits=limits) as (site, person):
        async with await trio.open_tcp_stream("127.0.0.1", site.port) as stream:
            silent = RawClient(stream)
            path = f"/ws/projects/{person.workspace}"
            await silent.upgrade(f"127.0.0.1:{site.port}", cookie=person.cookie, path=path)
            heard = Counter[Opcode]()
            with fail_after(20):
                while (frame := await silent.frame())[0] is not Opcode.CLOSE:
                    heard[frame[0]] += 1
            assert frame[1] == (1000).to_bytes(2) + b"no pong"
            assert heard[Opcode.PING] == 1
        async with connected(person) as answers:
            head = (await hear(answers, "connected"))["head"]
            beats = [await hear(answers, "heartbeat") for _ in range(10)]
            assert {(each["head"], each["seq"]) for each in beats} == {(head, head)}
            assert all(each["server_ts"].endswith("Z") for each in beats)
            await lives(answers, site, person)


async def test_cf_4_3_an_event_stream_is_resumed_where_it_was_and_every_event_has_an_id(
    migrated: str,
) -> None:
    async with sites(migrated) as (site, person):
        await write(site, person, 3)
        async with following(person, events_of(person), cursor="0") as blocks:
            head = await blocks.hear("head")
            seen = [await blocks.hear("note_created") for _ in range(2)]
        assert all(each.id for each in (head, *seen))
        await write(site, person, 2)
        async with following(person, events_of(person), last_event_id=seen[-1].id) as blocks:
            missed = [await blocks.hear("note_created") for _ in range(3)]
            assert [each.said["seq"] for each in missed] == [
                *range(seen[-1].said["seq"] + 1, seen[-1].said["seq"] + 4)
            ]


async def test_who_owes_a_pong_goes_before_the_oldest(migrated: str) -> None:
    limits = Limits(ping_interval_s=0.2, pong_deadline_s=10)
    async with sites(migrated, limits=limits) as (site, person), AsyncExitStack() as stack:
        oldest = await stack.enter_async_context(connected(person))
        stream = await trio.open_tcp_stream("127.0.0.1", site.port)
        silent = RawClient(await stack.enter_async_context(stream))  # answers no ping
        path = f"/ws/projects/{person.workspace}"
        await silent.upgrade(f"127.0.0.1:{site.port}", cookie=person.cookie, path=path)
        more = [await stack.enter_async_context(connected(person)) for _ in range(3)]
        connections = site.runtime.service.connections
        with fail_after(20):
            await until(lambda: any(each.owes_pong for each in connections))
            assert sum(each.owes_pong for each in connections) == 1
        await stack.enter_async_context(connected(person))
        while (last := await silent.frame())[0] is not Opcode.CLOSE:
            pass
        assert last[1] == (4008).to_bytes(2) + b"connection limit"
        for each in (oldest, *more):
            await lives(each, site, person)


# -------------------------------------------------------------------------------------------- tabs


async def test_a_tab_takes_the_place_of_its_own_older_connection(migrated: str) -> None:
    async with sites(migrated) as (site, person), AsyncExitStack() as stack:

        async def opened(**query: str) -> WebSocketConnection:
            ws = await stack.enter_async_context(connected(person, **query))
            await hear(ws)
            return ws

        other = await opened(tab="b")
        elsewhere = await opened(tab="a", client_id="phone")
        old = await opened(tab="a")
        nameless = [await opened(), await opened()]
        new = await opened(tab="a")
        assert await end_of(old) == (4008, "superseded")
        for each in (other, elsewhere, new, *nameless):
            await lives(each, site, person)
        async with following(person, events_of(person), tab="a") as blocks:
            await blocks.hear("head")
            assert await end_of(new) == (4008, "superseded")
        for wrong in ("", "x" * 65, "a\x00"):
            assert await refused(person, tab=wrong) == 400


async def test_a_tab_that_opens_in_a_loop_has_one_connection(migrated: str) -> None:
    async with sites(migrated) as (site, person), AsyncExitStack() as stack:
        other = await stack.enter_async_context(connected(person))
        tab = [await stack.enter_async_context(connected(person, tab="loop")) for _ in range(40)]
        for each in tab[:-1]:
            assert await end_of(each) == (4008, "superseded")
        with fail_after(20):
            await until(lambda: site.runtime.statistics().connections == 2)
        for each in (other, tab[-1]):
            await lives(each, site, person)


async def test_an_evicted_event_stream_does_not_come_back_by_itself(migrated: str) -> None:
    async with sites(migrated) as (_, person):

        @asynccontextmanager
        async def opened(last_event_id: str | None = None) -> AsyncIterator[Blocks]:
            async with following(
                person, events_of(person), tab="a", last_event_id=last_event_id
            ) as blocks:
                if blocks.status == 200:
                    await blocks.hear("head")
                yield blocks

        async with opened() as old, opened():
            assert (await old.rest())[-1].said["code"] == "SUPERSEDED"
            async with opened(old.last_id) as back:
                assert back.status == 204, "EventSource ends at that"
        # A window that somebody opens is wanted, and so is the one that was not evicted.
        async with opened() as wanted:
            assert wanted.status == 200
        async with opened(wanted.last_id) as back:
            assert back.status == 200


# --------------------------------------------------------------------------------- a project's many


async def test_x_lim_2_cf_6_2_a_full_project_refuses_and_evicts_nobody(migrated: str) -> None:
    limits = Limits(project_connections_max=3)
    async with sites(migrated, limits=limits) as (site, person), AsyncExitStack() as stack:
        other = await add_member(site, person.workspace)
        theirs = [await stack.enter_async_context(connected(other)) for _ in range(2)]
        mine = await stack.enter_async_context(connected(person))

        async def refusals() -> None:
            assert await refused(person) == 503
            async with following(person, events_of(person)) as blocks:
                assert blocks.status == 503
                assert int(blocks.headers["retry-after"]) >= 1

        await refusals()
        for each in (mine, *theirs):
            await lives(each, site, person)
        # Another project is not full.
        await site.runtime.workspace("other").send(PutMember(person.user_id, "owner"))
        async with connected(person, project="other") as ws:
            await hear(ws)
        # Who takes an own place needs no new one.
        tab = {"tab": "a"}
        await theirs[0].aclose()
        with fail_after(20):
            await until(lambda: site.runtime.statistics().connections == 2)
        old = await stack.enter_async_context(connected(person, **tab))
        await refusals()
        await lives(await stack.enter_async_context(connected(person, **tab)), site, person)
        assert await end_of(old) == (4008, "superseded")
        await refusals()


async def test_x_lim_3_a_hundred_that_come_at_once_are_no_more_than_may_be(migrated: str) -> None:
    limits = Limits(close_deadline_s=0.2)  # the clients answer no close
    async with sites(migrated, limits=limits) as (site, person):
        many = [await add_member(site, person.workspace) for _ in range(12)]
        opened, refused, ended, most = 0, 0, 0, 0

        def standing() -> Counter[str]:
            """Whose connections are told anything; the others are being closed."""
            connections = site.runtime.service.connections
            return Counter(each.user_id for each in connections if not each.writer.is_closed)

        async def open_one(who: Person, path: str, headers: dict[str, str]) -> None:
            """Open a socket, or an event stream; stay until the server ends it."""
            nonlocal opened, refused, ended, most
            async with await trio.open_tcp_stream("127.0.0.1", site.port) as stream:
                blocks = Blocks(stream)
                await blocks.ask(path, {"cookie": who.cookie, **headers})
                if blocks.status == 503:
                    refused += 1
                    return
                opened += 1
                most = max(most, standing().total())
                if blocks.status == 200:
                    await blocks.rest()
                else:
                    while await stream.receive_some():
                        pass
                ended += 1

        async with trio.open_nursery() as nursery:
            for turn in range(100):
                who = many[turn % 12]
                if turn % 2:
                    nursery.start_soon(open_one, who, f"/ws/projects/{person.workspace}", UPGRADE)
                else:
                    nursery.start_soon(open_one, who, events_of(person), {})
            with fail_after(60):
                await until(lambda: opened + refused == 100)
                await until(lambda: opened - ended == 50)
            assert refused, "twelve users could have sixty"
            assert ended, "nor has anybody more than five"
            assert most <= 50
            assert standing().total() == 50
            assert max(standing().values()) == 5
            nursery.cancel_scope.cancel()
        with fail_after(20):
            await until(lambda: not standing())
        async with AsyncExitStack() as stack:  # no place is lost
            for turn in range(50):
                who = many[turn % 12]
                ws = await stack.enter_async_context(connected(who, project=person.workspace))
                await hear(ws)
            assert standing().total() == 50


async def test_x_lim_3_a_client_that_vanishes_leaves_its_place(migrated: str) -> None:
    limits = Limits(project_connections_max=2)
    async with sites(migrated, limits=limits) as (site, person), proxied(site.port) as proxy:
        for _ in range(3):
            async with connected(person, url=proxy.url) as one, connected(person) as two:
                await hear(one)
                proxy.cut()
                with fail_after(20):
                    await until(lambda: site.runtime.statistics().connections == 1)
                async with connected(person) as three:
                    await lives(three, site, person)
                    await lives(two, site, person)
            with fail_after(20):
                await until(lambda: site.runtime.statistics().connections == 0)


async def test_who_says_later_who_it_is_takes_its_place_then(migrated: str) -> None:
    limits = Limits(project_connections_per_user_max=1, project_connections_max=2)
    async with (
        serving(migrated, app=APP, tokens=TOKENS, limits=limits) as site,
        AsyncExitStack() as stack,
    ):
        await site.runtime.workspace("p").send(PutMember("jwt:bob", "editor"))
        await site.runtime.workspace("q").send(PutMember("somebody", "owner"))

        async def knock(project: str) -> RawClient:
            stream = await trio.open_tcp_stream("127.0.0.1", site.port)
            client = RawClient(await stack.enter_async_context(stream))
            path = f"/ws/projects/{project}"
            await client.upgrade(f"127.0.0.1:{site.port}", offers=OFFERS, path=path)
            await client.send(authenticate(token()))
            return client

        with fail_after(20):
            first = await knock("p")
            await until(lambda: site.runtime.statistics().connections == 1)
            assert (await hear_end(await knock("q")))[1] == 4003
            await knock("p")
            assert (await hear_end(first))[1:] == (4008, "connection limit")


async def test_who_is_removed_is_told_up_to_that_and_closed(migrated: str) -> None:
    async with sites(migrated) as (site, person):
        member = await add_member(site, person.workspace)
        async with connected(member) as ws:
            await hear(ws)
            await site.runtime.workspace(person.workspace).send(RemoveMember(member.user_id))
            await write(site, person)
            while (await hear(ws, "event"))["event_type"] != "member_removed":
                pass
            assert (await hear(ws))["code"] == "ROLE_FORBIDDEN"
            assert await end_of(ws) == (4003, "ROLE_FORBIDDEN")


async def test_who_is_removed_while_behind_is_told_up_to_that_and_closed(migrated: str) -> None:
    limits = Limits(outbox_items_max=2)
    async with sites(migrated, limits=limits) as (site, person):
        member = await add_member(site, person.workspace)
        await write(site, person, 300)
        async with connected(member, cursor="0") as ws:
            head = (await hear(ws))["head"]
            await site.runtime.workspace(person.workspace).send(RemoveMember(member.user_id))
            await write(site, person)
            seen = [(await hear(ws, "event"))["seq"] for _ in range(head + 1)]
            assert seen == [*range(1, head + 2)]
            assert await end_of(ws) == (4003, "ROLE_FORBIDDEN")


async def test_a_workspace_that_is_deleted_ends_its_connections(migrated: str) -> None:
    async with sites(migrated) as (site, person), connected(person) as ws:
        await hear(ws)
        await site.runtime.workspace(person.workspace).send(DeleteWorkspace())
        assert await end_of(ws) == (4004, "WORKSPACE_NOT_FOUND")
