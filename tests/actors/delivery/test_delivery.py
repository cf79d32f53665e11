"""Delivery under load (I6, I9): what is in memory for readers, and what a slow one costs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import Batch, World
from dalsegno.actors.delivery._hub import HubStatistics
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import (
    Close,
    CorruptLogError,
    Limits,
    StaleCursorError,
    StoreUnavailableError,
    WorkspaceHaltedError,
    WorkspaceMovedError,
    chain_text,
)
from tests.actors._boxes import Put
from tests.actors._reading import CountingStore
from tests.actors._wire import Message, Wire, wired
from tests.actors._world import (
    Actors,
    Append,
    eventually,
    log_of,
    post_all,
    running,
)

STREAM = "workspace:w"
BOX = {"stream_id": "box:a", "workspace_id": "w"}


@pytest.fixture
async def store(world: World) -> CountingStore:
    return CountingStore(world)


async def put(actors: Actors, count: int, text: str = "", box: str = "a") -> None:
    for one in post_all(actors.workspace(), [Put(box, text or str(n)) for n in range(count)]):
        await one.wait()


def hub_of(actors: Actors) -> Any:
    return actors.service.directory.activate("w").hub


def seqs(messages: list[Message]) -> list[int]:
    return [message["seq"] for message in messages if message["type"] == "event"]


async def hear_up_to(wire: Wire, seq: int) -> list[int]:
    """Receive the events of one stream up to a number."""
    heard: list[int] = []
    while not heard or heard[-1] < seq:
        heard += seqs([await wire.hear()])
    return heard


@asynccontextmanager
async def all_wired(actors: Actors, count: int, **who: Any) -> AsyncIterator[list[Wire]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(wired(actors, role="viewer", **who))
            for _ in range(count)
        ]


# ----------------------------------------------------------------------------------- slow readers


async def test_x_bp_1_one_that_never_reads_costs_nobody_anything(
    store: CountingStore, world: World
) -> None:
    """By counts: every commit has reached all other readers before the next command is sent."""
    limits = Limits(outbox_bytes_max=2_000, write_deadline_s=10_000)
    async with (
        running(store, world, limits=limits) as actors,
        wired(actors, role="viewer", room_bytes=500) as stopped,
        all_wired(actors, 10) as others,
    ):
        await put(actors, 1)
        for wire in (stopped, *others):
            await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        for seq in range(2, 202):
            await put(actors, 1, "x" * 100)
            assert [(await wire.hear())["seq"] for wire in others] == [seq] * 10
            now = stopped.connection.statistics()
            assert now.events_bytes <= 2_000
        assert now.is_sending
        assert trio.current_time() < 1, "nobody waited for anything"
        assert len(store.statements) == 201


async def test_x_bp_2_who_reads_again_gets_everything_in_order(
    store: CountingStore, world: World
) -> None:
    limits = Limits(outbox_bytes_max=1_000, page_events=7, tail_bytes_max=20_000)
    async with (
        running(store, world, limits=limits) as actors,
        wired(actors, role="viewer", room_bytes=400) as slow,
    ):
        await put(actors, 1)
        await slow.ask("subscribe", stream_id=STREAM, cursor=0)
        await slow.say("subscribe", **BOX, cursor=0)
        await put(actors, 300)
        heard: dict[str, list[int]] = {STREAM: [], "box:a": []}
        while any(len(got) < 301 for got in heard.values()):
            message = await slow.hear()
            if message["type"] == "event":
                heard[message["stream_id"]].append(message["seq"])
        assert heard == {STREAM: [*range(1, 302)], "box:a": [*range(1, 302)]}
        await eventually(lambda: slow.connection.statistics().behind == 0)


async def test_x_bp_2_who_reads_nothing_is_closed_with_1013_and_resumes_by_its_cursor(
    store: CountingStore, world: World
) -> None:
    async with running(store, world, limits=Limits(outbox_bytes_max=1_000)) as actors:
        await put(actors, 1)
        async with wired(actors, role="viewer", room_bytes=1_000) as slow:
            await slow.ask("subscribe", stream_id=STREAM, cursor=1)
            for _ in range(50):
                await put(actors, 1)
            await eventually(lambda: slow.connection._closing, within_s=100)
            assert slow.connection._closing is not None
            assert slow.connection._closing[0] == Close.TRY_AGAIN
            rest, _ = await slow.hear_end()
        got = seqs(rest)
        assert got == [*range(2, 2 + len(got))]
        assert 0 < len(got) < 50
        async with wired(actors, role="viewer") as again:
            await again.ask("subscribe", stream_id=STREAM, cursor=got[-1])
            assert await hear_up_to(again, 51) == [*range(got[-1] + 1, 52)]


def retained(actors: Actors, wires: list[Wire]) -> int:
    """What is in memory for readers, in bytes."""
    statistics = actors.service.node.delivery.statistics()
    assert statistics.tails.bytes <= actors.service.limits.tail_bytes_max
    assert statistics.pages.bytes <= actors.service.limits.pages_bytes_max
    outboxes = [wire.connection.statistics() for wire in wires]
    assert all(one.events_bytes <= actors.service.limits.outbox_bytes_max for one in outboxes)
    kept = [sum(map(len, wire.client.transport._kept)) for wire in wires]
    return (
        statistics.tails.bytes
        + statistics.pages.bytes
        + sum(one.events_bytes + one.replies_bytes for one in outboxes)
        + sum(kept)
    )


async def test_x_bp_1_memory_is_flat_while_200_readers_stop(
    store: CountingStore, world: World
) -> None:
    limits = Limits(
        outbox_bytes_max=3_000,
        tail_bytes_max=100_000,
        pages_bytes_max=50_000,
        write_deadline_s=10_000,
    )
    async with (
        running(store, world, limits=limits) as actors,
        all_wired(actors, 200, room_bytes=500) as stopped,
    ):
        await put(actors, 1)
        for wire in stopped:
            await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        levels = []
        for _ in range(5):
            await put(actors, 200, "x" * 100)
            levels.append(retained(actors, stopped))
        assert max(levels) - min(levels) < 20_000, levels
        assert hub_of(actors).statistics() == HubStatistics(
            head=1_001,
            streams=1,
            subscriptions=200,
            behind=200,
            tail=actors.service.node.delivery.statistics().tails.events,
        )


# ------------------------------------------------------------------------------- from the tail


@pytest.mark.long
async def test_1000_clients_that_resume_within_the_tail_read_nothing_of_the_log(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 210)
    await _resume(actors, 1_000, cursor=195, head=210)
    assert store.reads == {}
    pages = actors.service.node.delivery.statistics().pages
    assert (pages.pages, pages.reads) == (2, 0), "the same two, encoded once, for all"


@pytest.mark.long
async def test_1000_clients_that_resume_after_a_restart_share_a_handful_of_reads(
    store: CountingStore, world: World
) -> None:
    limits = Limits(page_events=10)
    async with running(store, world) as actors:
        await put(actors, 50)
        await actors.service.drain()
    async with running(store, world, limits=limits) as actors:
        await actors.workspace().head()
        store.reads.clear()
        await _resume(actors, 1_000, cursor=25, head=50)
        assert store.reads == {"events": 4}, "one for the chain, three pages to a multiple of 10"


async def test_who_resumes_at_the_head_reads_nothing_also_after_a_restart(
    store: CountingStore, world: World
) -> None:
    async with running(store, world) as actors:
        await put(actors, 10)
        await actors.service.drain()
    chain = chain_text((await log_of(store))[-1].chain)
    store.trim(10)
    store.reads.clear()
    async with running(store, world) as actors, wired(actors, role="viewer") as wire:
        await actors.workspace().head()
        before = store.reads.copy()
        said = await wire.ask("subscribe", stream_id=STREAM, cursor=f"10-{chain}")
        assert (said["cursor"], said["chain"]) == (10, chain)
        await put(actors, 1, box="b")
        assert (await wire.hear())["seq"] == 11
        assert store.reads == before


async def test_the_next_page_and_no_more_is_read_while_one_is_written(
    store: CountingStore, world: World
) -> None:
    limits = Limits(page_events=10, tail_bytes_max=0)
    async with running(store, world, limits=limits) as actors:
        await put(actors, 50)
        await actors.workspace().head()
        store.reads.clear()
        async with wired(actors, role="viewer", room_bytes=300) as wire:
            await wire.ask("subscribe", stream_id=STREAM, cursor=0)
            await trio.testing.wait_all_tasks_blocked()
            assert store.reads == {"events": 2}, "the client has not taken the first page yet"
            assert await hear_up_to(wire, 50) == [*range(1, 51)]
        assert store.reads == {"events": 5}


async def _resume(actors: Actors, count: int, *, cursor: int, head: int) -> None:
    heard = []

    async def resume(number: int) -> None:
        async with wired(actors, role="viewer", client_id=str(number)) as wire:
            await wire.ask("subscribe", stream_id=STREAM, cursor=cursor)
            heard.append(await hear_up_to(wire, head))

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(resume, number)
    assert heard == [[*range(cursor + 1, head + 1)]] * count


async def test_those_who_begin_at_different_places_meet_at_the_end_of_a_page(
    store: CountingStore, world: World
) -> None:
    limits = Limits(page_events=100, tail_bytes_max=0)
    async with running(store, world, limits=limits) as actors:
        await put(actors, 1_000)
        for cursor in (0, 3, 50, 99):
            assert cursor + len(await _take(actors, cursor, 1_000)) == 1_000
        assert store.reads == {"events": 4 + 9}


async def _take(actors: Actors, after: int, last: int) -> list[int]:
    taken = []
    async with actors.workspace().subscribe(after=after) as events:
        async for event in events:
            taken.append(event.event_seq)
            if event.event_seq == last:
                return taken
    raise AssertionError


async def test_a_loop_of_the_program_resumes_from_the_tail_too(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 30)
    assert await _take(actors, 10, 30) == [*range(11, 31)]
    assert store.reads == {}


async def test_an_entitys_stream_comes_from_the_tail_where_that_has_what_follows(
    actors: Actors, store: CountingStore
) -> None:
    for n in range(20):
        await put(actors, 1, box="ab"[n % 2])
    async with wired(actors, role="viewer") as wire:
        for cursor, expected in ((0, [*range(1, 11)]), (4, [*range(5, 11)]), (10, [])):
            said = await wire.ask("subscribe", **BOX, cursor=cursor)
            assert (said["head"], said["cursor"]) == (10, cursor)
            assert seqs(await wire.hear_many(len(expected))) == expected
            await wire.silence()
            await wire.ask("unsubscribe", stream_id="box:a")
        assert store.reads == {}


async def test_an_entity_that_the_tail_does_not_know_is_read_once_and_then_live(
    store: CountingStore, world: World
) -> None:
    limits = Limits(tail_bytes_max=8_000)
    async with running(store, world, limits=limits) as actors:
        await put(actors, 3)
        await put(actors, 30, box="b")
        assert hub_of(actors).tail.newest("box:a") is None
        async with wired(actors, role="viewer") as wire:
            await wire.ask("subscribe", **BOX, cursor=3)
            await wire.silence()
            assert store.reads == {"versions": 1, "stream": 1}, "its version, and the chain there"
            assert wire.connection.statistics().behind == 0
            store.reads.clear()
            await put(actors, 1)
            assert (await wire.hear())["seq"] == 4
        # The beginning is not in the tail, the end is: what follows a page of the store comes
        # from there.
        async with wired(actors, role="viewer") as wire:
            await wire.ask("subscribe", **BOX, cursor=1)
            assert seqs(await wire.hear_many(3)) == [2, 3, 4]
            assert store.reads["stream"] == 2


async def test_an_entitys_event_that_is_committed_and_not_published_comes_when_it_is(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 2)
    async with unpublished(actors, store) as publish, wired(actors, role="viewer") as wire:
        assert (await wire.ask("subscribe", **BOX, cursor=1))["head"] == 3
        assert (await wire.hear())["seq"] == 2
        await wire.silence()
        assert wire.connection.statistics().behind == 0
        await publish()
        assert (await wire.hear())["seq"] == 3


async def test_an_event_published_while_an_empty_page_is_read_is_not_missed(
    actors: Actors, store: CountingStore
) -> None:
    """The page could not see it, and the subscription was not live yet."""
    await put(actors, 1, box="b")
    async with unpublished(actors, store) as publish, wired(actors, role="viewer") as wire:
        page = trio.Event()
        store.before["read_stream"] = page.wait
        assert (await wire.ask("subscribe", **BOX, cursor=0))["head"] == 1
        await trio.testing.wait_all_tasks_blocked()
        await publish()
        actors.forget()
        page.set()
        assert (await wire.hear())["seq"] == 1


async def test_what_a_cursor_was_checked_with_is_no_page_before_it_is_published(
    store: CountingStore, world: World
) -> None:
    async with running(store, world, limits=Limits(page_events=1)) as actors:
        await put(actors, 1)
        async with (
            unpublished(actors, store) as publish,
            wired(actors, role="viewer") as one,
            wired(actors, role="viewer") as two,
        ):
            assert (await one.ask("subscribe", **BOX, cursor=2))["type"] == "subscribed"
            await two.ask("subscribe", **BOX, cursor=1)
            await two.silence()
            await publish()
            assert (await two.hear())["seq"] == 2
            await one.silence()


@asynccontextmanager
async def unpublished(
    actors: Actors, store: CountingStore
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Commit an event and publish it when told; it is not in the tail before."""
    gate = trio.Event()

    async def hold(append: Append, batches: Sequence[Batch]) -> Collection[str]:
        won = await append(batches)
        await gate.wait()
        return won

    actors.forget()
    store.faults.append(hold)
    (posted,) = post_all(actors.workspace(), [Put("a", "unpublished")])
    await trio.testing.wait_all_tasks_blocked()

    async def publish() -> None:
        gate.set()
        await posted.wait()

    yield publish


