"""An attempt whose beginning a failover lost: the run begins again, the old body does nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from dalsegno.actors.effects import Run
from dalsegno.actors.effects._attempt import Attempt
from dalsegno.actors.testing.simulation._failover import FailoverStore
from dalsegno.protocol import App, Limits, Reject
from dalsegno.protocol.runs import RequestRun, RunState, runs, worker
from dalsegno.runtime import Runtime
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after
from tests.actors._boxes import Put, boxes


async def what_an_old_body_is_told() -> str | None:
    """Return what a body is refused with whose attempt is in no log any more; None: nothing."""
    store = FailoverStore(WORLD)
    began, go = [trio.Event(), trio.Event()], trio.Event()
    told: list[str | None] = []

    @worker("it")
    async def it(run: Run) -> None:
        number = sum(event.is_set() for event in began)
        began[number].set()
        if number == 1:
            await trio.sleep_forever()
        with trio.CancelScope(shield=True):
            await go.wait()
            try:
                await run.send(Put("x", "of a history that is gone"))
            except Reject as error:
                told.append(error.code)
            else:
                told.append(None)

    limits = Limits(backoff_first_s=0.01, runs_scan_s=0.1)
    async with Runtime.open(app=App([boxes], workers=[it]), store=store, limits=limits) as rt:
        workspace = rt.workspace("w")
        await workspace.send(RequestRun(run_id="r", worker="it"))
        requested = store.snapshot()
        assert len(store.logs()["w"]) == 1, "it has not begun"
        with fail_after(10):
            await began[0].wait()
            store.restore(requested)
            await workspace.send(Put("y", "a first command of the new history"))
            await began[1].wait()
            go.set()
            while not told:
                await trio.sleep(0.01)
        run = await workspace.get(runs, "r")
        assert run is not None
        assert run.attempt == 1, "its number is given again"
        assert (await workspace.get(boxes, "x") is None) is (told != [None])
    return told[0]


async def test_a_body_whose_beginning_was_lost_changes_nothing() -> None:
    assert await what_an_old_body_is_told() == "RUN_FENCED"


async def test_a_fence_by_number_would_let_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Attempt._begin

    async def begin(self: Attempt, after: str | None) -> RunState | None:
        number = 1 if after is None else int(after) + 1
        node = self._node
        self._node = replace(node, world=replace(node.world, new_id=lambda: str(number)))
        try:
            return await original(self, after)
        finally:
            self._node = node

    monkeypatch.setattr(Attempt, "_begin", begin)
    assert await what_an_old_body_is_told() is None
