"""The cases of the committer on a real database, each beside a neighbour."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import msgspec
import psycopg
import trio

from dalsegno.actors import Batch
from dalsegno.protocol import Limits, OutcomeUnknownError
from dalsegno.runtime import Domain, InternalError, Runtime, Workspace
from tests._patience import fail_after, patient
from tests.tasks_domain import AddTask, tasks

PATIENCE_S = 20.0


class Counter(msgspec.Struct, frozen=True):
    count: int


class Count(msgspec.Struct, frozen=True):
    counter_id: str


class Counted(msgspec.Struct, frozen=True):
    pass


counters = Domain("counter", state=Counter, commands=Count, events=Counted)


@counters.decide
def count(counter: Counter | None, command: Count) -> Counted:
    return Counted()


@counters.evolve
def counted(counter: Counter | None, event: Counted) -> Counter:
    return Counter(1 if counter is None else counter.count + 1)


@asynccontextmanager
async def open_runtime(database: str, **limits: float) -> AsyncIterator[Runtime]:
    async with Runtime.open(
        database,
        domains=[tasks],
        limits=replace(Limits(), **limits),  # type: ignore[arg-type]
    ) as rt:
        yield rt


async def check_log(workspace: Workspace, length: int) -> None:
    numbers = [event.event_seq for event in await workspace.events(limit=1_000)]
    assert numbers == [*range(1, length + 1)]


async def test_a_live_key_is_answered_and_the_neighbour_commits(migrated: str) -> None:
    """The key was recorded behind the runtime's back: the statement itself must refuse it."""
    async with open_runtime(migrated) as rt:
        mine, neighbour = rt.workspace("mine"), rt.workspace("neighbour")
        first = await mine.send(AddTask("t1", "one"), key="k")
        with psycopg.connect(migrated, autocommit=True) as outside:
            outside.execute(
                """insert into dalsegno.command_result
                   select workspace_id, scope, 'k2', payload_hash, answer, event_seq, expires_at
                     from dalsegno.command_result"""
            )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(neighbour.send, AddTask("t1", "x"))
            again = await mine.send(AddTask("t1", "one"), key="k2")
        assert again.repeated
        assert (again.event_seq, again.command_id) == (first.event_seq, first.command_id)
        await check_log(mine, 1)
        await check_log(neighbour, 1)


async def test_one_entity_many_times_in_one_batch(migrated: str) -> None:
    async with Runtime.open(migrated, domains=[counters]) as rt:
        workspace = rt.workspace("acme")
        await workspace.send(Count("c"))
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(partial(workspace.send, Count("c"), key=f"k{number % 150}"))
        entity = await workspace.look(counters, "c")
        assert entity is not None
        assert (entity.version, entity.state) == (151, Counter(151))
        assert rt.service.committer.statistics().statements < 50
        await check_log(workspace, 151)


async def test_a_locked_head_waits_alone(migrated: str) -> None:
    """Somebody holds the row: that workspace waits, its neighbour commits meanwhile."""
    async with open_runtime(migrated) as rt:
        mine, neighbour = rt.workspace("mine"), rt.workspace("neighbour")
        await mine.send(AddTask("t0", "x"))
        done = trio.Event()

        async def send() -> None:
            await mine.send(AddTask("t1", "x"))
            done.set()

        with psycopg.connect(migrated) as outside:
            outside.execute(
                "select from dalsegno.workspace_head where workspace_id = 'mine' for update"
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                with fail_after(PATIENCE_S):
                    for number in range(20):
                        await neighbour.send(AddTask(f"t{number}", "x"))
                assert not done.is_set()
                outside.rollback()
                with fail_after(PATIENCE_S):
                    await done.wait()
        await check_log(mine, 2)
        await check_log(neighbour, 20)


async def test_a_data_error_is_its_batchs_alone(migrated: str) -> None:
    """Nothing that a command can contain gets this far, so the batch is corrupted on its way."""
    async with open_runtime(migrated) as rt:
        spoiled, neighbour = rt.workspace("spoiled"), rt.workspace("neighbour")
        await spoiled.send(AddTask("t0", "x"))
        append = rt.store.append

        async def spoil(batches: list[Batch]) -> object:
            return await append(
                [
                    msgspec.structs.replace(
                        batch,
                        entities=tuple(
                            msgspec.structs.replace(write, title="\0") for write in batch.entities
                        ),
                    )
                    if any('"spoil"' in event.payload for event in batch.events)
                    else batch
                    for batch in batches
                ]
            )

        rt.store.append = spoil  # type: ignore[method-assign, assignment]
        rt.store.append_nowait = lambda _batches: None  # type: ignore[method-assign, assignment]
        failures: list[str] = []

        async def send_spoiled() -> None:
            try:
                await spoiled.send(AddTask("t1", "spoil"))
            except InternalError as error:
                failures.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_spoiled)
            for number in range(10):
                nursery.start_soon(neighbour.send, AddTask(f"t{number}", "x"))
        assert failures == ["INTERNAL_ERROR"]
        assert rt.service.committer.statistics().rejected == 1
        await spoiled.send(AddTask("t2", "x"))
        await check_log(spoiled, 2)
        await check_log(neighbour, 10)