async def test_an_entitys_reader_whose_last_events_were_dropped_reads_them_again(
    store: CountingStore, world: World
) -> None:
    """Nothing is published after them that would reveal the gap."""
    limits = Limits(outbox_bytes_max=700)
    async with running(store, world, limits=limits) as actors:
        await put(actors, 1)
        async with wired(actors, role="viewer", room_bytes=300) as wire:
            await wire.ask("subscribe", **BOX, cursor=1)
            for _ in range(6):
                await put(actors, 1)
            assert wire.connection.statistics().behind == 1
            assert seqs(await wire.hear_many(6)) == [2, 3, 4, 5, 6, 7]


async def test_a_page_grows_with_the_tail_instead_of_leaving_crumbs(
    actors: Actors, store: CountingStore
) -> None:
    for _ in range(5):
        await put(actors, 2)
        assert len(await _take(actors, 0, hub_of(actors).head)) == hub_of(actors).head
    assert actors.service.node.delivery.statistics().pages.pages == 1


async def test_catching_up_from_memory_lets_others_run(actors: Actors) -> None:
    await put(actors, 2_000)
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    async with wired(actors, role="viewer", room_bytes=10**9) as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=1_999)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            subscription = wire.connection.writer.streams[STREAM].subscription
            hub_of(actors).leave_cohort(subscription)
            subscription.fall_behind(0)
            wire.connection.writer.streams.behind[STREAM] = None
            wire.connection.writer.flush_nowait()
            nursery.start_soon(count)
            while not subscription.live:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert others >= 10, "once a page at least"


