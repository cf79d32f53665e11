"""Unused workspaces leave memory, and no message is lost in the process."""

from __future__ import annotations

import dataclasses

import pytest
import trio

from dalsegno.actors import Receipt, World
from dalsegno.protocol import Limits, OverloadedError, StoreUnavailableError
from tests.actors._boxes import Box, Put, boxes
from tests.actors._nodes import LIMITS, moving_world, node
from tests.actors._world import (
    Actors,
    FaultyStore,
    Posted,
    check_log,
    eventually,
    running,
    send_all,
)

SOON = Limits(passivate_after_s=10.0)


@pytest.fixture
async def world() -> World:
    return moving_world()


def active(actors: Actors) -> list[str]:
    return sorted(actors.service.directory.statistics())


def state(actors: Actors) -> str:
    return actors.service.directory.statistics()["w"].state


async def test_an_idle_workspace_leaves_memory_and_comes_back(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world, limits=SOON) as actors:
        await send_all(actors.workspace(), [Put("x", "1"), Put("x", "2"), Put("y", "3")])
        assert active(actors) == ["w"]
        await trio.sleep(SOON.passivate_after_s + 2)
        assert active(actors) == []
        head = await store.read_head("w")
        assert head is not None
        assert head.owner is None, "any node may have it"
        assert await actors.workspace().get(boxes, "x") == Box("2", 2)
        assert (await actors.workspace().send(Put("x", "4"))).version == 3
    await check_log(store)


async def test_a_command_that_waits_for_room_keeps_its_workspace(
    store: FaultyStore, world: World
) -> None:
    """It came to a mailbox that nobody took from any more, and was never answered."""
    limits = dataclasses.replace(SOON, mailbox_deadline_s=60.0)
    async with running(store, world, limits=limits) as actors, trio.open_nursery() as nursery:
        await actors.workspace().send(Put("x"))
        room, size = actors.service.node.room, limits.waiting_bytes_max
        assert room.take_nowait(size)
        nursery.start_soon(actors.workspace().send, Put("x"))
        await trio.sleep(SOON.passivate_after_s + 2)
        assert state(actors) == "resting"
        room.give_back(size)
        await eventually(lambda: actors.service.directory.statistics()["w"].head == 2)


async def test_its_entities_are_stored_so_that_waking_folds_nothing(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world, limits=SOON) as actors:
        await send_all(actors.workspace(), [Put("x", str(n)) for n in range(9)] + [Put("y", "y")])
        await trio.sleep(SOON.passivate_after_s + 2)
    stored = await store.load_entities("w", ["box:x", "box:y"], {"box:x": 1, "box:y": 1})
    assert [(one.version, one.state_version, one.events) for one in stored.values()] == [
        (9, 9, ()),
        (1, 1, ()),
    ]


async def test_states_that_cannot_be_stored_only_lag(store: FaultyStore, world: World) -> None:
    async def away() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    async with running(store, world, limits=SOON) as actors:
        await actors.workspace().send(Put("x", "1"))
        store.before["write_states"] = store.before["release"] = away
        await trio.sleep(SOON.passivate_after_s + 2)
        assert active(actors) == []
        del store.before["write_states"], store.before["release"]
        assert (await actors.workspace().send(Put("x", "2"))).version == 2


async def test_a_workspace_that_is_read_keeps_its_readers_and_its_owner(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world, limits=SOON) as a, node(store, "b", world=world):
        async with a.workspace().subscribe() as events:
            await a.workspace().send(Put("x", "1"))
            assert (await anext(events)).event_seq == 1
            await trio.sleep(SOON.passivate_after_s + 2)
            assert state(a) == "resting"
            head = await store.read_head("w")
            assert head is not None
            assert head.owner == "a", "nobody else writes what its readers would not see"
            await a.workspace().send(Put("x", "2"))
            assert state(a) == "running"
            assert (await anext(events)).event_seq == 2
            await trio.sleep(SOON.passivate_after_s + 2)
            assert state(a) == "resting"
        await trio.sleep(1)
        assert active(a) == []
        head = await store.read_head("w")
        assert head is not None
        assert head.owner is None


async def test_a_passivated_workspace_is_any_nodes_at_once(
    store: FaultyStore, world: World
) -> None:
    async with (
        node(store, "a", world=world, limits=SOON) as a,
        node(store, "b", world=world, limits=LIMITS) as b,
    ):
        await a.workspace().send(Put("x"))
        await trio.sleep(SOON.passivate_after_s + 2)
        assert (await b.workspace().send(Put("x"))).event_seq == 2


