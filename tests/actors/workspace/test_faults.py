"""What commands get when the store fails: never a guess, nothing twice, no neighbour harmed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import Batch, BatchRejectedError, Receipt, World
from dalsegno.protocol import (
    DalsegnoError,
    Event,
    InternalError,
    Limits,
    OutcomeUnknownError,
    Reject,
    RuntimeClosedError,
    StoreUnavailableError,
    WorkspaceHaltedError,
)
from tests.actors._boxes import Box, Expect, Give, Put, boxes
from tests.actors._nodes import node
from tests.actors._world import (
    Actors,
    Append,
    Fault,
    FaultyStore,
    applied_unknown,
    away,
    check_log,
    eventually,
    hangs,
    held,
    held_then,
    log_of,
    lost_unknown,
    post_all,
    refusal,
    roll_back,
    running,
    send_all,
)

POISON = '{"text":"poison"}'


async def rejects_poison(append: Append, batches: Sequence[Batch]) -> Collection[str]:
    if any(event.payload == POISON for batch in batches for event in batch.events):
        await trio.lowlevel.checkpoint()
        raise BatchRejectedError("no such data")
    return await append(batches)


class Listener:
    """Collects what a subscription yields."""

    def __init__(self, actors: Actors, workspace_id: str = "w") -> None:
        self.events: list[Event] = []
        self._workspace = actors.workspace(workspace_id)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self._workspace.subscribe() as events:
            task_status.started()
            async for event in events:
                self.events.append(event)

    @property
    def seqs(self) -> list[int]:
        return [event.event_seq for event in self.events]


# ------------------------------------------------------------------------- failure before commit


async def test_x_seq_5_a_failure_before_the_commit_consumes_no_number(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    store.faults.append(away)
    receipt = await workspace.send(Put("a", "x"))  # decided again by the next incarnation
    assert (receipt.event_seq, receipt.version) == (2, 2)
    assert actors.incarnations() == 2
    await check_log(store)


async def test_x_per_2_a_failed_commit_publishes_nothing_and_its_caller_hears_of_it(
    actors: Actors, store: FaultyStore
) -> None:
    async with trio.open_nursery() as nursery:
        listener, neighbour = Listener(actors), Listener(actors, "neighbour")
        await nursery.start(listener.run)
        await nursery.start(neighbour.run)
        store.faults += [rejects_poison, rejects_poison]
        assert isinstance(await refusal(actors.workspace(), Put("a", "poison")), InternalError)
        await actors.workspace("neighbour").send(Put("a"))
        await trio.testing.wait_all_tasks_blocked()
        assert (listener.seqs, neighbour.seqs) == ([], [1])
        assert (await actors.workspace().send(Put("a"))).event_seq == 1
        await trio.testing.wait_all_tasks_blocked()
        assert listener.seqs == [1]
        nursery.cancel_scope.cancel()


async def test_a_store_that_stays_away_is_answered_by_the_deadline_and_comes_back(
    actors: Actors, store: FaultyStore
) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("the database is away")

    workspace = actors.workspace()
    store.before["acquire"] = fail
    began = trio.current_time()
    assert isinstance(await refusal(workspace, Put("a")), StoreUnavailableError)
    assert trio.current_time() - began < actors.service.limits.mailbox_deadline_s + 1
    del store.before["acquire"]
    assert (await workspace.send(Put("a"))).event_seq == 1
    assert await workspace.head() == 1


async def test_a_load_that_fails_leaves_every_command_in_its_order(
    actors: Actors, store: FaultyStore
) -> None:
    failures = 2

    async def fail() -> None:
        nonlocal failures
        await trio.lowlevel.checkpoint()
        failures -= 1
        if failures >= 0:
            raise StoreUnavailableError("the database is away")

    await actors.workspace().send(Put("warm"))
    store.before["load_entities"] = fail
    posted = await send_all(actors.workspace(), [Put(f"b{n % 3}", str(n)) for n in range(9)])
    assert [one.receipt.event_seq for one in posted] == [*range(2, 11)]
    assert len(await check_log(store)) == 10


# --------------------------------------------------------------------------------- output gate


async def test_i2_a_rejection_that_saw_speculative_state_waits_for_its_commit(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a", "old"))
    gate = trio.Event()
    store.faults.append(held(gate))
    put, refused, read = post_all(
        workspace, [Put("a", "new"), Expect("a", "old"), Expect("a", "new")]
    )
    await trio.sleep(1)
    assert (put.answer, refused.answer, read.answer) == (None, None, None)
    assert await workspace.get(boxes, "a") == Box("old"), "reads from outside see what is committed"
    assert await workspace.head() == 1
    gate.set()
    await read.wait()
    assert (put.code, refused.code, read.code) == (None, "BOX_DIFFERS", None)
    assert await workspace.get(boxes, "a") == Box("new", 2)


async def test_i2_a_rejection_on_a_commit_that_fails_is_decided_again(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a", "old"))
    store.faults.append(rejects_poison)
    posted = post_all(workspace, [Put("a", "poison")])
    gate = trio.Event()
    store.faults.clear()
    store.faults.append(held_then(gate, rejects_poison))
    await trio.testing.wait_all_tasks_blocked()
    later = post_all(workspace, [Expect("a", "poison"), Expect("a", "old"), Put("a", "next")])
    await trio.testing.wait_all_tasks_blocked()
    gate.set()
    for one in [*posted, *later]:
        await one.wait()
    assert [one.code for one in [*posted, *later]] == ["INTERNAL_ERROR", "BOX_DIFFERS", None, None]
    assert [event.payload for event in await check_log(store)] == [
        '{"text":"old"}',
        '{"text":"next"}',
    ]


async def test_later_batches_of_a_refused_one_are_decided_again_in_order(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    gate = trio.Event()
    store.faults.append(held_then(gate, away))
    first = post_all(workspace, [Put("a", "1", base_version=1)])
    await trio.testing.wait_all_tasks_blocked()
    forming = post_all(workspace, [Put("a", "2", base_version=2), Put("b", "3")])
    await trio.testing.wait_all_tasks_blocked()
    gate.set()
    waiting = post_all(workspace, [Put("a", "4", base_version=3)])
    posted = [*first, *forming, *waiting]
    for one in posted:
        await one.wait()
    assert [one.receipt.event_seq for one in posted] == [2, 3, 4, 5]
    await check_log(store)


# ---------------------------------------------------------------------------- unknown outcomes


async def test_faults_with_successes_in_between_do_not_add_up(
    actors: Actors, store: FaultyStore
) -> None:
    for n in range(12):
        store.faults.append(lost_unknown)
        await actors.workspace().send(Put("a", str(n)))
    assert trio.current_time() < 12 * actors.service.limits.backoff_first_s


@pytest.mark.parametrize("fault", [applied_unknown, lost_unknown])
async def test_i4_an_unknown_outcome_gets_the_right_verdict_and_nothing_twice(
    actors: Actors, store: FaultyStore, fault: Fault
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    store.faults.append(fault)
    posted = await send_all(
        workspace,
        [Put("a", "x", base_version=1), Put("b", "y"), Put("a", "z", base_version=1)],
        keys=["k1", "k2", "k3"],
    )
    assert [one.code for one in posted] == [None, None, "VERSION_CONFLICT"]
    assert [one.receipt.event_seq for one in posted[:2]] == [2, 3]
    assert [one.receipt.version for one in posted[:2]] == [2, 1]
    assert len(await check_log(store)) == 3
    again = await workspace.send(Put("a", "x", base_version=1), key="k1")
    assert again == msgspec.structs.replace(posted[0].receipt, repeated=True)


async def test_i4_the_verdict_on_a_change_elsewhere_has_the_commands_own_entity(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    store.faults.append(applied_unknown)
    given = await workspace.send(Give("a", "b", "x"))
    assert (given.stream_id, given.version, given.event_seq) == ("box:a", 1, 2)


async def test_i4_a_commit_that_arrives_after_the_fence_does_nothing(
    actors: Actors, store: FaultyStore
) -> None:
    late: list[Sequence[Batch]] = []

    async def keep_for_later(_append: Append, batches: Sequence[Batch]) -> Collection[str]:
        await trio.lowlevel.checkpoint()
        late.append(batches)
        raise OutcomeUnknownError("it is still on its way")

    workspace = actors.workspace()
    await workspace.send(Put("a"))
    store.faults.append(keep_for_later)
    receipt = await workspace.send(Put("a", "x"))
    assert receipt.event_seq == 2
    assert await store.append(late[0]) == []
    assert len(await check_log(store)) == 2


async def test_i4_a_commit_that_arrives_just_before_the_fence_is_the_answer(
    actors: Actors, store: FaultyStore
) -> None:
    late: list[Sequence[Batch]] = []

    async def keep_for_later(_append: Append, batches: Sequence[Batch]) -> Collection[str]:
        await trio.lowlevel.checkpoint()
        late.append(batches)
        raise OutcomeUnknownError("it is still on its way")

    async def arrive() -> None:
        if late:
            assert await store.append(late.pop()) == ["w"]

    workspace = actors.workspace()
    await workspace.send(Put("a"))
    store.before["acquire"] = arrive
    store.faults.append(keep_for_later)
    posted = await send_all(workspace, [Put("a", "x")])
    events = await check_log(store)
    assert posted[0].receipt.event_seq == 2
    assert events[1].command_id == posted[0].command.command_id
    assert len(events) == 2


async def test_i4_a_hanging_commit_is_resolved_after_its_deadline(
    actors: Actors, store: FaultyStore
) -> None:
    async def applied_then_hangs(append: Append, batches: Sequence[Batch]) -> Collection[str]:
        await append(batches)
        return await hangs(append, batches)

    workspace = actors.workspace()
    await workspace.send(Put("a"))
    store.faults.append(applied_then_hangs)
    receipt = await workspace.send(Put("a", "x"))
    assert receipt.event_seq == 2
    assert trio.current_time() == pytest.approx(actors.service.limits.commit_deadline_s, abs=1)
    assert len(await check_log(store)) == 2


async def test_i4_an_outcome_that_stays_unknown_is_said_by_the_deadline(
    actors: Actors, store: FaultyStore
) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("the database is away")

    workspace = actors.workspace()
    await workspace.send(Put("a"))
    store.before["acquire"] = fail
    store.faults.append(applied_unknown)
    error = await refusal(workspace, Put("a", "x"), key="k")
    assert isinstance(error, OutcomeUnknownError)
    assert trio.current_time() == pytest.approx(actors.service.limits.command_deadline_s, abs=1)
    del store.before["acquire"]
    await eventually(lambda: "running" in repr(actors.service.directory.activate("w")))
    # A repeat with the same key finds out.
    repeat = await workspace.send(Put("a", "x"), key="k")
    assert (repeat.repeated, repeat.event_seq) == (True, 2)


async def test_x_per_3_what_was_committed_without_an_answer_reaches_subscriber_and_sender(
    actors: Actors, store: FaultyStore
) -> None:
    async with trio.open_nursery() as nursery:
        listener = Listener(actors)
        await actors.workspace().send(Put("a"))
        await nursery.start(listener.run)
        store.faults.append(applied_unknown)
        receipt = await actors.workspace().send(Put("a", "x"))
        assert receipt.event_seq == 2
        await eventually(lambda: listener.seqs == [1, 2])
        await actors.workspace().send(Put("a"))
        await eventually(lambda: listener.seqs == [1, 2, 3])
        nursery.cancel_scope.cancel()


async def test_an_unknown_first_commit_of_a_new_workspace(
    actors: Actors, store: FaultyStore
) -> None:
    store.faults += [applied_unknown, lost_unknown]
    assert (await actors.workspace().send(Put("a"))).event_seq == 1
    assert (await actors.workspace("other").send(Put("a"))).event_seq == 1
    assert len(await check_log(store)) == len(await check_log(store, "other")) == 1


@pytest.mark.parametrize("created", [True, False])
async def test_an_unknown_making_of_a_workspace(
    actors: Actors, store: FaultyStore, created: bool
) -> None:
    calls = 0

    async def fail_once() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first checks whether it exists
            if created:
                store.before.clear()
                await store.acquire("w", "n", create=True)
                store.before["acquire"] = fail_once
            raise OutcomeUnknownError("the answer was lost")

    store.before["acquire"] = fail_once
    assert (await actors.workspace().send(Put("a"))).event_seq == 1
    assert len(await check_log(store)) == 1


# ------------------------------------------------------------------------------------- isolation


async def test_i10_a_refused_batch_costs_its_neighbours_nothing(
    actors: Actors, store: FaultyStore
) -> None:
    store.faults += [rejects_poison] * 20
    posted = [
        one
        for n in range(8)
        for one in post_all(actors.workspace(f"w{n}"), [Put("a", "poison" if n == 3 else "fine")])
    ]
    for one in posted:
        await one.wait()
    assert [one.code for one in posted] == ["INTERNAL_ERROR" if n == 3 else None for n in range(8)]
    await eventually(lambda: "w3" not in actors.service.directory.statistics())
    others = [n for n in range(8) if n != 3]
    assert [actors.incarnations(f"w{n}") for n in others] == [1] * 7
    assert (await actors.workspace("w3").send(Put("a"))).event_seq == 1


async def test_i10_a_refused_command_costs_those_behind_it_nothing(
    actors: Actors, store: FaultyStore
) -> None:
    await actors.workspace().send(Put("a"))
    store.faults += [rejects_poison] * 3
    posted = await send_all(actors.workspace(), [Put("a", "poison")])
    posted += await send_all(actors.workspace(), [Put("a", "fine")])
    assert [one.code for one in posted] == ["INTERNAL_ERROR", None]
    assert len(await check_log(store)) == 2


async def test_a_corrupt_record_halts_its_workspace_and_no_other(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
        await actors.workspace().send(Put("b"))
        await actors.workspace("neighbour").send(Put("a"))
    log = store._logs["w"]
    log.streams["box:a"][0] = msgspec.structs.replace(log.streams["box:a"][0], payload="no JSON")
    async with running(store, world) as actors:
        waiting = post_all(actors.workspace(), [Put("a"), Put("b")])
        for one in waiting:
            await one.wait()
        assert [one.code for one in waiting] == ["WORKSPACE_HALTED"] * 2
        assert isinstance(await refusal(actors.workspace(), Put("b")), WorkspaceHaltedError)
        with pytest.raises(WorkspaceHaltedError):
            await actors.workspace().events()
        with pytest.raises(WorkspaceHaltedError):
            async with actors.workspace().subscribe():
                pass
        assert (await actors.workspace("neighbour").send(Put("a"))).event_seq == 2
    # … and it stays so, whichever node opens it next (X-PER-9).
    async with running(store, world) as actors:
        assert isinstance(await refusal(actors.workspace(), Put("b")), WorkspaceHaltedError)
        assert (await actors.workspace("neighbour").send(Put("a"))).event_seq == 3
    assert len(await log_of(store)) == 2


async def test_x_per_9_a_halt_marker_is_honoured_until_it_is_cleared(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
        code = actors.service.node.code
    head = await store.read_head("w")
    assert head is not None
    await store.halt("w", head.epoch, "found wanting", code=code, actor="t")
    async with running(store, world) as actors:
        error = await refusal(actors.workspace(), Put("a"))
        assert (error.code, error.message) == ("WORKSPACE_HALTED", "found wanting")
    head = await store.read_head("w")
    assert head is not None
    await store.resume("w", head.epoch, actor="t", detail="")
    async with running(store, world) as actors:
        assert (await actors.workspace().send(Put("a"))).event_seq == 2


async def test_x_sup_2_an_actor_that_keeps_failing_is_quarantined(
    actors: Actors, store: FaultyStore
) -> None:
    async def bug() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("a bug in the loop")

    await actors.workspace().send(Put("a"))
    store.before["load_entities"] = bug
    posted = await send_all(actors.workspace(), [Put("b")])
    del store.before["load_entities"]
    assert posted[0].code == "WORKSPACE_HALTED"
    assert actors.incarnations() <= 7
    head = await store.read_head("w")
    assert head is not None
    assert head.halted_reason is not None
    assert (await actors.workspace("neighbour").send(Put("a"))).event_seq == 1


async def test_x_sup_1_a_bug_in_the_loop_costs_no_command(
    actors: Actors, store: FaultyStore
) -> None:
    failures = 0

    async def bug_twice() -> None:
        nonlocal failures
        await trio.lowlevel.checkpoint()
        failures += 1
        if failures <= 2:
            raise ZeroDivisionError("a bug in the loop")

    store.before["load_entities"] = bug_twice
    posted = await send_all(actors.workspace(), [Put(f"b{n}") for n in range(5)])
    assert [one.receipt.event_seq for one in posted] == [1, 2, 3, 4, 5]
    assert actors.incarnations() == 3


# ------------------------------------------------------------------------------- cancel and end


@pytest.mark.parametrize("steps", range(25))
async def test_fi_14_a_caller_cancelled_anywhere_leaves_the_workspace_sound(
    actors: Actors, store: FaultyStore, steps: int
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    receipts: list[Receipt] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                receipts.append(await workspace.send(Put("a", "x"), key="k"))

            nursery.start_soon(send)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    again = await workspace.send(Put("a", "x"), key="k")
    assert again.event_seq == 2
    assert not receipts or receipts[0].event_seq == 2
    assert (await workspace.send(Put("a"))).event_seq == 3
    await check_log(store)


async def test_a_caller_cancelled_while_it_waits_for_room_did_nothing(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(mailbox_commands_max=1, batch_commands_max=1)
    gate = trio.Event()
    store.faults.append(held(gate))
    async with running(store, world, limits=limits) as actors:
        workspace = actors.workspace()
        posted = []
        with suppress(trio.WouldBlock):
            while True:
                posted += post_all(workspace, [Put("a")])
                await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await workspace.send(Put("a", "cancelled"))
        assert scope.cancelled_caught
        gate.set()
        for one in posted:
            await one.wait()
        assert len(await check_log(store)) == len(posted)


async def test_draining_settles_all_that_was_taken(store: FaultyStore, world: World) -> None:
    async with running(store, world) as actors:
        posted = [
            one
            for n in range(20)
            for one in post_all(actors.workspace(f"w{n}"), [Put("a"), Put("b")])
        ]
        await actors.service.drain()
        assert [one.code for one in posted] == [None] * 40
        assert isinstance(await refusal(actors.workspace("w0"), Put("a")), RuntimeClosedError)
        assert isinstance(await refusal(actors.workspace("new"), Put("a")), RuntimeClosedError)


async def test_who_still_waits_at_the_end_gets_an_answer(store: FaultyStore, world: World) -> None:
    limits = Limits(mailbox_commands_max=2, batch_commands_max=1, mailbox_deadline_s=100)
    gate = trio.Event()
    store.faults.append(held(gate))
    answers: list[DalsegnoError | Receipt] = []
    async with trio.open_nursery() as callers:
        async with running(store, world, limits=limits) as actors:
            workspace = actors.workspace()

            async def send(n: int) -> None:
                try:
                    answers.append(await workspace.send(Put("a", str(n))))
                except DalsegnoError as error:
                    answers.append(error)

            for n in range(9):
                callers.start_soon(send, n)
            await trio.testing.wait_all_tasks_blocked()
            actors.kill()
            gate.set()
        with trio.fail_after(5):
            await eventually(lambda: len(answers) == 9)
        assert {type(answer) for answer in answers} <= {OutcomeUnknownError, RuntimeClosedError}
        with trio.fail_after(5):
            assert isinstance(await refusal(workspace, Put("a")), RuntimeClosedError)


async def test_who_waits_for_room_in_a_workspace_that_halts_gets_an_answer(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
    log = store._logs["w"]
    log.streams["box:a"][0] = msgspec.structs.replace(log.streams["box:a"][0], payload="no JSON")
    limits = Limits(mailbox_commands_max=1, batch_commands_max=1, mailbox_deadline_s=100)
    load = trio.Event()
    store.before["load_entities"] = load.wait
    async with running(store, world, limits=limits) as actors:
        errors: list[DalsegnoError] = []

        async def send() -> None:
            errors.append(await refusal(actors.workspace(), Put("a")))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            load.set()
            with trio.fail_after(5):
                await eventually(lambda: len(errors) == 5)
    assert {error.code for error in errors} == {"WORKSPACE_HALTED"}


# ------------------------------------------------------------------------- another history


@pytest.mark.parametrize("kept", [0, 2, 4])
@pytest.mark.parametrize("rewritten", [0, 1, 2, 3])
async def test_readers_of_a_history_that_a_failover_lost_are_told(
    store: FaultyStore, world: World, kept: int, rewritten: int
) -> None:
    """Research §2.6: a new primary issues the same numbers again, with other content."""
    async with running(store, world) as actors:
        await send_all(actors.workspace(), [Put("a", str(n)) for n in range(4)])
        async with actors.workspace().subscribe(after=4) as events:
            roll_back(store, kept)
            if rewritten:
                async with node(store, "another", world=world) as elsewhere:
                    await send_all(elsewhere.workspace(), [Put("b")] * rewritten)
                    await elsewhere.service.drain()
            assert (await actors.workspace().send(Put("c"))).event_seq == kept + rewritten + 1
            if kept == 4:
                for n in range(rewritten + 1):
                    assert (await anext(events)).event_seq == 5 + n
            else:
                with pytest.raises(Reject) as caught:
                    await anext(events)
                assert caught.value.code == "CURSOR_DIVERGED"
        async with actors.workspace().subscribe(after=0) as again:
            texts = [(await anext(again)).stream_id for _ in range(kept + rewritten + 1)]
        assert texts == ["box:a"] * kept + ["box:b"] * rewritten + ["box:c"]
    await check_log(store)