# ------------------------------------------------------------------------------- shared pages


async def test_connections_that_are_behind_at_the_same_place_join_one_read(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 10)
    actors.forget()
    gate = trio.Event()
    store.before["read_events"] = gate.wait
    async with all_wired(actors, 3) as stay, wired(actors, role="viewer") as leaves:
        for wire in (leaves, *stay):
            await wire.ask("subscribe", stream_id=STREAM, cursor=0)
            await trio.testing.wait_all_tasks_blocked()
        assert store.reads == {"events": 1}
        leaves.connection.close(Close.GOING_AWAY, "")
        await trio.testing.wait_all_tasks_blocked()
        assert store.reads == {"events": 2}, "its reader has left, another one reads"
        gate.set()
        for wire in stay:
            assert seqs(await wire.hear_many(10)) == [*range(1, 11)]
    assert store.reads == {"events": 2}


async def test_x_rbac_2_a_shared_page_is_cut_at_the_barrier_of_one_and_whole_for_the_others(
    store: CountingStore, world: World
) -> None:
    limits = Limits(outbox_bytes_max=0, page_events=1_000)
    async with running(store, world, limits=limits) as actors:
        workspace = actors.workspace()
        await workspace.send(PutMember("u", "viewer"))
        async with wired(actors, room_bytes=300) as revoked, wired(actors, role="viewer") as other:
            await revoked.ask("subscribe", stream_id=STREAM, cursor=1)
            for _ in range(4):
                await put(actors, 1)
            subscription = revoked.connection.writer.streams[STREAM].subscription
            assert not subscription.live
            place = subscription.sent
            await workspace.send(RemoveMember("u"))
            await put(actors, 3)
            await other.ask("subscribe", stream_id=STREAM, cursor=place)
            assert await hear_up_to(other, 9) == [*range(place + 1, 10)]
            found = actors.service.node.delivery.statistics().pages.found
            rest = [await revoked.hear() for _ in range(6)]
            assert seqs(rest) == [2, 3, 4, 5, 6]
            assert rest[-1]["code"] == "ROLE_FORBIDDEN"
            assert actors.service.node.delivery.statistics().pages.found > found, "it shared"
            await revoked.silence()


