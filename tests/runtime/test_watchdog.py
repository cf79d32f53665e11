"""What holds up the whole node is named in the log, with its stack."""

from __future__ import annotations

import logging
import time

import pytest
import trio

from dalsegno.runtime import Run
from dalsegno.runtime._watchdog import watched

from .test_run_workers import asked, doing, ended, running


async def test_a_worker_that_blocks_is_named_and_its_neighbours_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def it(run: Run) -> None:
        if run.id == "blocking":
            time.sleep(0.5)  # noqa: ASYNC251 - that is what it is about

    with caplog.at_level(logging.WARNING, "dalsegno.watchdog"):
        async with running(doing(it)) as workspace:
            for run_id in ("before", "blocking", "after"):
                await asked(workspace, run_id)
            for run_id in ("before", "blocking", "after"):
                assert (await ended(workspace, run_id)).status == "succeeded"
    told = [record.getMessage() for record in caplog.records if "a step" in record.message]
    assert len(told) == 1, "once"
    assert "time.sleep(0.5)" in told[0], told


async def test_who_waits_or_is_quick_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with watched(0.2):
        for _ in range(20):
            await trio.sleep(0.01)
            time.sleep(0.01)  # noqa: ASYNC251 - as above
        await trio.sleep(0.5)
    assert caplog.records == []


async def test_it_ends_with_its_block_and_lets_errors_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with watched(0.1):
            raise ZeroDivisionError