@pytest.mark.parametrize("with_reader", [False, True])
@pytest.mark.parametrize("checkpoints", range(16))
async def test_a_command_that_comes_at_any_step_of_a_passivation_is_answered(
    store: FaultyStore, world: World, checkpoints: int, with_reader: bool
) -> None:
    async with running(store, world, limits=SOON) as actors:
        listening = actors.workspace().subscribe()
        if with_reader:
            await listening.__aenter__()
        await actors.workspace().send(Put("x"))
        slot = actors.service.directory.activate("w")
        assert slot.passivate()
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        posted = Posted(actors.workspace(), Put("x"))
        with trio.fail_after(1):
            answer = await posted.wait()
        assert isinstance(answer, Receipt)
        assert answer.event_seq == 2
        if with_reader:
            assert [(await anext(listening)).event_seq for _ in range(2)] == [1, 2]
            await listening.__aexit__(None, None, None)
    await check_log(store)


async def test_a_workspace_at_work_is_not_passivated(store: FaultyStore, world: World) -> None:
    gate = trio.Event()

    async def wait() -> None:
        await gate.wait()

    async with running(store, world, limits=SOON) as actors:
        await actors.workspace().send(Put("x"))
        store.before["load_entities"] = wait
        posted = Posted(actors.workspace(), Put("y"))
        await trio.testing.wait_all_tasks_blocked()
        assert not actors.service.directory.activate("w").passivate()
        await trio.sleep(SOON.passivate_after_s + 2)
        assert active(actors) == ["w"]
        gate.set()
        assert isinstance(await posted.wait(), Receipt)


async def test_a_crowded_table_lets_idle_workspaces_leave_early(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(workspaces_active_max=10)
    async with running(store, world, limits=limits) as actors:
        for n in range(40):
            await actors.workspace(f"w{n}").send(Put("x"))
            await trio.sleep(0.6)
            assert len(active(actors)) <= 10
        assert "w39" in active(actors), "the longest unused leave first"


async def test_a_full_table_refuses_what_is_not_active_and_goes_on(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(workspaces_active_max=3)
    async with running(store, world, limits=limits) as actors, trio.open_nursery() as nursery:
        for n in range(3):
            await nursery.start(_hold, actors, f"w{n}")
        await trio.sleep(5)
        with pytest.raises(OverloadedError) as caught:
            await actors.workspace("w3").send(Put("x"))
        assert caught.value.details["retry_after"] > 0
        assert (await actors.workspace("w0").send(Put("x"))).event_seq == 2
        nursery.cancel_scope.cancel()
    async with running(store, world, limits=limits) as actors:
        assert (await actors.workspace("w3").send(Put("x"))).event_seq == 1


async def _hold(actors: Actors, workspace_id: str, *, task_status: trio.TaskStatus[None]) -> None:
    await actors.workspace(workspace_id).send(Put("x"))
    async with actors.workspace(workspace_id).subscribe():
        task_status.started()
        await trio.sleep_forever()


async def test_no_more_than_so_many_workspaces_open_at_the_same_time(
    store: FaultyStore, world: World
) -> None:
    opening = most = 0

    async def count() -> None:
        nonlocal opening, most
        opening += 1
        most = max(most, opening)
        await trio.sleep(0.1)
        opening -= 1

    store.before["acquire"] = count
    limits = Limits(activations_max=4)
    async with running(store, world, limits=limits) as actors, trio.open_nursery() as nursery:
        for n in range(40):
            nursery.start_soon(actors.workspace(f"w{n}").head)
    assert most == 4


async def test_whoever_uses_a_slot_keeps_it(store: FaultyStore, world: World) -> None:
    async with running(store, world, limits=SOON) as actors:
        with actors.service.directory.using("w") as slot:
            await slot.wait_open()
            await trio.sleep(SOON.passivate_after_s * 3)
            assert actors.service.directory.activate("w") is slot
        await eventually(lambda: active(actors) == [])


async def test_a_tick_looks_at_what_has_something_to_settle_and_at_nothing_idle(
    store: FaultyStore, world: World
) -> None:
    gate = trio.Event()

    async with running(store, world) as actors:
        watched = actors.service.directory._watched
        for n in range(20):
            await actors.workspace(f"w{n}").send(Put("x"))
        async with actors.workspace("w0").subscribe(), actors.workspace("w1").subscribe():
            await trio.sleep(2)
            assert len(active(actors)) == 20
            assert not watched, "all are idle"
            store.before["load_entities"] = gate.wait
            posted = Posted(actors.workspace("w7"), Put("y"))
            await trio.sleep(2)
            assert [each.workspace_id for each in watched] == ["w7"]
            gate.set()
            assert isinstance(await posted.wait(), Receipt)
            await trio.sleep(2)
            assert not watched


async def test_in_a_crowd_those_that_are_read_do_not_keep_the_others_from_leaving(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(workspaces_active_max=10)
    async with running(store, world, limits=limits) as actors, trio.open_nursery() as nursery:
        for n in range(8):
            await nursery.start(_hold, actors, f"read{n}")
        for n in range(20):
            await actors.workspace(f"w{n}").send(Put("x"))
            await trio.sleep(1.1)
            assert len(active(actors)) <= 10
        assert "w19" in active(actors)
        nursery.cancel_scope.cancel()
