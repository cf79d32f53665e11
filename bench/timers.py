"""What do timers cost: those that wait, and those that are due?

A hundred thousand cards wait for next year.  The statement by which a node looks for what is due
runs again and again, on that database and on one without a timer; then fifty cards become due at
once in as many workspaces, and it is measured how long it takes until the last of them has been
moved, beside the same commands sent by a program at once.  A tick of half a second is part of it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

from dalsegno.runtime import Runtime
from dalsegno.runtime.store import PostgresStore

from ._cards import Move, cards, fill
from ._harness import Report, Sample, p50, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import postgres

if TYPE_CHECKING:
    from ._harness import Options

HEADLINE = "waiting"

_DUE = 50
_AFTER_S = 0.2
_DEADLINE_S = 30.0


async def _look(store: PostgresStore, seconds: float) -> Sample:
    latencies: list[float] = []
    began = now = time.perf_counter()
    while now < began + seconds:
        page = await store.find_due(
            "here", ["card"], until=datetime.now(UTC), after=None, limit=1_000
        )
        assert not page.entities
        last, now = now, time.perf_counter()
        latencies.append(now - last)
    return Sample(count=len(latencies), wall_s=now - began, latencies_s=latencies)


async def _fire(rt: Runtime, number: int) -> tuple[Sample, Sample]:
    """Have cards move themselves, and move as many; return both."""
    workspaces = [rt.workspace(f"due-{number}-{n}") for n in range(_DUE)]

    async def send(again_s: float | None) -> float:
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for workspace in workspaces:
                nursery.start_soon(workspace.send, Move("1", again_s))
        return time.perf_counter() - began

    await send(None)
    sent_s = await send(_AFTER_S)
    began = time.perf_counter()
    with trio.fail_after(_DEADLINE_S):
        for workspace in workspaces:
            while await workspace.head() < 3:  # noqa: ASYNC110 - what is due is third
                await trio.sleep(0.005)
    fired_s = time.perf_counter() - began
    return (
        Sample(count=1, wall_s=fired_s, latencies_s=[fired_s]),
        Sample(count=1, wall_s=sent_s, latencies_s=[sent_s]),
    )


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("timers", options)
    waiting = options.pick(100_000, quick=1_000)
    full = report.add(f"a look, {waiting:,} wait", "look")
    empty = report.add("  none waits", "look")
    fired = report.add(f"{_DUE} that are due at once, with their tick", "time")
    sent = report.add("  the same, sent", "time")
    report.compare(
        f"p50 of a look with {waiting:,} that wait / without",
        full,
        empty,
        ratio_id="waiting",
        of=p50,
        at_most=1.5,
    )
    next_year = datetime.now(UTC) + timedelta(days=365)
    with postgres() as database, postgres() as other, pinned(SUBJECT_CORE):
        await fill(database, "waiting", waiting, due_at=next_year)
        await fill(other, "none", 1)
        async with (
            PostgresStore.open(other.dsn) as without,
            Runtime.open(database.dsn, domains=[cards]) as rt,
            PostgresStore.open(database.dsn) as store,
        ):
            for number, counts in enumerate(rounds(options)):
                looks = [await _look(each, options.seconds) for each in (store, without)]
                samples = (*looks, *await _fire(rt, number))
                if counts:
                    for series, sample in zip((full, empty, fired, sent), samples, strict=True):
                        series.samples.append(sample)
    return report
