"""Following a stream on every transport, asked of each in the same words (X-SUB, X-REP).

Over WebSockets of our own listener and of a program's Hypercorn, and over server-sent events.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import h11
import msgspec
import pytest
import trio
import trio.lowlevel
from trio_websocket import WebSocketConnection, open_websocket_url

from dalsegno.actors import Batch
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import CHAIN_START, Event, chained
from dalsegno.runtime import Runtime
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.serving import Ready, asgi, serve
from dalsegno.runtime.store import MemoryAccounts
from tests._asgi import hypercorn
from tests._patience import fail_after
from tests.runtime._blocks import Blocks, following
from tests.runtime._serving import Person, Site, add_member, set_up
from tests.tasks_domain import AddTask, app

FUTURE = "future_workspace_event"


class RefusedError(Exception):
    """A stream that may not be followed, with the code that says why."""


@dataclass(frozen=True)
class Seen:
    seq: int
    type: str
    payload: Any
    position: str


Read = Callable[[], Awaitable[Seen]]
Follow = Callable[..., AbstractAsyncContextManager[Read]]


@dataclass(frozen=True)
class Way:
    """A server, and how its streams are followed."""

    site: Site
    person: Person
    follow: Follow
    """Follows a workspace, the person's unless another is named; `RefusedError` where it cannot."""

    async def write(self, count: int, workspace: str | None = None) -> None:
        """Write so many events, a hundred at a time."""
        send = self.site.runtime.workspace(workspace or self.person.workspace).send
        for first in range(0, count, 100):
            async with trio.open_nursery() as nursery:
                for _ in range(first, min(first + 100, count)):
                    nursery.start_soon(send, AddTask(WORLD.new_id(), "x"))

    async def head(self, workspace: str | None = None) -> int:
        return await self.site.runtime.workspace(workspace or self.person.workspace).head()


@asynccontextmanager
async def by_socket(
    person: Person, *, workspace: str | None = None, **asked: Any
) -> AsyncIterator[Read]:
    url = person.url.replace("http", "ws", 1) + "/ws"
    headers = [(b"cookie", person.cookie.encode())]
    async with open_websocket_url(url, extra_headers=headers) as ws:
        stream_id = f"workspace:{workspace or person.workspace}"
        message = {"type": "subscribe", "stream_id": stream_id, **asked}
        await ws.send_message(msgspec.json.encode(message).decode())
        first = await hear(ws)
        if first["type"] == "error":
            raise RefusedError(first["code"])
        assert first["type"] == "subscribed", "it comes before the events (X-SUB-1)"

        async def read() -> Seen:
            said = await hear(ws)
            assert said["type"] == "event"
            position = f"{said['seq']}-{said['chain']}"
            return Seen(said["seq"], said["event_type"], said["payload"], position)

        yield read


async def hear(ws: WebSocketConnection) -> Any:
    with fail_after(20):
        while (said := msgspec.json.decode(await ws.get_message()))["type"] == "heartbeat":
            pass
        return said


@asynccontextmanager
async def by_event_stream(
    person: Person, *, workspace: str | None = None, **asked: Any
) -> AsyncIterator[Read]:
    path = f"/api/v1/workspaces/{workspace or person.workspace}/events"
    async with following(person, path, **{k: str(v) for k, v in asked.items()}) as blocks:
        if blocks.status != 200:
            raise RefusedError(await code_of(blocks))
        await blocks.hear("head")

        async def read() -> Seen:
            while not (block := await blocks.next()) or block.event in {"", "head"}:
                assert block is not None, "the stream has ended"
            said, position = block.said, str(block.id)
            assert (said["seq"], said["event_type"]) == (int(position.split("-")[0]), block.event)
            return Seen(said["seq"], said["event_type"], said["payload"], position)

        yield read


async def code_of(blocks: Blocks) -> str:
    body = b""
    while isinstance(event := await blocks._event(), h11.Data):
        body += event.data
    return str(msgspec.json.decode(body)["code"])


