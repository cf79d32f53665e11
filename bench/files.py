"""What does an append to a session's file cost, and does it stay so as the log grows?

One event at a time, each durable before the next, by a `FileEventStore` on a log of a hundred
events, and on one of a hundred thousand; and a hundred events in one append.  An append syncs the
log, the owner and the head, and their folder twice: five times.

The references: a bare write and sync of the same line, and a save of the `eventsourcing` library on
SQLite, in its default settings, which syncs once.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from dalsegno.runtime.files import EventEnvelope, FileEventStore, SessionSource
from dalsegno.runtime.seams import WORLD

from ._harness import Report, Sample, rounds
from ._processes import SUBJECT_CORE, pinned
from ._theirs import theirs_in_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._harness import Options, Series

HEADLINE = "long-log"

_BATCH = 100
_FEW = 100
_FILL = 256


class Writer:
    """Appends to one session."""

    def __init__(self, store: FileEventStore, session_id: str, seconds: float) -> None:
        self._store = store
        self._session_id = session_id
        self._seconds = seconds
        self._source = SessionSource(session_id)

    def envelope(self) -> EventEnvelope:
        """Make an event that is like those of an agent."""
        return EventEnvelope(
            event_id=WORLD.new_id(),
            source=self._source,
            timestamp_ms=1_700_000_000_000,
            payload={"type": "text_delta", "delta": "again and again"},
        )

    async def fill(self, count: int) -> None:
        """Append until there are as many."""
        left = count - await self._store.last_seq(self._session_id)
        while left > 0:
            batch = [self.envelope() for _ in range(min(left, _FILL))]
            await self._store.append_envelopes(self._session_id, batch)
            left -= len(batch)

    async def run(self, events: int) -> Sample:
        """Append for a while, so many events at once."""
        latencies: list[float] = []
        cpu, began = time.process_time(), time.perf_counter()
        now = began
        while now < began + self._seconds:
            batch = [self.envelope() for _ in range(events)]
            await self._store.append_envelopes(self._session_id, batch)
            last, now = now, time.perf_counter()
            latencies.append(now - last)
        return Sample(
            count=len(latencies) * events,
            wall_s=now - began,
            cpu_s=time.process_time() - cpu,
            commits=len(latencies),
            latencies_s=latencies,
        )


def _bare(path: Path, line: bytes, seconds: float) -> Sample:
    """Write a line and sync it, again and again."""
    latencies: list[float] = []
    with path.open("ab", buffering=0) as file:
        cpu, began = time.process_time(), time.perf_counter()
        now = began
        while now < began + seconds:
            file.write(line)
            os.fsync(file.fileno())
            last, now = now, time.perf_counter()
            latencies.append(now - last)
    return Sample(
        count=len(latencies),
        wall_s=now - began,
        cpu_s=time.process_time() - cpu,
        commits=len(latencies),
        latencies_s=latencies,
    )


async def ask(options: Options) -> Report:
    """Measure."""
    report, measures = Report("files", options), list[tuple["Series", "Measure"]]()
    many = options.pick(100_000, quick=1_000)

    def add(name: str, measure: Measure) -> Series:
        series = report.add(name, "event")
        measures.append((series, measure))
        return series

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(pinned(SUBJECT_CORE))
        store = FileEventStore(folder / "events")
        short, long, wide = (Writer(store, name, options.seconds) for name in ("s", "l", "w"))
        await long.fill(many)
        few = add(f"on {_FEW:,} events", partial(_on_few, store, options.seconds))
        long_log = add(f"on {many:,} events", partial(long.run, 1))
        hundred = add("by the hundred", partial(wide.run, _BATCH))
        await short.fill(1)
        line = (folder / "events" / "s.jsonl").read_bytes()
        writing = partial(_bare, folder / "bare", line, options.seconds)
        bare = add("  a bare write and sync", partial(trio.to_thread.run_sync, writing))
        theirs = stack.enter_context(theirs_in_file(folder / "theirs.db"))
        saving = partial(theirs.run, theirs.tasks(1), seconds=options.seconds)
        save = add("  eventsourcing on SQLite", partial(saving, events=1))
        saves = add("  … by the hundred", partial(saving, events=_BATCH))
        report.compare(
            f"on {many:,} / on {_FEW:,}", long_log, few, ratio_id="long-log", at_least=1 / 1.2
        )
        report.compare("one by one / a bare write", few, bare, ratio_id="bare")
        report.compare("one by one / eventsourcing", few, save, ratio_id="sqlite")
        report.compare("by the hundred / eventsourcing", hundred, saves, ratio_id="sqlite-hundred")
        for counts in rounds(options):
            for series, measure in measures:
                sample = await measure()
                if counts:
                    series.samples.append(sample)
    return report


async def _on_few(store: FileEventStore, seconds: float) -> Sample:
    """Append to a log that is new each time."""
    writer = Writer(store, WORLD.new_id(), seconds)
    await writer.fill(_FEW)
    return await writer.run(1)


if TYPE_CHECKING:
    Measure = Callable[[], Awaitable[Sample]]
