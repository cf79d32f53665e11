"""A commit without an answer: the waiter gets the right verdict, and nothing happens twice (I4).

A proxy between the runtime and a real PostgreSQL decides what becomes of the statement and of its
answer.  A caller that goes away in the middle, and a wall clock that jumps, are here as well: they
need the same loads and the same judge.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial

import pytest
import trio

from dalsegno.actors.testing import Recorder
from dalsegno.runtime import Runtime
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.store import DriverName
from tests._patience import fail_after
from tests.system._hosts import Host, send
from tests.system._judge import judge
from tests.system._proxy import (
    Accident,
    Exchange,
    Proxy,
    answer_lost,
    late,
    open_proxy,
    request_lost,
)
from tests.tasks_domain import AddTask, tasks

PATIENCE_S = 30.0
WORKSPACES = ("w0", "w1", "w2", "w3")


@pytest.fixture
async def proxy(migrated: str) -> AsyncIterator[Proxy]:
    async with open_proxy(migrated) as proxy:
        yield proxy


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(time.monotonic)


async def send_some(recorder: Recorder, rt: Runtime, prefix: str) -> None:
    """Several at once in one workspace, and one in another: they share a statement."""
    markers = {"mine": [f"{prefix}-{number}" for number in range(3)], "other": [f"{prefix}-o"]}
    with fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for workspace_id, some in markers.items():
                for marker in some:
                    nursery.start_soon(send, recorder, rt, workspace_id, marker)
        for workspace_id, some in markers.items():
            for marker in some:
                assert (await send(recorder, rt, workspace_id, marker)).repeated


async def check_accident(
    proxy: Proxy, dsn: str, recorder: Recorder, accident: Accident, driver: DriverName
) -> None:
    """Check that every command is answered and takes effect once, despite an accident."""
    async with Runtime.open(proxy.dsn, domains=[tasks], driver=driver) as rt:
        await send_some(recorder, rt, "before")
        proxy.prepare("append", accident)
        await send_some(recorder, rt, "meanwhile")
        assert proxy.accidents == 1
        await send_some(recorder, rt, "after")
    recorder.settled()
    report = await judge(recorder.history, dsn, "mine", "other")
    assert report.events == 12


async def test_fi_2_the_answer_of_a_commit_is_lost(
    proxy: Proxy, migrated: str, recorder: Recorder, driver: DriverName
) -> None:
    await check_accident(proxy, migrated, recorder, answer_lost, driver)


async def test_fi_3_a_commit_is_lost_on_its_way(
    proxy: Proxy, migrated: str, recorder: Recorder, driver: DriverName
) -> None:
    await check_accident(proxy, migrated, recorder, request_lost, driver)


async def test_a_commit_takes_effect_after_the_connection_was_lost(
    proxy: Proxy, migrated: str, recorder: Recorder, driver: DriverName
) -> None:
    await check_accident(proxy, migrated, recorder, late, driver)


async def test_a_commit_arrives_after_its_incarnation_was_fenced(
    proxy: Proxy, migrated: str, recorder: Recorder, driver: DriverName
) -> None:
    async def after_the_fence(exchange: Exchange) -> None:
        """The next incarnation looks for the commands once it has raised the epoch."""
        looked = proxy.requests["find_commands"]
        await exchange.hang_up()
        while proxy.requests["find_commands"] == looked:
            await trio.sleep(0.001)
        await exchange.apply()

    await check_accident(proxy, migrated, recorder, after_the_fence, driver)


@pytest.mark.parametrize("accident", [answer_lost, request_lost])
@pytest.mark.parametrize("looks", [0, 2], ids=["looking", "making"])
async def test_the_answer_of_a_takeover_is_lost(
    proxy: Proxy, migrated: str, recorder: Recorder, accident: Accident, looks: int
) -> None:
    async with Runtime.open(proxy.dsn, domains=[tasks]) as rt:
        # Each of the two workspaces is looked up first, and created with its first event.
        proxy.prepare("acquire", accident, after=looks)
        await send_some(recorder, rt, "first")
        assert proxy.accidents == 1
    recorder.settled()
    await judge(recorder.history, migrated, "mine", "other")


async def test_every_tenth_commit_of_a_load_has_an_accident(
    proxy: Proxy, migrated: str, recorder: Recorder, driver: DriverName
) -> None:
    accidents = itertools.cycle([answer_lost, request_lost, late, _cut])
    async with (
        Runtime.open(proxy.dsn, domains=[tasks], driver=driver) as rt,
        trio.open_nursery() as nursery,
    ):
        host = Host(recorder, rt, *WORKSPACES, name="h")
        nursery.start_soon(host.run)
        for accident in itertools.islice(accidents, 24):
            await host.wait(more=10)
            happened = proxy.accidents
            proxy.prepare("append", accident)
            with fail_after(PATIENCE_S):
                while proxy.accidents == happened:
                    await trio.sleep(0.001)
        await host.settle()
    assert proxy.accidents == 24
    report = await judge(recorder.history, migrated, *WORKSPACES)
    assert report.events >= 240


async def _cut(exchange: Exchange) -> None:
    """Every connection is lost while the statement is at the server."""
    await exchange.pass_on()
    await exchange.proxy.cut()


# ----------------------------------------------------------------------------- callers that go


class _Steps(trio.abc.Instrument):
    """Cancels a scope after so many steps of any task."""

    def __init__(self, scope: trio.CancelScope, count: int) -> None:
        self._scope = scope
        self._left = count

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def test_fi_14_a_caller_is_cancelled_in_every_step_of_the_way(
    migrated: str, recorder: Recorder, driver: DriverName
) -> None:
    """From before it is in the mailbox until after it has its receipt."""
    async with Runtime.open(migrated, domains=[tasks], driver=driver) as rt:
        await send(recorder, rt, "w0", "warm")
        finished = 0
        for count in itertools.count(1):
            marker = f"k{count}"
            with trio.CancelScope() as scope:
                steps = _Steps(scope, count)
                trio.lowlevel.add_instrument(steps)
                try:
                    await send(recorder, rt, "w0", marker)
                    finished += 1
                finally:
                    trio.lowlevel.remove_instrument(steps)
            with fail_after(PATIENCE_S):
                again = await send(recorder, rt, "w0", marker)
            assert again.event_seq == count + 1
            if finished == 5:
                break
        assert count > 10, "there are more steps than that"
        recorder.settled()
    report = await judge(recorder.history, migrated, "w0")
    assert report.events == count + 1


async def test_fi_14_a_caller_that_repeats_at_once_gets_its_first_answer(
    migrated: str, recorder: Recorder
) -> None:
    async with Runtime.open(migrated, domains=[tasks]) as rt:
        await send(recorder, rt, "w0", "warm")
        for number in range(100):
            with trio.move_on_after(0):
                await send(recorder, rt, "w0", f"k{number}")
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(send, recorder, rt, "w0", f"k{number}")
        recorder.settled()
    report = await judge(recorder.history, migrated, "w0")
    assert report.events == 101


# --------------------------------------------------------------------------------- clocks


class _Jumping:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return WORLD.now() + self.offset


async def test_fi_8_the_wall_clock_jumps(migrated: str, recorder: Recorder) -> None:
    """No time in the log steps back, nothing waits for the clock, and nothing is lost (I3)."""
    clock = _Jumping()
    world = dataclasses.replace(WORLD, now=clock.now)
    open_here = partial(Runtime.open, migrated, domains=[tasks], world=world)
    for hours in (0, 30, -30, -24 * 365, 0):
        clock.offset = timedelta(hours=hours)
        async with open_here() as rt, trio.open_nursery() as nursery:
            host = Host(recorder, rt, *WORKSPACES, name=f"h{len(recorder.history)}")
            nursery.start_soon(host.run)
            await host.wait(more=40)
            clock.offset -= timedelta(hours=1)
            await host.wait(more=40)
            clock.offset += timedelta(hours=2)
            await host.wait(more=40)
            await rt.workspace("w0").send(AddTask(f"t{hours}-{rt.world.new_id()}", "x"))
            await host.settle()
    report = await judge(recorder.history, migrated, *WORKSPACES)
    assert report.events >= 600
