"""What does an idle WebSocket connection cost?

Ten thousand clients connect to one server, with a session, and then only answer pings.  Half of
them just connect, the other half also follow a workspace, as clients of an application do.  What is
compared is the private memory of the server's process, before and after; they connect in as many
steps as there are rounds, after one that does not count.  At the end, with all of them connected,
the processor time is measured for a while, in which all of them get a heartbeat or two.

The reference is a published figure: 10.9 KB for a connection to Centrifugo, tuned for memory.  The
kernel's own share, some kilobytes a socket, is in neither.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from ._commits import PREFIX
from ._guests import as_many
from ._harness import Report
from ._machine import resident_bytes
from ._senders import subscribe
from ._servers import postgres, serving
from ._sink import sink

if TYPE_CHECKING:
    from ._harness import Figure, Options
    from ._servers import Postgres, Server

HEADLINE = "bytes"

_CENTRIFUGO_BYTES = 10.9 * 1024
_REACH = 12 / 10.9


@dataclass(slots=True)
class Crowd:
    """Connections of a kind, which are opened step by step and stay."""

    server: Server
    database: Postgres
    stack: AsyncExitStack
    first: str
    """What each sends first; nothing if empty."""
    figure: Figure

    async def add(self, connections: int, *, counts: bool) -> None:
        """Connect so many more."""
        pid = self.server.process.pid
        before = resident_bytes(pid)
        clients = sink(
            self.database.folder,
            self.server.port,
            connections=connections,
            path="/ws",
            cookie=self.server.cookie,
            first=self.first,
            prefix=PREFIX,
            replies=1 if self.first else 0,
        )
        await self.stack.enter_async_context(clients)
        if counts:
            self.figure.rounds.append((resident_bytes(pid) - before) / connections)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("idle", options)
    connections = as_many(options.pick(10_000, quick=400, full=24_000), report)
    window_s = options.pick(12.0, quick=0.5, full=60.0)
    step = connections // 2 // (options.rounds + 1)
    plain = report.figure("a connection", "bytes")
    following = report.figure("a connection that follows a workspace", "bytes")
    busy = report.figure("processor time of them all", "ms a second", digits=1)
    each = report.figure("  of one", "µs a second", digits=2)
    for figure, ratio_id in ((plain, "bytes"), (following, "following-bytes")):
        report.compare(
            f"{figure.name} / Centrifugo's, published",
            figure,
            _CENTRIFUGO_BYTES,
            ratio_id=ratio_id,
            at_most=_REACH,
        )
    with postgres() as database:
        async with serving(database) as server, AsyncExitStack() as stack:
            text = subscribe(await server.workspace("idle"), 0)
            crowds = [
                Crowd(server, database, stack, "", plain),
                Crowd(server, database, stack, text, following),
            ]
            for crowd in crowds:
                await crowd.add(step, counts=False)
            for crowd in crowds:
                for _ in range(options.rounds):
                    await crowd.add(step, counts=True)
            cpu_s = server.process.cpu_s()
            await trio.sleep(window_s)
            cpu_s = server.process.cpu_s() - cpu_s
    there = 2 * step * (options.rounds + 1)
    busy.rounds.append(1e3 * cpu_s / window_s)
    each.rounds.append(1e6 * cpu_s / window_s / there)
    report.notes.append(f"{there:,} connections at the end, watched for {window_s:g} s.")
    return report
