"""Does a page of a key cost what is on it, whatever else the workspace has?

A workspace of 100,000 cards in a hundred columns, and one of 1,000.  A program asks for the first
hundred cards of a column of the large one, with their states, again and again, and for all ten of a
column of the small one.  The reference is the same statement in a bare loop of the driver, without
access, without folding; and, for the large one, the page of the small one.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from dalsegno.runtime import Runtime
from dalsegno.runtime.store import connect
from dalsegno.runtime.store._pools import _OTHERWISE
from dalsegno.runtime.store._sql import queries

from ._cards import cards, column_key, fill
from ._harness import Report, Sample, p50, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import postgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._harness import Options

HEADLINE = "statement"

_ON_A_PAGE = 10
_BYTES = str(4 * 2**20)


async def _timed(seconds: float, call: Callable[[], Awaitable[int]], expected: int) -> Sample:
    latencies: list[float] = []
    began = now = time.perf_counter()
    cpu_s = time.process_time()
    while now < began + seconds:
        assert await call() == expected
        last, now = now, time.perf_counter()
        latencies.append(now - last)
    return Sample(
        count=len(latencies),
        wall_s=now - began,
        cpu_s=time.process_time() - cpu_s,
        latencies_s=latencies,
    )


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("keyed", options)
    large, small = options.pick(100_000, quick=2_000), 1_000
    pages = [report.add(f"a page of a key, of {count:,}", "page") for count in (large, small)]
    statement = report.add("  its statement", "page")
    report.compare(
        f"p50 of a page of a key among {large:,} / of its statement",
        pages[0],
        statement,
        ratio_id="statement",
        of=p50,
        at_most=3.0,
    )
    report.compare(
        f"p50 of a page of a key among {large:,} / among {small:,}",
        *pages,
        ratio_id="size",
        of=p50,
        at_most=1.5,
    )
    with postgres() as database, pinned(SUBJECT_CORE):
        await fill(database, "large", large)
        await fill(database, "small", small)
        connection = await connect(database.dsn, settings=_OTHERWISE)
        wanted = ("large", "card", column_key(7), "", "", f"{_ON_A_PAGE}", "1", _BYTES, "256")

        async def read() -> int:
            return len(await connection.fetch(queries()["list_entities"], wanted))

        async with Runtime.open(database.dsn, domains=[cards]) as rt:

            async def page(workspace_id: str) -> int:
                workspace = rt.workspace(workspace_id)
                found = await workspace.snapshot(cards, key=column_key(7), limit=_ON_A_PAGE)
                return len(found.items)

            calls = (partial(page, "large"), partial(page, "small"), read)
            for counts in rounds(options):
                samples = [await _timed(options.seconds, call, _ON_A_PAGE) for call in calls]
                if counts:
                    for series, sample in zip((*pages, statement), samples, strict=True):
                        series.samples.append(sample)
        await connection.aclose()
    return report
