"""What a dead node has left: another one goes on with it as soon as the lease has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import trio

from dalsegno.actors.effects import Reaction, Run
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import App, RunFor, UnavailableError
from dalsegno.protocol.runs import RequestRun, runs, worker
from tests.actors._boxes import Put, WasPut, boxes
from tests.actors._nodes import LIMITS, moving_world, node

RARELY = replace(LIMITS, runs_scan_s=3_600.0, places_every_s=0.5)
SOON_S = 3.0


async def test_runs_and_reactors_of_a_dead_node_go_on_once_its_lease_has_ended() -> None:
    world = moving_world()
    store = MemoryStore(world)
    is_first, began = True, trio.Event()
    ended: dict[str, float] = {}

    @worker("it")
    async def it(run: Run) -> None:
        began.set()
        if is_first:
            await trio.sleep_forever()
        ended[run.id] = trio.current_time()

    @boxes.requests(WasPut, name="choose")
    async def choose(_reaction: Reaction, event: WasPut) -> Sequence[RunFor]:
        if is_first:
            raise UnavailableError("it dies first")
        ended[event.text] = trio.current_time()
        return [RunFor(worker="it")]

    app = App([boxes], workers=[it, choose])
    async with node(store, "b", world=world, limits=RARELY, app=app) as b:
        async with node(store, "a", world=world, limits=RARELY, app=app) as a:
            await a.workspace("runs").send(RequestRun(run_id="r", worker="it"))
            await a.workspace("events").send(Put("x", "told"))
            await began.wait()
            await trio.sleep(60)
            is_first = False
        died = trio.current_time()
        with trio.fail_after(300):
            while len(ended) < 3:
                await trio.sleep(0.1)
        assert set(ended) > {"r", "told"}
        assert max(ended.values()) - died < LIMITS.lease_s + SOON_S
        run = await b.workspace("runs").get(runs, "r")
        assert run is not None
        assert (run.status, run.attempt) == ("succeeded", 2)
