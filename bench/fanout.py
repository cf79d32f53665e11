"""How many deliveries a second, from a commit to every one of its readers?

The subject is our delivery path in a process of its own (`_delivery`).  The references send the
same messages to as many clients (`_senders`): servers in Python, brokers that are programs of
their own, and a bare loop around ``send`` (`_bare`), which is what the kernel alone costs.

End to end, a burst of patches goes into a ``dalsegno serve`` whose workspace all of them read; the
reference is the same burst into a workspace that nobody reads.
"""

from __future__ import annotations

import json
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ._commits import PREFIX, commits, messages
from ._harness import Report, Sample, rounds
from ._processes import OTHER_CORE, Child, child, python
from ._senders import BY_ASGI, OURS, REFERENCES, Kind, Sender, subscribe
from ._servers import Server, postgres, serving
from ._sink import Sink, compiler, sink

if TYPE_CHECKING:
    from ._harness import Options, Series

HEADLINE = "picows-1-200"

_EVENTS_A_COMMIT = (1, 10, 100)
_READERS = (200, 2_000)
_QUICK_READERS = 20
_SHORTER = 2
"""Rounds with many readers are shorter by this factor, since they double the number of rounds."""
_WARM_UP_DELIVERIES = 20_000
_NOTE_CHARS = 1_000

_REACH = {("picows", 1, 200): 1.0, ("nats", 100, 200): 1.3}
"""The target of a ratio, by (reference, events a commit, readers)."""
_BESIDE = "quart-trio"
"""What is compared with those of ours that a web server sends for."""
_REACH_BY_ASGI = {("asgi", 1): 1.1, ("batches", 10): 5.0, ("sse", 1): 1.1, ("sse", 10): 5.0}
"""The target of their ratio, by (key, events a commit)."""


@dataclass(slots=True)
class Publishing:
    """One sender at one size of commits."""

    sender: Sender
    kind: Kind
    events: int
    series: Series
    messages: int
    seconds: float

    async def measure(self, *, counts: bool) -> None:
        """Send for about so many seconds; the warm-up determines how much that is."""
        sample = await self.sender.send(*self._cut())
        if counts:
            self.series.samples.append(sample)
        else:
            self.messages = round(self.seconds * sample.rate / self.sender.readers)

    def _cut(self) -> tuple[int, int]:
        """Make commits of that many messages.

        To a reference a commit is just its messages: if a whole one would take much longer than a
        round, it sends a part of one.
        """
        if self.kind.joins or self.messages >= self.events:
            return max(1, round(self.messages / self.events)), self.events
        return 1, max(1, self.messages)