async def test_streams_that_are_behind_are_caught_up_in_turn(
    store: CountingStore, world: World
) -> None:
    async with running(store, world, limits=Limits(page_events=2)) as actors:
        await put(actors, 10)
        async with wired(actors, role="viewer", room_bytes=300) as wire:
            await wire.say("subscribe", stream_id=STREAM, cursor=0)
            await wire.say("subscribe", **BOX, cursor=0)
            await trio.testing.wait_all_tasks_blocked()
            heard = [m for m in await wire.hear_many(22) if m["type"] == "event"]
        streams = [stream_id for stream_id, _ in itertools.groupby(m["stream_id"] for m in heard)]
        assert len(streams) >= 9, "page by page, one after the other"


# ----------------------------------------------------------------------------------- admission


async def test_subscriptions_are_looked_up_so_many_at_a_time_in_order_of_arrival(
    store: CountingStore, world: World
) -> None:
    async with running(store, world, limits=Limits(subscribing_max=1)) as actors:
        await put(actors, 1)
        looked: list[str] = []
        turn = trio.Semaphore(0)

        async def look() -> None:
            looked.append("")
            await turn.acquire()

        store.before["read_cursors"] = look
        async with all_wired(actors, 5) as wires:
            for wire in wires:
                client_id = str(wires.index(wire))
                await wire.say("subscribe", stream_id=STREAM, cursor=1, client_id=client_id)
                await trio.testing.wait_all_tasks_blocked()
            delivery = actors.service.node.delivery
            now = delivery.statistics()
            assert (now.subscribing, now.waiting, len(looked)) == (1, 4, 1)
            # The program's own loop needs nothing from the store, and does not wait.
            with trio.fail_after(1):
                async with actors.workspace().subscribe(after=0) as events:
                    assert (await anext(events)).event_seq == 1
            wires[2].connection.close(Close.GOING_AWAY, "")
            await trio.testing.wait_all_tasks_blocked()
            assert delivery.statistics().waiting == 3
            for number in (0, 1, 3, 4):
                others = [w for w in wires if w is not wires[2]]
                assert sum(len(w.connection.writer.streams) for w in others) == others.index(
                    wires[number]
                )
                turn.release()
                assert (await wires[number].hear())["type"] == "subscribed"
            assert len(looked) == 4
            assert delivery.statistics().subscribing == 0


