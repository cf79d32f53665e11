"""Does a durable command in this process cost a small multiple of its statement?

The subject is the embedding API, `Workspace.send`; the reference is the raw statement (`_raw`).
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dalsegno.actors.domains.notes import notes
from dalsegno.runtime import Runtime

from ._domain import tasks
from ._harness import Report, Sample, p50, rounds
from ._processes import SUBJECT_CORE, pinned
from ._raw import RawStatement, raw_statement
from ._servers import Postgres, postgres
from ._writers import NoteWriter, TaskWriter, create, round_robin, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._harness import Options, Series
    from ._writers import Send

HEADLINE = "hot-notes"

_DOMAINS = (notes, tasks)
_NOTES = 50
_SENDERS = 400


class Bench:
    """A runtime on a database, and its workload."""

    def __init__(
        self, runtime: Runtime, database: Postgres, options: Options, stack: AsyncExitStack
    ) -> None:
        self.runtime = runtime
        self.options = options
        self._database = database
        self._stack = stack

    async def raw(self, *workspaces: str) -> RawStatement:
        """Make twins of workspaces that have some events already, and copy what is added."""
        raw = await self._stack.enter_async_context(
            raw_statement(self._database, workspaces, _DOMAINS)
        )
        await raw.skip()
        return raw

    async def run(self, senders: Sequence[Send]) -> Sample:
        """Send one command after the other from every sender for as long as a round lasts."""
        return await write(self.runtime, self._database, senders, self.options.seconds)


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
    workspaces = bench.options.pick(1_000, quick=50)
    many = [TaskWriter(workspace(f"w{n}")) for n in range(workspaces)]
    await create([lone, *hot, renaming, adding, *deep, *many])
    raw_many = await bench.raw(*(task.workspace.id for task in many))
    one_by_one = round_robin(many)
    cases = [
        make("one note, one patch at a time", [lone.send], await bench.raw("lone")),
        make("one task, renamed, one at a time", [renaming.send], await bench.raw("renaming")),
        make("new tasks, one at a time", [adding.add], await bench.raw("adding")),
        make(f"{_NOTES} notes, {_NOTES} senders", [n.send for n in hot], await bench.raw("hot")),
        make(
            f"{_SENDERS} tasks, {_SENDERS} senders", [t.send for t in deep], await bench.raw("deep")
        ),
        make(f"{workspaces:,} workspaces at once", [task.send for task in many], raw_many),
        make(f"{workspaces:,} workspaces one by one", [one_by_one], raw_many),
    ]
    _compare(report, cases)
    return cases


def _compare(report: Report, cases: Sequence[Case]) -> None:
    lone, renaming, adding, hot, deep, at_once, one_by_one = cases
    for case, name in ((lone, "patch"), (renaming, "rename"), (adding, "new task")):
        report.compare(
            f"one {name}: p50 / the statement's",
            case.series,
            case.statement,
            ratio_id=f"one-{name.replace(' ', '-')}",
            of=p50,
            at_most=5.0,
        )
    for case, name in ((hot, "notes"), (deep, "tasks")):
        says = f"hot workspace, {name} / the statement"
        hot_id = f"hot-{name}"
        report.compare(says, case.series, case.statement, ratio_id=hot_id, at_least=0.3)
        with_parameters = f"{says} and its parameters"
        report.compare(with_parameters, case.series, case.made, ratio_id=f"{hot_id}-parameters")
    report.compare(
        "many workspaces at once / the statement",
        at_once.series,
        at_once.statement,
        ratio_id="many-at-once",
        at_least=0.25,
    )
    report.compare(
        "many workspaces at once / one by one",
        at_once.series,
        one_by_one.series,
        ratio_id="many-over-one-by-one",
        at_least=3.0,
    )


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
