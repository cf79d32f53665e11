"""The runtime in a program on asyncio, on a real loop and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import (
    App,
    DalsegnoError,
    Domain,
    DomainError,
    Reject,
    RuntimeClosedError,
    StoreUnavailableError,
    UnavailableError,
)
from dalsegno.runtime import Entities, Runtime, RuntimeFailedError, Workspace, aio
from dalsegno.runtime.aio import AioEvents, AioRuntime, AioWorkspace, Served, _events
from dalsegno.runtime.client import open_client
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.store import DriverName, MemoryAccounts
from tests._drivers import marks_of
from tests._patience import patient
from tests.tasks_domain import AddTask, FinishTask, Task, TaskAdded, TaskFinished, app, tasks

Host = Callable[[AioRuntime], Coroutine[Any, Any, None]]


def run(host: Host, database: str | None = None, *, app: App = app, **more: Any) -> None:
    """Run a host's program in a runtime's block, and see that no thread is left."""
    if database is None:
        more = {"store": MemoryStore(WORLD), "accounts": MemoryAccounts(WORLD), **more}

    async def main() -> None:
        async with asyncio.timeout(patient(30)), aio.open_runtime(database, app=app, **more) as rt:
            await host(rt)

    asyncio_run(main())


def asyncio_run(main: Coroutine[Any, Any, None]) -> None:
    before = set(threading.enumerate())
    try:
        asyncio.run(main, debug=False)
    finally:
        assert not [each for each in threading.enumerate() if each.name == "dalsegno"]
        assert set(threading.enumerate()) - before <= cached_threads()


def cached_threads() -> set[threading.Thread]:
    """Those that Trio keeps for ten seconds for whoever needs one next."""
    return {each for each in threading.enumerate() if each.name.startswith("Trio thread")}


async def living(rt: AioRuntime) -> int:
    async def count() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    return await rt._bridge.run(count)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


# ---------------------------------------------------------------------------------------- calls


def test_commands_reads_and_events_are_awaited(migrated: str, driver: DriverName) -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        assert (workspace.id, workspace.principal.user_id) == ("w", None)
        receipt = await workspace.send(AddTask("t1", "One"), key="k")
        again = await workspace.send(AddTask("t1", "One"), key="k")
        assert (again.event_seq, again.repeated) == (receipt.event_seq, True)
        await workspace.send_all([FinishTask("t1"), AddTask("t2", "Two")])
        assert await workspace.get(tasks, "t1", min_seq=2) == Task("One", done=True)
        entity = await workspace.look(tasks, "t1")
        assert entity is not None
        assert entity.version == 2
        assert await workspace.at(tasks, "t1", 1) == Task("One")
        assert [each.stream_seq for each in await workspace.history(tasks, "t1")] == [1, 2]
        assert len(await workspace.entities(tasks)) == 2
        assert (await workspace.snapshot(tasks)).event_seq == 3
        assert (await workspace.head(), len(await workspace.events())) == (3, 3)
        typed = workspace.of(tasks)
        await typed.send(FinishTask("t2"))
        assert await typed.get("t2") == Task("Two", done=True)
        assert await typed.at("t2", 1) == Task("Two")
        async with workspace.subscribe(after=0) as events:
            assert [(await anext(events)).event_seq for _ in range(4)] == [1, 2, 3, 4]
        async with typed.subscribe("t2", after=0) as changes:
            assert [(await anext(changes)).event for _ in range(2)] == [
                TaskAdded("Two"),
                TaskFinished(),
            ]
        await workspace.send(PutMember("bob", "viewer"))
        bob = workspace.acting(user_id="bob")
        with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
            await bob.send(AddTask("t3", "Three"))
        assert await workspace.role_of("bob") == "viewer"
        assert {*(await rt.statistics()).workspaces} - {"$audit"} == {"w"}
        assert rt.limits.list_limit_max == 1_000
        assert rt.world.new_id() != rt.world.new_id()
        assert await rt.system.head() == 0

    run(host, migrated, driver=driver)


@pytest.mark.parametrize("other", [pytest.param("asyncpg", marks=marks_of("asyncpg"))])
def test_the_programs_asyncio_stays_what_it_was(migrated: str, other: DriverName) -> None:
    """trio-asyncio is at work in the runtime's thread, and nowhere else."""

    async def kind() -> type[asyncio.AbstractEventLoop]:
        await asyncio.sleep(0)
        return type(asyncio.get_running_loop())

    async def host(rt: AioRuntime) -> None:
        await rt.workspace("w").send(AddTask("t1", "One"))
        here = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        assert task.get_loop() is here
        assert await asyncio.to_thread(lambda: asyncio.run(kind())) is type(here)

    run(host, migrated, driver=other)
    assert asyncio.run(kind()).__module__.startswith("asyncio.")


