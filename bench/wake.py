"""Does it matter how long a workspace's log is: to wake it, and to append to it?

Logs of 100, 10,000 and 100,000 events (with ``--full`` also 1,000,000), of notes with a hundred
versions each, in a database that was never analysed; every workspace has 100,000 results of
idempotency keys beside it.  A wake-up is the first command to a workspace that is not in memory:
the runtime takes it over, loads a note and commits a patch of it.  Then comes one more patch of
that note, an append, and the workspace leaves memory again, which stores the note's state.  It is
the same note every time, so that only the log's length differs.  The lengths take turns,
in an embedded runtime; what is compared are medians.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.notes import notes
from dalsegno.runtime import Runtime

from ._filled import VERSIONS, fill
from ._harness import Report, Sample, p50, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import postgres
from ._writers import NoteWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._harness import Options, Series

HEADLINE = "wake-10000"

_A_ROUND = 20
"""Wake-ups of each workspace."""
_REST_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A workspace with a log of some length."""

    runtime: Runtime
    writer: NoteWriter
    woken: Series
    appended: Series

    async def measure(self) -> tuple[float, float]:
        """Wake it, append to it and passivate it; return the seconds of the first two."""
        began = time.perf_counter()
        await self.writer.send()
        woken = time.perf_counter()
        await self.writer.send()
        appended = time.perf_counter()
        await self._rest(self.writer.workspace.id)
        return woken - began, appended - woken

    async def _rest(self, workspace_id: str) -> None:
        directory = self.runtime.service.directory
        with trio.fail_after(_REST_DEADLINE_S):
            while workspace_id in directory.statistics():
                directory.activate(workspace_id).passivate()
                await trio.sleep(0.001)


def _sleeper(report: Report, runtime: Runtime, length: int) -> Sleeper:
    workspace, random_ = runtime.workspace(f"w{length}"), random.Random(report.options.seed)
    return Sleeper(
        runtime,
        NoteWriter(workspace, "n0", random_, version=VERSIONS),
        report.add(f"wake {length:,} events", "command"),
        report.add("  append to them", "command"),
    )


async def _round(
    sleepers: Sequence[Sleeper], random_: random.Random, count: int
) -> list[tuple[Series, Sample]]:
    """Wake each so many times, in a new order every time."""
    latencies: dict[int, tuple[list[float], list[float]]] = {}
    for _ in range(count):
        for sleeper in random_.sample(sleepers, len(sleepers)):
            woken_s, appended_s = await sleeper.measure()
            woken, appended = latencies.setdefault(id(sleeper), ([], []))
            woken.append(woken_s)
            appended.append(appended_s)
    return [
        (series, Sample(count=count, wall_s=sum(its), latencies_s=its))
        for sleeper in sleepers
        for series, its in zip(
            (sleeper.woken, sleeper.appended), latencies[id(sleeper)], strict=True
        )
    ]


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("wake", options)
    named = (100, 10_000, 100_000, *((1_000_000,) if options.full else ()))
    lengths = options.pick(named, quick=(100, 200, 2_000))
    results = options.pick(100_000, quick=1_000)
    random_ = random.Random(options.seed)
    with postgres() as database, pinned(SUBJECT_CORE):
        for length in lengths:
            await fill(database, f"w{length}", length, results=results)
        async with Runtime.open(database.dsn, domains=[notes]) as runtime:
            sleepers = [_sleeper(report, runtime, length) for length in lengths]
            shortest = sleepers[0]
            for name, length, sleeper in list(zip(named, lengths, sleepers, strict=True))[1:]:
                report.compare(
                    f"wake {length:,} events / {lengths[0]}",
                    sleeper.woken,
                    shortest.woken,
                    ratio_id=f"wake-{name}",
                    of=p50,
                    at_most=1.2,
                )
                report.compare(
                    f"append to {length:,} events / {lengths[0]}",
                    sleeper.appended,
                    shortest.appended,
                    ratio_id=f"append-{name}",
                    of=p50,
                    at_most=1.2,
                )
            for counts in rounds(options):
                measured = await _round(sleepers, random_, options.pick(_A_ROUND, quick=3))
                if counts:
                    for series, sample in measured:
                        series.samples.append(sample)
    return report
