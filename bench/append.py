"""Does a durable command in this process cost a small multiple of its statement?

The subject is the embedding API, `Workspace.send`; the reference is the raw statement (`_raw`).
"""

from __future__ import annotations

import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.notes import ApplyPatch, CreateNote, notes
from dalsegno.protocol import PatchOp
from dalsegno.runtime import Runtime, Workspace

from ._domain import AddTask, RenameTask, tasks
from ._harness import Report, Sample, p50, rounds
from ._processes import SUBJECT_CORE, pinned
from ._raw import RawStatement, raw_statement
from ._servers import Postgres, postgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._harness import Options, Series

    Send = Callable[[], Awaitable[object]]

_DOMAINS = (notes, tasks)
_NOTE_CHARS = 1_000
_PATCH_CHARS = 20
_NOTES = 50
_SENDERS = 400
_WORKSPACES = 1_000


@dataclass(slots=True)
class NoteWriter:
    """Overwrites twenty characters of a note, somewhere in it; the note stays as long as it is."""

    workspace: Workspace
    note_id: str
    random: random.Random
    version: int = 0

    async def create(self) -> None:
        """Write the note."""
        await self.workspace.send(CreateNote(self.note_id, "x" * _NOTE_CHARS, note_id=self.note_id))
        self.version = 1

    async def send(self) -> None:
        """Change the note."""
        place = self.random.randrange(_NOTE_CHARS - _PATCH_CHARS)
        ops = [
            PatchOp(retain=place),
            PatchOp(insert="y" * _PATCH_CHARS),
            PatchOp(delete=_PATCH_CHARS),
        ]
        await self.workspace.send(ApplyPatch(self.note_id, ops, self.version))
        self.version += 1


@dataclass(slots=True)
class TaskWriter:
    """Renames a task, or adds one after the other."""

    workspace: Workspace
    task_id: str = "t"
    added: int = 0

    async def create(self) -> None:
        """Add the task."""
        await self.workspace.send(AddTask(self.task_id, "first"))

    async def send(self) -> None:
        """Rename the task."""
        await self.workspace.send(RenameTask(self.task_id, "again"))

    async def add(self) -> None:
        """Add another task, which the runtime first has to look for in the store."""
        self.added += 1
        await self.workspace.send(AddTask(f"t{self.added}", "another"))


class Bench:
    """A runtime on a database, and what is asked of it."""

    def __init__(
        self, runtime: Runtime, database: Postgres, options: Options, stack: AsyncExitStack
    ) -> None:
        self.runtime = runtime
        self.options = options
        self._database = database
        self._stack = stack

    async def raw(self, *workspaces: str) -> RawStatement:
        """Make the twins of workspaces that have something in them already, and follow."""
        raw = await self._stack.enter_async_context(
            raw_statement(self._database, workspaces, _DOMAINS)
        )
        await raw.skip()
        return raw

    async def run(self, senders: Sequence[Send]) -> Sample:
        """Let every sender send one command after the other for as long as a round lasts."""
        latencies: list[float] = []
        statistics = self.runtime.service.committer.statistics
        before = statistics()
        cpu, postgres = time.process_time(), self._database.cpu_s()
        began = time.perf_counter()
        end = began + self.options.seconds
        async with trio.open_nursery() as nursery:
            for send in senders:
                nursery.start_soon(_send_until, end, send, latencies)
        return Sample(
            count=len(latencies),
            wall_s=time.perf_counter() - began,
            cpu_s=time.process_time() - cpu,
            postgres_s=self._database.cpu_s() - postgres,
            commits=statistics().statements - before.statements,
            latencies_s=latencies,
        )


async def _send_until(end: float, send: Send, latencies: list[float]) -> None:
    now = time.perf_counter()
    while now < end:
        began = now
        await send()
        now = time.perf_counter()
        latencies.append(now - began)


@dataclass(slots=True)
class Case:
    """Some senders, their figures, and those of the raw statement after them."""

    senders: Sequence[Send]
    raw: RawStatement
    series: Series
    statement: Series
    made: Series

    async def measure(self, bench: Bench, *, counts: bool) -> None:
        """Run the subject, and then the reference with what the subject wrote."""
        sample = await bench.run(self.senders)
        statement, made = await self.raw.repeat()
        if counts:
            self.series.samples.append(sample)
            self.statement.samples.append(statement)
            self.made.samples.append(made)


def _case(report: Report, name: str, senders: Sequence[Send], raw: RawStatement) -> Case:
    return Case(
        senders,
        raw,
        report.add(name, "command"),
        report.add("  its raw statement", "event"),
        report.add("  … and its parameters", "event"),
    )


async def _cases(bench: Bench, report: Report) -> list[Case]:
    random_ = random.Random(bench.options.seed)
    make = partial(_case, report)
    workspace = bench.runtime.workspace
    lone = NoteWriter(workspace("lone"), "n", random_)
    renaming, adding = TaskWriter(workspace("renaming")), TaskWriter(workspace("adding"))
    hot = [NoteWriter(workspace("hot"), f"n{n}", random_) for n in range(_NOTES)]
    deep = [TaskWriter(workspace("deep"), f"t{n}") for n in range(_SENDERS)]
    many = [TaskWriter(workspace(f"w{n}")) for n in range(_WORKSPACES)]
    async with trio.open_nursery() as nursery:
        for note in (lone, *hot):
            nursery.start_soon(note.create)
        for task in (renaming, adding, *deep, *many):
            nursery.start_soon(task.create)
    raw_many = await bench.raw(*(task.workspace.id for task in many))
    one_by_one = _round_robin(many)
    cases = [
        make("one note, one patch at a time", [lone.send], await bench.raw("lone")),
        make("one task, renamed, one at a time", [renaming.send], await bench.raw("renaming")),
        make("new tasks, one at a time", [adding.add], await bench.raw("adding")),
        make(f"{_NOTES} notes, {_NOTES} senders", [n.send for n in hot], await bench.raw("hot")),
        make(
            f"{_SENDERS} tasks, {_SENDERS} senders", [t.send for t in deep], await bench.raw("deep")
        ),
        make("1,000 workspaces at once", [task.send for task in many], raw_many),
        make("1,000 workspaces one by one", [one_by_one], raw_many),
    ]
    _compare(report, cases)
    return cases


def _round_robin(writers: Sequence[TaskWriter]) -> Send:
    turn = 0

    async def send() -> None:
        nonlocal turn
        turn += 1
        await writers[turn % len(writers)].send()

    return send


def _compare(report: Report, cases: Sequence[Case]) -> None:
    lone, renaming, adding, hot, deep, at_once, one_by_one = cases
    for case, name in ((lone, "patch"), (renaming, "rename"), (adding, "new task")):
        says = f"one {name}: p50 / the statement's"
        report.compare(says, case.series, case.statement, of=p50, at_most=5.0)
    for case, name in ((hot, "notes"), (deep, "tasks")):
        says = f"hot workspace, {name} / the statement"
        report.compare(says, case.series, case.statement, at_least=0.3)
        report.compare("  … / and its parameters", case.series, case.made)
    report.compare("1,000 at once / the statement", at_once.series, at_once.statement)
    report.compare("1,000 at once / one by one", at_once.series, one_by_one.series, at_least=3.0)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("append", options)
    with postgres() as database, pinned(SUBJECT_CORE):
        async with (
            Runtime.open(database.dsn, domains=_DOMAINS) as runtime,
            AsyncExitStack() as stack,
        ):
            bench = Bench(runtime, database, options, stack)
            cases = await _cases(bench, report)
            for counts in rounds(options):
                for case in cases:
                    await case.measure(bench, counts=counts)
    return report