@pytest.mark.processes
def test_it_starts_a_postgresql_of_its_own(short_path: Path) -> None:
    async def main(*, repeated: bool) -> None:
        async with aio.open_runtime(app=app, data_dir=short_path) as rt:
            receipt = await rt.workspace("w").send(AddTask("t1", "One"), key="k")
            assert receipt.repeated is repeated

    asyncio_run(main(repeated=False))
    asyncio_run(main(repeated=True))


def test_every_method_is_there() -> None:
    """What a workspace can do in Trio it can do here, and is called alike."""

    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Workspace) <= public(AioWorkspace)
    for name in public(Workspace):
        there, here = getattr(Workspace, name), getattr(AioWorkspace, name)
        if inspect.iscoroutinefunction(there):
            assert inspect.iscoroutinefunction(here)
            assert inspect.signature(here) == inspect.signature(there)
    mine = {*public(aio.AioEntities), "send", "get", "at"}
    assert public(Entities) <= mine
    assert public(Runtime) - {"open", "accounts", "store", "service", "address"} <= {
        *public(AioRuntime)
    }


def test_a_hundred_at_once(migrated: str) -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        receipts = await asyncio.gather(
            *(workspace.send(AddTask(f"t{index}", "T"), key=f"k{index}") for index in range(100))
        )
        assert sorted(receipt.event_seq for receipt in receipts) == list(range(1, 101))
        states = await asyncio.gather(*(workspace.get(tasks, f"t{n}") for n in range(100)))
        assert states == [Task("T")] * 100
        assert not rt._bridge._calls

    run(host, migrated)


def test_errors_are_those_of_trio() -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        await workspace.send(AddTask("t1", "One"))
        with pytest.raises(Reject) as refused:
            await workspace.send(AddTask("t1", "One"))
        assert refused.value.code == "TASK_EXISTS"
        with pytest.raises(Reject, match="BAD_REQUEST"):
            rt.workspace("no workspace's id")
        with pytest.raises(Reject, match="CURSOR_AHEAD"):
            async with workspace.subscribe(after=99):
                pass
        with pytest.raises(Reject, match="CURSOR_AHEAD"):
            async for _ in workspace.subscribe(after=99):
                pass
        await workspace.send(PutMember("bob", "viewer"))
        async with workspace.acting(user_id="bob").subscribe(after=0) as events:
            await workspace.send(RemoveMember("bob"))
            assert [(await anext(events)).event_seq for _ in range(3)] == [1, 2, 3]
            with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
                await anext(events)

    run(host)


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(DomainError, match="no decider"):
            async with aio.open_runtime(app=App([unfinished]), store=MemoryStore(WORLD)):
                raise AssertionError
        with pytest.raises(Reject, match="BAD_REQUEST"):
            async with aio.open_runtime(app=app, store=MemoryStore(WORLD), node_id="no id"):
                raise AssertionError

    unfinished = Domain("unfinished", state=Task, commands=WithId, events=TaskAdded)
    asyncio_run(main())


class WithId(AddTask, frozen=True):
    unfinished_id: str = ""


def test_what_the_host_raises_leaves_as_it_is() -> None:
    async def main(error: BaseException) -> None:
        async with aio.open_runtime(app=app, store=MemoryStore(WORLD)) as rt:
            await rt.workspace("w").send(AddTask("t1", "One"))
            raise error

    for error in (ZeroDivisionError("mine"), ExceptionGroup("a group", [ValueError()])):
        with pytest.raises(type(error)) as caught:
            asyncio_run(main(error))
        assert caught.value is error
    with pytest.raises(SystemExit):
        asyncio_run(main(SystemExit(3)))