async def test_i4_an_abandoned_commit_gets_the_right_answer(migrated: str) -> None:
    """The database is blocked past the deadline; once it continues, nothing is lost or doubled."""
    async with open_runtime(migrated, commit_deadline_s=0.3) as rt:
        workspace = rt.workspace("acme")
        await workspace.send(AddTask("t0", "x"))
        answers: list[int] = []

        async def send(number: int) -> None:
            receipt = await workspace.send(AddTask(f"t{number}", "x"), key=f"k{number}")
            answers.append(receipt.event_seq)

        with psycopg.connect(migrated) as outside:
            outside.execute("lock table dalsegno.event in access exclusive mode")
            async with trio.open_nursery() as nursery:
                for number in range(1, 6):
                    nursery.start_soon(send, number)
                with fail_after(PATIENCE_S):
                    while rt.service.committer.statistics().unknown == 0:
                        await trio.sleep(0.01)
                outside.rollback()
                nursery.cancel_scope.deadline = trio.current_time() + patient(PATIENCE_S)
        assert sorted(answers) == [2, 3, 4, 5, 6]
        await check_log(workspace, 6)


async def test_an_unknown_outcome_has_a_deadline(migrated: str) -> None:
    """No caller waits for ever: the database stays blocked, the outcome is reported as unknown."""
    async with open_runtime(
        migrated, commit_deadline_s=0.2, command_deadline_s=1.0, drain_deadline_s=0.2
    ) as rt:
        workspace = rt.workspace("acme")
        await workspace.send(AddTask("t0", "x"))
        codes: list[str] = []

        async def send() -> None:
            try:
                await workspace.send(AddTask("t1", "x"), key="k")
            except OutcomeUnknownError as error:
                codes.append(error.code)

        with psycopg.connect(migrated) as outside:
            outside.execute("lock table dalsegno.event in access exclusive mode")
            with fail_after(PATIENCE_S):
                await send()
            outside.rollback()
        assert codes == ["OUTCOME_UNKNOWN"]
        with fail_after(PATIENCE_S):
            receipt = await workspace.send(AddTask("t1", "x"), key="k")
        assert receipt.event_seq == 2
        await check_log(workspace, 2)


async def test_a_table_that_is_locked_shows_before_a_command_meets_it(migrated: str) -> None:
    """Reads succeed and the lease is held: only the statement of a commit can tell."""
    async with open_runtime(migrated) as rt:
        await rt.service.committer.check()
        with psycopg.connect(migrated) as outside:
            outside.execute("lock table dalsegno.event in share mode")
            with trio.move_on_after(0.2) as scope:
                await rt.service.committer.check()
            assert scope.cancelled_caught
            assert await rt.workspace("w").head() == 0
            assert rt.service.lease.is_held
        with fail_after(PATIENCE_S):
            await rt.service.committer.check()
        statistics = rt.service.committer.statistics()
        assert (statistics.batches, statistics.refused, statistics.unknown) == (0, 0, 0)
