"""How long from a commit to its delivery, at a tenth, half and four fifths of the peak rate?

The subject is a ``dalsegno serve`` with one workspace that many write and read.  Its peak is
measured first; then patches are sent on a fixed schedule at a share of that (`_paced`).
"""

from __future__ import annotations

import json
import statistics
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dalsegno.runtime.store import connect

from ._commits import PREFIX
from ._harness import Report, Sample, p99, rounds
from ._processes import OTHER_CORE, child, python
from ._senders import subscribe
from ._servers import Postgres, Server, postgres, serving
from ._sink import sink

if TYPE_CHECKING:
    from dalsegno.runtime.store import Connection

    from ._harness import Options, Series
    from ._processes import Child

HEADLINE = "delivery-50"

_SHARES = {10: "a tenth", 50: "half", 80: "four fifths"}
_IN_FLIGHT = 16
_NOTE_CHARS = 1_000
_PEAKS = 3
"""The peak that the shares are of is the median of so many."""
_LONGER = 4
"""How many times longer than other rounds: the p99.9 is wanted."""
_PERCENTILES = (0.5, 0.99, 0.999)

# When PostgreSQL made the commit's record, by the same machine's wall clock.
_COMMITTED = """
select event_seq, extract(epoch from pg_xact_commit_timestamp(xmin))::float8
  from dalsegno.event where workspace_id = $1::text and event_seq > $2::text::bigint
"""


@dataclass(slots=True)
class Workspace:
    """The workspace that is written and read, and the connection that asks for its commits."""

    workspace_id: str
    server: Server
    load: Child
    reading: Connection
    head: int

    async def run(self, line: str) -> tuple[dict[str, Any], float]:
        """Run the load; return its answer, and the server's processor time."""
        before = self.server.process.cpu_s()
        told: dict[str, Any] = json.loads(await self.load.ask(line))
        return told, self.server.process.cpu_s() - before

    async def since_commit(self, arrivals: list[tuple[int, float]]) -> list[float]:
        """Return how long after its commit each event arrived."""
        rows = await self.reading.fetch(_COMMITTED, (self.workspace_id, str(self.head)))
        committed = {int(event_seq): float(at) for event_seq, at in rows}
        self.head = max(committed, default=self.head)
        return [at - committed[event_seq] for event_seq, at in arrivals]


@dataclass(slots=True)
class Case:
    """One share of the peak."""

    share: int
    due: Series
    receipt: Series
    commit: Series
    late_s: list[float]

    async def measure(self, place: Workspace, peak: float, seconds: float, *, counts: bool) -> None:
        """Send at that rate, and see when each patch is answered and delivered."""
        told, cpu_s = await place.run(f"paced {seconds} {peak * self.share / 100}")
        since_commit = await place.since_commit(told["arrivals"])
        if not counts:
            return
        self.late_s.append(told["late_s"])
        for series, latencies in (
            (self.due, told["deliveries_s"]),
            (self.receipt, told["receipts_s"]),
            (self.commit, since_commit),
        ):
            series.samples.append(
                Sample(
                    count=len(latencies),
                    wall_s=told["wall_s"],
                    cpu_s=cpu_s,
                    latencies_s=latencies,
                )
            )


async def _open(
    options: Options, server: Server, database: Postgres, stack: AsyncExitStack
) -> Workspace:
    writers = readers = options.pick(50, quick=5)
    workspace_id = await server.workspace("latency")
    notes = [await server.note(workspace_id, _NOTE_CHARS) for _ in range(writers)]
    await stack.enter_async_context(
        sink(
            database.folder,
            server.port,
            connections=readers,
            path="/ws",
            cookie=server.cookie,
            first=subscribe(workspace_id, writers),
            prefix=PREFIX,
            replies=1,
        )
    )
    command = python("bench._paced", str(options.seed), str(server.port), server.cookie)
    command += [workspace_id, str(_NOTE_CHARS), str(writers), *notes]
    load = await stack.enter_async_context(child("load", command, core=OTHER_CORE))
    await load.hear()
    reading = await connect(database.dsn)
    stack.push_async_callback(reading.aclose)
    return Workspace(workspace_id, server, load, reading, writers)


async def _find_peak(place: Workspace, options: Options, series: Series) -> float:
    """Return the peak: the rate when clients wait for nothing but answers."""
    for counts in (False, *[True] * options.pick(_PEAKS, quick=1)):
        told, cpu_s = await place.run(f"peak {options.seconds} {_IN_FLIGHT}")
        await place.since_commit(told["arrivals"])
        if counts:
            latencies = told["deliveries_s"]
            wall_s = told["wall_s"]
            series.samples.append(
                Sample(count=len(latencies), wall_s=wall_s, cpu_s=cpu_s, latencies_s=latencies)
            )
    return statistics.median(sample.rate for sample in series.samples)


def _cases(report: Report) -> list[Case]:
    cases = []
    for share, words in _SHARES.items():
        due = report.add(f"at {words} of it: due to delivered", "delivery")
        receipt = report.add("  due to receipt", "command")
        commit = report.add("  commit to delivered", "delivery")
        cases.append(Case(share, due, receipt, commit, []))
        says = f"at {words} of the peak, p99: delivery / receipt"
        report.compare(says, due, receipt, ratio_id=f"delivery-{share}", of=p99)
    calm, *busier = cases
    for case in busier:
        says = f"p99 of delivery: at {_SHARES[case.share]} of the peak / at a tenth"
        report.compare(says, case.due, calm.due, ratio_id=f"p99-{case.share}", of=p99)
    return cases


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("latency", options, _PERCENTILES)
    peaks = report.add("the peak: due to delivered", "delivery")
    cases = _cases(report)
    with postgres(track_commit_timestamp="on") as database:
        async with serving(database) as server, AsyncExitStack() as stack:
            place = await _open(options, server, database, stack)
            peak = await _find_peak(place, options, peaks)
            for counts in rounds(options):
                for case in cases:
                    seconds = _LONGER * options.seconds
                    await case.measure(place, peak, seconds, counts=counts)
    late_ms = 1e3 * statistics.median([late for case in cases for late in case.late_s])
    writers = options.pick(50, quick=5)
    report.notes.append(
        f"{writers} writers, and as many readers and one; at the peak each keeps {_IN_FLIGHT} "
        f"patches on their way.  One patch in a hundred was sent {late_ms:.2f} ms late or later, "
        "which is in its latencies."
    )
    return report