@asynccontextmanager
async def runtime(store: MemoryStore | None = None) -> AsyncIterator[Runtime]:
    async with Runtime.open(
        app=app, store=store or MemoryStore(WORLD), accounts=MemoryAccounts(WORLD)
    ) as rt:
        yield rt


@asynccontextmanager
async def native(rt: Runtime) -> AsyncIterator[str]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(partial(serve, rt, "127.0.0.1:0", stop=stop))
        try:
            yield ready.url
        finally:
            stop.set()


@asynccontextmanager
async def by_hypercorn(rt: Runtime) -> AsyncIterator[str]:
    async with asgi(rt) as served, hypercorn(served) as (host, port):
        try:
            yield f"http://{host}:{port}"
        finally:
            await served.drain()


WAYS = {
    "native": (native, by_socket),
    "asgi": (by_hypercorn, by_socket),
    "sse": (native, by_event_stream),
    "sse by asgi": (by_hypercorn, by_event_stream),
}


@asynccontextmanager
async def opened(name: str, store: MemoryStore | None = None) -> AsyncIterator[Way]:
    server, follow = WAYS[name]
    async with runtime(store) as rt, server(rt) as url:
        site = Site(url, int(url.rpartition(":")[2]), rt)
        yield Way(site, await set_up(site), follow)


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    async with opened(request.param) as way:
        yield way


async def take(read: Read, count: int) -> list[int]:
    return [(await read()).seq for _ in range(count)]


async def test_x_sub_1_what_says_where_it_begins_comes_before_the_events(way: Way) -> None:
    await way.write(3)
    async with way.follow(way.person, cursor=0) as read:
        assert await take(read, 3) == [1, 2, 3]


async def test_x_sub_2_replay_and_live_join_without_a_seam(way: Way) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(way.write, 1_000)
        for after in range(0, 500, 100):
            with fail_after(20):
                while await way.head() < after:
                    await trio.lowlevel.checkpoint()
            async with way.follow(way.person, cursor=0) as read:
                assert await take(read, 600) == [*range(1, 601)]


async def test_x_sub_3_a_long_replay_comes_whole(way: Way) -> None:
    await way.write(1_000)
    async with way.follow(way.person, cursor=0) as read:
        assert await take(read, 1_000) == [*range(1, 1_001)]


async def test_x_sub_4_everybody_sees_the_same_order(way: Way) -> None:
    seen: list[list[str]] = []

    async def read_on(task_status: trio.TaskStatus[None]) -> None:
        async with way.follow(way.person, cursor=0) as read:
            task_status.started()
            seen.append([(await read()).position for _ in range(200)])

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            await nursery.start(read_on)
        await way.write(200)
    assert len(seen) == 8
    assert all(each == seen[0] for each in seen)


async def test_x_sub_5_nothing_of_another_workspace_comes(way: Way) -> None:
    other = "other"
    await way.site.runtime.workspace(other).send(PutMember(way.person.user_id, "viewer"))
    begun = await way.head(other)
    async with (
        way.follow(way.person, cursor=0) as mine,
        way.follow(way.person, workspace=other, cursor=begun) as others,
    ):
        counts = [0, 0]
        for _ in range(100):
            which = random.Random(sum(counts)).randrange(2)
            await way.write(1, [way.person.workspace, other][which])
            counts[which] += 1
        assert await take(mine, counts[0]) == [*range(1, counts[0] + 1)]
        assert await take(others, counts[1]) == [*range(begun + 1, begun + counts[1] + 1)]


async def test_x_sub_8_what_may_not_be_followed_is_refused(way: Way) -> None:
    await way.write(1)
    await way.site.runtime.workspace("closed").send(AddTask("t", "x"))
    for workspace, code in (("closed", "ROLE_FORBIDDEN"), ("none", "WORKSPACE_NOT_FOUND")):
        with pytest.raises(RefusedError, match=code):
            async with way.follow(way.person, workspace=workspace, cursor=0):
                raise AssertionError("it is followed")


