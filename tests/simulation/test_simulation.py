"""Whole nodes under every fault: whatever the schedule, nothing happens that must not."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from math import inf
from time import perf_counter

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from dalsegno.actors import AckedCursor, CursorKey
from dalsegno.actors.testing import (
    FAULTS,
    Ask,
    Choices,
    HypothesisChoices,
    Link,
    Report,
    SeededChoices,
)
from dalsegno.actors.testing.contract.store._writing import writer
from dalsegno.actors.testing.simulation import FailoverStore
from tests.actors._world import Wall
from tests.simulation._schedules import ONE_HISTORY, commands, run, run_sound, simulated

BATCHES, BATCH = 10, 15
SOAK = 20_000
LOSSES = 15


@pytest.mark.parametrize(
    "batch", [0, *(pytest.param(batch, marks=pytest.mark.long) for batch in range(1, BATCHES))]
)
def test_seeded_schedules(batch: int) -> None:
    run_sound(range(batch * BATCH, (batch + 1) * BATCH))


@pytest.mark.long
def test_a_lost_tail_makes_no_second_history() -> None:
    """A standby that lacks the newest events is promoted: there is one log, read in order.

    How soon a node notices that what it remembers is gone is another matter.
    """
    for seed in range(LOSSES):
        done = simulated(SeededChoices(seed), faults=(*FAULTS, *["failover"] * 3))
        found = {violation.verdict for violation in done.violations}
        assert not found & ONE_HISTORY, f"seed {seed}:\n{done}"


async def test_a_failover_does_lose_the_tail() -> None:
    """The fault itself: a snapshot shares nothing with the store that goes on."""
    store = FailoverStore(Wall().world())
    w = await writer(store, "w")
    await store.append([w.batch(w.event("note:1"))])
    await store.write_cursors({CursorKey("u", "c", "w", "note:1"): AckedCursor(1)})
    snapshot, before = store.snapshot(), store.logs()
    await store.append([w.batch(w.event("note:1"), w.event("note:2"))])
    await store.acquire("w", "another", create=False)
    await store.write_cursors({CursorKey("u", "c", "w", "note:1"): AckedCursor(2)})
    for _ in range(2):  # it can be gone back to again
        store.restore(snapshot)
        head = await store.read_head("w")
        assert head is not None
        assert (head.head_seq, head.epoch, head.owner) == (1, 1, "here")
        assert store.logs() == before
        assert [*(await store.read_cursors([CursorKey("u", "c", "w", "note:1")])).values()] == [1]
        await store.acquire("w", "another", create=False)


def test_what_is_logged_after_a_schedule_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("dalsegno.timers")

    def loud(choices: Choices) -> Ask:
        logger.warning("within")
        return commands(choices)

    simulated(SeededChoices(1), commands=loud)
    assert not caplog.messages
    logger.warning("after")
    assert caplog.messages == ["after"]


def test_a_seed_is_a_schedule() -> None:
    first, again, other = (run(SeededChoices(seed), 3) for seed in (5, 5, 6))
    assert first.digest == again.digest
    assert (first.steps, first.history) == (again.steps, again.history)
    assert first.digest != other.digest


async def test_acks_that_are_written_in_the_step_in_which_a_process_dies_may_be_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It was a moment too short, so that they were missed in the end."""
    async with trio.open_nursery() as nursery:
        noise = SeededChoices(1).noise()
        link = Link(nursery, noise, silence_s=1.0, faults=Counter())
        assert link.unwritten_since(trio.current_time()) == inf
        link.kill()
        assert link.unwritten_since(trio.current_time()) == trio.current_time()


@pytest.mark.long
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_drawn_schedules(data: st.DataObject) -> None:
    done = simulated(HypothesisChoices(data), nodes=2, clients=3, workspaces=1, steps=25)
    assert done.is_sound, str(done)


@pytest.mark.long
def test_schedules_do_reach_what_they_are_for() -> None:
    """A simulation in which nothing happens proves nothing."""
    report, faults = Report(), Counter[str]()
    for seed in range(30):
        done = run(SeededChoices(seed), 0)
        report += done.report
        faults += done.faults
    assert faults.keys() >= {*FAULTS, "deploy"}
    assert report.commands["ok"] > 100
    assert report.commands["unknown"] > 5
    assert report.deliveries > report.events
    assert report.acks > 10
    assert report.reads > 10


@pytest.mark.soak
def test_soak(capsys: pytest.CaptureFixture[str]) -> None:
    report, faults = Report(), Counter[str]()
    began = perf_counter()
    seeds = range(SOAK)
    # Not forked: this process has threads, and a scheduler that must be made deterministic first.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for one, happened in pool.map(run_sound, (seeds[n : n + BATCH] for n in seeds[::BATCH])):
            report += one
            faults += happened
    rate = SOAK / (perf_counter() - began)
    with capsys.disabled():
        print(f"\n{SOAK} schedules, {rate:.1f}/s\n{report}\n{dict(sorted(faults.items()))}")
