"""Attempts a day after the one before, and those whose end cannot be written any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import trio

from dalsegno.actors import World
from dalsegno.actors.effects import Run
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App
from dalsegno.protocol.runs import RequestRun, Retry, RunState, runs, worker
from tests.actors._boxes import Box, Put, boxes
from tests.actors._nodes import LIMITS, Node, node
from tests.actors._world import Wall

DAY_S = 24 * 3_600.0


async def until(a: Node, status: str) -> RunState:
    with trio.fail_after(30):
        while (run := await a.workspace().get(runs, "r")) is None or run.status != status:
            await trio.sleep(0.1)
    return run


async def test_a_step_is_not_repeated_by_an_attempt_that_begins_a_day_later(
    wall: Wall, world: World
) -> None:
    store = MemoryStore(world)

    # Drawn below it: half of it, in this world.
    @worker("it", deadline_s=9 * DAY_S, retry=Retry(first_s=2.2 * DAY_S, max_s=9 * DAY_S))
    async def it(run: Run) -> Put:
        receipt = await run.send(Put("once"), step="once")
        assert receipt.version == 1
        if run.attempt == 1:
            raise OSError("a provider")
        return Put("end")

    app = App([boxes], workers=[it])
    async with node(store, "a", world=world, app=app) as a:
        await a.workspace().send(RequestRun(run_id="r", worker="it"), key="asked")
        run = await until(a, "released")
        assert run.retry_at is not None
        assert run.retry_at - wall.now > timedelta(days=1)
    await trio.sleep(LIMITS.lease_s)
    wall.now += timedelta(days=1.2)
    async with node(store, "b", world=world, app=app) as b:
        run = await until(b, "succeeded")
        assert run.attempt == 2
        assert await b.workspace().get(boxes, "once") == Box("")
        assert await b.workspace().get(boxes, "end") == Box("")


async def test_attempts_that_cannot_end_leave_half_of_the_drain_to_commands_and_acks(
    wall: Wall, world: World
) -> None:
    """The store hangs; the drain is begun once, and is known from its first step on."""
    del wall
    store = MemoryStore(world)

    @worker("it")
    async def it(_run: Run) -> None:
        await trio.sleep_forever()

    async with node(store, "a", world=world, app=App([boxes], workers=[it])) as a:
        await a.workspace().send(RequestRun(run_id="r", worker="it"))
        await until(a, "running")
        a.gate.shut()
        began, noticed = trio.current_time(), dict[str, float]()

        async def notice(what: str, condition: Callable[[], bool]) -> None:
            while not condition():
                await trio.sleep(0.01)
            noticed[what] = trio.current_time() - began

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(notice, "drains", lambda: a.service.is_draining)
                nursery.start_soon(notice, "takes nothing", lambda: not a.service.node.is_open)
                with trio.move_on_after(LIMITS.drain_deadline_s):
                    await a.service.drain()
        assert noticed["drains"] < 0.02
        assert noticed["takes nothing"] <= LIMITS.drain_deadline_s / 2 + 0.02
