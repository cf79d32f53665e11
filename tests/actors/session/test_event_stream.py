"""A host's own subscription: the seam, falling behind, the barrier of a revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import World
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import (
    CorruptLogError,
    Event,
    Limits,
    OverloadedError,
    Reject,
    RuntimeClosedError,
    StoreUnavailableError,
)
from dalsegno.runtime import EntityListening, Workspace
from tests.actors._boxes import Put, WasPut, boxes
from tests.actors._world import Actors, FaultyStore, eventually, log_of, post_all, running

PAGE = Limits().page_events


async def put_many(workspace: Workspace, count: int, box_id: str = "a") -> None:
    posted = post_all(workspace, [Put(box_id, str(n)) for n in range(count)])
    for one in posted:
        await one.wait()


async def take(workspace: Workspace, count: int, *, after: int | None = 0) -> list[int]:
    """Take so many events."""
    seqs: list[int] = []
    async with workspace.subscribe(after=after) as events:
        while len(seqs) < count:
            seqs.append((await anext(events)).event_seq)
    return seqs


async def test_x_sub_2_whenever_one_subscribes_there_is_no_gap_and_no_repeat(
    actors: Actors,
) -> None:
    workspace = actors.workspace()
    taken: list[list[int]] = []

    async def follow(after: int) -> None:
        taken.append([after, *await take(workspace, 1_000 - after, after=after)])

    async def mutate(task: int) -> None:
        for n in range(100):
            await workspace.send(Put(f"b{task}", str(n)))

    async with trio.open_nursery() as nursery:
        for task in range(10):
            nursery.start_soon(mutate, task)
        for _ in range(60):
            head = await workspace.head()
            for after in {0, head // 2, head}:
                nursery.start_soon(follow, after)
            await trio.lowlevel.checkpoint()
    assert len(taken) > 60
    for seqs in taken:
        assert seqs == [*range(seqs[0], 1_001)]


async def test_x_sub_3_a_long_replay_comes_in_pages(actors: Actors) -> None:
    await put_many(actors.workspace(), 2 * PAGE + 1)
    assert await take(actors.workspace(), 2 * PAGE + 1) == [*range(1, 2 * PAGE + 2)]


async def test_an_event_is_there_when_it_is_seen(actors: Actors, store: FaultyStore) -> None:
    """X-PER-1: a reader that receives an event can read it back."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put_many, actors.workspace(), 50)
        async with actors.workspace().subscribe() as events:
            for _ in range(50):
                event = await anext(events)
                assert (await log_of(store))[event.event_seq - 1] == event


async def test_from_now_on_begins_at_the_head(actors: Actors) -> None:
    await put_many(actors.workspace(), 3)
    async with actors.workspace().subscribe(after=None) as events:
        await actors.workspace().send(Put("a"))
        assert (await anext(events)).event_seq == 4


@pytest.mark.parametrize(
    ("after", "code"), [(4, "CURSOR_AHEAD"), (-1, "BAD_REQUEST"), (2**63, "BAD_REQUEST")]
)
async def test_a_cursor_that_cannot_be_is_refused(actors: Actors, after: int, code: str) -> None:
    await put_many(actors.workspace(), 3)
    with pytest.raises(Reject) as caught:
        async with actors.workspace().subscribe(after=after):
            pass
    assert caught.value.code == code
    assert actors.service.directory.statistics()["w"].subscriptions == 0


async def test_a_slow_loop_is_bounded_and_misses_nothing(store: FaultyStore, world: World) -> None:
    async with running(store, world, limits=Limits(outbox_bytes_max=200)) as actors:
        workspace = actors.workspace()
        async with workspace.subscribe() as events:
            await put_many(workspace, 30)
            assert [(await anext(events)).event_seq for _ in range(5)] == [1, 2, 3, 4, 5]
            await put_many(workspace, 30)
            assert events._bytes <= 200 + PAGE * 800
            assert [(await anext(events)).event_seq for _ in range(55)] == [*range(6, 61)]
            await workspace.send(Put("a", "x" * 1_000))  # alone over the bound
            await workspace.send(Put("a"))
            assert [(await anext(events)).event_seq for _ in range(2)] == [61, 62]


async def test_a_cancelled_wait_loses_nothing(actors: Actors, store: FaultyStore) -> None:
    workspace = actors.workspace()
    await put_many(workspace, 3)
    async with workspace.subscribe() as events:
        actors.forget()
        for seq in range(1, 4):
            reading = trio.Event()
            store.before["read_events"] = reading.wait
            with trio.move_on_after(1):
                assert (await anext(events)).event_seq == seq
                continue
            store.before.clear()
            assert (await anext(events)).event_seq == seq
        with trio.move_on_after(1) as scope:
            await anext(events)
        assert scope.cancelled_caught
        await workspace.send(Put("a"))
        assert (await anext(events)).event_seq == 4