def _publishing(
    report: Report, senders: dict[str, tuple[Kind, Sender]], size: int
) -> list[Publishing]:
    """Make the rows and the ratios of one size."""
    options, cases = report.options, []
    readers = options.pick(size, quick=_QUICK_READERS)
    seconds = options.seconds / (1 if size == _READERS[0] else _SHORTER)
    for events in _EVENTS_A_COMMIT:
        which = f"{events} event{'s' if events > 1 else ''} a commit, {readers:,} readers"
        ours = beside = None
        for key, (kind, sender) in senders.items():
            indent = "" if ours is None else "  "
            series = report.add(f"{indent}{kind.name}, {which}", "delivery")
            first = max(1, _WARM_UP_DELIVERIES // readers)
            cases.append(Publishing(sender, kind, events, series, first, seconds))
            if key == _BESIDE:
                beside = series
            if ours is None:
                ours = series
                continue
            if kind in BY_ASGI:
                if beside is not None:
                    report.compare(
                        f"{which}: {kind.name} / Quart-Trio",
                        series,
                        beside,
                        ratio_id=f"{key}-{events}-{size}",
                        at_least=_REACH_BY_ASGI.get((key, events), math.nan),
                    )
                continue
            report.compare(
                f"{which} / {kind.name}",
                ours,
                series,
                ratio_id=f"{key}-{events}-{size}",
                at_least=_REACH.get((key, events, size), math.nan),
            )
    return cases


async def _publish(report: Report, options: Options, folder: Path, size: int) -> None:
    readers = options.pick(size, quick=_QUICK_READERS)
    async with AsyncExitStack() as stack:
        senders = {}
        by_asgi = BY_ASGI if size == _READERS[0] else ()
        for kind in (OURS, *REFERENCES, *by_asgi):
            if why := kind.missing():
                ids = [f"{kind.key}-{events}-{size}" for events in _EVENTS_A_COMMIT]
                report.skip(why, *ids)
                continue
            sender = await stack.enter_async_context(kind.open(folder, readers))
            senders[kind.key] = kind, sender
        cases = _publishing(report, senders, size)
        for counts in rounds(options):
            for case in cases:
                await case.measure(counts=counts)


@dataclass(slots=True)
class Burst:
    """Writers on one workspace of a server, and its readers if there are any."""

    server: Server
    load: Child
    sink: Sink | None
    writers: int
    patches: int
    commands: Series
    deliveries: Series | None = None

    async def measure(self, *, counts: bool) -> None:
        """Send all patches at once; wait for the last answer and the last delivery."""
        count = self.writers * self.patches
        if self.sink is not None:
            await self.sink.expect(count)
        cpu = self.server.process.cpu_s()
        told = json.loads(await self.load.ask(f"0 {self.writers} {self.patches}"))
        delivered_s = 0.0 if self.sink is None else await self.sink.wait()
        cpu_s = self.server.process.cpu_s() - cpu
        if not counts:
            return
        self.commands.samples.append(Sample(count=count, wall_s=told["wall_s"], cpu_s=cpu_s))
        if self.deliveries is not None and self.sink is not None:
            delivered = count * self.sink.connections
            self.deliveries.samples.append(Sample(count=delivered, wall_s=delivered_s))


class EndToEnd:
    """A server, and bursts into it."""

    def __init__(self, report: Report, server: Server, stack: AsyncExitStack, folder: Path) -> None:
        self._report = report
        self._server = server
        self._stack = stack
        self._folder = folder
        options = report.options
        self.readers = options.pick(200, quick=20)
        self.writers = options.pick(50, quick=5)
        self.patches = options.pick(20, quick=5)

    async def burst(self, *, is_read: bool) -> Burst:
        """Make a workspace with a note a writer, and perhaps readers."""
        report, server = self._report, self._server
        whose = f"{self.readers} readers" if is_read else "no reader"
        commands = report.add(f"end to end, {whose}", "command")
        deliveries = report.add("  its deliveries", "delivery") if is_read else None
        workspace = await server.workspace("read" if is_read else "unread")
        notes = [await server.note(workspace, _NOTE_CHARS) for _ in range(self.writers)]
        command = python("bench._load", str(report.options.seed), "placed", str(server.port))
        command += [server.cookie, workspace, str(_NOTE_CHARS), *notes]
        load = await self._stack.enter_async_context(child("load", command, core=OTHER_CORE))
        await load.hear()
        readers = await self._readers(workspace) if is_read else None
        return Burst(server, load, readers, self.writers, self.patches, commands, deliveries)

    async def _readers(self, workspace: str) -> Sink:
        return await self._stack.enter_async_context(
            sink(
                self._folder,
                self._server.port,
                connections=self.readers,
                path="/ws",
                cookie=self._server.cookie,
                first=subscribe(workspace, self.writers),
                prefix=PREFIX,
                replies=1,
            )
        )


async def _end_to_end(report: Report, options: Options) -> None:
    with postgres() as database:
        async with serving(database) as server, AsyncExitStack() as stack:
            whole = EndToEnd(report, server, stack, database.folder)
            read, unread = [await whole.burst(is_read=is_read) for is_read in (True, False)]
            says = "end to end: read / unread"
            report.compare(says, read.commands, unread.commands, ratio_id="end-to-end")
            for counts in rounds(options):
                for case in (read, unread):
                    await case.measure(counts=counts)
            report.notes.append(
                f"End to end, {whole.writers} writers send {whole.patches} patches each at once."
            )


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("fanout", options)
    size = len(messages(next(commits(0, 1, 1)))[0])
    report.notes.append(f"A message has {size} bytes.")
    if compiler() is None:
        report.notes.append("No C compiler: the readers are in Python and the bottleneck.")
    for size in options.pick(_READERS, quick=_READERS[:1]):
        with TemporaryDirectory(prefix="dalsegno-bench-") as folder:
            await _publish(report, options, Path(folder), size)
    await _end_to_end(report, options)
    return report
