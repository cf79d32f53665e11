"""How long until a thousand clients that lost their server have all caught up with the next one?

Each round a new server process, under the old one's node id, meets a crowd: every
client connects with its session, subscribes with its cursor as soon as it is accepted, and reads
the events that it missed.  Nothing is in the server's memory.  Latencies are from the moment at
which the first client begins to connect to when each one has its last missed event.

How often the store was read is counted by PostgreSQL: scans of indexes, which its processes report
when the server has gone.  Pages of missed events are read by the log's primary key, access to a
workspace is checked by the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dalsegno.runtime.store import connect

from ._filled import fill, mark
from ._guests import as_many, guests
from ._harness import Report, Sample, rounds
from ._processes import cpu_s
from ._senders import subscribe
from ._servers import postgres, serving, started

if TYPE_CHECKING:
    from ._harness import Figure, Options, Series
    from ._servers import Postgres, Server

HEADLINE = "shared-reads-1000"

_MISSED = 500
_LONG_AGO = 1_000
"""Events before those that were missed."""
_PAGE = 200
_NODE = ("--node-id", "storm")
_PAGES = "page"
_READ = (_PAGES, "session", "entity", "event", "ack_cursor")
_SCANS = """
select case indexrelname when 'event_pkey' then 'page' else relname end, sum(idx_scan)::bigint
  from pg_stat_user_indexes where schemaname = 'dalsegno' group by 1
"""


@dataclass(slots=True)
class Storm:
    """So many clients, and their figures."""

    clients: int
    series: Series
    scans: dict[str, Figure]
    pages: Figure
    alone: Figure
    refused: int = 0

    async def measure(
        self, database: Postgres, before: Server, workspace_id: str, *, counts: bool
    ) -> None:
        """Connect them all to a new server."""
        text = subscribe(workspace_id, _LONG_AGO)
        scanned = await _scans(database)
        async with started(database, *_NODE) as server:
            server.join(before)
            async with guests(server) as crowd:
                pid = server.process.pid
                cpu, postgres_cpu = cpu_s(pid), database.cpu_s()
                outcome = await crowd.storm(self.clients, text, mark(_LONG_AGO + _MISSED))
                sample = Sample(
                    count=self.clients,
                    wall_s=outcome.wall_s,
                    cpu_s=cpu_s(pid) - cpu,
                    postgres_s=database.cpu_s() - postgres_cpu,
                    latencies_s=outcome.latencies_s,
                )
        if not counts:
            return
        self.series.samples.append(sample)
        self.refused += outcome.refused
        scans_after = await _scans(database)
        for what, figure in self.scans.items():
            figure.rounds.append((scans_after[what] - scanned[what]) / self.clients)
        self.pages.rounds.append(scans_after[_PAGES] - scanned[_PAGES])
        self.alone.rounds.append(-(-_MISSED // _PAGE))


async def _scans(database: Postgres) -> dict[str, int]:
    connection = await connect(database.dsn)
    try:
        rows = await connection.fetch(_SCANS)
    finally:
        await connection.aclose()
    return {str(what): int(scans) for what, scans in rows}


def _storm(report: Report, size: int) -> Storm:
    clients = as_many(report.options.pick(size, quick=size // 20), report)
    name = f"{clients:,} clients"
    storm = Storm(
        clients,
        report.add(f"{name}, {_MISSED} missed", "client"),
        {what: report.figure(f"{name}: reads of {what}", "a client", digits=3) for what in _READ},
        report.figure(f"{name}: pages read", "in all"),
        report.figure("  pages that one client needs", "in all"),
    )
    report.compare(
        f"{name}: pages read / those that one needs",
        storm.pages,
        storm.alone,
        ratio_id=f"shared-reads-{size}",
    )
    return storm


async def ask(options: Options) -> Report:
    """Measure."""
    sizes = (1_000, 10_000) if options.full else (1_000,)
    report = Report("storm", options, percentiles=(0.5, 0.99, 1.0))
    storms = [_storm(report, clients) for clients in sizes]
    with postgres() as database:
        async with serving(database, *_NODE) as before:
            workspace_id = await before.workspace("storm")
            await fill(database, workspace_id, _LONG_AGO + _MISSED)
        for counts in rounds(options):
            for storm in storms:
                await storm.measure(database, before, workspace_id, counts=counts)
    report.notes += [
        f"{storm.clients:,} clients: sent away or cut off {storm.refused} times in all, and back."
        for storm in storms
    ]
    return report
