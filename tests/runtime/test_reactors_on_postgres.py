"""Reactors on a real database: they hold up nobody, and where they begin is durable."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest
import trio

from dalsegno.actors.effects import Run
from dalsegno.protocol import App, Cursor, Limits
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


async def test_a_reactor_that_comes_while_others_write_is_told_of_the_rest_once(
    migrated: str,
) -> None:
    """A program without it serves on, old workspaces and new ones, and then leaves."""
    told: Counter[tuple[str, str]] = Counter()

    @boxes.react(WasPut, name="late", concurrency=16)
    async def late(run: Run, event: WasPut) -> None:
        told[run.workspace_id, event.text] += 1

    limits = Limits(places_every_s=0.1, runs_scan_s=0.5, lease_s=2.0, lease_beat_s=0.4)
    put: dict[str, int] = {}

    async def write(rt: Runtime, workspace_id: str, count: int) -> None:
        for _ in range(count):
            number = put[workspace_id] = put.get(workspace_id, 0) + 1
            await rt.workspace(workspace_id).send(Put("x", str(number)))

    writing, may_leave = trio.Event(), trio.Event()

    async def serve_on() -> None:
        app = App([boxes, runs])
        async with Runtime.open(migrated, app=app, limits=limits, node_id="old") as rt:
            await write(rt, "there", 20)
            writing.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, rt, "there", 300)
                for number in range(10):
                    await write(rt, f"new-{number}", 10)
            await may_leave.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_on)
        await writing.wait()
        app = App([boxes], workers=[late])
        async with Runtime.open(migrated, app=app, limits=limits, node_id="new") as rt:
            with fail_after(60):
                while "late" not in await rt.service.store.read_places("there"):
                    await trio.sleep(0.001)
                while put.get("new-9") != 10 or put["there"] != 320:
                    await trio.sleep(0.01)
                assert not told, "all of them are another's"
                began = {id_: await rt.service.store.read_places(id_) for id_ in put}
                may_leave.set()
                wanted = {
                    (id_, str(number)): 1
                    for id_, last in put.items()
                    for number in range(began[id_].get("late", Cursor(0)).seq + 1, last + 1)
                }
                while len(told) < len(wanted):
                    await trio.sleep(0.05)
    assert told == wanted
    assert began["there"]["late"].seq >= 20
