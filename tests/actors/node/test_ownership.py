"""Which node serves a workspace: leases decide when it moves, epochs that no event is lost."""

from __future__ import annotations

import dataclasses
import random

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import Batch, NodeReplacedError, Receipt, ServiceFailedError, World
from dalsegno.actors.testing import FailoverStore
from dalsegno.protocol import (
    DalsegnoError,
    Event,
    Limits,
    Reject,
    WorkspaceMovedError,
    chained,
)
from tests._patience import lasted
from tests.actors._boxes import Box, Expect, Put, boxes
from tests.actors._nodes import LIMITS, Node, moving_world, node
from tests.actors._world import (
    FaultyStore,
    Posted,
    applied_unknown,
    check_log,
    eventually,
    lost_unknown,
    refusal,
    send_all,
)


@pytest.fixture
async def world() -> World:
    return moving_world()


async def moved(at: Node, workspace_id: str = "w") -> WorkspaceMovedError:
    error = await refusal(at.workspace(workspace_id), Put("x"))
    assert isinstance(error, WorkspaceMovedError), error
    return error


async def taken_over(by: Node, *, within_s: float = 60) -> Receipt:
    """Send until the node owns the workspace."""
    with trio.fail_after(within_s):
        while True:
            try:
                return await by.workspace().send(Put("taken", "over"))
            except WorkspaceMovedError as error:
                assert error.retry_after_s <= LIMITS.lease_s  # noqa: PT017 - others may follow
                await trio.sleep(0.1)


async def test_a_command_sent_to_the_wrong_node_is_told_where_the_owner_is(
    store: FaultyStore, world: World
) -> None:
    async with (
        node(store, "a", world=world, address="https://a.example") as a,
        node(store, "b", world=world) as b,
    ):
        await a.workspace().send(Put("x"))
        error = await moved(b)
        assert error.code == "WORKSPACE_MOVED"
        assert error.details["owner"] == "a"
        assert error.details["address"] == "https://a.example"
        assert 0 < error.details["retry_after"] <= LIMITS.lease_s
        assert (await b.workspace("other").send(Put("x"))).event_seq == 1
        assert "address" not in (await moved(a, "other")).details
        assert (await a.workspace().send(Put("y"))).event_seq == 2
    await check_log(store)


async def test_an_epoch_that_a_failover_gave_to_another_node_is_noticed_without_a_command(
    world: World,
) -> None:
    """What is lost has its epochs, too: both nodes own the workspace under the first one."""
    store = FailoverStore(world)
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        before = store.snapshot()
        await send_all(b.workspace(), [Put("x")] * 2)
        async with b.workspace().subscribe(after=1) as events:
            position = (await anext(events)).position
            store.restore(before)
            await send_all(a.workspace(), [Put("y")] * 3)
            with trio.fail_after(3 * LIMITS.lease_beat_s), pytest.raises(WorkspaceMovedError):
                await anext(events)
        with pytest.raises(Reject) as caught:
            await a.workspace().subscribe(after=position).__aenter__()
        assert caught.value.code == "CURSOR_DIVERGED"


@pytest.mark.parametrize("is_resting", [False, True])
async def test_what_was_appended_past_the_owner_is_published_without_a_command(
    store: FaultyStore, world: World, is_resting: bool
) -> None:
    """By somebody who writes to the database: it was not heard of before the next command."""
    async with node(store, "a", world=world) as a:
        await a.workspace().send(Put("x"))
        async with a.workspace().subscribe(after=1) as events:
            if is_resting:
                await trio.sleep(2 * LIMITS.passivate_after_s)
            assert is_resting == (a.service.directory.statistics()["w"].state == "resting")
            before = a.incarnations()
            await append_outside(store)
            with trio.fail_after(2 * LIMITS.lease_beat_s):
                assert (await anext(events)).type == "of_the_future"
            assert (await a.workspace().send(Put("x"))).event_seq == 3
            assert (await anext(events)).event_seq == 3
            await trio.sleep(5 * LIMITS.lease_beat_s)
            assert a.incarnations() == before + 1, "it is looked at once"