# --------------------------------------------------------------------------------- cancellation


class HoldingStore(MemoryStore):
    """One whose reads of an entity wait until they are let, in Trio's own way."""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.waiting = 0
        self.cancelled = 0
        self.lets = threading.Event()

    async def load_entity_at(self, *arguments: Any, **more: Any) -> Any:
        self.waiting += 1
        try:
            while not self.lets.is_set():
                await trio.sleep(0.005)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return await super().load_entity_at(*arguments, **more)


def test_a_cancelled_task_cancels_its_call_which_has_ended_before_it_does() -> None:
    store = HoldingStore()

    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        await workspace.send(AddTask("t1", "One"))
        reading = asyncio.create_task(workspace.at(tasks, "t1", 1))
        await until(lambda: store.waiting == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (store.waiting, store.cancelled) == (0, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await workspace.at(tasks, "t1", 1)
        assert (store.waiting, store.cancelled) == (0, 2)
        assert not rt._bridge._calls
        store.lets.set()
        assert await workspace.at(tasks, "t1", 1) == Task("One")

    run(host, store=store)


def test_a_call_that_is_cancelled_at_once_spoils_nothing(migrated: str) -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        for index in range(30):
            sending = asyncio.create_task(
                workspace.send(AddTask(f"t{index}", "T"), key=f"k{index}")
            )
            await asyncio.sleep(0.0005 * (index % 6))
            sending.cancel()
            await asyncio.wait([sending])
        # Each may have taken effect, and with its key it is found out which.
        for index in range(30):
            receipt = await workspace.send(AddTask(f"t{index}", "T"), key=f"k{index}")
            assert receipt.version == 1
        assert await workspace.head() == 30
        assert not rt._bridge._calls

    run(host, migrated)


def test_leaving_the_block_ends_what_is_still_under_way() -> None:
    store = HoldingStore()
    results: list[BaseException] = []

    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        await workspace.send(AddTask("t1", "One"))

        async def read() -> None:
            try:
                await workspace.at(tasks, "t1", 1)
            except RuntimeClosedError as error:
                results.append(error)

        async def follow() -> None:
            try:
                async for _ in workspace.subscribe(after=1):
                    raise AssertionError
            except RuntimeClosedError as error:
                results.append(error)

        tasks_left.extend(asyncio.create_task(each()) for each in (read, follow))
        await until(lambda: store.waiting == 1 and len(rt._bridge._calls) == 2)

    tasks_left: list[asyncio.Task[None]] = []
    late: list[AioWorkspace] = []

    async def main() -> None:
        async with aio.open_runtime(app=app, store=store) as rt:
            late.append(rt.workspace("w"))
            await host(rt)
        await asyncio.wait(tasks_left)
        with pytest.raises(RuntimeClosedError):
            await late[0].head()
        with pytest.raises(RuntimeClosedError):
            async with late[0].subscribe():
                pass

    asyncio_run(main())
    assert len(results) == 2
    assert store.cancelled == 1


def test_commands_that_were_accepted_are_settled_when_the_block_is_left(migrated: str) -> None:
    async def main() -> None:
        async with aio.open_runtime(migrated, app=app) as rt:
            workspace = rt.workspace("w")
            await workspace.send(AddTask("first", "F"))
            sending = [
                asyncio.create_task(workspace.send(AddTask(f"t{index}", "T")))
                for index in range(50)
            ]
            await asyncio.sleep(0)  # they are on their way
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        done = [each for each in outcomes if not isinstance(each, BaseException)]
        refused = [each for each in outcomes if isinstance(each, BaseException)]
        # Refused is what came too late, and nothing is in doubt.
        assert all(isinstance(each, UnavailableError) for each in refused)
        async with aio.open_runtime(migrated, app=app) as rt:
            assert await rt.workspace("w").head() == 1 + len(done)

    asyncio_run(main())


@pytest.mark.parametrize("times", [1, 3])
def test_a_host_that_is_cancelled_still_ends_everything(times: int, migrated: str) -> None:
    async def host() -> None:
        async with (
            aio.open_runtime(migrated, app=app) as rt,
            rt.workspace("w").subscribe(after=0) as events,
        ):
            opened.set()
            await anext(events)

    opened = asyncio.Event()

    async def main() -> None:
        hosting = asyncio.create_task(host())
        await opened.wait()
        for _ in range(times):
            hosting.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await hosting
        assert not [each for each in threading.enumerate() if each.name == "dalsegno"]

    asyncio_run(main())


def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    """A database that does not answer is waited for, but not longer than the host wants."""

    async def main() -> None:
        away = aio.open_runtime("postgresql://127.0.0.1:1/none", app=app)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(away.__aenter__(), 0.3)
        assert not [each for each in threading.enumerate() if each.name == "dalsegno"]
        for _ in range(20):  # … wherever it is
            opening = asyncio.create_task(open_and_close())
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])

    async def open_and_close() -> None:
        async with aio.open_runtime(app=app, store=MemoryStore(WORLD)):
            pass

    asyncio_run(main())


