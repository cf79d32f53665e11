"""What do authentication and logging add to a command?

The same work throughout: fifty clients, each with a note of 1 KB, patch it one patch at a time.
From the inside out: *embedded*, for the program itself; embedded, acting for a user whose role
comes from the log; over WebSocket with a session, into a server; and that with a more verbose log,
which is written to a file as JSON.  The cost of the network is in the step to the server, together
with that of the session; a session is looked up once, when the connection begins, and its
principal's role is checked with every command.

Over HTTP each request carries its session: what that costs is the difference between a request that
needs none and one that is refused as soon as its session was found valid, a plain `GET /ws`; one
after the other on one connection.  `GET /api/auth/session`, beside them, also reads the
memberships.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.notes import notes
from dalsegno.runtime import Runtime

from ._harness import Report, Sample, p50, rounds
from ._processes import OTHER_CORE, SUBJECT_CORE, child, pinned, python
from ._servers import postgres, serving, started
from ._writers import NOTE_CHARS, NoteWriter, create, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.runtime import Workspace

    from ._harness import Options, Series
    from ._processes import Child
    from ._servers import Postgres, Server

HEADLINE = "socket"

_CLIENTS = 50
_USER = "ada"

Measure = tuple["Series", "Callable[[], Awaitable[Sample]]"]


def cpu(sample: Sample) -> float:
    """Compare by the processor time per item."""
    return sample.cpu_s / sample.count


@dataclass(frozen=True, slots=True)
class Bench:
    """A database, a server on it, and what more of them need."""

    report: Report
    database: Postgres
    first: Server
    stack: AsyncExitStack

    async def embedded(self) -> tuple[Measure, Measure]:
        """Patch in this process, for the program and for a user."""
        runtime = await self.stack.enter_async_context(
            Runtime.open(self.database.dsn, domains=[notes])
        )
        program, shared = runtime.workspace("program"), runtime.workspace("shared")
        await shared.send(PutMember(_USER, "editor"))
        return (
            await self._writing("embedded, the program", runtime, program),
            await self._writing("  acting for a user", runtime, shared.acting(user_id=_USER)),
        )

    async def _writing(self, name: str, runtime: Runtime, workspace: Workspace) -> Measure:
        random_ = random.Random(self.report.options.seed)
        writers = [NoteWriter(workspace, f"n{n}", random_) for n in range(_CLIENTS)]
        await create(writers)
        senders, seconds = [writer.send for writer in writers], self.report.options.seconds

        async def measure() -> Sample:
            with pinned(SUBJECT_CORE):
                return await write(runtime, self.database, senders, seconds)

        return self.report.add(name, "command"), measure

    async def socket(self, name: str, server: Server) -> Measure:
        """Patch over WebSocket."""
        workspace_id = await self.first.workspace(f"w{len(self.report.series)}")
        ids = [await server.note(workspace_id, NOTE_CHARS) for _ in range(_CLIENTS)]
        seed = str(self.report.options.seed)
        command = python("bench._load", seed, "placed", str(server.port), server.cookie)
        command += [workspace_id, str(NOTE_CHARS), *ids]
        load = await self.stack.enter_async_context(child("load", command, core=OTHER_CORE))
        await load.hear()
        return self.report.add(name, "command"), partial(self._load, server, load)

    async def _load(self, server: Server, load: Child) -> Sample:
        cpu_s, postgres_s = server.process.cpu_s(), self.database.cpu_s()
        told = json.loads(await load.ask(f"{self.report.options.seconds} {_CLIENTS} 1"))
        return Sample(
            count=len(told["latencies_s"]),
            wall_s=told["wall_s"],
            cpu_s=server.process.cpu_s() - cpu_s,
            postgres_s=self.database.cpu_s() - postgres_s,
            latencies_s=told["latencies_s"],
        )

    async def logging(self, level: str) -> Measure:
        """Patch over WebSocket, into another server that logs more."""
        server = await self.stack.enter_async_context(
            started(
                self.database,
                *("--log-level", level, "--log-format", "json"),
                log=self.database.folder / f"{level}.log",
            )
        )
        server.join(self.first)
        return await self.socket(f"  … that logs at level {level}", server)

    def http(self, name: str, path: str, status: int = 200) -> Measure:
        """Repeat one request."""
        ask = partial(trio.to_thread.run_sync, partial(self._ask, path, status))
        return self.report.add(name, "request"), ask

    def _ask(self, path: str, status: int) -> Sample:
        server, latencies = self.first, list[float]()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        cpu_s = server.process.cpu_s()
        with pinned(OTHER_CORE):
            began = now = time.perf_counter()
            while now < began + self.report.options.seconds:
                connection.request("GET", path, headers={"cookie": server.cookie})
                response = connection.getresponse()
                response.read()
                assert response.status == status, response.status
                last, now = now, time.perf_counter()
                latencies.append(now - last)
        connection.close()
        return Sample(
            count=len(latencies),
            wall_s=now - began,
            cpu_s=server.process.cpu_s() - cpu_s,
            latencies_s=latencies,
        )


async def _measures(bench: Bench) -> list[Measure]:
    report = bench.report
    program, user = await bench.embedded()
    socket = await bench.socket("over WebSocket, with a session", bench.first)
    info, debug = await bench.logging("info"), await bench.logging("debug")
    open_ = bench.http("GET /healthz", "/healthz")
    session = bench.http("  GET /ws, with a session", "/ws", 426)
    identity = bench.http("  GET /api/auth/session", "/api/auth/session")
    report.compare("acting for a user / the program", user[0], program[0], ratio_id="acting")
    report.compare(
        "CPU over WebSocket / embedded, for a user", socket[0], user[0], ratio_id="socket", of=cpu
    )
    for level, measure in (("info", info), ("debug", debug)):
        report.compare(
            f"logging at level {level} / warning", measure[0], socket[0], ratio_id=f"log-{level}"
        )
    report.compare(
        "p50 of a request with a session / without",
        session[0],
        open_[0],
        ratio_id="http-session",
        of=p50,
    )
    return [program, user, socket, info, debug, open_, session, identity]


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("overhead", options)
    with postgres() as database:
        async with serving(database) as first, AsyncExitStack() as stack:
            measures = await _measures(Bench(report, database, first, stack))
            for counts in rounds(options):
                for series, measure in measures:
                    sample = await measure()
                    if counts:
                        series.samples.append(sample)
    return report
