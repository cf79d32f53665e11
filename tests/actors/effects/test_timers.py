"""What entities ask for later: sent once its time has come, unless they ask for something else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors import World
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Context, Domain, Due, Limits, Reject
from tests.actors._locks import LetLockLapse, RenewLock, TakeLock, lock_domain, locks
from tests.actors._nodes import Node, moving_world, node
from tests.actors._world import Actors, FaultyStore, applied_unknown, away, lost_unknown

LIMITS = Limits(timer_tick_s=0.5, passivate_after_s=1_000.0)


@pytest.fixture
async def world() -> World:
    return moving_world()


@pytest.fixture
async def store(world: World) -> FaultyStore:
    return FaultyStore(world)


@asynccontextmanager
async def actors(
    store: MemoryStore,
    world: World,
    *domains: Domain[Any, Any, Any],
    node_id: str = "a",
    limits: Limits = LIMITS,
) -> AsyncIterator[Node]:
    async with node(
        store, node_id, world=world, limits=limits, domains=domains or (locks,)
    ) as running:
        yield running


async def lapses(of: Actors, *lock_ids: str, workspace_id: str = "w") -> list[int]:
    found = [await of.workspace(workspace_id).get(locks, lock_id) for lock_id in lock_ids]
    assert [lock.wrong for lock in found if lock is not None and lock.wrong] == []
    return [lock.lapses for lock in found if lock is not None]


async def types(of: Actors, workspace_id: str = "w") -> list[str]:
    return [event.type for event in await of.workspace(workspace_id).events()]


async def test_x_cal_3_a_lock_lapses_when_its_time_has_come(
    store: FaultyStore, world: World
) -> None:
    async with actors(store, world) as a:
        await a.workspace().send(TakeLock("1", "me", 10))
        await trio.sleep(9.9)
        assert await lapses(a, "1") == [0]
        await trio.sleep(1)
        assert await lapses(a, "1") == [1]
        await trio.sleep(600)
        assert await types(a) == ["lock_taken", "lock_lapsed"]
        assert a.service.statistics().timers.stuck == 0


async def test_what_is_renewed_does_not_lapse(store: FaultyStore, world: World) -> None:
    """Even where the timer has been sent already, behind the renewal."""
    async with actors(store, world) as a:
        workspace = a.workspace()
        await workspace.send(TakeLock("1", "me", 10))
        for _ in range(3):
            await trio.sleep(9.9)
            await workspace.send(RenewLock("1", "me", 10))
        assert await lapses(a, "1") == [0]
        await trio.sleep(10.6)
        assert await lapses(a, "1") == [1]


@pytest.mark.parametrize("fault", [applied_unknown, lost_unknown, away])
async def test_a_timer_whose_commit_has_an_accident_fires_once(
    store: FaultyStore, world: World, fault: Any
) -> None:
    async with actors(store, world) as a:
        await a.workspace().send(TakeLock("1", "me", 1))
        store.faults.append(fault)
        await trio.sleep(60)
        assert await types(a) == ["lock_taken", "lock_lapsed"]


async def test_what_was_due_while_nothing_ran_happens_then(
    store: FaultyStore, world: World
) -> None:
    async with actors(store, world) as a:
        await a.workspace().send(TakeLock("1", "me", 10))
    await trio.sleep(3_600)
    async with actors(store, world) as a:
        await trio.sleep(1.1)
        assert await types(a) == ["lock_taken", "lock_lapsed"]


async def test_it_happens_once_with_two_nodes(store: FaultyStore, world: World) -> None:
    """Both find it, since nobody owns its workspaces."""
    async with actors(store, world) as a:
        for number in range(50):
            await a.workspace(f"w{number}").send(TakeLock("1", "me", 20))
    await trio.sleep(30)
    async with (
        actors(store, world, node_id="b") as b,
        actors(store, world, node_id="c") as c,
    ):
        await trio.sleep(30)
        for number in range(50):
            head = await store.read_head(f"w{number}")
            assert head is not None
            assert head.head_seq == 2
        fired = [each.service.statistics().timers.fired for each in (b, c)]
        assert sum(fired) >= 50
        assert all(each.service.statistics().timers.stuck == 0 for each in (b, c))


async def test_a_node_that_is_cut_off_leaves_its_timers_to_another(
    store: FaultyStore, world: World
) -> None:
    async with actors(store, world) as a, actors(store, world, node_id="b") as b:
        await a.workspace().send(TakeLock("1", "me", 5))
        a.gate.shut()
        await trio.sleep(20)
        assert await types(b) == ["lock_taken", "lock_lapsed"]
        a.gate.open()
        await trio.sleep(20)
        assert await types(b) == ["lock_taken", "lock_lapsed"]


async def test_a_clock_that_is_ahead_fires_early_by_its_own_time_and_once(
    store: FaultyStore, world: World
) -> None:
    """Then a node with the right one takes over: the workspace's time does not step back."""
    ten = timedelta(minutes=10)
    ahead = World(
        now=lambda: world.now() + ten,
        random=world.random,
        new_id=world.new_id,
        new_salt=world.new_salt,
    )
    async with actors(store, world) as a:
        await a.workspace().send(TakeLock("1", "me", 300))
    async with actors(store, ahead, node_id="b") as b:
        await trio.sleep(20)
        assert await types(b) == ["lock_taken", "lock_lapsed"]
        await b.workspace().send(TakeLock("1", "me", 1))
    async with actors(store, world, node_id="c") as c:
        await trio.sleep(300)
        assert (await types(c)).count("lock_lapsed") == 1, "by the right clock it is not time"
        await trio.sleep(400)
        assert (await types(c)).count("lock_lapsed") == 2