# ---------------------------------------------------------------------------------------- events


def test_events_cross_a_batch_at_a_time_and_a_loop_takes_them_in_order(migrated: str) -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        for first in range(0, 2_000, 100):
            await workspace.send_all([AddTask(f"t{first + n}", "T") for n in range(100)])
        crossings = 0
        tell = rt._bridge.tell

        def count(*arguments: Any) -> None:
            nonlocal crossings
            crossings += 1
            tell(*arguments)

        rt._bridge.tell = count  # type: ignore[method-assign,assignment]
        async with workspace.subscribe(after=0) as events:
            seen = []
            for index in range(2_000):
                if index % 50 == 0:
                    # A loop that takes each event as it comes is told of each, on a busy machine.
                    await asyncio.sleep(0.02)
                seen.append((await anext(events)).event_seq)
        assert seen == list(range(1, 2_001))
        assert crossings < 400, "far fewer than there are events"

    run(host, migrated)


def test_two_loops_get_everything_each(migrated: str) -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")

        async def follow() -> list[int]:
            seen = []
            async for event in workspace.subscribe(after=0):
                seen.append(event.event_seq)
                if len(seen) == 50:
                    break
            return seen

        following = [asyncio.create_task(follow()) for _ in range(2)]
        for index in range(50):
            await workspace.send(AddTask(f"t{index}", "T"))
        assert await asyncio.gather(*following) == [list(range(1, 51))] * 2

    run(host, migrated)


def test_a_slow_loop_keeps_a_bounded_number_in_either_thread(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_events, "_BATCH_ITEMS_MAX", 10)

    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        async with workspace.subscribe(after=0) as events:
            for first in range(0, 500, 100):
                await workspace.send_all([AddTask(f"t{first + n}", "T") for n in range(100)])
            for seq in range(1, 501):
                assert len(events._batch.items) <= 10
                assert len(events._gatherer._batch.items) <= 10
                assert (await anext(events)).event_seq == seq
                if seq % 100 == 0:
                    await asyncio.sleep(0.01)

    run(host, migrated)


def test_large_events_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events, "_BATCH_BYTES_MAX", 10_000)

    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        for index in range(20):
            await workspace.send(AddTask(f"t{index}", "T" * 3_000))
        async with workspace.subscribe(after=0) as events:
            await anext(events)
            for seq in range(2, 21):
                assert len(events._gatherer._batch.items) <= 4
                assert (await anext(events)).event_seq == seq

    run(host)


def test_a_loop_that_is_left_early_ends_its_subscription() -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        await workspace.send(AddTask("t1", "One"))
        before = await living(rt)
        for _ in range(5):
            async with workspace.subscribe(after=0) as events:
                async for _event in events:
                    break
            assert not rt._bridge._calls, "in a block it has ended by now"
            with pytest.raises(StopAsyncIteration):
                await anext(events)
            async for _event in workspace.subscribe(after=0):
                break
            await until(lambda: not rt._bridge._calls)
        assert await living(rt) == before
        with suppress(ZeroDivisionError):
            async for _event in workspace.subscribe(after=0):
                raise ZeroDivisionError
        await until(lambda: not rt._bridge._calls)

    run(host)


