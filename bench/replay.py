"""How fast is a long log replayed to one client, and a short one to two thousand at once?

One client subscribes at the beginning of a log of 100,000 events, over WebSocket.  The reference
reads the same rows with the server's driver and statement and does nothing with them: page by page
as the server does, and in one go.  The log is longer than the pages that a server keeps, so that
each round reads it from the store.

Then many clients that are connected already subscribe at once, each 500 events behind.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dalsegno.protocol import Limits
from dalsegno.runtime.store import connect
from dalsegno.runtime.store._sql import queries

from ._filled import fill, mark
from ._guests import guests
from ._harness import Report, Sample, rounds
from ._processes import SUBJECT_CORE, cpu_s, pinned
from ._senders import subscribe
from ._servers import postgres, serving

if TYPE_CHECKING:
    from ._harness import Options
    from ._servers import Postgres, Server

HEADLINE = "one-client"

_MISSED = 500


@dataclass(frozen=True, slots=True)
class Bench:
    """A server with a log."""

    server: Server
    database: Postgres
    workspace_id: str
    events: int

    async def replay(self, clients: int, events: int) -> Sample:
        """Subscribe all connected clients to the last so many events."""
        async with guests(self.server) as crowd:
            await crowd.connect(clients)
            pid = self.server.process.pid
            cpu, postgres_cpu = cpu_s(pid), self.database.cpu_s()
            text = subscribe(self.workspace_id, self.events - events)
            outcome = await crowd.say([text], mark(self.events))
            return Sample(
                count=clients * events,
                wall_s=outcome.wall_s,
                cpu_s=cpu_s(pid) - cpu,
                postgres_s=self.database.cpu_s() - postgres_cpu,
                latencies_s=outcome.latencies_s,
            )

    async def read(self, page: int, bytes_max: int) -> Sample:
        """Read the log's rows with the server's driver, in pages of so many."""
        with pinned(SUBJECT_CORE):
            connection = await connect(self.database.dsn)
            try:
                cpu, postgres_cpu = time.process_time(), self.database.cpu_s()
                began = time.perf_counter()
                for first in range(1, self.events + 1, page):
                    bounds = (str(first), str(self.events), str(page), str(bytes_max))
                    await connection.fetch(queries()["read_events"], (self.workspace_id, *bounds))
                return Sample(
                    count=self.events,
                    wall_s=time.perf_counter() - began,
                    cpu_s=time.process_time() - cpu,
                    postgres_s=self.database.cpu_s() - postgres_cpu,
                )
            finally:
                await connection.aclose()


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("replay", options)
    events = options.pick(100_000, quick=2_000)
    clients = options.pick(2_000, quick=20)
    limits = Limits()
    one = report.add(f"{events:,} events to one client", "event")
    paged = report.add("  the driver, page by page", "event")
    whole = report.add("  the driver, in one go", "event")
    many = report.add(f"{_MISSED} missed to {clients:,} clients at once", "event")
    says = f"{events:,} events to one client / the driver"
    report.compare(f"{says}, paged", one, paged, ratio_id="one-client", at_least=0.6)
    report.compare(f"{says}, in one go", one, whole, ratio_id="one-client-whole")
    report.compare("to many at once / to one", many, one, ratio_id="many-over-one")
    with postgres() as database:
        async with serving(database) as server:
            workspace_id = await server.workspace("replay")
            await fill(database, workspace_id, events)
            bench = Bench(server, database, workspace_id, events)
            for counts in rounds(options):
                samples = [
                    await bench.replay(1, events),
                    await bench.read(limits.page_events, limits.page_bytes_max),
                    await bench.read(events, events * limits.page_bytes_max),
                    await bench.replay(clients, _MISSED),
                ]
                if counts:
                    for series, sample in zip((one, paged, whole, many), samples, strict=True):
                        series.samples.append(sample)
    return report
