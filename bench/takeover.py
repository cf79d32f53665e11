"""A server is killed: how long until its workspaces can be written to again?

Two servers on one database, and one client that wants to write to a workspace of the first.  The
first is killed with SIGKILL.  *By another node*: the client asks the second server every ten
milliseconds, which takes over when the lease of the first has run out, two seconds here, ten
by default.  *By the same node*: a process is started with the node id of the killed one, and
has its workspaces at once; most of that time is Python's start.  Times are from the kill to the
answer to the first command that is committed.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from ._harness import Report, rounds
from ._servers import postgres, serving, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from ._harness import Figure, Options
    from ._servers import Postgres, Server

HEADLINE = "over-start"

_AGAIN_S = 0.01
_DEADLINE_S = 60.0


class Client:
    """Writes notes to a workspace until one of them is there."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace_id = workspace_id
        self._asked = 0

    async def write(self, socket: WebSocketConnection) -> None:
        """Retry until it is committed."""
        with trio.fail_after(_DEADLINE_S):
            while True:
                if await self._ask(socket):
                    return
                await trio.sleep(_AGAIN_S)

    async def _ask(self, socket: WebSocketConnection) -> bool:
        self._asked += 1
        request_id = str(self._asked)
        command = {
            "type": "command",
            "workspace_id": self._workspace_id,
            "name": "create_note",
            "payload": {"title": "A note"},
            "request_id": request_id,
        }
        await socket.send_message(json.dumps(command))
        while True:
            answer = json.loads(await socket.get_message())
            if answer.get("request_id") == request_id:
                return bool(answer["type"] == "committed")


def _socket(server: Server) -> AbstractAsyncContextManager[WebSocketConnection]:
    url, headers = f"ws://127.0.0.1:{server.port}/ws", [(b"cookie", server.cookie.encode())]
    return open_websocket_url(url, extra_headers=headers)


@dataclass(frozen=True, slots=True)
class Bench:
    """A database, and what servers on it are told."""

    database: Postgres
    before: Server
    """The server whose session the clients use."""
    environ: dict[str, str]

    @asynccontextmanager
    async def node(self, node_id: str) -> AsyncIterator[Server]:
        """Open a server for the length of a block."""
        named = started(self.database, "--node-id", node_id, environ=self.environ)
        async with named as server:
            server.join(self.before)
            yield server

    async def _killed(self, server: Server, client: Client) -> float:
        """Kill a server that has just served a client; return when."""
        async with _socket(server) as socket:
            await client.write(socket)
        await server.process.kill()
        return time.perf_counter()

    async def another(self, second: Server, client: Client) -> float:
        """Return the seconds until another node serves a killed one's workspace."""
        async with self.node("first") as first, _socket(second) as socket:
            killed = await self._killed(first, client)
            await client.write(socket)
            return time.perf_counter() - killed

    async def same(self, client: Client) -> tuple[float, float]:
        """Return the seconds until the same node serves it, and how many it took to start."""
        async with self.node("first") as first:
            killed = await self._killed(first, client)
            async with self.node("first") as again:
                ready = time.perf_counter()
                async with _socket(again) as socket:
                    await client.write(socket)
                return time.perf_counter() - killed, ready - killed


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured."""

    another: Figure
    lease: Figure
    same: Figure
    start: Figure
    served: Figure

    @classmethod
    def of(cls, report: Report) -> Figures:
        """Begin the rows, and register what is compared."""
        figures = cls(
            report.figure("killed → served by another node", "ms"),
            report.figure("  the lease", "ms"),
            report.figure("killed → served by the same node", "ms"),
            report.figure("  of that, until its process accepts connections", "ms"),
            report.figure("  … and from there to the first commit", "ms", digits=1),
        )
        report.compare(
            "by another node / the lease", figures.another, figures.lease, ratio_id="over-lease"
        )
        report.compare(
            "by the same node / the process's start",
            figures.same,
            figures.start,
            ratio_id="over-start",
        )
        return figures

    def add(self, lease_s: float, another_s: float, same_s: float, start_s: float) -> None:
        """Keep a round."""
        for figure, seconds in (
            (self.another, another_s),
            (self.lease, lease_s),
            (self.same, same_s),
            (self.start, start_s),
            (self.served, same_s - start_s),
        ):
            figure.rounds.append(1e3 * seconds)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("takeover", options)
    figures = Figures.of(report)
    lease_s = options.pick(2.0, quick=0.5)
    environ = {
        "DALSEGNO_LIMIT_LEASE_S": str(lease_s),
        "DALSEGNO_LIMIT_LEASE_BEAT_S": str(lease_s / 5),
    }
    with postgres() as database:
        async with serving(database) as before:
            clients = [
                Client(await before.workspace(f"takeover{n}"))
                for n in range(2 * (options.rounds + 1))
            ]
        bench = Bench(database, before, environ)
        async with bench.node("second") as second:
            for counts in rounds(options):
                another_s = await bench.another(second, clients.pop())
                same_s, start_s = await bench.same(clients.pop())
                if counts:
                    figures.add(lease_s, another_s, same_s, start_s)
    return report