async def test_x_rep_1_who_comes_back_without_a_cursor_is_told_what_it_did_not_ack(
    way: Way,
) -> None:
    await way.write(5)
    # An event stream has no acks: its client has acked on a socket.
    url = way.person.url.replace("http", "ws", 1) + "/ws"
    headers = [(b"cookie", way.person.cookie.encode())]
    stream_id = f"workspace:{way.person.workspace}"
    async with open_websocket_url(url, extra_headers=headers) as ws:
        for message in (
            {"type": "subscribe", "stream_id": stream_id, "cursor": 0},
            {"type": "ack", "stream_id": stream_id, "seq": 3},
            {"type": "ping", "request_id": "r"},
        ):
            if message["type"] == "ack":
                assert [(await hear(ws))["type"] for _ in range(6)][-1] == "event"
            await ws.send_message(msgspec.json.encode(message).decode())
        assert (await hear(ws))["type"] == "pong"
    async with way.follow(way.person) as read:
        assert await take(read, 2) == [4, 5]


@pytest.mark.parametrize("name", WAYS)
async def test_x_rep_3_unknown_types_are_replayed_as_they_are(name: str) -> None:
    store = MemoryStore(WORLD)
    head = await store.acquire("w", "before", create=True)
    assert head is not None
    event = Event(
        workspace_id="w",
        event_seq=1,
        stream_id="task:t",
        stream_seq=1,
        event_id=WORLD.new_id(),
        type=FUTURE,
        type_version=1,
        payload='{"of":"tomorrow","list":[1,{"a":null}]}',
        actor_id=None,
        command_id=WORLD.new_id(),
        recorded_at=datetime(2030, 1, 1, tzinfo=UTC),
        chain=0,
    )
    event = msgspec.structs.replace(event, chain=chained(CHAIN_START, event))
    batch = Batch(workspace_id="w", epoch=head.epoch, old_head=0, events=(event,))
    assert await store.append([batch])
    async with opened(name, store) as way:
        await way.site.runtime.workspace("w").send(PutMember(way.person.user_id, "viewer"))
        async with way.follow(way.person, workspace="w", cursor=0) as read:
            seen = await read()
            assert (seen.seq, seen.type) == (1, FUTURE)
            assert seen.payload == {"of": "tomorrow", "list": [1, {"a": None}]}
            assert (await read()).type == "member_added"


async def test_x_rep_5_whoever_is_cut_off_goes_on_where_it_was(way: Way) -> None:
    choices, last, seen = random.Random(5), "0", list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(way.write, 300)
        while len(seen) < 300:
            async with AsyncExitStack() as stack:
                read = await stack.enter_async_context(way.follow(way.person, cursor=last))
                for _ in range(min(choices.randint(1, 60), 300 - len(seen))):
                    event = await read()
                    seen.append(event.seq)
                    last = choices.choice([event.position, str(event.seq)])
    assert seen == [*range(1, 301)]


async def test_x_rep_6_what_is_no_cursor_of_the_stream_is_refused(way: Way) -> None:
    await way.write(3)
    for cursor, code in (
        ("x", "BAD_REQUEST"),
        ("-1", "BAD_REQUEST"),
        (str(2**64), "BAD_REQUEST"),
        ("1-zz", "BAD_REQUEST"),
        ("4", "CURSOR_AHEAD"),
        ("2-00000000000000ff", "CURSOR_DIVERGED"),
    ):
        with pytest.raises(RefusedError, match=code):
            async with way.follow(way.person, cursor=cursor):
                raise AssertionError(f"{cursor} is taken")
    stranger = await add_member(way.site, way.person.workspace)
    async with way.follow(stranger, workspace=way.person.workspace, cursor=4) as read:
        await way.write(1)
        assert (await read()).seq == 5, "a membership is an event, too"
