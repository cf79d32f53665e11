"""A halted workspace stays halted until its log was verified, and that is recorded."""

from __future__ import annotations

import msgspec
import pytest
import trio

from dalsegno.actors import RepairReport, World
from dalsegno.protocol import (
    CorruptLogError,
    DalsegnoError,
    Event,
    Limits,
    Reject,
    UnavailableError,
    WorkspaceHaltedError,
)
from tests.actors._boxes import Box, Put, boxes
from tests.actors._nodes import moving_world, node
from tests.actors._world import Actors, FaultyStore, check_log, refusal, running, send_all

LIMITS = Limits(page_events=3)


async def halted(store: FaultyStore, world: World, *, code: str | None = None) -> None:
    """Write a log of seven events on two boxes, and halt it."""
    async with running(store, world) as actors:
        await send_all(actors.workspace(), [Put("a", str(n)) for n in range(5)])
        await send_all(actors.workspace(), [Put("b", str(n)) for n in range(2)])
        code = actors.service.node.code if code is None else code
    head = await store.read_head("w")
    assert head is not None
    assert await store.halt("w", head.epoch, "found wanting", code=code, actor="n")


def change(store: FaultyStore, nth: int, /, **changes: object) -> None:
    log = store._logs["w"]
    old = log.events[nth - 1]
    new = msgspec.structs.replace(old, **changes)
    log.events[nth - 1] = new
    stream = log.streams[old.stream_id]
    stream[stream.index(old)] = new


async def test_x_per_9_a_repaired_workspace_goes_on_and_the_audit_says_who_and_why(
    store: FaultyStore, world: World
) -> None:
    await halted(store, world)
    async with running(store, world, limits=LIMITS) as actors:
        assert (await refusal(actors.workspace(), Put("a"))).code == "WORKSPACE_HALTED"
        report = await actors.service.repair("w", actor="ada")
        assert report == RepairReport(
            workspace_id="w",
            events=7,
            entities=2,
            states_rewritten=0,
            halted_reason="found wanting",
        )
        assert (await actors.workspace().send(Put("a"))).event_seq == 8
    done = await store.read_audit("w", limit=10)
    assert [(entry.action, entry.actor) for entry in done] == [("resumed", "ada"), ("halted", "n")]
    assert done[1].detail == "found wanting"
    assert "7 events" in done[0].detail
    await check_log(store)


async def test_a_workspace_that_is_not_halted_can_be_checked_while_it_works(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await send_all(actors.workspace(), [Put("a")] * 3)
        report = await actors.service.repair("w", actor="ada")
        assert (report.events, report.halted_reason) == (3, None)
        with pytest.raises(Reject) as caught:
            await actors.service.repair("nowhere", actor="ada")
        assert caught.value.code == "WORKSPACE_NOT_FOUND"
    assert await store.read_audit("w", limit=10) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": '{"text":"changed"}'},
        {"stream_seq": 9},
        {"event_seq": 9},
        {"chain": 4711},
        {"actor_id": "somebody else"},
    ],
)
async def test_a_log_that_does_not_fit_stays_halted(
    store: FaultyStore, world: World, changes: dict[str, object]
) -> None:
    await halted(store, world)
    change(store, 5, **changes)
    async with running(store, world, limits=LIMITS) as actors:
        with pytest.raises(CorruptLogError):
            await actors.service.repair("w", actor="ada")
        assert isinstance(await refusal(actors.workspace(), Put("a")), WorkspaceHaltedError)
    assert len(await store.read_audit("w", limit=10)) == 1


async def test_a_log_that_ends_too_early_stays_halted(store: FaultyStore, world: World) -> None:
    await halted(store, world)
    log = store._logs["w"]
    log.streams["box:b"].remove(log.events.pop())
    async with running(store, world) as actors:
        with pytest.raises(CorruptLogError):
            await actors.service.repair("w", actor="ada")


