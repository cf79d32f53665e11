"""Which services are restarted, in which order, how often, and what follows if that is no help."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from dalsegno.actors import Receipt, ServiceFailedError, World
from dalsegno.actors.node._supervisor import FatalServiceError, Supervisor
from dalsegno.protocol import DalsegnoError, Limits, StoreUnavailableError
from tests.actors._boxes import Put
from tests.actors._nodes import moving_world
from tests.actors._world import (
    FaultyStore,
    Posted,
    away,
    check_log,
    eventually,
    lost_unknown,
    running,
    send_all,
)


class Troupe:
    """Services that record what they do, and fail on demand."""

    def __init__(self, *names: str, failures_max: int = 3, window_s: float = 60.0) -> None:
        self.said: list[str] = []
        self.fail: dict[str, trio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.supervisor = Supervisor(
            [(name, self._service(name)) for name in names],
            failures_max=failures_max,
            window_s=window_s,
        )

    def _service(self, name: str) -> Callable[..., Awaitable[None]]:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            self.said.append(f"+{name}")
            self.fail[name] = trio.Event()
            if name in self.errors and isinstance(self.errors[name], ImportError):
                raise self.errors.pop(name)
            task_status.started()
            try:
                await self.fail[name].wait()
                raise self.errors.pop(name, ZeroDivisionError(name))
            finally:
                self.said.append(f"-{name}")

        return run

    async def fails(self, name: str, error: Exception | None = None) -> None:
        if error is not None:
            self.errors[name] = error
        self.fail[name].set()
        await trio.testing.wait_all_tasks_blocked()


async def test_a_service_and_those_after_it_are_started_again_in_order() -> None:
    troupe = Troupe("a", "b", "c", "d")
    async with trio.open_nursery() as nursery:
        await nursery.start(troupe.supervisor.run)
        assert troupe.said == ["+a", "+b", "+c", "+d"]
        troupe.said.clear()
        await troupe.fails("b")
        assert troupe.said == ["-b", "-d", "-c", "+b", "+c", "+d"]
        statistics = troupe.supervisor.statistics()
        assert [(s.name, s.is_running) for s in statistics] == [(n, True) for n in "abcd"]
        assert [s.generations for s in statistics][:1] == [1]
        assert all(s.generations > 1 for s in statistics[1:])
        assert "b#" in repr(troupe.supervisor)
        nursery.cancel_scope.cancel()


async def test_too_many_failures_in_a_short_time_are_the_runtimes() -> None:
    troupe = Troupe("a", "b")

    async def perform() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(troupe.supervisor.run)
            for name in "abab":
                await troupe.fails(name)
            raise AssertionError("it goes on")

    with pytest.raises(ExceptionGroup) as caught:
        await perform()
    assert caught.value.subgroup(ServiceFailedError) is not None
    assert caught.value.subgroup(AssertionError) is None
    assert troupe.said[-1].startswith("-"), "nothing is left running"


async def test_failures_that_are_far_apart_do_not_add_up() -> None:
    troupe = Troupe("a", failures_max=1, window_s=10)
    async with trio.open_nursery() as nursery:
        await nursery.start(troupe.supervisor.run)
        for _ in range(5):
            await troupe.fails("a")
            await trio.sleep(11)
        nursery.cancel_scope.cancel()
    assert troupe.said.count("+a") == 6


async def test_a_service_that_fails_as_it_starts_is_counted_too() -> None:
    troupe = Troupe("a", "b", "c", failures_max=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(troupe.supervisor.run)
        troupe.said.clear()
        troupe.errors["b"] = ImportError("as it starts")
        troupe.fail["a"].set()
        troupe.errors["a"] = ZeroDivisionError()
        await trio.testing.wait_all_tasks_blocked()
        assert troupe.said == ["-a", "-c", "-b", "+a", "+b", "+b", "+c"]
        nursery.cancel_scope.cancel()


async def test_a_fatal_failure_is_not_tried_again() -> None:
    troupe = Troupe("a")

    async def perform() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(troupe.supervisor.run)
            await troupe.fails("a", FatalServiceError("for good"))

    with pytest.raises(ExceptionGroup) as caught:
        await perform()
    assert caught.value.subgroup(lambda error: "for good" in str(error)) is not None
    assert troupe.said == ["+a", "-a"]


# ---------------------------------------------------------------------------- in the runtime


async def break_next_statement(store: FaultyStore) -> None:
    async def bug(*_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("a bug in the committer")

    store.faults.append(bug)


async def test_x_sup_3_a_committer_that_fails_leaves_no_command_without_its_answer(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
        await break_next_statement(store)
        posted = Posted(actors.workspace(), Put("a"), "key")
        neighbour = Posted(actors.workspace("neighbour"), Put("a"))
        assert isinstance(await posted.wait(), Receipt)
        assert isinstance(await neighbour.wait(), Receipt)
        names = {s.name: s.generations for s in actors.service.supervisor.statistics()}
        assert names["committer"] > 1
        assert (await actors.workspace().send(Put("a"), key="key")).repeated
    assert len(await check_log(store)) == 2


async def test_a_committer_that_keeps_failing_ends_the_runtime(
    store: FaultyStore, world: World
) -> None:

    async def perform() -> None:
        async with running(store, world) as actors:
            for _ in range(9):
                await break_next_statement(store)
            Posted(actors.workspace(), Put("a"))
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await perform()
    assert caught.value.subgroup(ServiceFailedError) is not None
    assert await check_log(store) == []


async def test_a_directory_that_fails_answers_everybody_and_comes_back(
    store: FaultyStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = trio.Event()

    async def wait(append: Any, batches: Any) -> Any:
        await gate.wait()
        return await append(batches)

    async with running(store, world) as actors, actors.workspace().subscribe() as events:
        directory = actors.service.directory
        await actors.workspace().send(Put("a"))
        await anext(events)
        store.faults.append(wait)
        posted = Posted(actors.workspace(), Put("a"))
        await trio.testing.wait_all_tasks_blocked()
        with monkeypatch.context() as patch:
            patch.setattr(directory, "_make_room", lambda _: 1 / 0)
            answer = await posted.wait()
        assert isinstance(answer, DalsegnoError)
        assert answer.code in {"OUTCOME_UNKNOWN", "STORE_UNAVAILABLE"}
        with pytest.raises(DalsegnoError):
            await anext(events)
        gate.set()
        await trio.sleep(1)
        assert (await actors.workspace().send(Put("b"))).event_seq in {2, 3}
    await check_log(store)


async def test_a_bug_in_the_supervision_of_one_workspace_stays_there(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await send_all(actors.workspace("neighbour"), [Put("a")])
        slot = actors.service.directory.activate("w")
        await eventually(lambda: slot.is_running)
        slot._rest = None  # type: ignore[method-assign,assignment]  # the bug
        assert slot.passivate()
        posted = Posted(actors.workspace(), Put("a"))
        assert isinstance(await posted.wait(), DalsegnoError)
        assert (await actors.workspace().send(Put("a"))).event_seq == 1
        assert (await actors.workspace("neighbour").send(Put("a"))).event_seq == 2


async def test_a_store_that_returns_is_noticed_before_the_back_off_is_over(
    store: FaultyStore,
) -> None:
    world = moving_world()
    limits = Limits(command_deadline_s=10_000, mailbox_deadline_s=10_000, backoff_max_s=3_000)

    async def gone() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    async with running(store, world, limits=limits) as actors:
        await actors.workspace().send(Put("a"))
        store.before["acquire"] = store.before["beat"] = gone
        store.faults.append(away)
        posted = Posted(actors.workspace(), Put("a"))
        await trio.sleep(2_000)
        assert actors.service.directory.statistics()["w"].state == "waiting"
        assert not actors.service.lease.is_held
        store.before.clear()
        with trio.fail_after(limits.lease_beat_s + 1):
            assert isinstance(await posted.wait(), Receipt)
        await eventually(lambda: actors.service.lease.is_held)
        assert actors.service.lease.statistics().missed > 100


async def test_everything_tells_how_it_stands(store: FaultyStore, world: World) -> None:
    async with running(store, world) as actors:
        async with actors.workspace().subscribe():
            await send_all(actors.workspace(), [Put("a")] * 3)
            statistics = actors.service.statistics()
            w = statistics.workspaces["w"]
            assert (w.state, w.head, w.epoch, w.subscriptions) == ("running", 3, 1, 1)
            assert (w.waiting, w.unresolved, w.incarnations) == (0, 0, 1)
            assert statistics.committer.events == 3
            assert statistics.connections == 0
            assert statistics.acks.frontiers == statistics.acks.unwritten == 0
            assert statistics.lease.beats == 1
            assert statistics.lease.left_s > 0
            assert [s.name for s in statistics.services if s.is_running] == [
                "directory",
                "committer",
                "acks",
                "lease",
                "beat",
                "presence",
                "sweep",
                "timers",
                "runs",
                "reactors",
            ]
            assert statistics.timers.fired == statistics.timers.stuck == 0
        for one in (
            actors.service,
            actors.service.directory,
            actors.service.directory.activate("w"),
            actors.service.committer,
            actors.service.acks,
            actors.service.lease,
            actors.service.supervisor,
        ):
            assert repr(one).startswith(f"<{type(one).__name__}")
            assert " at 0x" not in repr(one)


async def test_a_workspace_that_nobody_waits_for_is_not_opened_for_ever(
    store: FaultyStore, world: World
) -> None:
    opened = 0

    async def gone() -> None:
        nonlocal opened
        opened += 1
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    async with running(store, world) as actors:
        await actors.workspace("unknown").send(Put("a"))
        store.before["acquire"] = gone
        store.faults.append(lost_unknown)
        posted = [Posted(actors.workspace(f"w{n}"), Put("a")) for n in range(5)]
        posted.append(Posted(actors.workspace("unknown"), Put("a")))
        await trio.sleep(200)
        assert [one.code for one in posted] == ["STORE_UNAVAILABLE"] * 5 + ["OUTCOME_UNKNOWN"]
        assert actors.service.directory.statistics() == {}
        before = opened
        await trio.sleep(600)
        assert opened == before