def test_a_wait_for_an_event_that_is_cancelled_loses_none() -> None:
    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        async with workspace.subscribe(after=0) as events:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await anext(events)
            for index in range(3):
                await workspace.send(AddTask(f"t{index}", "T"))
            assert [(await anext(events)).event_seq for _ in range(3)] == [1, 2, 3]

    run(host)


def test_a_store_that_is_away_is_told_to_the_loop_which_may_go_on() -> None:
    class Away(MemoryStore):
        is_away = False

        async def read_events(self, *arguments: Any, **more: Any) -> Any:
            if self.is_away:
                raise StoreUnavailableError("away")
            return await super().read_events(*arguments, **more)

    store = Away(WORLD)

    async def host(rt: AioRuntime) -> None:
        workspace = rt.workspace("w")
        for index in range(3):
            await workspace.send(AddTask(f"t{index}", "T"))
        await asyncio.sleep(0)

    async def main() -> None:
        async with aio.open_runtime(app=app, store=store) as rt:
            await host(rt)
        # Anew, so that it has to read what nobody has in memory.
        async with aio.open_runtime(app=app, store=store) as rt:
            store.is_away = True
            async with rt.workspace("w").subscribe(after=0) as events:
                for _ in range(2):
                    with pytest.raises(StoreUnavailableError):
                        await anext(events)
                store.is_away = False
                assert [(await anext(events)).event_seq for _ in range(3)] == [1, 2, 3]

    asyncio_run(main())


def test_a_subscription_is_entered_once() -> None:
    async def host(rt: AioRuntime) -> None:
        async with rt.workspace("w").subscribe(after=0) as events:
            with pytest.raises(RuntimeError, match="entered once"):
                await events.__aenter__()
        assert isinstance(events, AioEvents)
        assert "left" in repr(events)

    run(host)


# --------------------------------------------------------------------------------- what goes wrong


class Broken(MemoryStore):
    async def append(self, *arguments: Any, **more: Any) -> Any:
        raise ZeroDivisionError("not an error that a store may raise")


def test_a_runtime_that_fails_interrupts_its_host_and_says_how() -> None:
    reached = False

    async def host(rt: AioRuntime) -> None:
        nonlocal reached
        sending = asyncio.create_task(rt.workspace("w").send(AddTask("t1", "One")))
        reached = True
        await asyncio.gather(asyncio.sleep(3_600), sending, return_exceptions=True)
        raise AssertionError

    with pytest.raises(RuntimeFailedError, match="last the committer"):
        run(host, store=Broken(WORLD))
    assert reached


def test_what_the_host_raises_beside_a_failure_is_its_context() -> None:
    async def main(error: BaseException) -> None:
        try:
            async with aio.open_runtime(app=app, store=Broken(WORLD)) as rt:
                try:
                    await rt.workspace("w").send(AddTask("t1", "One"))
                    await asyncio.sleep(3_600)
                finally:
                    raise error
        finally:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    with pytest.raises(RuntimeFailedError) as caught:
        asyncio_run(main(KeyError("mine")))
    assert isinstance(caught.value.__context__, KeyError)
    with pytest.raises(SystemExit):
        asyncio_run(main(SystemExit(3)))


def test_a_host_that_is_cancelled_when_the_runtime_fails_stays_cancelled() -> None:
    async def main() -> None:
        async def host() -> None:
            async with aio.open_runtime(app=app, store=Broken(WORLD)) as rt:
                with suppress(asyncio.CancelledError):  # the runtime's
                    with suppress(DalsegnoError):
                        await rt.workspace("w").send(AddTask("t1", "One"))
                    await asyncio.sleep(3_600)
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(3_600)

        hosting = asyncio.create_task(host())
        await asyncio.wait([hosting])
        assert hosting.cancelled()

    asyncio_run(main())


