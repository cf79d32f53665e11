"""What does a run cost beside the commands that it is made of?

A run that does nothing is three commits: it is requested, begins, and ends.  One at a time it is
timed from the request to the end that a reader of it sees, beside three commands sent one after the
other; then many are asked for at once in fifty workspaces, beside as many commands as that makes.
A step is a command with its mark in one commit, beside the command alone.

A run that streams says two thousand tokens, whose rows are counted; then tokens as fast as two
hundred readers have them, beside events of one commit each; and single ones, each timed from the
worker to a reader.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import trio

from dalsegno.runtime import App, RequestRun, Run, Runtime, Workspace, runs, worker

from ._cards import Move, cards
from ._harness import Report, Sample, p50, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import postgres
from ._talk import Talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._harness import Options

HEADLINE = "one"

_COMMITS = 3
"""Of a run that does nothing."""
_WORKSPACES = 50
_AT_ONCE = 4
"""Runs that are asked for at the same time in each of them."""
_STEPS = 50
_DEADLINE_S = 60.0
_READERS = 200
_TOKENS_EACH = 1_000

_took: list[float] = []
"""What the steps of a run took, each, in seconds."""


@worker("nothing", concurrency=_AT_ONCE)
async def _nothing(_run: Run) -> None:
    pass


@worker("steps")
async def _steps(run: Run) -> None:
    for number in range(_STEPS):
        began = time.perf_counter()
        await run.send(Move("step", None), step=f"s{number}")
        _took.append(time.perf_counter() - began)


async def _carried_out(workspace: Workspace, run_id: str, name: str) -> None:
    async with workspace.of(runs).subscribe(run_id, after=0) as events:
        await workspace.send(RequestRun(run_id=run_id, worker=name))
        async for event in events:
            if event.record.type == "run_finished":
                return


async def _timed(seconds: float, one: Callable[[int], Awaitable[None]]) -> Sample:
    latencies: list[float] = []
    began = now = time.perf_counter()
    while now < began + seconds:
        await one(len(latencies))
        last, now = now, time.perf_counter()
        latencies.append(now - last)
    return Sample(count=len(latencies), wall_s=now - began, latencies_s=latencies)


async def _at_once(rt: Runtime, one: Callable[[Workspace, int], Awaitable[None]]) -> Sample:
    began = time.perf_counter()
    with trio.fail_after(_DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for number in range(_WORKSPACES):
                for each in range(_AT_ONCE):
                    nursery.start_soon(one, rt.workspace(f"many-{number}"), each)
    return Sample(count=_WORKSPACES * _AT_ONCE, wall_s=time.perf_counter() - began)


async def _round(rt: Runtime, number: int, seconds: float) -> list[Sample]:
    workspace = rt.workspace("one")

    async def run(each: int) -> None:
        await _carried_out(workspace, f"{number}-{each}", "nothing")

    async def commands(_each: int) -> None:
        for _ in range(_COMMITS):
            await workspace.send(Move("card", None))

    async def many_runs(here: Workspace, each: int) -> None:
        await _carried_out(here, f"{number}-{each}", "nothing")

    async def many_commands(here: Workspace, each: int) -> None:
        for _ in range(_COMMITS):
            await here.send(Move(f"card-{each}", None))

    async def one_command(_each: int) -> None:
        await workspace.send(Move("step", None))

    _took.clear()
    await _carried_out(workspace, f"steps-{number}", "steps")
    steps = Sample(count=len(_took), wall_s=sum(_took), latencies_s=list(_took))
    return [
        await _timed(seconds, run),
        await _timed(seconds, commands),
        await _at_once(rt, many_runs),
        await _at_once(rt, many_commands),
        steps,
        await _timed(seconds / 4, one_command),
    ]


class _Streaming:
    """What runs that stream are asked."""

    def __init__(self, report: Report) -> None:
        self._options = report.options
        self._first = report.add("a token, from the worker to a reader", "token")
        self._said = report.add(f"tokens to {_READERS} readers", "token")
        self._events = report.add(f"  events to {_READERS} readers, a commit each", "token")
        self._rows = report.figure("rows of a run of 2,000 tokens", "rows")
        self._bytes = report.figure("  their payloads", "bytes")
        self._first_ms = report.figure("median time of a token", "ms", digits=2)
        report.compare("rows / 10", self._rows, 10.0, ratio_id="rows", at_most=1.0)
        report.compare(
            "median time of a token / 50 ms", self._first_ms, 50.0, ratio_id="token", at_most=1.0
        )
        report.compare("rate of tokens / of events", self._said, self._events, ratio_id="frames")

    async def measure(self, dsn: str, folder: Path) -> None:
        """Measure, each round one after the other."""
        readers = self._options.pick(_READERS, quick=10)
        count = self._options.pick(_TOKENS_EACH, quick=50)
        talk = Talk()
        async with talk.open(dsn):
            for counts in rounds(self._options):
                rows, size = await talk.rows()
                first = await talk.first_tokens(self._options.pick(20, quick=3))
                said = await talk.frames(folder, readers, count)
                events = await talk.commits(folder, readers, count)
                if counts:
                    self._rows.rounds.append(rows)
                    self._bytes.rounds.append(size)
                    self._first_ms.rounds.append(1000 * median(first.latencies_s))
                    self._first.samples.append(first)
                    self._said.samples.append(said)
                    self._events.samples.append(events)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("runs", options)
    one = report.add("a run that does nothing, to the end that is seen", "run")
    three = report.add(f"  {_COMMITS} commands, one after the other", "run")
    many = report.add(f"{_AT_ONCE} at once in each of {_WORKSPACES} workspaces", "run")
    sent = report.add(f"  {_COMMITS} commands for each of them", "run")
    step = report.add("a step of a run", "step")
    plain = report.add("  the command alone", "step")
    report.compare(
        "p50 of a run / of the commands", one, three, ratio_id="one", of=p50, at_most=2.0
    )
    report.compare("rate of runs / of the commands", many, sent, ratio_id="many", at_least=0.25)
    report.compare(
        "p50 of a step / of the command", step, plain, ratio_id="step", of=p50, at_most=1.5
    )
    app = App([cards], workers=[_nothing, _steps])
    streaming = _Streaming(report)
    with postgres() as database, pinned(SUBJECT_CORE):
        async with Runtime.open(database.dsn, app=app) as rt:
            for number, counts in enumerate(rounds(options)):
                samples = await _round(rt, number, options.seconds)
                if counts:
                    every = (one, three, many, sent, step, plain)
                    for series, sample in zip(every, samples, strict=True):
                        series.samples.append(sample)
        with TemporaryDirectory() as folder:
            await streaming.measure(database.dsn, Path(folder))
    return report
