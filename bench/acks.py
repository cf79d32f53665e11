"""How many acks a second does a server take over WebSocket?

Ten clients follow a workspace each round, have read all of its events, and ack one after the other,
as fast as the server reads; the answer to a ping after the last ack shows when all of them were
taken, since a connection's messages are taken in order.  Each ack is checked against what was sent
and what is stored, and none is answered; what is stored is coalesced to ten times a second, which
is included in the processor time, up to the ping's answer.

The reference is the same number of pings, which are answered: the cost of a message that does
almost nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._filled import fill, mark
from ._guests import Guests, guests
from ._harness import Report, Sample, rounds
from ._processes import cpu_s
from ._senders import subscribe
from ._servers import postgres, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._harness import Options
    from ._servers import Postgres, Server

HEADLINE = "over-pings"

_CLIENTS = 10
_LAST = {"type": "ping", "request_id": "last"}
_PONG = '"request_id":"last"'
_KINDS = ("acks", "  pings")


@dataclass(frozen=True, slots=True)
class Bench:
    """A server and clients that follow a workspace on it."""

    server: Server
    database: Postgres
    crowd: Guests

    async def say(self, messages: Sequence[dict[str, Any]]) -> Sample:
        """Send so many messages from all clients, and wait until they are processed."""
        pid = self.server.process.pid
        cpu, postgres_cpu = cpu_s(pid), self.database.cpu_s()
        outcome = await self.crowd.say([json.dumps(said) for said in (*messages, _LAST)], _PONG)
        return Sample(
            count=_CLIENTS * len(messages),
            wall_s=outcome.wall_s,
            cpu_s=cpu_s(pid) - cpu,
            postgres_s=self.database.cpu_s() - postgres_cpu,
        )


async def _measure(server: Server, database: Postgres, name: str, events: int) -> list[Sample]:
    """Read a new workspace's events, and ack them; then send as many pings."""
    workspace_id = await server.workspace(name)
    await fill(database, workspace_id, events)
    ack = {"type": "ack", "stream_id": f"workspace:{workspace_id}"}
    async with guests(server) as crowd:
        await crowd.connect(_CLIENTS)
        await crowd.say([subscribe(workspace_id, 0)], mark(events))
        bench = Bench(server, database, crowd)
        return [
            await bench.say([{**ack, "seq": seq} for seq in range(1, events + 1)]),
            await bench.say([{"type": "ping"}] * events),
        ]


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("acks", options)
    events = options.pick(5_000, quick=200)
    acks, pings = (report.add(name, "message") for name in _KINDS)
    report.compare("acks / pings", acks, pings, ratio_id="over-pings")
    with postgres() as database:
        async with serving(database) as server:
            for number, counts in enumerate(rounds(options)):
                samples = await _measure(server, database, f"acks{number}", events)
                if counts:
                    for series, sample in zip((acks, pings), samples, strict=True):
                        series.samples.append(sample)
    return report
