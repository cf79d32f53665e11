"""Does a command cost more when its sender follows many streams?

One client keeps sixteen patches of one note in flight, over WebSocket, into a server; it follows
that note alone, or 99 or 899 others of the workspace beside it, which nobody changes.  So in each
case the same command leads to the same answer and to the same one event for its sender.  What is
compared is the processor time of the server a command.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from ._harness import Report, Sample, rounds
from ._processes import OTHER_CORE, Child, child, python
from ._servers import postgres, serving

if TYPE_CHECKING:
    from ._harness import Options, Series
    from ._servers import Postgres, Server

HEADLINE = "cpu-100"

_STREAMS = (1, 100, 900)
_QUICK_STREAMS = (1, 2, 3)
_IN_FLIGHT = 16
_NOTE_CHARS = 1_000
_MAKING_AT_ONCE = 16
_REACH = 1.2


def cpu(sample: Sample) -> float:
    """Compare by the processor time a command."""
    return sample.cpu_s / sample.count


@dataclass(frozen=True, slots=True)
class Case:
    """A client that follows some streams."""

    server: Server
    database: Postgres
    load: Child
    series: Series

    async def measure(self, seconds: float) -> Sample:
        """Measure some seconds of the client's requests."""
        cpu_s, postgres_s = self.server.process.cpu_s(), self.database.cpu_s()
        told = json.loads(await self.load.ask(f"{seconds} 1 {_IN_FLIGHT}"))
        return Sample(
            count=len(told["latencies_s"]),
            wall_s=told["wall_s"],
            cpu_s=self.server.process.cpu_s() - cpu_s,
            postgres_s=self.database.cpu_s() - postgres_s,
            latencies_s=told["latencies_s"],
        )


async def _case(
    report: Report, server: Server, database: Postgres, stack: AsyncExitStack, count: int
) -> Case:
    """Make a workspace with so many notes, and a client that follows them and changes the first."""
    workspace_id = await server.workspace(f"follows-{count}")
    ids: list[str] = []
    limiter = trio.CapacityLimiter(_MAKING_AT_ONCE)

    async def make() -> None:
        async with limiter:
            ids.append(await server.note(workspace_id, _NOTE_CHARS))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(make)
    command = python("bench._load", str(report.options.seed), "placed", str(server.port))
    command += [server.cookie, workspace_id, str(_NOTE_CHARS), ids[0]]
    load = await stack.enter_async_context(child("load", command, core=OTHER_CORE))
    await load.hear()
    await load.ask(f"follow {' '.join(ids)}")
    says = "stream" if count == 1 else "streams"
    return Case(server, database, load, report.add(f"who follows {count} {says}", "command"))


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("follows", options)
    with postgres() as database:
        async with serving(database) as server, AsyncExitStack() as stack:
            counts_of = options.pick(_STREAMS, quick=_QUICK_STREAMS)
            cases = [await _case(report, server, database, stack, count) for count in counts_of]
            for case, streams, name in zip(cases[1:], counts_of[1:], _STREAMS[1:], strict=True):
                report.compare(
                    f"processor time, {streams} streams / 1",
                    case.series,
                    cases[0].series,
                    ratio_id=f"cpu-{name}",
                    of=cpu,
                    at_most=_REACH,
                )
            for counts in rounds(options):
                for case in cases:
                    sample = await case.measure(2 * options.seconds)
                    if counts:
                        case.series.samples.append(sample)
    return report
