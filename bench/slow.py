"""Does one reader that never reads harm the two hundred that do?

Two hundred readers follow a note that a writer patches at a fixed rate, and note how long after its
moment each event arrives.  Half of the rounds have one more reader, which follows the same note and
never reads; it also follows another note, and before the clock starts a flood of long patches to
that one has filled every buffer on the way to it, so that the server has stopped queueing for it.
Every round has the flood.  What is compared is the 99th percentile of the others, from the writer's
moment to the event in a reader's hands.

Memory is the private memory of the server's process and what the kernel holds in the server's send
buffers (`/proc/net/tcp`), each as the difference with and without the reader.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._client import upgraded, written
from ._harness import Report, Sample, p50, p99, rounds
from ._machine import resident_bytes
from ._processes import OTHER_CORE, Child, child, python
from ._servers import postgres, serving

if TYPE_CHECKING:
    import socket

    from ._harness import Figure, Options, Series
    from ._servers import Server

HEADLINE = "p99"

_READERS = 200
_RATE = 100.0
"""Patches a second: 20,000 deliveries."""
_FLOOD = 250
"""Patches of 8 KB: 2 MB, more than all buffers on the way to one reader."""
_NOTE_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class Bench:
    """A server, a note, and who reads it."""

    server: Server
    pulse: Child
    notes: tuple[str, str]
    count: int

    async def measure(self, *, is_stuck: bool) -> tuple[Sample, float, float]:
        """Beat, with the reader that never reads or without.

        Returns:
            The sample, and the server's and the kernel's bytes at its end.

        """
        with ExitStack() as stack:
            if is_stuck:
                stack.enter_context(closing(self._stuck()))
            await self.pulse.ask(f"flood {_FLOOD}")
            cpu = self.server.process.cpu_s()
            told = json.loads(await self.pulse.ask(f"beat {_RATE} {self.count}"))
            sample = Sample(
                count=len(told["latencies_s"]),
                wall_s=told["wall_s"],
                cpu_s=self.server.process.cpu_s() - cpu,
                latencies_s=told["latencies_s"],
            )
            return sample, resident_bytes(self.server.process.pid), _unsent(self.server.port)

    def _stuck(self) -> socket.socket:
        sock, _ = upgraded(self.server.port, "/ws", self.server.cookie)
        for note_id in self.notes:
            subscribe = {"type": "subscribe", "stream_id": f"note:{note_id}", "cursor": 1}
            sock.sendall(written(json.dumps(subscribe)))
        return sock


def _unsent(port: int) -> float:
    """Return the bytes that the kernel holds for a loopback port, on both ends."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        sent, received = (int(queue, 16) for queue in queues.split(":"))
        total += sent if int(local.partition(":")[2], 16) == port else 0
        total += received if int(remote.partition(":")[2], 16) == port else 0
    return total


@dataclass(frozen=True, slots=True)
class Side:
    """With the reader that never reads, or without."""

    is_stuck: bool
    series: Series
    resident: Figure
    kernel: Figure

    async def measure(self, bench: Bench, *, counts: bool) -> None:
        """Measure a round."""
        sample, resident, kernel = await bench.measure(is_stuck=self.is_stuck)
        if counts:
            self.series.samples.append(sample)
            self.resident.rounds.append(resident / 1e6)
            self.kernel.rounds.append(kernel / 1e3)


def _side(report: Report, name: str, *, is_stuck: bool) -> Side:
    return Side(
        is_stuck,
        report.add(name, "delivery"),
        report.figure(f"{name}: the server's memory", "MB", digits=1),
        report.figure("  in the kernel's buffers", "KB"),
    )


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("slow", options, percentiles=(0.5, 0.99, 0.999))
    readers = options.pick(_READERS, quick=20)
    count = max(5, round(4 * options.seconds * _RATE))
    without = _side(report, f"{readers} readers", is_stuck=False)
    with_ = _side(report, "  and one that never reads", is_stuck=True)
    for of, name in ((p99, "p99"), (p50, "p50")):
        report.compare(
            f"{name} with it / without",
            with_.series,
            without.series,
            ratio_id=name,
            of=of,
            at_most=1.2,
        )
    report.compare(
        "the server's memory with it / without", with_.resident, without.resident, ratio_id="memory"
    )
    with postgres() as database:
        async with serving(database) as server:
            workspace_id = await server.workspace("slow")
            note, other = [await server.note(workspace_id, _NOTE_CHARS) for _ in range(2)]
            command = python("bench._pulse", str(options.seed), str(server.port), server.cookie)
            command += [workspace_id, note, other, str(_NOTE_CHARS), str(readers)]
            async with child("pulse", command, core=OTHER_CORE) as pulse:
                await pulse.hear()
                bench = Bench(server, pulse, (note, other), count)
                for counts in rounds(options):
                    for side in (without, with_):
                        await side.measure(bench, counts=counts)
    return report