async def append_outside(store: FaultyStore) -> None:
    """Append an event of a type that no domain has, as its owner would."""
    head = await store.read_head("w")
    assert head is not None
    assert head.recorded_at is not None
    event = Event(
        workspace_id="w",
        event_seq=head.head_seq + 1,
        stream_id="other:1",
        stream_seq=1,
        event_id="e",
        type="of_the_future",
        type_version=1,
        payload="{}",
        actor_id=None,
        command_id="c",
        recorded_at=head.recorded_at,
    )
    event = msgspec.structs.replace(event, chain=chained(head.chain, event))
    batch = Batch(workspace_id="w", epoch=head.epoch, old_head=head.head_seq, events=(event,))
    assert [*await store.append([batch])] == ["w"]


async def test_reading_is_told_too_and_what_is_committed_can_be_read_anywhere(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        await a.workspace().send(Put("x", "from a"))
        with pytest.raises(WorkspaceMovedError):
            async with b.workspace().subscribe():
                pass
        assert await b.workspace().get(boxes, "x") == Box("from a")


async def test_a_command_that_waits_for_room_is_told_that_its_workspace_moved(
    store: FaultyStore, world: World
) -> None:
    """It came to a mailbox that nobody took from any more, and was never answered."""
    limits = dataclasses.replace(LIMITS, mailbox_deadline_s=60.0)
    async with (
        node(store, "a", world=world, limits=limits) as a,
        node(store, "b", world=world) as b,
        trio.open_nursery() as nursery,
    ):
        await a.workspace().send(Put("x"))
        room, size = a.service.node.room, limits.waiting_bytes_max
        assert room.take_nowait(size)
        answers: list[DalsegnoError] = []

        async def ask() -> None:
            answers.append(await moved(a))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        a.gate.shut()
        await taken_over(b)
        a.gate.open()
        await eventually(lambda: "w" not in a.service.directory.statistics())
        assert not answers, "it still waits for room"
        room.give_back(size)
        await eventually(lambda: len(answers) == 1)
        assert room.taken == 0


async def test_a_killed_owner_is_followed_when_its_lease_has_run_out(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "b", world=world) as b:
        async with node(store, "a", world=world) as a:
            await send_all(a.workspace(), [Put("x")] * 3)
        killed = trio.current_time()
        await moved(b)
        assert (await taken_over(b)).event_seq == 4
        waited = trio.current_time() - killed
        assert LIMITS.lease_s - LIMITS.lease_beat_s <= waited <= LIMITS.lease_s + 1
    await check_log(store)


async def test_a_drained_owner_is_followed_at_once(store: FaultyStore, world: World) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        await a.workspace().send(Put("x"))
        await a.service.drain()
        assert not a.service.lease.is_held
        assert (await b.workspace().send(Put("x"))).event_seq == 2
        await trio.sleep(5 * LIMITS.lease_beat_s)
        found = await store.find_node("a")
        assert found is None or found.expires_in_s <= 0, "it beats no more"


async def test_a_node_that_was_killed_has_its_workspaces_back_at_once(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a:
        await a.workspace().send(Put("x"))
    began = trio.current_time()
    async with node(store, "a", world=world) as a:
        assert (await a.workspace().send(Put("x"))).event_seq == 2
    assert trio.current_time() - began < 1


async def test_a_node_begins_once_no_earlier_release_serves(
    store: FaultyStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_s = iter([7.0, 1.0, 0.0])
    asked: list[str] = []

    async def fenced_s(node_id: str) -> float:
        await trio.lowlevel.checkpoint()
        asked.append(node_id)
        return next(left_s)

    monkeypatch.setattr(store, "fenced_s", fenced_s)
    began = trio.current_time()
    async with node(store, "a", world=world) as a:
        assert lasted(began) == 8
        await a.workspace().send(Put("x"))
    assert asked == ["a"] * 3


async def test_a_second_process_that_is_the_same_node_ends_the_first(
    store: FaultyStore, world: World
) -> None:

    async def perform() -> None:
        async with node(store, "a", world=world) as first:
            await first.workspace().send(Put("x"))
            async with node(store, "a", world=world) as second:
                assert (await second.workspace().send(Put("x"))).event_seq == 2
                await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await perform()
    failed = caught.value
    while isinstance(failed, ExceptionGroup):
        (failed,) = failed.exceptions
    assert isinstance(failed, ServiceFailedError)
    assert isinstance(failed.__cause__, NodeReplacedError)


async def test_a_paused_owner_is_fenced_and_tells_its_waiters_where_to_go(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        await a.workspace().send(Put("x", "old"))
        async with a.workspace().subscribe() as events:
            await anext(events)
            a.gate.shut()
            assert (await taken_over(b)).event_seq == 2
            await b.workspace().send(Put("x", "new"))
            assert not a.service.lease.is_held
            answers: list[DalsegnoError] = []

            async def send_late() -> None:
                answers.append(await refusal(a.workspace(), Put("x", "late")))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_late)
                await trio.testing.wait_all_tasks_blocked()
                a.gate.open()
            assert [(e.code, e.details.get("owner")) for e in answers] == [("WORKSPACE_MOVED", "b")]
            with pytest.raises(WorkspaceMovedError):
                await anext(events)
    assert [e.payload for e in await check_log(store)] == [
        '{"text":"old"}',
        '{"text":"over"}',
        '{"text":"new"}',
    ]


async def test_readers_of_an_idle_owner_that_was_paused_hear_of_it_at_the_next_beat(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        await a.workspace().send(Put("x", "old"))
        await a.workspace("mine").send(Put("x"))
        async with a.workspace("mine").subscribe() as mine, a.workspace().subscribe() as events:
            await anext(events)
            a.gate.shut()
            await taken_over(b)
            await b.workspace().send(Put("x", "new"))
            # What is in a's memory is known to be unverified, so the store is asked.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.workspace().get, boxes, "x")
                await trio.testing.wait_all_tasks_blocked()
                a.gate.open()
            assert await a.workspace().get(boxes, "x") == Box("new", 2)
            with trio.fail_after(LIMITS.lease_beat_s + 1), pytest.raises(WorkspaceMovedError):
                await anext(events)
            await anext(mine)
            assert (await a.workspace("mine").send(Put("x"))).event_seq == 2
            assert (await anext(mine)).event_seq == 2
        assert a.service.lease.statistics().lapses == 1


@pytest.mark.parametrize("fault", [applied_unknown, lost_unknown])
async def test_i4_an_unknown_outcome_of_a_workspace_that_moved_is_told_from_the_log(
    store: FaultyStore, world: World, fault: object
) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        await a.workspace().send(Put("x", "old"))

        async def unknown_then_shut(append: object, batches: list[Batch]) -> object:
            try:
                return await fault(append, batches)  # type: ignore[operator]  # one of two faults
            finally:
                a.gate.shut()

        store.faults.append(unknown_then_shut)  # type: ignore[arg-type]
        answers: list[Receipt | DalsegnoError] = []

        async def send() -> None:
            try:
                answers.append(await a.workspace().send(Put("x", "unknown")))
            except DalsegnoError as error:
                answers.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await eventually(lambda: not store.faults)
            taken = await taken_over(b)
            a.gate.open()
        (answer,) = answers
        if fault is applied_unknown:
            assert isinstance(answer, Receipt)
            assert (answer.event_seq, taken.event_seq) == (2, 3)
        else:
            assert isinstance(answer, WorkspaceMovedError)
            assert taken.event_seq == 2
    await check_log(store)


async def test_a_workspace_that_another_node_made_is_noticed_by_its_readers(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        async with b.workspace().subscribe() as events:
            await a.workspace().send(Put("x"))
            with trio.fail_after(LIMITS.lease_beat_s + 1), pytest.raises(WorkspaceMovedError):
                await anext(events)
        await moved(b)


async def test_two_nodes_that_make_one_workspace_at_the_same_time(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        async with a.workspace().subscribe(), b.workspace().subscribe():
            outcomes: list[Receipt | DalsegnoError] = []

            async def send(at: Node) -> None:
                try:
                    outcomes.append(await at.workspace().send(Put("x")))
                except DalsegnoError as error:
                    outcomes.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, a)
                nursery.start_soon(send, b)
        done = [one for one in outcomes if isinstance(one, Receipt)]
        assert [one.event_seq for one in done] == [1]
    await check_log(store)


async def test_x_seq_4_two_nodes_that_fight_for_a_workspace_double_and_skip_nothing(
    store: FaultyStore, world: World
) -> None:
    chance = random.Random(4)
    receipts: dict[str, list[Receipt]] = {"a": [], "b": []}
    refused: set[str] = set()
    limits = Limits(lease_s=0.3, lease_beat_s=0.1, passivate_after_s=0.4)

    async def work(at: Node) -> None:
        while True:
            await trio.sleep(chance.random() * 0.1)
            try:
                receipt = await at.workspace().send(Put("x"))
                receipts[at.service.lease.node_id].append(receipt)
            except DalsegnoError as error:
                refused.add(error.code)

    async def pause(at: Node, other: str) -> None:
        at.gate.shut()
        done = len(receipts[other])
        await eventually(lambda: len(receipts[other]) > done + 3)
        at.gate.open()
        await trio.sleep(chance.random())

    async with (
        node(store, "a", world=world, limits=limits) as a,
        node(store, "b", world=world, limits=limits) as b,
        trio.open_nursery() as working,
    ):
        for at in (a, a, b, b):
            working.start_soon(work, at)
        for _ in range(6):
            await pause(a, "b")
            await pause(b, "a")
        working.cancel_scope.cancel()
    assert refused <= {"WORKSPACE_MOVED", "OUTCOME_UNKNOWN", "STORE_UNAVAILABLE", "NOT_READY"}
    log = await check_log(store)
    by_seq = {event.event_seq: event.command_id for event in log}
    everything = [*receipts["a"], *receipts["b"]]
    assert len({receipt.event_seq for receipt in everything}) == len(everything)
    assert all(by_seq[receipt.event_seq] == receipt.command_id for receipt in everything)
    assert len({event.command_id for event in log}) == len(log)
    head = await store.read_head("w")
    assert head is not None
    assert head.epoch >= 12, "it moved to and fro"


async def test_a_process_that_was_replaced_takes_nothing_back(
    store: FaultyStore, world: World
) -> None:
    """It thaws after another process became the same node, and learns that with its next beat."""

    async def perform() -> None:
        async with node(store, "a", world=world) as first:
            await first.workspace().send(Put("x"))
            first.gate.shut()
            async with (
                node(store, "a", world=world) as second,
                second.workspace().subscribe(after=1) as events,
            ):
                assert (await second.workspace().send(Put("x"))).event_seq == 2
                posted = Posted(first.workspace(), Put("x", "late"))
                first.gate.open()
                await trio.sleep(LIMITS.lease_beat_s / 2)
                assert (await anext(events)).event_seq == 2
                head = await store.read_head("w")
                assert head is not None
                assert (head.epoch, head.head_seq) == (2, 2)
                answers.append(posted)
                await trio.sleep_forever()

    answers: list[Posted] = []
    with pytest.raises(ExceptionGroup):
        await perform()
    assert answers[0].code == "NOT_READY"


@pytest.mark.parametrize("text", ["old", "new"], ids=["done", "refused"])
async def test_a_process_that_was_replaced_answers_nothing_that_it_remembers(
    store: FaultyStore, world: World, text: str
) -> None:
    """Its lease is the node's, and says nothing about which process the node is."""

    async def perform() -> None:
        async with node(store, "a", world=world) as first:
            await first.workspace().send(Put("x", "old"))
            async with node(store, "a", world=world) as second:
                await second.workspace().send(Put("x", "new"))
                assert first.service.lease.is_held
                posted = Posted(first.workspace(), Expect("x", text))
                await trio.sleep(LIMITS.lease_beat_s / 2)
                answers.append(posted)
                await trio.sleep_forever()

    answers: list[Posted] = []
    with pytest.raises(ExceptionGroup):
        await perform()
    assert answers[0].code == "NOT_READY"


async def test_a_rejection_of_an_owner_that_may_be_none_any_more_is_checked(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        await a.workspace().send(Put("x", "old"))
        a.gate.shut()
        await taken_over(b)
        await b.workspace().send(Put("x", "new"))
        codes: list[str] = []

        async def expect() -> None:
            codes.append((await refusal(a.workspace(), Expect("x", "new"))).code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect)
            await trio.testing.wait_all_tasks_blocked()
            assert codes == [], "from a's memory it would be refused"
            a.gate.open()
        assert codes == ["WORKSPACE_MOVED"]


async def test_some_of_what_is_served_is_compared_with_every_beat(
    store: FaultyStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalsegno.actors.node._directory._COMPARED_AT_ONCE", 3)
    async with node(store, "a", world=world) as a:
        for n in range(7):
            await a.workspace(f"w{n}").send(Put("x"))
        async with trio.open_nursery() as nursery:
            told: list[str] = []

            async def listen(workspace_id: str) -> None:
                async with a.workspace(workspace_id).subscribe(after=1) as events:
                    with pytest.raises(WorkspaceMovedError):
                        await anext(events)
                    told.append(workspace_id)

            for n in range(7):
                nursery.start_soon(listen, f"w{n}")
            await trio.testing.wait_all_tasks_blocked()
            assert await store.beat("b", "b", address=None, lease_s=1e6, first=True) == 0
            for n in range(7):  # a was not told that its lease was over
                log = store._logs[f"w{n}"]
                log.head = msgspec.structs.replace(log.head, epoch=9, owner="b")
            with trio.fail_after(4 * LIMITS.lease_beat_s):
                await eventually(lambda: len(told) == 7)
        assert a.service.lease.statistics().lapses == 0


@pytest.mark.parametrize("checkpoints", range(0, 40, 3))
async def test_a_cursor_that_an_owner_does_not_know_which_was_paused_is_not_called_ahead(
    store: FaultyStore, world: World, checkpoints: int
) -> None:
    """A client comes back to it with what it got at the next owner, before the first beat."""
    async with node(store, "a", world=world) as a, node(store, "b", world=world) as b:
        await a.workspace().send(Put("x", "old"))
        async with a.workspace().subscribe(after=1):  # its readers keep the slot
            a.gate.shut()
            await taken_over(b)
            await b.workspace().send(Put("x", "new"))
            codes: list[str] = []

            async def come_back() -> None:
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                try:
                    async with a.workspace().subscribe(after=3):
                        pass
                except DalsegnoError as error:
                    codes.append(error.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(come_back)
                a.gate.open()
            assert codes in (["WORKSPACE_MOVED"], ["NOT_READY"])


async def test_who_reads_the_head_of_an_owner_that_was_paused_waits_until_it_is_certain(
    store: FaultyStore, world: World
) -> None:
    async with node(store, "a", world=world) as a:
        await a.workspace().send(Put("x"))
        a.gate.shut()
        await trio.sleep(LIMITS.lease_s * 2)
        heads: list[int] = []

        async def read() -> None:
            heads.append(await a.workspace().head())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert heads == []
            a.gate.open()
        assert heads == [1]
        assert (await a.workspace().send(Put("x"))).event_seq == 2
