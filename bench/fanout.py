"""How many deliveries a second, from a commit to every one of its readers?

The subject is our delivery path in a process of its own (`_delivery`); the reference sends the
same messages to as many clients with `websockets.broadcast` (`_broadcast`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ._commits import PREFIX, WORKSPACE
from ._harness import Report, Sample, rounds
from ._processes import SUBJECT_CORE, Child, child, python
from ._sink import Sink, sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._harness import Options, Series

_READERS = 200
_EVENTS_A_COMMIT = (1, 10, 100)
_FIRST_COMMITS = 50
_SUBSCRIBE = f'{{"type":"subscribe","stream_id":"workspace:{WORKSPACE}","cursor":0}}'


@dataclass(slots=True)
class Sender:
    """A server with its readers."""

    process: Child
    sink: Sink

    async def send(self, commits: int, events: int) -> Sample:
        """Have commits of so many events sent, and wait until every reader has them."""
        await self.sink.expect(commits * events)
        cpu = self.process.cpu_s()
        import time; t0=time.time()
        await self.process.ask(f"{commits} {events}")
        wall_s, _size = await self.sink.wait()
        print(self.process, commits, events, wall_s, time.time()-t0, self.process.cpu_s()-cpu)
        return Sample(
            count=commits * events * self.sink.connections,
            wall_s=wall_s,
            cpu_s=self.process.cpu_s() - cpu,
            commits=commits,
        )


@asynccontextmanager
async def _sender(
    folder: Path, module: str, *, path: str, first: str = "", replies: int = 0
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
class Case:
    """One sender at one size of commits."""

    sender: Sender
    events: int
    series: Series
    commits: int = _FIRST_COMMITS

    async def measure(self, options: Options, *, counts: bool) -> None:
        """Send for about as long as a round lasts; the warm-up tells how many commits that is."""
        sample = await self.sender.send(self.commits, self.events)
        if counts:
            self.series.samples.append(sample)
        else:
            a_second = sample.rate / self.events / self.sender.sink.connections
            self.commits = max(1, round(options.seconds * a_second))


def _cases(report: Report, ours: Sender, reference: Sender) -> list[Case]:
    cases = []
    for events in _EVENTS_A_COMMIT:
        each = f"{events} event{'s' if events > 1 else ''} a commit"
        our = report.add(f"hub to sockets, {each}", "delivery")
        its = report.add("  websockets.broadcast", "delivery")
        reach = 3.0 if events == max(_EVENTS_A_COMMIT) else 1.0
        report.compare(f"{each} / websockets.broadcast", our, its, at_least=reach)
        cases += [Case(ours, events, our), Case(reference, events, its)]
    return cases


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("fanout", options)
    with TemporaryDirectory(prefix="dalsegno-bench-") as name:
        folder = Path(name)
        async with (
            _sender(folder, "bench._delivery", path="/ws", first=_SUBSCRIBE, replies=1) as ours,
            _sender(folder, "bench._broadcast", path="/") as reference,
        ):
            cases = _cases(report, ours, reference)
            for counts in rounds(options):
                for case in cases:
                    await case.measure(options, counts=counts)
            if ours.sink.is_python:
                report.notes.append("No C compiler: the readers are in Python and the bottleneck.")
    report.notes.append(f"{_READERS} readers; a message has about {_message_bytes()} bytes.")
    return report


def _message_bytes() -> int:
    from ._commits import commits, messages

    return len(messages(next(commits(0, 1, 1)))[0])