async def test_a_subscription_that_waits_too_long_for_its_turn_is_told_to_come_back(
    store: CountingStore, world: World
) -> None:
    limits = Limits(subscribing_max=1, answer_deadline_s=3)
    async with running(store, world, limits=limits) as actors:
        await put(actors, 1)
        gate = trio.Event()
        store.before["read_cursors"] = gate.wait
        async with all_wired(actors, 2) as (one, two):
            await one.say("subscribe", stream_id=STREAM, cursor=1, client_id="one")
            await trio.testing.wait_all_tasks_blocked()
            error = await two.ask("subscribe", stream_id=STREAM, cursor=1, request_id="r")
            assert (error["code"], error["request_id"]) == ("OVERLOADED", "r")
            assert error["retry_after"] > 0
            assert trio.current_time() == pytest.approx(3, abs=0.1)
            gate.set()
            assert (await one.hear())["type"] == "subscribed"
            assert (await two.ask("subscribe", stream_id=STREAM, cursor=1))["type"] == "subscribed"


# ---------------------------------------------------------------------------- the hub's end


MOVED = WorkspaceMovedError("b", address="https://b.example", retry_after_s=3)


async def test_when_a_workspace_moves_its_readers_hear_it_behind_their_events(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 2)
    async with wired(actors, role="viewer") as wire, wired(actors, role="viewer") as other:
        await wire.ask("subscribe", stream_id=STREAM, cursor=2)
        await wire.ask("subscribe", **BOX, cursor=2)
        await actors.workspace("neighbour").send(Put("a"))
        await other.ask("subscribe", stream_id="workspace:neighbour", cursor=1)
        await put(actors, 1)
        hub = hub_of(actors)
        hub.end(MOVED)
        heard = await wire.hear_many(4)
        assert seqs(heard[:2]) == [3, 3]
        where = {"owner": "b", "retry_after": 3, "address": "https://b.example"}
        assert heard[2:] == [
            {
                "type": "error",
                "code": "WORKSPACE_MOVED",
                "message": "another node owns this workspace",
                "request_id": None,
                "details": {**where, "stream_id": stream_id},
                **where,
                "stream_id": stream_id,
            }
            for stream_id in (STREAM, "box:a")
        ]
        assert (hub.subscriptions, hub.is_used, hub.is_open) == (0, False, False)
        assert len(hub.tail) == 0
        assert repr(hub) == "<Hub w closed, 0 subscriptions>"
        assert wire.connection.writer.streams == {}
        assert len(actors.service.acks._frontiers) == 1, "the neighbour's"
        await wire.silence()
        # It comes back later: a new life for the same hub, or another one.
        hub.open(3, hub.chain)
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=2)
        assert seqs(await wire.hear_many(2)) == [3, 4]
        await actors.workspace("neighbour").send(Put("a"))
        assert (await other.hear())["seq"] == 2