async def test_a_store_that_is_away_can_be_asked_again(actors: Actors, store: FaultyStore) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    await put_many(actors.workspace(), 2)
    actors.forget()
    async with actors.workspace().subscribe() as events:
        store.before["read_events"] = fail
        with pytest.raises(StoreUnavailableError):
            await anext(events)
        store.before.clear()
        assert [(await anext(events)).event_seq for _ in range(2)] == [1, 2]


async def test_a_gap_in_the_store_is_no_event_left_out(actors: Actors, store: FaultyStore) -> None:
    await put_many(actors.workspace(), 5)
    del store._logs["w"].events[2]
    for after in (1, 2):
        actors.forget()
        async with actors.workspace().subscribe(after=after) as events:
            with pytest.raises(CorruptLogError):
                await anext(events)


async def test_leaving_the_loop_leaves_nothing_behind(actors: Actors) -> None:
    await put_many(actors.workspace(), 3)
    async with actors.workspace().subscribe() as events:
        assert actors.service.directory.statistics()["w"].subscriptions == 1
        async for _ in events:
            break
    assert actors.service.directory.statistics()["w"].subscriptions == 0
    assert [event.event_seq async for event in events] == [2, 3], "what it had already taken"


async def test_an_entitys_stream_beside_the_workspaces(actors: Actors) -> None:
    workspace = actors.workspace()
    seen: list[tuple[str, int]] = []

    async def follow(box_id: str) -> None:
        listening: EntityListening[WasPut]
        async with workspace.of(boxes).subscribe(box_id) as listening:  # type: ignore[assignment]  # a union's part
            for _ in range(10):
                recorded = await anext(listening)
                seen.append((box_id, recorded.record.stream_seq))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, "a")
        await put_many(workspace, 4, "a")
        nursery.start_soon(follow, "b")
        await put_many(workspace, 10, "b")
        await put_many(workspace, 6, "a")
    assert [seq for box_id, seq in seen if box_id == "a"] == [*range(1, 11)]
    assert [seq for box_id, seq in seen if box_id == "b"] == [*range(1, 11)]


