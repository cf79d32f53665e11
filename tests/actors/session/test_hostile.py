"""Attacks by a hostile reader of this code, and what they must not achieve."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import AckedCursor, Batch, BatchRejectedError, CursorKey, World
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import (
    CorruptLogError,
    DalsegnoError,
    Domain,
    InternalError,
    Limits,
    OutcomeUnknownError,
    StoreUnavailableError,
    WorkspaceMovedError,
)
from tests._patience import lasted
from tests.actors._boxes import Put
from tests.actors._nodes import LIMITS, moving_world, node
from tests.actors._wire import wired
from tests.actors._world import (
    DOMAINS,
    Actors,
    Append,
    FaultyStore,
    check_log,
    eventually,
    hangs,
    held,
    running,
)


async def send_to(actors: Actors, workspace_id: str, answers: dict[str, Any]) -> None:
    """Send one command, and note its answer and how long it took."""
    began = trio.current_time()
    try:
        answer: Any = await actors.workspace(workspace_id).send(Put("x"))
    except DalsegnoError as error:
        answer = error
    answers[workspace_id] = (answer, lasted(began))


async def test_i10_damaged_pages_under_one_workspace_halt_none_of_its_neighbours(
    store: FaultyStore, actors: Actors
) -> None:
    async def damaged(append: Append, batches: Sequence[Batch]) -> Collection[str]:
        if any(batch.workspace_id == "bad" for batch in batches):
            raise CorruptLogError("the database refused a statement (XX001)")
        return await append(batches)

    gate = trio.Event()
    store.faults += [held(gate), *[damaged] * 20]
    answers: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_to, actors, "first", answers)
        await eventually(lambda: store.statements)
        for workspace_id in ("good", "bad", "fine"):
            nursery.start_soon(send_to, actors, workspace_id, answers)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert len(store.statements[1]) == 3, "they went together"
    assert isinstance(answers["bad"][0], CorruptLogError)
    for workspace_id in ("good", "fine"):
        assert answers[workspace_id][0].event_seq == 1
        head = await store.read_head(workspace_id)
        assert head is not None
        assert head.halted_reason is None


async def test_i9_a_database_that_hangs_cannot_hold_the_end_once_a_batch_was_rejected(
    store: FaultyStore, world: World
) -> None:
    """Each of a rejected group is sent alone; the end waits for one statement, not for each."""

    async def rejects(_append: Append, _batches: Sequence[Batch]) -> Collection[str]:
        await trio.lowlevel.checkpoint()
        raise BatchRejectedError("22")

    gate = trio.Event()
    async with trio.open_nursery() as nursery, running(store, world) as actors:
        store.faults += [held(gate), rejects, *[hangs] * 30]
        nursery.start_soon(send_to, actors, "first", {})
        await eventually(lambda: store.statements)
        for number in range(20):
            nursery.start_soon(send_to, actors, f"w{number}", {})
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await eventually(lambda: len(store.statements) == 3)
        began = trio.current_time()
    assert trio.current_time() - began < 1


async def test_a_frozen_append_leaves_nobody_without_an_answer_beyond_the_deadline(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(commit_batches_max=2)
    answers: dict[str, Any] = {}
    async with running(store, world, limits=limits) as actors:
        store.faults += [hangs] * 200
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(send_to, actors, f"w{number}", answers)
        assert len(answers) == 20
        for answer, took_s in answers.values():
            assert isinstance(answer, OutcomeUnknownError | StoreUnavailableError)
            assert took_s <= limits.command_deadline_s + 1
        store.faults.clear()
        assert (await actors.workspace("w0").send(Put("x"))).event_seq >= 1
    for number in range(20):
        events = await check_log(store, f"w{number}")
        answer, _ = answers[f"w{number}"]
        if isinstance(answer, StoreUnavailableError) and number:
            assert events == [], "not applied, as was said"


async def test_i10_readers_that_wait_for_a_number_far_ahead_cost_a_commit_little(
    actors: Actors,
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("x"))
    hub = actors.service.directory.activate("w").hub
    woken = 0

    async def wait(event_seq: int) -> None:
        nonlocal woken
        await hub.wait_head(event_seq)
        woken += 1

    async with trio.open_nursery() as nursery:
        for number in range(2_000):
            nursery.start_soon(wait, 10**9 + number)
        nursery.start_soon(wait, 2)
        await trio.testing.wait_all_tasks_blocked()
        steps = 0

        class Count(trio.abc.Instrument):
            def before_task_step(self, _task: trio.lowlevel.Task) -> None:
                nonlocal steps
                steps += 1

        instrument = Count()
        trio.lowlevel.add_instrument(instrument)
        await workspace.send(Put("x"))
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(instrument)
        assert woken == 1
        assert steps < 100
        nursery.cancel_scope.cancel()
    assert not hub.is_used, "nothing is left of who waited"


async def test_i9_a_slow_loop_holds_few_events_however_small_they_are(actors: Actors) -> None:
    workspace = actors.workspace()
    bound = actors.service.limits.outbox_bytes_max
    async with workspace.subscribe(after=None) as events:
        # One event is taken so that the loop is live; the following are offered and not taken.
        await workspace.send(Put("x"))
        await anext(events)
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(workspace.send, Put("x"))
        assert events.statistics().waiting * 700 <= bound
        with trio.fail_after(60):
            assert [(await anext(events)).event_seq for _ in range(4_000)] == [*range(2, 4_002)]


async def test_readers_do_not_notice_that_a_state_could_not_be_stored(
    store: FaultyStore, world: World
) -> None:
    async def refused() -> None:
        raise InternalError("the database refused a statement (22000)")

    async with running(store, world, limits=Limits(passivate_after_s=5)) as actors:
        workspace = actors.workspace()
        store.before["write_states"] = refused
        await workspace.send(Put("x"))
        async with workspace.subscribe() as events:
            await anext(events)
            await eventually(lambda: actors.service.directory.activate("w").state == "resting")
            await workspace.send(Put("x"))
            assert (await anext(events)).event_seq == 2


async def test_workspaces_that_nobody_waits_for_leave_also_while_the_store_is_away(
    store: FaultyStore, world: World
) -> None:
    async def away() -> None:
        raise StoreUnavailableError("away")

    async with running(store, world, limits=Limits(workspaces_active_max=20)) as actors:
        store.before["acquire"] = away
        answers: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(send_to, actors, f"w{number}", answers)
        assert {answer.code for answer, _ in answers.values()} == {"STORE_UNAVAILABLE"}
        await eventually(lambda: not actors.service.directory.statistics())
        store.before.clear()
        assert (await actors.workspace("other").send(Put("x"))).event_seq == 1


async def test_readers_of_a_workspace_that_moved_while_it_fell_asleep_hear_of_it() -> None:
    """The lease ran out between an incarnation's end and the slot's rest."""
    world = moving_world()
    store = FaultyStore(world)
    storing, stored = trio.Event(), trio.Event()

    async def hold() -> None:
        if not storing.is_set():
            storing.set()
            await stored.wait()

    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        # It rests once and is woken, so that its slot has rested before.
        await a.workspace().send(Put("x"))
        slot = a.service.directory.activate("w")
        async with a.workspace().subscribe(after=None) as events:
            slot.passivate()
            await eventually(lambda: slot.state == "resting")
            await a.workspace().send(Put("x"))
            await anext(events)
            store.before["write_states"] = hold
            slot.passivate()
            await storing.wait()
            a.gate.shut()
            await trio.sleep(2 * LIMITS.lease_s)
            await b.workspace().send(Put("x"))
            a.gate.open()
            await eventually(lambda: a.service.lease.is_held)
            stored.set()
            with trio.fail_after(5), pytest.raises(WorkspaceMovedError):
                await anext(events)


async def test_i9_acks_are_written_so_many_at_a_time(world: World) -> None:
    sizes: list[int] = []

    class Counting(MemoryStore):
        async def write_cursors(self, cursors: dict[CursorKey, AckedCursor]) -> None:
            sizes.append(len(cursors))
            await super().write_cursors(cursors)

    store = Counting(world)
    async with running(store, world) as actors:
        acks = actors.service.acks
        hub = actors.service.directory.activate("w").hub
        frontiers = [
            await acks.open(CursorKey(f"u{number}", "c", "w", "workspace:w"), hub)
            for number in range(12_000)
        ]
        for frontier in frontiers:
            acks.ack(frontier, 1, sent=1)
        await acks.flush()
        assert max(sizes) <= 5_000
        assert sum(sizes) == 12_000
        keys = [frontier.key for frontier in frontiers]
        assert await store.read_cursors(keys) == dict.fromkeys(keys, 1)


async def test_a_stranger_neither_opens_nor_moves_a_workspace_nor_hears_where_it_lives(
    store: FaultyStore,
) -> None:
    world = moving_world()
    async with (
        node(store, "a", world=world, address="https://internal.example") as a,
        node(store, "b", world=world) as b,
    ):
        await a.workspace().send(PutMember("member", "editor"))
        async with wired(b, user_id="stranger") as wire:
            put = {"name": "put", "payload": {"box_id": "a", "text": "x"}}
            for answer in (
                await wire.ask("subscribe", stream_id="workspace:w"),
                await wire.ask("command", workspace_id="w", **put),
            ):
                assert answer["code"] == "ROLE_FORBIDDEN", answer
                assert "internal" not in str(answer)
        assert b.service.directory.statistics() == {}
        async with wired(b, user_id="member") as wire:
            answer = await wire.ask("subscribe", stream_id="workspace:w")
            assert answer["code"] == "WORKSPACE_MOVED"
        # Once released, it goes to the node that a member asks first; a stranger moves it nowhere.
        await store.release("w", 1)
        async with wired(b, user_id="stranger") as wire:
            answer = await wire.ask("subscribe", stream_id="workspace:w")
            assert answer["code"] == "ROLE_FORBIDDEN"
        head = await store.read_head("w")
        assert head is not None
        assert (head.owner, head.epoch) == (None, 1)


class Sum(msgspec.Struct, frozen=True):
    total: float | int | None = None


class Add(msgspec.Struct, frozen=True):
    sum_id: str
    by: float | int


class Added(msgspec.Struct, frozen=True):
    total: float


class Grown(msgspec.Struct, frozen=True):
    times: int


sums = Domain("sum", version=1, state=Sum, commands=Add, events=Added | Grown)


@sums.decide
def add(sum_: Sum | None, command: Add) -> Added | Grown:
    if isinstance(command.by, int):
        return Grown(command.by)
    old = 0.0 if sum_ is None or sum_.total is None else float(sum_.total)
    return Added(old + command.by)


@sums.evolve
def added(_sum: Sum | None, event: Added) -> Sum:
    return Sum(event.total)


@sums.evolve
def grown(_sum: Sum | None, event: Grown) -> Sum:
    return Sum(10**event.times)


async def test_an_infinity_is_refused_and_not_written_as_null(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world, domains=[*DOMAINS, sums]) as actors:
        workspace = actors.workspace()
        await workspace.send(Add("s", 1.7e308))
        with pytest.raises(DalsegnoError) as caught:
            await workspace.send(Add("s", 1.7e308))
        assert caught.value.code == "INTERNAL_ERROR"
        assert (await workspace.send(Add("s", -1.0))).event_seq == 2
    await check_log(store)


async def test_a_state_that_cannot_be_written_is_folded_from_the_log(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(state_lag_events_max=2, passivate_after_s=10)
    async with running(store, world, limits=limits, domains=[*DOMAINS, sums]) as actors:
        workspace = actors.workspace()
        for _ in range(6):
            await workspace.send(Add("s", 5_000))  # more digits than Python writes
        await trio.sleep(20)
        assert await workspace.get(sums, "s") == Sum(10**5_000)
        assert (await workspace.send(Add("s", 5_000))).event_seq == 7
        assert (await workspace.repair()).states_rewritten == 0
    await check_log(store)
