"""How many task switches, bytecodes and objects does a command take?

One command at a time, fifty senders that wait for their answers on one workspace, a thousand
workspaces with a command each at once: within the process on a store in memory and on PostgreSQL,
and over WebSocket.  Times depend on the machine and on who else uses it; these counts hardly do,
and say what a change has changed.  The one ratio is what Python's garbage collector costs a program
that leaves it as it is, where a thousand commands are on their way.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits
from dalsegno.runtime import Runtime
from dalsegno.runtime.seams import WORLD

from ._counts import Counts, bytecodes, collector, counting
from ._domain import tasks
from ._harness import Figure, Report, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import postgres, serving
from ._writers import TaskWriter, create
from .commands import Bench as Commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._harness import Options
    from ._processes import Child
    from ._servers import Postgres

HEADLINE = "collector"

_SENDERS = 50
_TRACED = 20
"""Commands whose bytecodes are counted, one at a time."""


@dataclass(slots=True)
class Rows:
    """What is shown of one case."""

    switches: Figure
    polls: Figure

    @classmethod
    def of(cls, report: Report, name: str) -> Rows:
        """Begin the rows of a case."""
        return cls(
            report.figure(f"{name}: task switches", "a command", digits=2),
            report.figure("  looks at what is ready", "a command", digits=2),
        )

    def add(self, counts: Counts, commands: int) -> None:
        """Add a round."""
        self.switches.rounds.append(counts.switches / commands)
        self.polls.rounds.append(counts.polls / commands)


class Embedded:
    """Writers within this process."""

    def __init__(self, report: Report, runtime: Runtime, where: str) -> None:
        self._report = report
        self._runtime = runtime
        options = report.options
        many = options.pick(1_000, quick=20)
        workspace = runtime.workspace
        lone, hot = TaskWriter(workspace("lone")), workspace("hot")
        self.cases: dict[str, tuple[Sequence[TaskWriter], int]] = {
            "one at a time": ([lone], options.pick(400, quick=5)),
            f"{_SENDERS} senders that wait": (
                [TaskWriter(hot, f"t{number}") for number in range(_SENDERS)],
                options.pick(20, quick=2),
            ),
            f"{many:,} workspaces at once": (
                [TaskWriter(workspace(f"w{number}")) for number in range(many)],
                2,
            ),
        }
        self._rows = {name: Rows.of(report, f"{where}, {name}") for name in self.cases}

    async def create(self) -> None:
        """Make the tasks."""
        for writers, _ in self.cases.values():
            await create(writers)

    async def measure(self, *, counts: bool) -> None:
        """Count every case."""
        for name, (writers, times) in self.cases.items():
            with counting() as counted:
                await write(writers, times)
                taken = counted.take()
            if counts:
                self._rows[name].add(taken, times * len(writers))


async def write(writers: Sequence[TaskWriter], times: int) -> float:
    """Have all send so many commands, each one after the other; return the processor time."""
    began = time.process_time()
    async with trio.open_nursery() as nursery:
        for writer in writers:
            nursery.start_soon(_write, writer, times)
    return time.process_time() - began


async def _write(writer: TaskWriter, times: int) -> None:
    for _ in range(times):
        await writer.send()


class Collected:
    """What the collector does while a thousand commands are on their way, in memory."""

    def __init__(self, report: Report, embedded: Embedded, store: MemoryStore) -> None:
        self._writers, self._times = list(embedded.cases.values())[-1]
        self._lone = next(iter(embedded.cases.values()))[0][0]
        self._store = store
        self._own = report.figure("1,000 workspaces, Python's own collector", "µs a command")
        self._set = report.figure("  … as a server sets it", "µs a command")
        self._passes = report.figure("  passes of its own", "a thousand commands", digits=1)
        self._tracked = report.figure("  objects that wait with a command", "it looks at", digits=1)
        self._bytecodes = report.figure("one at a time: bytecodes", "a command")
        report.compare(
            "1,000 workspaces at once: with Python's own collector / as a server sets it",
            self._own,
            self._set,
            ratio_id=HEADLINE,
        )

    async def measure(self, *, counts: bool) -> None:
        """Run with one collector and with the other."""
        commands = self._times * len(self._writers)
        with collector(as_server=False), counting() as counted:
            own_s = await write(self._writers, self._times)
            taken = counted.take()
        with collector(as_server=True):
            set_s = await write(self._writers, self._times)
        tracked, traced = await self._waiting(), await self._traced()
        if counts:
            self._own.rounds.append(1e6 * own_s / commands)
            self._set.rounds.append(1e6 * set_s / commands)
            self._passes.rounds.append(1e3 * taken.collections / commands)
            self._tracked.rounds.append(tracked)
            self._bytecodes.rounds.append(traced)

    async def _waiting(self) -> float:
        """Return how many objects that the collector knows wait with each command."""
        gate, append = trio.Event(), self._store.append

        async def held(*batches: object) -> object:
            await gate.wait()
            return await append(*batches)  # type: ignore[arg-type]

        gc.collect()
        before = len(gc.get_objects())
        self._store.append = held  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, self._writers, 1)
            await trio.sleep(0.2)
            waiting = len(gc.get_objects()) - before
            self._store.append = append  # type: ignore[method-assign]
            gate.set()
        return waiting / len(self._writers)

    async def _traced(self) -> float:
        with bytecodes() as count:
            await _write(self._lone, _TRACED)
            return count() / _TRACED


class Served:
    """Clients of a server that counts."""

    def __init__(self, report: Report, server: Child) -> None:
        self._report = report
        self._server = server
        self._cases: list[tuple[Rows, Child, str]] = []

    async def prepare(self, commands: Commands) -> None:
        """Make what the clients change."""
        options = self._report.options
        seconds, clients = options.seconds, options.pick(_SENDERS, quick=5)
        many = options.pick(1_000, quick=20)
        one = await commands.case("one at a time")
        waiting = await commands.case(f"{clients} clients that wait", clients=clients)
        at_once, _ = await commands.many((f"{many:,} workspaces at once", ""), many, clients)
        for case, asked in (
            (one, f"{seconds} 1 1"),
            (waiting, f"{seconds} {clients} 1"),
            (at_once, f"{seconds} {clients} {many // clients}"),
        ):
            rows = Rows.of(self._report, f"over WebSocket, {case.series.name}")
            self._cases.append((rows, case.load, asked))

    async def measure(self, *, counts: bool) -> None:
        """Count every case."""
        for rows, load, asked in self._cases:
            await self._taken()
            told = json.loads(await load.ask(asked))
            taken = await self._taken()
            if counts:
                rows.add(taken, len(told["latencies_s"]))

    async def _taken(self) -> Counts:
        os.kill(self._server.pid, signal.SIGUSR1)
        while not (line := await self._server.hear()).startswith("{"):
            pass  # the server's greeting
        return msgspec.json.decode(line, type=Counts)


async def _in_memory(report: Report) -> None:
    store = MemoryStore(WORLD)
    # While bytecodes are counted all is a hundred times slower, and no turn is to be over for that.
    limits = Limits(turn_s=1.0)
    with pinned(SUBJECT_CORE):
        async with Runtime.open(store=store, domains=[tasks], limits=limits) as runtime:
            embedded = Embedded(report, runtime, "in memory")
            await embedded.create()
            collected = Collected(report, embedded, store)
            for counts in rounds(report.options):
                await embedded.measure(counts=counts)
                await collected.measure(counts=counts)


async def _on_postgres(report: Report, database: Postgres) -> None:
    with pinned(SUBJECT_CORE):
        async with Runtime.open(database.dsn, domains=[tasks]) as runtime:
            embedded = Embedded(report, runtime, "on PostgreSQL")
            await embedded.create()
            for counts in rounds(report.options):
                await embedded.measure(counts=counts)


async def _over_websocket(report: Report, database: Postgres) -> None:
    counted = serving(database, module="bench._counted")
    async with counted as server, AsyncExitStack() as stack:
        served = Served(report, server.process)
        await served.prepare(Commands(Report("", report.options), server, database, stack))
        for counts in rounds(report.options):
            await served.measure(counts=counts)


async def ask(options: Options) -> Report:
    """Count."""
    report = Report("turns", options)
    await _in_memory(report)
    with postgres() as database:
        await _on_postgres(report, database)
        await _over_websocket(report, database)
    report.notes.append(
        "Bytecodes and objects are counted in memory, the store's own among them; switches are "
        "those of every task of the process, the senders' too where they are in it."
    )
    return report