async def test_a_hub_ends_in_the_middle_of_a_subscribe_with_an_answer(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 2)
    gate = trio.Event()
    store.before["read_cursors"] = gate.wait
    async with wired(actors, role="viewer") as wire:
        await wire.say("subscribe", stream_id=STREAM, request_id="r")
        await trio.testing.wait_all_tasks_blocked()
        hub = hub_of(actors)
        hub.end(MOVED)
        gate.set()
        error = await wire.hear()
        assert (error["code"], error["request_id"]) == ("WORKSPACE_MOVED", "r")
        assert wire.connection.writer.streams == {}
        assert actors.service.acks._frontiers == {}
        await wire.silence()
        hub.open(2, hub.chain)


@pytest.mark.parametrize("outbox_bytes_max", [0, 700, 100_000])
async def test_who_has_stopped_reads_the_end_behind_what_was_kept_for_it(
    store: CountingStore, world: World, outbox_bytes_max: int
) -> None:
    """Dense up to the error, whatever was dropped: the rest can be read from the cursor."""
    limits = Limits(outbox_bytes_max=outbox_bytes_max)
    async with (
        running(store, world, limits=limits) as actors,
        wired(actors, role="viewer", room_bytes=300) as wire,
    ):
        await put(actors, 1)
        await wire.ask("subscribe", stream_id=STREAM, cursor=1)
        for _ in range(10):
            await put(actors, 1)
        hub_of(actors).end(WorkspaceHaltedError("a bad record"))
        heard = [await wire.hear()]
        while heard[-1]["type"] == "event":
            heard.append(await wire.hear())
        assert heard[-1]["code"] == "WORKSPACE_HALTED"
        got = seqs(heard)
        assert got == [*range(2, 2 + len(got))]
        assert got, "something was on its way"
        if outbox_bytes_max == 100_000:
            assert got[-1] == 11
        hub_of(actors).open(11, hub_of(actors).chain)
        await wire.silence()


async def test_a_page_on_its_way_when_the_hub_ends_is_not_written(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 3)
    actors.forget()
    gate = trio.Event()
    async with wired(actors, role="viewer") as wire:
        store.before["read_events"] = gate.wait
        await wire.ask("subscribe", stream_id=STREAM, cursor=0)
        await trio.testing.wait_all_tasks_blocked()
        hub_of(actors).end(MOVED)
        gate.set()
        assert (await wire.hear())["code"] == "WORKSPACE_MOVED"
        await wire.silence()
        hub_of(actors).open(3, hub_of(actors).chain)