# --------------------------------------------------------------------------- what does not move


class Stubborn(msgspec.Struct, frozen=True):
    at: datetime
    mode: str
    fired: int = 0


class Begin(msgspec.Struct, frozen=True):
    stubborn_id: str
    at: datetime
    mode: str


class Fire(msgspec.Struct, frozen=True):
    stubborn_id: str


class Begun(msgspec.Struct, frozen=True):
    at: datetime
    mode: str


class Fired(msgspec.Struct, frozen=True):
    at: datetime


stubborns = Domain("stubborn", state=Stubborn, commands=Begin | Fire, events=Begun | Fired)


@stubborns.decide
def begin(_state: Stubborn | None, command: Begin) -> Begun:
    return Begun(command.at, command.mode)


@stubborns.decide
def fire(state: Stubborn, _command: Fire, context: Context) -> Fired | None:
    match state.mode:
        case "refuses":
            raise Reject("NO")
        case "raises":
            raise ValueError("no")
        case "nothing":
            return None
        case "again":
            return Fired(context.now)
    return Fired(state.at)


@stubborns.evolve
def begun(_state: Stubborn | None, event: Begun) -> Stubborn:
    return Stubborn(event.at, event.mode)


@stubborns.evolve
def fired(state: Stubborn, event: Fired) -> Stubborn:
    return msgspec.structs.replace(state, at=event.at, fired=state.fired + 1)


asks_badly = False


@stubborns.due
def due(state: Stubborn, stubborn_id: str) -> Due | None:
    if asks_badly and state.mode == "bad":
        raise ValueError("no")
    return Due(state.at, Fire(stubborn_id))


async def begin_all(
    of: Actors, world: World, modes: Sequence[str], *, workspace: str = "w"
) -> None:
    for number, mode in enumerate(modes):
        command = Begin(f"{mode} {number}", world.now() + timedelta(seconds=1), mode)
        await of.workspace(workspace).send(command)


@pytest.mark.parametrize("mode", ["refuses", "raises", "nothing", "same"])
async def test_a_timer_that_moves_nothing_is_tried_ever_more_rarely(
    store: FaultyStore, world: World, mode: str
) -> None:
    limits = Limits(timer_tick_s=5, timer_backoff_max_s=600, lease_s=60, lease_beat_s=20)
    async with actors(store, world, stubborns, limits=limits) as a:
        await begin_all(a, world, [mode])
        await trio.sleep(3_600)
        statistics = a.service.statistics().timers
        assert 9 <= statistics.fired <= 13
        assert statistics.stuck == 1
        await trio.sleep(3_600)
        assert 5 <= a.service.statistics().timers.fired - statistics.fired <= 6


