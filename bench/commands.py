"""How many durable commands a second does a server take over WebSocket, and how fast is one?

The subject is a ``dalsegno serve`` process, the load a process of plain sockets (`_load`), the
reference the raw statement (`_raw`) at the batches that the server has just written.  Clients that
wait for each answer are also compared with as many of other programs' logs (`_other_logs`).
"""

from __future__ import annotations

import json
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.notes import notes

from ._harness import Report, Sample, p50, rounds
from ._other_logs import other_logs
from ._processes import OTHER_CORE, SUBJECT_CORE, Child, child, pinned, python
from ._raw import RawStatement, raw_statement
from ._servers import Postgres, Server, postgres, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._harness import Options, Series
    from ._other_logs import OtherLog

HEADLINE = "hot-1-kb"

_CLIENTS = 50
_IN_FLIGHT = 16
_SIZES = (1_000, 20_000, 100_000)
_FORMS = {"keyed": "with idempotency keys", "bare": "without the workspace's id"}
_MAKING_AT_ONCE = 16


@dataclass(slots=True)
class Case:
    """Some clients, and how they send."""

    server: Server
    database: Postgres
    load: Child
    clients: int
    in_flight: int
    raw: RawStatement
    series: Series
    statement: Series
    tells_latencies: bool = True
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
            latencies_s=told["latencies_s"] if self.tells_latencies else (),
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
        self,
        name: str,
        *,
        clients: int = 1,
        in_flight: int = 1,
        chars: int = _SIZES[0],
        form: str = "placed",
    ) -> Case:
        """Make a workspace with a note a client, and connect the clients."""
        workspace_id = await self._server.workspace(f"bench-{len(self.report.series)}")
        ids = [await self._server.note(workspace_id, chars) for _ in range(clients)]
        load = await self._load(form, workspace_id, chars, ids)
        raw = await self._raw([workspace_id])
        return self._made(name, load, raw, clients, in_flight)

    async def many(self, names: tuple[str, str], count: int, clients: int) -> tuple[Case, Case]:
        """Make workspaces of one note each, and clients that change them in turn.

        Returns:
            A patch in each of them at once, and one after the other.

        """
        places: list[tuple[str, str]] = []
        limiter = trio.CapacityLimiter(_MAKING_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(self._place, f"many-{number}", limiter, places)
        turns = [places[first::clients] for first in range(clients)]
        notes_of = [",".join(f"{workspace}/{note}" for workspace, note in its) for its in turns]
        load = await self._load("placed", "-", _SIZES[0], notes_of)
        raw = await self._raw([workspace for workspace, _ in places])
        at_once = self._made(names[0], load, raw, clients, in_flight=count // clients)
        at_once.tells_latencies = False  # answers of many workspaces have no order
        return at_once, self._made(names[1], load, raw, clients, in_flight=0)

    async def _place(
        self, slug: str, limiter: trio.CapacityLimiter, places: list[tuple[str, str]]
    ) -> None:
        async with limiter:
            workspace_id = await self._server.workspace(slug)
            places.append((workspace_id, await self._server.note(workspace_id, _SIZES[0])))

    async def _load(self, form: str, workspace_id: str, chars: int, notes_: Sequence[str]) -> Child:
        seed, server = str(self.report.options.seed), self._server
        command = python("bench._load", seed, form, str(server.port), server.cookie, workspace_id)
        command += [str(chars), *notes_]
        load = await self._stack.enter_async_context(child("load", command, core=OTHER_CORE))
        await load.hear()
        return load

    async def _raw(self, workspaces: Sequence[str]) -> RawStatement:
        raw = await self._stack.enter_async_context(
            raw_statement(self._database, workspaces, [notes])
        )
        await raw.skip()
        return raw

    def _made(
        self, name: str, load: Child, raw: RawStatement, clients: int, in_flight: int
    ) -> Case:
        series = self.report.add(name, "command")
        statement = self.report.add("  its raw statement", "event")
        server, database = self._server, self._database
        return Case(server, database, load, clients, in_flight, raw, series, statement)


async def _few(bench: Bench) -> list[Case]:
    """Ask with clients that wait for each answer; the last case is that of several."""
    compare, clients = bench.report.compare, bench.report.options.pick(_CLIENTS, quick=5)
    one = await bench.case("one client, one at a time")
    several = await bench.case(f"{clients} clients, one at a time", clients=clients)
    says = "one client: p50 / the statement's"
    compare(says, one.series, one.statement, ratio_id="one", of=p50, at_most=2.5)
    compare(
        f"{clients} clients one at a time / the statement",
        several.series,
        several.statement,
        ratio_id="waiting",
        at_least=0.7,
    )
    return [one, several]


async def _hot(bench: Bench) -> list[Case]:
    """Ask with clients that do not wait, on one workspace."""
    compare, clients = bench.report.compare, bench.report.options.pick(_CLIENTS, quick=5)
    sizes = []
    for chars in _SIZES:
        name = f"{clients} clients, notes of {chars // 1000} KB"
        case = await bench.case(name, clients=clients, in_flight=_IN_FLIGHT, chars=chars)
        compare(
            f"{name} / the statement",
            case.series,
            case.statement,
            ratio_id=f"hot-{chars // 1000}-kb",
            at_least=0.5 if chars == _SIZES[0] else math.nan,
        )
        sizes.append(case)
    forms = []
    for form, name in _FORMS.items():
        case = await bench.case(f"… {name}", clients=clients, in_flight=_IN_FLIGHT, form=form)
        says = f"{name} / with it, without a key"
        compare(says, case.series, sizes[0].series, ratio_id=f"hot-{form}")
        forms.append(case)
    return [*sizes, *forms]


async def _many(bench: Bench) -> list[Case]:
    """Ask on many workspaces."""
    options = bench.report.options
    count, clients = options.pick(1_000, quick=20), options.pick(_CLIENTS, quick=5)
    names = f"{count:,} workspaces at once", f"{count:,} workspaces one by one"
    at_once, in_turn = await bench.many(names, count, clients)
    compare = bench.report.compare
    says = "many workspaces at once / the statement"
    compare(says, at_once.series, at_once.statement, ratio_id="many-at-once", at_least=0.3)
    compare(
        "many workspaces at once / one by one",
        at_once.series,
        in_turn.series,
        ratio_id="many-over-one-by-one",
        at_least=3.0,
    )
    return [at_once, in_turn]


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("commands", options)
    with postgres() as database:
        async with serving(database) as server, AsyncExitStack() as stack:
            bench = Bench(report, server, database, stack)
            few = await _few(bench)
            ours, clients = few[-1].series, few[-1].clients
            others = await other_logs(report, stack, database.folder, ours=ours, clients=clients)
            rest = [*await _hot(bench), *await _many(bench)]
            measured: list[Case | OtherLog] = [*few, *others, *rest]
            for counts in rounds(options):
                for each in measured:
                    await each.measure(options, counts=counts)
    cases = [*few, *rest]
    done = sum(sample.count for case in cases for sample in case.series.samples)
    load_us = 1e6 * sum(case.load_cpu_s for case in cases) / done
    report.notes.append(
        f"Where clients do not wait they keep {_IN_FLIGHT} patches each on their way; "
        f"the load itself took {load_us:.0f} µs of processor time a command."
    )
    return report