async def test_a_loop_gets_what_was_offered_before_and_then_the_end(actors: Actors) -> None:
    await put(actors, 2)
    async with (
        actors.workspace().subscribe(after=0) as behind,
        actors.workspace().subscribe(after=0) as events,
    ):
        assert [(await anext(events)).event_seq for _ in range(2)] == [1, 2]
        with trio.move_on_after(1):
            await anext(events)
        await put(actors, 2)
        outcomes: list[str] = []

        async def wait() -> None:
            try:
                await hub_of(actors).wait_head(99)
            except WorkspaceMovedError as error:
                outcomes.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert hub_of(actors).is_used
            hub_of(actors).end(MOVED)
        assert outcomes == ["WORKSPACE_MOVED"]
        assert [(await anext(events)).event_seq for _ in range(2)] == [3, 4]
        for listening in (events, events, behind):
            with pytest.raises(WorkspaceMovedError):
                await anext(listening)
        hub_of(actors).open(4, hub_of(actors).chain)
    assert hub_of(actors).subscriptions == 0


async def test_what_was_in_memory_of_a_halted_workspace_is_forgotten(
    actors: Actors, store: CountingStore
) -> None:
    """Its log may be repaired before it comes back."""
    await put(actors, 3)
    assert await _take(actors, 0, 3) == [1, 2, 3]
    assert (
        len(hub_of(actors).tail),
        actors.service.node.delivery.pages.statistics().pages,
    ) == (3, 1)
    hub_of(actors).end(WorkspaceHaltedError("a bad record"))
    log = store._logs["w"]
    log.events[1] = msgspec.structs.replace(log.events[1], payload='{"text":"repaired"}')
    hub_of(actors).open(3, hub_of(actors).chain)
    async with actors.workspace().subscribe() as events:
        payloads = [(await anext(events)).payload for _ in range(3)]
    assert payloads[1] == '{"text":"repaired"}'


async def test_a_hub_opens_again_at_a_later_head_and_publishes_on(actors: Actors) -> None:
    await put(actors, 2)
    hub = hub_of(actors)
    first = await log_of(actors.service.store)
    hub.open(2, hub.chain)
    assert len(hub.tail) == 2, "the log still ends there"
    hub.end(MOVED)
    with pytest.raises(WorkspaceMovedError):
        await hub.publish(first, lambda: None)
    hub.open(5, hub.chain)
    assert (hub.head, len(hub.tail)) == (5, 0)
    with pytest.raises(AssertionError):
        await hub.publish(first, lambda: None)
    await hub.publish([msgspec.structs.replace(first[0], event_seq=6)], lambda: None)
    assert hub.head == 6


# ------------------------------------------------------------------------------ a trimmed log


async def trimmed(actors: Actors, store: CountingStore) -> None:
    """Events 1 … 10, of two boxes in turn; 1 … 4 are not kept."""
    for n in range(10):
        await put(actors, 1, box="ab"[n % 2])
    store.trim(4)
    actors.forget()


@pytest.mark.parametrize(
    ("stream_id", "cursor", "lowest"), [(STREAM, 0, 4), (STREAM, 3, 4), ("box:a", 1, 2)]
)
async def test_x_rep_2_what_is_not_kept_is_a_stale_cursor_and_the_lowest_one_works(
    actors: Actors, store: CountingStore, stream_id: str, cursor: int, lowest: int
) -> None:
    await trimmed(actors, store)
    async with wired(actors, role="viewer") as wire:
        where = {"stream_id": stream_id, "workspace_id": "w"}
        error = await wire.ask("subscribe", **where, cursor=cursor, request_id="r")
        if error["type"] == "subscribed":  # from the very beginning, the page shows it
            error = await wire.hear()
        assert error["code"] == "STALE_CURSOR"
        assert error["details"] == {
            "stream_id": stream_id,
            "requested_cursor": cursor,
            "min_available_cursor": lowest,
            "recovery": "resubscribe_full",
        }
        said = await wire.ask("subscribe", **where, cursor=lowest)
        assert (said["type"], said["cursor"], said["chain"]) == ("subscribed", lowest, None)
        last = 10 if stream_id == STREAM else 5
        assert await hear_up_to(wire, last) == [*range(lowest + 1, last + 1)]


async def test_x_rep_2_a_cursor_of_an_entity_of_which_nothing_is_kept(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 2)
    await put(actors, 2, box="b")
    store.trim(3)
    actors.forget()
    async with wired(actors, role="viewer") as wire:
        stale = await wire.ask("subscribe", **BOX, cursor=1)
        assert (stale["code"], stale["min_available_cursor"]) == ("STALE_CURSOR", 2)
        assert (await wire.ask("subscribe", **BOX, cursor=2))["type"] == "subscribed"
        await put(actors, 1)
        assert (await wire.hear())["seq"] == 3