async def test_a_log_with_an_event_behind_its_head_stays_halted(
    store: FaultyStore, world: World
) -> None:
    """Half of an append by somebody else: its number is the next commit's, which is refused."""
    await halted(store, world)
    log = store._logs["w"]
    log.events.append(msgspec.structs.replace(log.events[-1], event_seq=8, stream_seq=3))
    async with running(store, world) as actors:
        with pytest.raises(CorruptLogError, match="event 8 is behind the head, 7"):
            await actors.service.repair("w", actor="ada")
        log.events.pop()
        assert (await actors.service.repair("w", actor="ada")).events == 7


async def test_a_stored_state_that_differs_is_made_again_from_the_log(
    store: FaultyStore, world: World
) -> None:
    await halted(store, world)
    log = store._logs["w"]
    for stream_id, state in (("box:a", '{"text":"wrong"}'), ("box:b", "no json")):
        row = log.entities[stream_id]
        log.entities[stream_id] = msgspec.structs.replace(
            row, state=state, state_version=row.version
        )
    async with running(store, world) as actors:
        report = await actors.service.repair("w", actor="ada")
        assert report.states_rewritten == 2
        assert await actors.workspace().get(boxes, "a") == Box("4", 5)
        assert await actors.workspace().get(boxes, "b") == Box("1", 2)


async def test_a_log_that_is_written_to_meanwhile_is_not_opened(
    store: FaultyStore, world: World
) -> None:
    await halted(store, world)

    async def grow() -> None:
        await trio.lowlevel.checkpoint()
        log = store._logs["w"]
        log.head = msgspec.structs.replace(log.head, head_seq=99)

    async with running(store, world) as actors:
        store.before["load_entities"] = grow
        with pytest.raises(UnavailableError):
            await actors.service.repair("w", actor="ada")


async def test_other_code_than_that_which_halted_tries_again_once(store: FaultyStore) -> None:
    world = moving_world()
    await halted(store, world, code="the last release")

    async def corrupt(event: Event) -> None:
        change(store, event.event_seq, payload="no json")

    async with node(store, "n", world=world, version="2") as actors:
        assert (await actors.workspace().send(Put("a"))).event_seq == 8
    first, *_ = await store.read_audit("w", limit=10)
    assert first.action == "resumed"
    assert "found wanting" in first.detail
    # It halts again under the same code, and under that code it stays so.
    await corrupt(store._logs["w"].events[6])
    async with node(store, "n", world=world, version="2") as actors:
        await halts(actors)
    async with node(store, "n", world=world, version="2") as actors:
        await halts(actors)
    assert [e.action for e in await store.read_audit("w", limit=10)] == [
        "halted",
        "resumed",
        "halted",
    ]


async def halts(actors: Actors, box_id: str = "b") -> None:
    error: DalsegnoError = await refusal(actors.workspace(), Put(box_id))
    assert error.code == "WORKSPACE_HALTED"
    await trio.sleep(5)


async def test_readers_of_a_workspace_that_halts_hear_of_it(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await send_all(actors.workspace(), [Put("a")])
    change(store, 1, payload="no json")
    async with running(store, world) as actors:
        async with actors.workspace().subscribe(after=1) as events:
            await halts(actors, "a")
            with pytest.raises(WorkspaceHaltedError):
                await anext(events)
        assert (await actors.workspace("neighbour").send(Put("a"))).event_seq == 1


async def test_a_repair_is_for_owners_and_admins(store: FaultyStore, world: World) -> None:
    await halted(store, world)
    async with running(store, world) as actors:
        for role in ("editor", "viewer"):
            with pytest.raises(Reject) as caught:
                await actors.workspace().acting(user_id="u", role=role).repair()
            assert caught.value.code == "ROLE_FORBIDDEN"
        with pytest.raises(Reject):
            await actors.workspace().acting(user_id="stranger").repair()
        await actors.workspace().acting(user_id="u", role="admin").repair()
        await actors.workspace().repair()
    assert (await store.read_audit("w", limit=1))[0].actor == "u"