async def test_min_seq_waits_for_the_event_and_not_for_ever(actors: Actors) -> None:
    workspace = actors.workspace()
    await put_many(workspace, 2)
    states: list[object] = []

    async def read() -> None:
        states.append(await workspace.get(boxes, "a", min_seq=3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert states == []
        await workspace.send(Put("a", "third"))
    assert getattr(states[0], "text", None) == "third"
    with pytest.raises(OverloadedError):
        await workspace.get(boxes, "a", min_seq=99)


async def test_pages_of_the_log_are_the_log(actors: Actors, store: FaultyStore) -> None:
    workspace = actors.workspace()
    await put_many(workspace, 250)
    read: list[Event] = []
    while page := await workspace.events(after=len(read), limit=77):
        read += page
    assert read == await log_of(store)


# --------------------------------------------------------------------------------- revocation


@asynccontextmanager
async def member(actors: Actors) -> AsyncIterator[Workspace]:
    """A user who may read; the log has one event, and three more."""
    await actors.workspace().send(PutMember("u", "viewer"))
    await put_many(actors.workspace(), 3)
    yield actors.workspace().acting(user_id="u")


async def drained(workspace: Workspace, *, after: int = 0) -> tuple[list[int], str]:
    """Follow until the end; return the events, and the code of the end."""
    seqs: list[int] = []
    try:
        async with workspace.subscribe(after=after) as events:
            async for event in events:
                seqs.append(event.event_seq)  # noqa: PERF401 - what came before the end counts
    except Reject as error:
        return seqs, error.code
    raise AssertionError("it ends with an error")


async def test_x_rbac_2_a_live_reader_gets_nothing_above_the_revocation(actors: Actors) -> None:
    async with member(actors) as user, trio.open_nursery() as nursery:
        outcomes: list[tuple[list[int], str]] = []

        async def listen() -> None:
            outcomes.append(await drained(user))

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        # All in one batch: the item is split where access changes.
        for one in post_all(
            actors.workspace(), [Put("a"), RemoveMember("u"), Put("a"), PutMember("u", "owner")]
        ):
            await one.wait()
    assert outcomes == [([1, 2, 3, 4, 5, 6], "ROLE_FORBIDDEN")]


async def test_x_rbac_2_a_reader_that_is_behind_gets_nothing_above_the_revocation(
    actors: Actors, store: FaultyStore
) -> None:
    async with member(actors) as user, user.subscribe() as events:
        assert (await anext(events)).event_seq == 1
        page = trio.Event()
        async with user.subscribe() as other:
            actors.forget()
            store.before["read_events"] = page.wait
            seqs: list[int] = []

            async def read() -> None:
                with suppress(Reject):
                    while True:
                        seqs.append((await anext(other)).event_seq)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                await actors.workspace().send(RemoveMember("u"))
                await put_many(actors.workspace(), 3)
                page.set()
            assert seqs == [1, 2, 3, 4, 5]
        assert [(await anext(events)).event_seq for _ in range(4)] == [2, 3, 4, 5]
        with pytest.raises(Reject):
            await anext(events)


async def test_x_rbac_2_a_reader_in_the_middle_of_subscribing(
    actors: Actors, store: FaultyStore
) -> None:
    async with member(actors) as user:
        # The role is read from the store, slowly: the removal is committed meanwhile.
        looking = trio.Event()
        await put_many(actors.workspace(), 1)
        entities = actors.service.directory.activate("w").incarnation
        assert entities is not None
        assert entities._speculation is not None
        entities._speculation.entities._entities.pop("member:u")
        store.before["load_entities"] = looking.wait
        outcomes: list[tuple[list[int], str]] = []

        async def listen() -> None:
            outcomes.append(await drained(user))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            removal = post_all(actors.workspace(), [RemoveMember("u")])
            looking.set()
            await removal[0].wait()
            await put_many(actors.workspace(), 2)
    assert outcomes[0][1] == "ROLE_FORBIDDEN"
    assert outcomes[0][0] in ([], [1, 2, 3, 4, 5, 6])


async def test_who_is_no_member_does_not_listen(actors: Actors) -> None:
    async with member(actors):
        stranger = actors.workspace().acting(user_id="stranger")
        assert await drained(stranger) == ([], "ROLE_FORBIDDEN")
        with pytest.raises(Reject):
            await stranger.events()
        with pytest.raises(Reject):
            await stranger.get(boxes, "a")
        async with actors.workspace().acting(user_id="x", role="viewer").subscribe() as events:
            assert (await anext(events)).event_seq == 1


async def test_another_users_revocation_is_not_ours(actors: Actors) -> None:
    async with member(actors) as user:
        await actors.workspace().send(PutMember("v", "viewer"))
        async with user.subscribe(after=5) as events:
            await actors.workspace().send(RemoveMember("v"))
            await actors.workspace().send(Put("a"))
            assert [(await anext(events)).event_seq for _ in range(2)] == [6, 7]


async def test_who_comes_to_a_closed_runtime_is_told(store: FaultyStore, world: World) -> None:
    async with running(store, world) as actors:
        workspace = actors.workspace()
        await workspace.send(Put("a"))
        actors.kill()
    with trio.fail_after(5), pytest.raises(RuntimeClosedError):
        async with workspace.subscribe():
            pass
    with trio.fail_after(5), pytest.raises(RuntimeClosedError):
        await workspace.head()


async def test_a_view_that_fails_is_none_of_the_publishers_business(actors: Actors) -> None:
    async with actors.workspace().subscribe() as events:
        await actors.workspace().send(Put("a", "a bug in the view"))
        assert (await anext(events)).event_seq == 1
    await actors.workspace("neighbour").send(Put("a"))


async def test_an_event_of_a_type_that_nobody_knows_is_passed_on_verbatim(
    store: FaultyStore, world: World
) -> None:
    """X-REP-3, I11: replayed, never folded."""
    async with running(store, world) as actors:
        await put_many(actors.workspace(), 2)
    log = store._logs["w"]
    strange = msgspec.structs.replace(log.events[1], type="from_the_future", payload='{"x": 1}')
    log.events[1] = log.streams["box:a"][1] = strange
    async with running(store, world) as actors:
        async with actors.workspace().subscribe() as events:
            seen = [await anext(events) for _ in range(2)]
        assert seen[1] == strange
        assert (await actors.workspace().send(Put("a"))).version == 3
        async with actors.workspace().of(boxes).subscribe("a") as known:
            assert [(await anext(known)).record.stream_seq for _ in range(2)] == [1, 3]


async def test_reprs_show_the_state(actors: Actors) -> None:
    async with actors.workspace().subscribe() as events:
        await put_many(actors.workspace(), 2)
        await eventually(lambda: "2 waiting" in repr(events) or "behind" in repr(events))
    assert repr(actors.service.directory.activate("w").hub) == "<Hub w at 2, 0 subscriptions>"
    assert repr(actors.service.directory) == "<Directory 1 workspaces, 0 of them opening>"
    assert "epoch 1" in repr(actors.service.directory.activate("w").incarnation)
