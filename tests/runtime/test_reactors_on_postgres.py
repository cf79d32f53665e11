"""Reactors on a real database: they hold up nobody, and where they begin is durable."""

from __future__ import annotations

from statistics import median

import pytest
import trio

from dalsegno.actors.effects import Run
from dalsegno.protocol import App, Limits
from dalsegno.protocol.runs import runs
from dalsegno.runtime import Runtime
from tests._patience import fail_after, slowness
from tests.actors._boxes import Put, WasPut, boxes

pytestmark = pytest.mark.postgres

STALLS = 12


async def test_x_auto_3_a_provider_that_stalls_holds_up_no_command(migrated: str) -> None:
    @boxes.react(WasPut, name="stall", concurrency=STALLS)
    async def stall(_run: Run, _event: WasPut) -> None:
        await trio.sleep(30)

    app = App([boxes], workers=[stall])
    async with Runtime.open(migrated, app=app) as rt:
        workspace = rt.workspace("w")
        for number in range(STALLS):
            await workspace.send(Put("x", str(number)))
        with fail_after(20):
            while rt.service.runs.statistics().running < STALLS:
                await trio.sleep(0.01)
        took: list[float] = []
        for number in range(50):
            began = trio.current_time()
            await workspace.send(Put("y", str(number)))
            took.append(trio.current_time() - began)
        assert median(took) < 0.1 * slowness()
        assert rt.service.runs.statistics().running == STALLS, "it is still waiting"


async def test_what_was_told_is_not_told_again_to_the_next_process(migrated: str) -> None:
    seen: list[str] = []

    @boxes.react(WasPut, name="note")
    async def note(_run: Run, event: WasPut) -> None:
        seen.append(event.text)

    limits = Limits(places_every_s=0.1, runs_scan_s=0.5)
    for text in ("a", "b"):
        app = App([boxes], workers=[note])
        async with Runtime.open(migrated, app=app, limits=limits) as rt:
            workspace = rt.workspace("w")
            await workspace.send(Put("x", text))
            with fail_after(20):
                while rt.service.reactors.statistics().behind or text not in seen:
                    await trio.sleep(0.01)
            listed = await workspace.snapshot(runs)
            assert len(listed.items) == len(seen)
    assert seen == ["a", "b"]
    async with Runtime.open(migrated, app=App([boxes]), limits=limits) as rt:
        await rt.workspace("w").send(Put("x", "c"))
    async with Runtime.open(migrated, app=App([boxes], workers=[note]), limits=limits):
        with fail_after(20):  # nobody asks for the workspace
            while "c" not in seen:
                await trio.sleep(0.01)
