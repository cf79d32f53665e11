"""Group commit: what one statement merges, and that a fault costs the others nothing (I10)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import Batch, BatchRejectedError, Refusal, World
from dalsegno.actors.ports import Appending
from dalsegno.actors.testing.contract.store._writing import result, writer
from dalsegno.actors.workspace._committer import Committer, CommitterStatistics, LiveKeyError
from dalsegno.protocol import (
    DalsegnoError,
    FencedError,
    Limits,
    OutcomeUnknownError,
    StoreUnavailableError,
    WorkspaceHaltedError,
)
from tests.actors._world import (
    Append,
    Fault,
    FaultyStore,
    applied_unknown,
    away,
    hangs,
    held,
    leaves_out,
    log_of,
)

LIMITS = Limits(commit_batches_max=3, commit_bytes_max=100, locked_retries_max=4)
POISON = '"poison"'


@pytest.fixture
async def committer(store: FaultyStore, world: World) -> AsyncIterator[Committer]:
    """One that is running, and whose first statement waits for what is sent in the same step."""
    store.sends_at_once = False
    committer = Committer(store, world=world, limits=LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        yield committer
        nursery.cancel_scope.cancel()


async def batch_of(store: FaultyStore, workspace_id: str, payload: str = "{}") -> Batch:
    owner = await writer(store, workspace_id)
    batch = owner.batch(owner.event("box:1", payload))
    return msgspec.structs.replace(batch, size=len(payload))


async def batches_of(store: FaultyStore, workspace_ids: str) -> list[Batch]:
    return [await batch_of(store, workspace_id) for workspace_id in workspace_ids]


async def committed(committer: Committer, batch: Batch) -> None:
    """Send a batch and wait until it is committed, as a workspace does."""
    settled = trio.Event()
    sending = committer.send(batch, settled.set)
    try:
        await settled.wait()
    except trio.Cancelled:
        committer.withdraw(sending)
        raise
    await committer.commit(sending)


async def commit_all(
    committer: Committer, batches: Sequence[Batch]
) -> dict[str, DalsegnoError | None]:
    """Commit them at once; return what each raised."""
    outcomes: dict[str, DalsegnoError | None] = {}

    async def commit(batch: Batch) -> None:
        try:
            await committed(committer, batch)
        except DalsegnoError as error:
            outcomes[batch.workspace_id] = error
        else:
            outcomes[batch.workspace_id] = None

    async with trio.open_nursery() as nursery:
        for batch in batches:
            nursery.start_soon(commit, batch)
    return outcomes


def joined(store: FaultyStore) -> list[str]:
    """The workspaces of each statement, optionally in its order."""
    return ["".join(sorted(b.workspace_id for b in statement)) for statement in store.statements]


async def rejects_poison(append: Append, batches: Sequence[Batch]) -> Collection[str]:
    if any(event.payload == POISON for batch in batches for event in batch.events):
        await trio.lowlevel.checkpoint()
        raise BatchRejectedError("no such data")
    return await append(batches)


async def test_what_waits_at_once_is_one_statement_within_the_bound(
    committer: Committer, store: FaultyStore
) -> None:
    batches = await batches_of(store, "abcde")
    outcomes = await commit_all(committer, batches)
    assert outcomes == dict.fromkeys("abcde")
    assert [len(names) for names in joined(store)] == [3, 2]
    for workspace_id in "abcde":
        assert len(await log_of(store, workspace_id)) == 1


async def test_i10_a_short_batch_does_not_wait_for_long_ones(
    store: FaultyStore, world: World
) -> None:
    """Whoever typed waited half a second for the megabytes of whoever uploaded."""
    limits = Limits(short_batch_bytes_max=50, commit_bytes_max=10_000)
    committer = Committer(store, world=world, limits=limits)
    gate = trio.Event()
    store.faults.append(held(gate))
    long, longer = [await batch_of(store, name, f'"{"x" * 100}"') for name in "lm"]
    short, another = await batches_of(store, "ab")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as commits:
            commits.start_soon(committed, committer, long)
            await trio.testing.wait_all_tasks_blocked()
            commits.start_soon(committed, committer, longer)
            with trio.fail_after(1):
                await committed(committer, short)
                await committed(committer, another)
            await trio.testing.wait_all_tasks_blocked()
            assert joined(store) == ["l", "a", "b"]
            assert committer.statistics().waiting == 1
            gate.set()
        assert joined(store) == ["l", "a", "b", "m"]
        store.faults += [hangs, hangs]
        outcomes: dict[str, DalsegnoError | None] = {}

        async def commit_both() -> None:
            more = [msgspec.structs.replace(long, old_head=1), short]
            outcomes.update(await commit_all(committer, more))

        nursery.start_soon(commit_both)
        await trio.testing.wait_all_tasks_blocked()
        committer.give_up()
        await trio.testing.wait_all_tasks_blocked()
        assert {str(error) for error in outcomes.values()} == {
            "OUTCOME_UNKNOWN: the database did not answer in time"
        }
        nursery.cancel_scope.cancel()


async def test_the_load_makes_the_batches(committer: Committer, store: FaultyStore) -> None:
    gate = trio.Event()
    store.faults.append(held(gate))
    a, b, c = await batches_of(store, "abc")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committed, committer, a)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(committed, committer, b)
        nursery.start_soon(committed, committer, c)
        await trio.testing.wait_all_tasks_blocked()
        assert joined(store) == ["a"], "one statement at a time"
        assert repr(committer) == "<Committer 2 waiting, 1 statements>"
        gate.set()
    assert joined(store) == ["a", "bc"]


async def test_a_statement_is_bounded_by_bytes(committer: Committer, store: FaultyStore) -> None:
    text = '"' + "x" * 58 + '"'
    batches = [await batch_of(store, workspace_id, text) for workspace_id in "abc"]
    await commit_all(committer, batches)
    assert [len(names) for names in joined(store)] == [1, 1, 1]


async def test_a_moved_epoch_is_fenced_and_a_neighbour_commits(
    committer: Committer, store: FaultyStore
) -> None:
    a, b = await batches_of(store, "ab")
    await store.acquire("a", "somebody else", create=False)
    outcomes = await commit_all(committer, [a, b])
    fenced = outcomes["a"]
    assert isinstance(fenced, FencedError)
    assert fenced.details["owner"] == "somebody else"
    assert outcomes["b"] is None
    assert await log_of(store, "a") == []


async def test_a_moved_head_is_fenced(committer: Committer, store: FaultyStore) -> None:
    a = await batch_of(store, "a")
    await committed(committer, a)
    outcomes = await commit_all(committer, [a])
    assert isinstance(outcomes["a"], FencedError)
    assert len(await log_of(store, "a")) == 1


async def test_a_halted_workspace_and_its_neighbour(
    committer: Committer, store: FaultyStore
) -> None:
    a, b = await batches_of(store, "ab")
    await store.halt("a", a.epoch, "found corrupt", code="c", actor="t")
    outcomes = await commit_all(committer, [a, b])
    assert isinstance(outcomes["a"], WorkspaceHaltedError)
    assert outcomes["b"] is None


async def test_a_live_key_and_its_neighbour(committer: Committer, store: FaultyStore) -> None:
    owner = await writer(store, "a")
    first = owner.batch(owner.event("box:1"), results=(result("k", 1),))
    again = owner.batch(owner.event("box:1"), results=(result("k", 2),))
    await committed(committer, first)
    outcomes = await commit_all(committer, [again, await batch_of(store, "b")])
    assert isinstance(outcomes["a"], LiveKeyError)
    assert outcomes["b"] is None
    assert len(await log_of(store, "a")) == 1


async def test_a_locked_head_is_sent_again_alone(committer: Committer, store: FaultyStore) -> None:
    store.faults += [leaves_out("a"), leaves_out("a")]
    outcomes = await commit_all(committer, await batches_of(store, "ab"))
    assert outcomes == {"a": None, "b": None}
    assert joined(store) == ["ab", "a", "a"]
    assert committer.statistics() == CommitterStatistics(
        waiting=0, statements=3, batches=2, events=2, refused=2, rejected=0, unknown=0
    )


async def test_a_head_that_stays_locked_is_given_up(
    committer: Committer, store: FaultyStore
) -> None:
    store.faults += [leaves_out("a")] * 99
    outcomes = await commit_all(committer, await batches_of(store, "ab"))
    assert isinstance(outcomes["a"], StoreUnavailableError)
    assert outcomes["b"] is None
    assert len(store.statements) == LIMITS.locked_retries_max
    assert await log_of(store, "a") == []


async def test_refused_data_fails_its_own_batch_only(
    committer: Committer, store: FaultyStore
) -> None:
    a, b, c = (
        await batch_of(store, "a"),
        await batch_of(store, "b", POISON),
        await batch_of(store, "c"),
    )
    store.faults += [rejects_poison] * 4
    outcomes = await commit_all(committer, [a, b, c])
    assert isinstance(outcomes["b"], BatchRejectedError)
    assert (outcomes["a"], outcomes["c"]) == (None, None)
    assert sorted(joined(store)) == ["a", "abc", "b", "c"]
    assert committer.statistics().rejected == 1
    assert [len(await log_of(store, w)) for w in "abc"] == [1, 0, 1]


async def test_a_statement_without_an_answer_is_abandoned_at_the_deadline(
    committer: Committer, store: FaultyStore
) -> None:
    store.faults.append(hangs)
    began = trio.current_time()
    outcomes = await commit_all(committer, await batches_of(store, "ab"))
    assert all(isinstance(error, OutcomeUnknownError) for error in outcomes.values())
    assert trio.current_time() - began == pytest.approx(LIMITS.commit_deadline_s, abs=0.1)
    assert committer.statistics().unknown == 2
    # … and the next statement goes its way.
    assert await commit_all(committer, [await batch_of(store, "c")]) == {"c": None}


async def test_an_unknown_outcome_is_everybodys_in_the_statement(
    committer: Committer, store: FaultyStore
) -> None:
    store.faults.append(applied_unknown)
    outcomes = await commit_all(committer, await batches_of(store, "ab"))
    assert all(isinstance(error, OutcomeUnknownError) for error in outcomes.values())
    assert committer.statistics().unknown == 2


async def test_a_store_that_is_away_wrote_nothing(committer: Committer, store: FaultyStore) -> None:
    store.faults.append(away)
    outcomes = await commit_all(committer, await batches_of(store, "ab"))
    assert all(isinstance(error, StoreUnavailableError) for error in outcomes.values())
    assert committer.statistics() == CommitterStatistics(
        waiting=0, statements=1, batches=0, events=0, refused=0, rejected=0, unknown=0
    )


async def test_a_batch_whose_workspace_went_away_is_not_sent_beside_its_successor(
    committer: Committer, store: FaultyStore
) -> None:
    gate = trio.Event()
    store.faults.append(held(gate))
    a, b = await batches_of(store, "ab")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committed, committer, a)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await committed(committer, b)
        successor = await batch_of(store, "b")
        nursery.start_soon(committed, committer, successor)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert joined(store) == ["a", "b"], "a workspace is in a statement at most once"
    assert (await store.read_head("b")) is not None
    assert len(await log_of(store, "b")) == 1


async def test_a_cancelled_committer_finishes_the_statement_on_its_way(
    store: FaultyStore, world: World
) -> None:
    gate = trio.Event()
    store.faults.append(held(gate))
    committer = Committer(store, world=world, limits=LIMITS)
    batch = await batch_of(store, "a")
    async with trio.open_nursery() as nursery:
        running = trio.CancelScope()

        async def run() -> None:
            with running:
                await committer.run()

        nursery.start_soon(run)
        nursery.start_soon(committed, committer, batch)
        await trio.testing.wait_all_tasks_blocked()
        running.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert await log_of(store, "a") == []
        gate.set()
    assert len(await log_of(store, "a")) == 1


async def test_where_the_refusal_cannot_be_read_nothing_was_written(
    committer: Committer, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def explain(_batch: Batch) -> Refusal:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away meanwhile")

    monkeypatch.setattr(store, "explain", explain)
    store.faults.append(leaves_out("a"))
    outcomes = await commit_all(committer, await batches_of(store, "ab"))
    assert isinstance(outcomes["a"], StoreUnavailableError)
    assert outcomes["b"] is None


async def test_a_commit_cancelled_as_its_answer_comes_leaves_the_committer_awake(
    committer: Committer, store: FaultyStore
) -> None:
    """Whichever of the two runs first in a step, the next batch is sent."""
    for number in range(40):
        answered = trio.Event()
        store.faults.append(held(answered))
        batch = await batch_of(store, f"w{number}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committed, committer, batch)
            await trio.testing.wait_all_tasks_blocked()
            answered.set()
            for _ in range(number % 4):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await committed(committer, await batch_of(store, f"v{number}"))


# ------------------------------------------------------------------- sent in the asker's step


@pytest.fixture
async def ready(committer: Committer, store: FaultyStore) -> Committer:
    """A committer at rest, which sends in the step in which it is asked."""
    store.sends_at_once = True
    await trio.testing.wait_all_tasks_blocked()
    return committer


class CountingAppends(FaultyStore):
    """Records the statements that were sent in the step of whoever asked."""

    begun: list[str]

    def append_nowait(self, batches: Sequence[Batch]) -> Appending | None:
        self.begun.append("".join(batch.workspace_id for batch in batches))
        return super().append_nowait(batches)


@pytest.fixture
def store(world: World) -> FaultyStore:
    store = CountingAppends(world)
    store.begun = []
    return store


async def test_what_finds_the_committer_at_rest_is_sent_in_the_same_step(
    ready: Committer, store: CountingAppends
) -> None:
    settled: list[str] = []
    a, b, c = await batches_of(store, "abc")
    sendings = [ready.send(batch, lambda: settled.append("")) for batch in (a, b, c)]
    assert store.begun == ["a"], "the others wait for the next statement"
    await trio.testing.wait_all_tasks_blocked()
    assert joined(store) == ["a", "bc"]
    assert store.begun == ["a"]
    assert len(settled) == 3
    for sending in sendings:
        await ready.commit(sending)


async def test_what_cannot_be_sent_without_waiting_is_sent_by_the_committer(
    ready: Committer, store: CountingAppends
) -> None:
    store.sends_at_once = False
    assert await commit_all(ready, await batches_of(store, "a")) == {"a": None}
    assert (store.begun, joined(store)) == (["a"], ["a"])


@pytest.mark.parametrize(
    ("fault", "error"),
    [(away, StoreUnavailableError), (applied_unknown, OutcomeUnknownError)],
)
async def test_an_error_of_what_was_sent_at_once_is_the_committers(
    ready: Committer, store: CountingAppends, fault: Fault, error: type[DalsegnoError]
) -> None:
    store.faults.append(fault)
    outcomes = await commit_all(ready, await batches_of(store, "a"))
    assert isinstance(outcomes["a"], error)
    assert await commit_all(ready, await batches_of(store, "b")) == {"b": None}


async def test_what_was_sent_at_once_is_given_up_and_cannot_be_withdrawn(
    ready: Committer, store: CountingAppends
) -> None:
    store.faults.append(hangs)
    a, b = await batches_of(store, "ab")
    settled = trio.Event()
    first, second = ready.send(a, settled.set), ready.send(b, settled.set)
    assert (ready.withdraw(first), ready.withdraw(second)) == (False, True)
    ready.give_up()
    await settled.wait()
    with pytest.raises(OutcomeUnknownError):
        await ready.commit(first)


async def test_the_workspaces_of_a_large_statement_act_a_few_at_a_time(
    store: FaultyStore, world: World
) -> None:
    """A thousand woken in one step held up everybody else for as long as they all took."""
    committer = Committer(store, world=world, limits=Limits())
    gate = trio.Event()
    store.faults.append(held(gate))
    names = [f"w{number}" for number in range(100)]
    batches = [await batch_of(store, name) for name in names]
    first = await batch_of(store, "first")
    told, most = [0], 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        await trio.testing.wait_all_tasks_blocked()
        committer.send(first, lambda: None)
        for batch in batches:
            committer.send(batch, lambda: told.append(told[-1] + 1))
        gate.set()
        while told[-1] < len(names):
            before = told[-1]
            await trio.lowlevel.checkpoint()
            most = max(most, told[-1] - before)
        nursery.cancel_scope.cancel()
    assert [len(statement) for statement in store.statements] == [1, 100]
    assert most <= 2 * 16, "two lots at most between two steps of this task"