async def test_the_chain_of_the_lowest_cursor_is_checked_by_the_event_behind_it(
    actors: Actors, store: CountingStore
) -> None:
    for n in range(10):
        await put(actors, 1, box="ab"[n % 2])
    chains = [chain_text(event.chain) for event in await log_of(store)]
    store.trim(4)
    actors.forget()
    async with wired(actors, role="viewer") as wire:
        good, bad = f"4-{chains[3]}", f"4-{chains[2]}"
        assert (await wire.ask("subscribe", stream_id=STREAM, cursor=bad))["code"] == (
            "CURSOR_DIVERGED"
        )
        said = await wire.ask("subscribe", stream_id=STREAM, cursor=good)
        assert (said["type"], said["chain"]) == ("subscribed", chains[3])
        assert await hear_up_to(wire, 10) == [5, 6, 7, 8, 9, 10]
        # An entity's next event does not show it, so what cannot be checked is refused.
        entity = await wire.ask("subscribe", **BOX, cursor=f"2-{chains[2]}")
        assert entity["code"] == "STALE_CURSOR"


async def test_a_loop_whose_cursor_is_not_kept_is_told(
    actors: Actors, store: CountingStore
) -> None:
    await trimmed(actors, store)
    async with actors.workspace().subscribe(after=1) as events:
        with pytest.raises(StaleCursorError) as caught:
            await anext(events)
    assert caught.value.details["min_available_cursor"] == 4
    assert await _take(actors, 4, 10) == [*range(5, 11)]


async def test_i11_a_gap_that_no_trimming_made_is_no_stale_cursor(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 10)
    for seq, cursor in ((6, 3), (10, 9)):
        store._logs["w"].events[:] = [e for e in await log_of(store) if e.event_seq != seq]
        actors.forget()
        async with actors.workspace().subscribe(after=cursor) as events:
            with pytest.raises(CorruptLogError):
                await anext(events)


# ----------------------------------------------------------------------- a store that is away


async def test_while_the_store_is_away_replies_and_heartbeats_come_and_then_the_rest(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 3)
    actors.forget()

    async def away() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    async with wired(actors, role="viewer") as wire:
        store.before["read_events"] = away
        await wire.ask("subscribe", stream_id=STREAM, cursor=0)
        await trio.sleep(40)
        began = trio.current_time()
        await wire.silence()
        assert trio.current_time() == began, "a reply does not wait for the store"
        assert store.reads["events"] < 40
        assert wire.connection.statistics().behind + store.reads["events"] > 1
        store.before.clear()
        actors.service.node.announce_store_returned()
        assert seqs(await wire.hear_many(3)) == [1, 2, 3]
        assert trio.current_time() == began


async def test_a_client_hears_heartbeats_while_the_store_is_away(
    actors: Actors, store: CountingStore
) -> None:
    await put(actors, 3)
    actors.forget()

    async def away() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    async with wired(actors, role="viewer") as wire:
        store.before["read_events"] = away
        await wire.say("subscribe", stream_id=STREAM, cursor=0)
        beats = 0
        with trio.fail_after(55):
            while beats < 4:
                beats += msgspec.json.decode(await wire.client.receive())["type"] == "heartbeat"


async def test_reprs_show_the_state(actors: Actors) -> None:
    await put(actors, 2)
    delivery = actors.service.node.delivery
    assert repr(delivery).startswith("<Delivery <Tails of 1 workspaces, ")
    assert repr(hub_of(actors)) == "<Hub w at 2, 0 subscriptions>"
    async with wired(actors, role="viewer") as wire:
        await wire.ask("subscribe", stream_id=STREAM, cursor=2)
        await trio.testing.wait_all_tasks_blocked()
        assert repr(wire.connection.writer) == (
            "<Writer idle, 0 behind, <Outbox 0 replies, 0 items, 0 bytes>>"
        )
    async with actors.workspace().subscribe() as events:
        assert events.statistics().is_live is False
        await anext(events)
        assert (events.statistics().given, events.statistics().waiting) == (2, 1)
