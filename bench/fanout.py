"""How many deliveries a second, from a commit to every one of its readers?

The subject is our delivery path in a process of its own (`_delivery`).  Two references send the
same messages to as many clients: `websockets.broadcast` (`_broadcast`), and a bare loop around
``send`` (`_bare`), which is what the kernel alone costs.

End to end, a burst of patches goes into a ``dalsegno serve`` whose workspace all of them read; the
reference is the same burst into a workspace that nobody reads.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ._commits import PREFIX, WORKSPACE, commits, messages
from ._harness import Report, Sample, rounds
from ._processes import OTHER_CORE, SUBJECT_CORE, Child, child, python
from ._servers import Server, postgres, serving
from ._sink import Sink, sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._harness import Options, Series

_READERS = 200
_EVENTS_A_COMMIT = (1, 10, 100)
_FIRST_EVENTS = 100
_WRITERS = 50
_BURST = 20
"""Patches of each writer."""
_NOTE_CHARS = 1_000


def _subscribe(workspace: str, cursor: int) -> str:
    return json.dumps(
        {"type": "subscribe", "stream_id": f"workspace:{workspace}", "cursor": cursor}
    )


@dataclass(slots=True)
class Sender:
    """A process that sends commits, with its readers."""

    process: Child
    sink: Sink

    async def send(self, commits: int, events: int) -> Sample:
        """Have commits of so many events sent, and wait until every reader has them."""
        await self.sink.expect(commits * events)
        cpu_s = await self.process.ask(f"{commits} {events}")
        return Sample(
            count=commits * events * self.sink.connections,
            wall_s=await self.sink.wait(),
            cpu_s=float(cpu_s),
            commits=commits,
        )


@asynccontextmanager
async def _sender(
    folder: Path, module: str, *, path: str = "/", first: str = "", replies: int = 0
) -> AsyncIterator[Sender]:
    async with child(module, python(module), core=SUBJECT_CORE) as process:
        port = int(await process.hear())
        async with sink(
            folder,
            port,
            connections=_READERS,
            path=path,
            first=first,
            prefix=PREFIX,
            replies=replies,
        ) as clients:
            yield Sender(process, clients)


@dataclass(slots=True)
class Publishing:
    """One sender at one size of commits."""

    sender: Sender
    events: int
    series: Series
    commits: int

    async def measure(self, options: Options, *, counts: bool) -> None:
        """Send for about as long as a round lasts; the warm-up tells how many commits that is."""
        sample = await self.sender.send(self.commits, self.events)
        if counts:
            self.series.samples.append(sample)
        else:
            a_second = sample.rate / self.events / self.sender.sink.connections
            self.commits = max(1, round(options.seconds * a_second))


def _publishing(report: Report, senders: dict[str, Sender]) -> list[Publishing]:
    cases = []
    for events in _EVENTS_A_COMMIT:
        each = f"{events} event{'s' if events > 1 else ''} a commit"
        ours, broadcast, bare = (report.add(f"{name}, {each}", "delivery") for name in senders)
        reach = 3.0 if events == max(_EVENTS_A_COMMIT) else 1.0
        report.compare(f"{each} / websockets.broadcast", ours, broadcast, at_least=reach)
        report.compare(f"{each} / bare send()", ours, bare)
        cases += [
            Publishing(sender, events, series, _FIRST_EVENTS // events)
            for sender, series in zip(senders.values(), (ours, broadcast, bare), strict=True)
        ]
    return cases


@dataclass(slots=True)
class Burst:
    """Writers on one workspace of a server, and its readers if there are any."""

    server: Server
    load: Child
    sink: Sink | None
    commands: Series
    deliveries: Series | None

    async def measure(self, *, counts: bool) -> None:
        """Send all patches at once; wait for the last answer and the last delivery."""
        if self.sink is not None:
            await self.sink.expect(_WRITERS * _BURST)
        cpu = self.server.process.cpu_s()
        told = json.loads(await self.load.ask(f"0 {_WRITERS} {_BURST}"))
        delivered_s = 0.0 if self.sink is None else await self.sink.wait()
        cpu_s = self.server.process.cpu_s() - cpu
        if not counts:
            return
        count = _WRITERS * _BURST
        self.commands.samples.append(Sample(count=count, wall_s=told["wall_s"], cpu_s=cpu_s))
        if self.deliveries is not None:
            self.deliveries.samples.append(Sample(count=count * _READERS, wall_s=delivered_s))


async def _burst(
    report: Report, stack: AsyncExitStack, server: Server, folder: Path, seed: int, *, is_read: bool
) -> Burst:
    whose = f"{_READERS} readers" if is_read else "no reader"
    commands = report.add(f"end to end, {whose}", "command")
    deliveries = report.add("  its deliveries", "delivery") if is_read else None
    workspace = await server.workspace("read" if is_read else "unread")
    notes = [await server.note(workspace, _NOTE_CHARS) for _ in range(_WRITERS)]
    command = python("bench._load", str(seed), "placed", str(server.port), server.cookie, workspace)
    load = await stack.enter_async_context(
        child("load", [*command, str(_NOTE_CHARS), *notes], core=OTHER_CORE)
    )
    await load.hear()
    if not is_read:
        return Burst(server, load, None, commands, deliveries)
    readers = await stack.enter_async_context(
        sink(
            folder,
            server.port,
            connections=_READERS,
            path="/ws",
            cookie=server.cookie,
            first=_subscribe(workspace, _WRITERS),
            prefix=PREFIX,
            replies=1,
        )
    )
    return Burst(server, load, readers, commands, deliveries)


async def _publish(report: Report, options: Options) -> None:
    subscribe = _subscribe(WORKSPACE, 0)
    with TemporaryDirectory(prefix="dalsegno-bench-") as name:
        folder = Path(name)
        async with (
            _sender(folder, "bench._delivery", path="/ws", first=subscribe, replies=1) as ours,
            _sender(folder, "bench._broadcast") as broadcast,
            _sender(folder, "bench._bare") as bare,
        ):
            senders = {"hub to sockets": ours, "  websockets.broadcast": broadcast}
            cases = _publishing(report, senders | {"  bare send()": bare})
            for counts in rounds(options):
                for case in cases:
                    await case.measure(options, counts=counts)
            if ours.sink.is_python:
                report.notes.append("No C compiler: the readers are in Python and the bottleneck.")


async def _end_to_end(report: Report, options: Options) -> None:
    with postgres() as database:
        async with serving(database) as server, AsyncExitStack() as stack:
            read, unread = [
                await _burst(report, stack, server, database.folder, options.seed, is_read=is_read)
                for is_read in (True, False)
            ]
            report.compare("end to end: read / unread", read.commands, unread.commands)
            for counts in rounds(options):
                for case in (read, unread):
                    await case.measure(counts=counts)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("fanout", options)
    await _publish(report, options)
    await _end_to_end(report, options)
    size = len(messages(next(commits(0, 1, 1)))[0])
    report.notes.append(
        f"{_READERS} readers; a message has {size} bytes; end to end, {_WRITERS} writers send "
        f"{_BURST} patches each at once."
    )
    return report