async def test_a_timer_that_asks_for_itself_at_once_is_slowed_down(
    store: FaultyStore, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with actors(store, world, stubborns) as a:
        await begin_all(a, world, ["again"])
        await trio.sleep(400)
        assert 700 <= a.service.statistics().timers.fired <= 800, "one a tick: a cascade is quick"
        await trio.sleep(400)
        assert 1_000 < a.service.statistics().timers.fired < 1_020
        assert "slowed down" in caplog.text


async def test_stuck_ones_stop_no_other(store: FaultyStore, world: World) -> None:
    """Six hundred of them in front: refused, raising, halted, of a domain unknown here."""
    global asks_badly
    limits = Limits(timers_read_max=50, timers_per_tick_max=200, timers_firing_max=32)
    async with actors(store, world, stubborns, locks) as a:
        await begin_all(a, world, ["refuses", "raises", "nothing", "bad"] * 100)
        for number in range(200):
            await a.workspace("unknown").send(TakeLock(f"{number}", "me", 1))
        await begin_all(a, world, ["good"] * 10, workspace="halted")
        head = await store.read_head("halted")
        assert head is not None
        await store.halt("halted", head.epoch, "why", code="x", actor="x")
    asks_badly = True
    try:
        await trio.sleep(30)
        async with actors(store, world, stubborns, limits=limits) as b:
            await begin_all(b, world, ["good"], workspace="another")
            await trio.sleep(40)
            good = await b.workspace("another").get(stubborns, "good 0")
            assert good is not None
            assert good.fired > 0
    finally:
        asks_badly = False


async def test_a_million_at_once_of_one_workspace_leave_room_for_others(
    store: FaultyStore, world: World
) -> None:
    """In small: sixteen of a workspace a tick, and what lies behind a crowd has its turn."""
    limits = Limits(timers_read_max=20, timers_per_tick_max=40, timers_per_workspace_max=4)
    async with actors(store, world, locks, limits=limits) as a:
        for number in range(200):
            await a.workspace("crowd").send(TakeLock(f"{number}", "me", 1))
        await a.workspace("other").send(TakeLock("1", "me", 2))
        await trio.sleep(6)
        assert await lapses(a, "1", workspace_id="other") == [1]
        await trio.sleep(60)
        assert (await types(a, "crowd")).count("lock_lapsed") <= 200
        head = await store.read_head("crowd")
        assert head is not None
        assert head.head_seq == 400


async def test_a_workspace_that_does_not_answer_leaves_the_others_their_timers(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(timers_per_workspace_max=4, timers_firing_max=8, command_deadline_s=600.0)
    async with actors(store, world, locks, limits=limits) as a:
        for number in range(50):
            await a.workspace("silent").send(TakeLock(f"{number}", "me", 1))
        await a.workspace("other").send(TakeLock("1", "me", 5))
        silent = a.service.directory.activate("silent")
        assert silent.incarnation is not None
        decide, gate = silent.incarnation._load, trio.Event()

        async def wait(*args: Any) -> None:
            await gate.wait()
            await decide(*args)

        silent.incarnation._load = wait  # type: ignore[method-assign,assignment]
        await trio.sleep(7)
        assert a.service.statistics().timers.firing == 4
        assert await lapses(a, "1", workspace_id="other") == [1]
        gate.set()
        await trio.sleep(10)
        head = await store.read_head("silent")
        assert head is not None
        assert head.head_seq == 100


async def test_timers_wake_a_quarter_of_the_table_and_what_they_woke_rests_first(
    store: FaultyStore, world: World
) -> None:
    async with actors(store, world) as a:
        for number in range(40):
            await a.workspace(f"w{number}").send(TakeLock("1", "me", 10))
    await trio.sleep(60)
    limits = Limits(workspaces_active_max=16, passivate_after_s=1_000.0)
    most = 0
    async with actors(store, world, limits=limits, node_id="b") as b:
        for _ in range(600):
            await trio.sleep(0.05)
            most = max(most, len(b.service.directory.statistics()))
        assert most <= 4
        assert b.service.statistics().timers.woken == 0
        assert b.service.directory.statistics() == {}
    for number in range(40):
        head = await store.read_head(f"w{number}")
        assert head is not None
        assert head.head_seq == 2


async def test_what_somebody_uses_stays_though_a_timer_woke_it(
    store: FaultyStore, world: World
) -> None:
    async with actors(store, world) as a:
        await a.workspace().send(TakeLock("1", "me", 10))
    await trio.sleep(60)
    async with actors(store, world, node_id="b") as b:
        while not b.service.directory.statistics():
            await trio.sleep(0.01)
        await b.workspace().send(TakeLock("2", "me", 1_000))
        await trio.sleep(60)
        assert set(b.service.directory.statistics()) == {"w"}


# ------------------------------------------------------------------------------ other versions


async def test_a_row_that_says_it_wrongly_is_corrected(store: FaultyStore, world: World) -> None:
    """For example as an earlier version of the domain asked, whose rows are not stale here."""
    early, late = lock_domain(), lock_domain()
    early.due(lambda lock, id_: Due(lock.until - timedelta(seconds=9), LetLockLapse(id_, "me")))
    async with actors(store, world, early) as a:
        await a.workspace().send(TakeLock("1", "me", 60))
    async with actors(store, world, late, node_id="b") as b:
        await trio.sleep(55)
        assert b.service.statistics().timers.fired == 0
        assert await types(b) == ["lock_taken"]
        await trio.sleep(7)
        assert await types(b) == ["lock_taken", "lock_lapsed"]


async def test_what_an_earlier_version_did_not_ask_for_is_asked_for_by_the_next(
    store: FaultyStore, world: World
) -> None:
    first, second = lock_domain(1), lock_domain(2)
    first._due = None
    async with actors(store, world, first) as a:
        for number in range(5):
            await a.workspace(f"w{number}").send(TakeLock("1", "me", 10))
        await trio.sleep(60)
        assert await types(a, "w0") == ["lock_taken"]
    async with actors(store, world, second, node_id="b") as b:
        await trio.sleep(90)  # the lease of the other, and a minute to the next look
        for number in range(5):
            assert await types(b, f"w{number}") == ["lock_taken", "lock_lapsed"]
