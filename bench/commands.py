"""How many durable commands a second does a server take over WebSocket, and how fast is one?

The subject is a ``dalsegno serve`` process, the load a process of plain sockets (`_load`), the
reference the raw statement (`_raw`) at the batches that the server has just written.
"""

from __future__ import annotations

import json
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dalsegno.actors.domains.notes import notes

from ._harness import Report, Sample, p50, rounds
from ._processes import OTHER_CORE, SUBJECT_CORE, Child, child, pinned, python
from ._raw import RawStatement, raw_statement
from ._servers import Postgres, Server, postgres, serving

if TYPE_CHECKING:
    from ._harness import Options, Series

_CLIENTS = 50
_IN_FLIGHT = 16
_SIZES = (1_000, 20_000, 100_000)
_FORMS = {"keyed": "with idempotency keys", "bare": "without the workspace's id"}


@dataclass(slots=True)
class Case:
    """Some clients on one workspace."""

    server: Server
    database: Postgres
    load: Child
    clients: int
    in_flight: int
    raw: RawStatement
    series: Series
    statement: Series
    load_cpu_s: float = 0.0

    async def measure(self, options: Options, *, counts: bool) -> None:
        """Run the load, and then the reference with what the server wrote."""
        cpu, postgres_cpu = self.server.process.cpu_s(), self.database.cpu_s()
        answer = await self.load.ask(f"{options.seconds} {self.clients} {self.in_flight}")
        told = json.loads(answer)
        sample = Sample(
            count=len(told["latencies_s"]),
            wall_s=told["wall_s"],
            cpu_s=self.server.process.cpu_s() - cpu,
            postgres_s=self.database.cpu_s() - postgres_cpu,
            latencies_s=told["latencies_s"],
        )
        with pinned(SUBJECT_CORE):
            statement, _ = await self.raw.repeat()
        if counts:
            self.load_cpu_s += told["cpu_s"]
            self.series.samples.append(replace(sample, commits=statement.commits))
            self.statement.samples.append(statement)


class Bench:
    """A server, its database and the processes with the load."""

    def __init__(
        self,
        report: Report,
        server: Server,
        database: Postgres,
        stack: AsyncExitStack,
    ) -> None:
        self.report = report
        self._server = server
        self._database = database
        self._stack = stack

    async def case(
        self, name: str, *, clients: int, in_flight: int, chars: int, form: str = "placed"
    ) -> Case:
        """Make a workspace with a note a client, and connect the clients."""
        server, report = self._server, self.report
        workspace_id = await server.workspace(f"bench-{len(report.series)}")
        ids = [await server.note(workspace_id, chars) for _ in range(clients)]
        command = python("bench._load", str(report.options.seed), form, str(server.port))
        command += [server.cookie, workspace_id, str(chars), *ids]
        load = await self._stack.enter_async_context(child("load", command, core=OTHER_CORE))
        await load.hear()
        raw = await self._stack.enter_async_context(
            raw_statement(self._database, [workspace_id], [notes])
        )
        await raw.skip()
        series, statement = report.add(name, "command"), report.add("  its raw statement", "event")
        return Case(server, self._database, load, clients, in_flight, raw, series, statement)


async def _cases(bench: Bench) -> list[Case]:
    compare = bench.report.compare
    lone = await bench.case("one client, one at a time", clients=1, in_flight=1, chars=_SIZES[0])
    compare("one: p50 / the statement's", lone.series, lone.statement, of=p50, at_most=3.0)
    sizes = []
    for chars in _SIZES:
        name = f"{_CLIENTS} clients, notes of {chars // 1000} KB"
        case = await bench.case(name, clients=_CLIENTS, in_flight=_IN_FLIGHT, chars=chars)
        reach = 0.5 if chars == _SIZES[0] else math.nan
        compare(f"{name} / the statement", case.series, case.statement, at_least=reach)
        sizes.append(case)
    forms = []
    for form, name in _FORMS.items():
        case = await bench.case(
            f"… {name}", clients=_CLIENTS, in_flight=_IN_FLIGHT, chars=_SIZES[0], form=form
        )
        compare(f"{name} / placed, without a key", case.series, sizes[0].series)
        forms.append(case)
    return [lone, *sizes, *forms]


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("commands", options)
    with postgres() as database:
        async with serving(database) as server, AsyncExitStack() as stack:
            cases = await _cases(Bench(report, server, database, stack))
            for counts in rounds(options):
                for case in cases:
                    await case.measure(options, counts=counts)
    done = sum(sample.count for case in cases for sample in case.series.samples)
    load_us = 1e6 * sum(case.load_cpu_s for case in cases) / done
    report.notes.append(
        f"{_CLIENTS} clients keep {_IN_FLIGHT} patches each on their way; "
        f"the load itself took {load_us:.0f} µs of processor time a command."
    )
    return report