def test_the_context_of_the_host_is_that_of_its_calls() -> None:
    who: ContextVar[str] = ContextVar("who")

    async def host(rt: AioRuntime) -> None:
        async def ask() -> str:
            return who.get()

        async def act(name: str) -> str:
            who.set(name)
            return await rt._bridge.run(ask)

        assert await asyncio.gather(*(asyncio.create_task(act(n)) for n in "abc")) == [
            "a",
            "b",
            "c",
        ]

    run(host)


# ----------------------------------------------------------------------------------------- a port


def test_a_port_beside_the_hosts_tasks(migrated: str) -> None:
    """Cancelled it drains, and the runtime goes on; clients come over real sockets."""

    async def host(rt: AioRuntime) -> None:
        ready: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(rt.serve("127.0.0.1:0", started=ready.set_result))
        served = await ready
        assert served.url == f"http://{served.host}:{served.port}"
        assert served.setup_token is None
        cookie, workspace_id = await rt._bridge.run(lambda: an_account(rt._rt, served))

        async def by_client() -> None:
            async with open_client(served.url, cookie=cookie, app=app) as client:
                await client.workspace(workspace_id).send(AddTask("t1", "By a client"))

        await rt._bridge.run(by_client)
        assert await rt.workspace(workspace_id).get(tasks, "t1") == Task("By a client")
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", served.port)
        await rt.workspace(workspace_id).send(FinishTask("t1"))
        with pytest.raises(Reject, match="BAD_REQUEST"):
            await rt.serve("8000")

    run(host, migrated)


async def an_account(rt: Runtime, served: Served) -> tuple[str, str]:
    from tests.runtime._serving import Site, set_up

    owner = await set_up(Site(served.url, served.port, rt))
    return owner.cookie, owner.workspace


@pytest.mark.parametrize("times", [1, 2])
def test_a_port_that_is_cancelled_drains_and_twice_ends_at_once(times: int) -> None:
    async def host(rt: AioRuntime) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Served] = loop.create_future()
        serving = asyncio.create_task(rt.serve("127.0.0.1:0", started=ready.set_result))
        served = await ready
        connected = asyncio.Event()

        async def hear() -> list[str]:
            """What a client hears before its connection is closed, and with which code."""
            cookie, _ = await an_account(rt._rt, served)
            url = served.url.replace("http", "ws", 1) + "/ws"
            said: list[str] = []
            async with open_websocket_url(url, extra_headers=[(b"cookie", cookie.encode())]) as ws:
                rt._bridge.tell(connected.set)
                with suppress(ConnectionClosed):
                    while True:
                        said.append(msgspec.json.decode(await ws.get_message())["type"])
                assert ws.closed is not None
                await trio.aclose_forcefully(ws._stream)  # the library leaves its own end open
                return [*said, str(ws.closed.code)]

        hearing = asyncio.create_task(rt._bridge.run(hear))
        await connected.wait()
        for _ in range(times):
            serving.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await serving
        said = await hearing
        assert said[-1] == "1001"
        assert ("reconnect" in said) or times == 2
        await rt.workspace("w").send(AddTask("t1", "It goes on"))
        await rt.drain()
        with pytest.raises(UnavailableError):
            await rt.workspace("w").send(AddTask("t2", "No more"))

    run(host)


def test_a_port_ends_with_the_block() -> None:
    async def main() -> None:
        store = MemoryStore(WORLD)
        async with aio.open_runtime(app=app, store=store, accounts=MemoryAccounts(WORLD)) as rt:
            started = asyncio.Event()
            serving = asyncio.create_task(rt.serve("127.0.0.1:0", started=lambda _: started.set()))
            await started.wait()
        with pytest.raises(RuntimeClosedError):
            await serving

    asyncio_run(main())


def test_asyncio_is_nowhere_else() -> None:
    """One of the drivers is made for it, and no other module of ours needs it."""
    root = Path(sys.modules["dalsegno.runtime"].__file__ or "").parents[1]
    using = {
        path.relative_to(root)
        for package in ("runtime", "actors", "protocol")
        for path in (root / package).rglob("*.py")
        if "import asyncio" in path.read_text() or "from asyncio" in path.read_text()
    }
    aio_itself = {path for path in using if path.parent == Path("runtime/aio")}
    assert aio_itself
    assert using - aio_itself == {Path("runtime/store/_asyncpg.py")}
