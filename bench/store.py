"""What does a durable append cost from Python, beside the `eventsourcing` library?

Both on the same PostgreSQL, in the same process, one after the other.  The subject is the
embedding API, `Workspace.send`, with a tiny domain; every command is decided, and answered when it
is durable.  The reference is `Application.save` with aggregates that stay in memory, in its default
settings and with its functions in the database.

One by one is the same on both sides: one event, wait, the next one.  So is by the hundred: a
hundred events of one aggregate are one save there, and of one task one command here, all or none.
*A hundred on their way* are a hundred concurrent commands on one task, each decided by itself and
answered by itself, for which the library offers only a save each.  Over a thousand
workspaces, and as many aggregates there, one event each in turn: one by one on both sides, and
here also all at once, which a blocking library does not offer.

*By psycopg* and *by asyncpg* are runtimes with either driver, opened for each measurement: so the
loop of asyncio that the latter needs is not there while anything else is measured.

`Workspace.send` decides on the current state.  An application with that library gets the aggregate
from its repository for that, which is one more read; *with a get* is that, with its cache on.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dalsegno.runtime import Runtime

from ._domain import tasks
from ._harness import Report, Sample, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import Postgres, postgres
from ._theirs import Theirs, theirs
from ._writers import HUNDRED, TaskWriter, create, round_robin, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.runtime.store import DriverName

    from ._harness import Options, Series
    from ._writers import Send

HEADLINE = "one-by-one"

_WITHOUT_ASYNCPG = "there is no trio-asyncio" if find_spec("trio_asyncio") is None else ""


@dataclass(slots=True)
class Bench:
    """Both sides on one database, and what is to be measured of them."""

    report: Report
    runtime: Runtime
    database: Postgres
    plain: Theirs
    tuned: Theirs
    measures: list[tuple[Series, Callable[[], Awaitable[Sample]]]] = field(default_factory=list)

    def ours(self, name: str, senders: Sequence[Send], *, events: int = 1) -> Series:
        """Add senders of commands with so many events each."""
        seconds = self.report.options.seconds
        writing = partial(write, self.runtime, self.database, senders, seconds, events=events)
        return self._add(name, writing)

    def theirs(self, aggregates: int, *, events: int = 1) -> dict[str, Series]:
        """Add saves of so many events each, keyed by the suffix of their ratio's name."""
        seconds = self.report.options.seconds

        def saving(side: Theirs, *, gets: bool = False) -> Callable[[], Awaitable[Sample]]:
            made = side.tasks(aggregates)
            return partial(side.run, made, events=events, seconds=seconds, gets=gets)

        series = {
            "": self._add("  eventsourcing", saving(self.plain)),
            "-functions": self._add("  … with its functions", saving(self.tuned)),
        }
        if aggregates == events == 1:
            series["-get"] = self._add("  … with a get", saving(self.plain, gets=True))
        return series

    def compare_drivers(self, ratio_id: str, name: str, *, events: int = 1) -> None:
        """Add the same by each driver, in runtimes that have nothing else to do."""
        if _WITHOUT_ASYNCPG:
            self.report.skip(_WITHOUT_ASYNCPG, f"asyncpg-{ratio_id}")
            return

        def by(driver: DriverName) -> Series:
            return self._add(f"  by {driver}", partial(self._run_by, driver, events))

        reference, subject = by("psycopg"), by("asyncpg")
        says = f"{name}, by asyncpg / by psycopg"
        self.report.compare(says, subject, reference, ratio_id=f"asyncpg-{ratio_id}")

    async def _run_by(self, driver: DriverName, events: int) -> Sample:
        seconds = self.report.options.seconds
        async with Runtime.open(self.database.dsn, domains=[tasks], driver=driver) as runtime:
            task = TaskWriter(runtime.workspace(runtime.world.new_id()))
            await task.create()
            send = task.send if events == 1 else task.send_hundred
            await send()  # now its statements are prepared
            return await write(runtime, self.database, [send], seconds, events=events)

    def _add(self, name: str, measure: Callable[[], Awaitable[Sample]]) -> Series:
        series = self.report.add(name, "event")
        self.measures.append((series, measure))
        return series

    def compare(
        self, ratio_id: str, subject: Series, references: dict[str, Series], **reach: float
    ) -> None:
        """Compare one of ours with theirs: what the ``plain`` one and others have to reach."""
        for suffix, reference in references.items():
            self.report.compare(
                f"{subject.name} / {reference.name.lstrip(' …')}",
                subject,
                reference,
                ratio_id=ratio_id + suffix,
                at_least=reach.get(suffix.removeprefix("-") or "plain", math.nan),
            )

    async def prepare(self) -> None:
        """Register what is measured, and what is compared with what."""
        count = self.report.options.pick(1_000, quick=50)
        lone, hot = (TaskWriter(self.runtime.workspace(name)) for name in ("lone", "hot"))
        many = [TaskWriter(self.runtime.workspace(f"w{n}")) for n in range(count)]
        await create([lone, hot, *many])
        one = self.ours("one by one", [lone.send])
        self.compare_drivers("one-by-one", one.name)
        self.compare("one-by-one", one, self.theirs(1), plain=1.5, functions=1.0)
        hundred = self.ours("by the hundred", [lone.send_hundred], events=HUNDRED)
        self.compare_drivers("by-the-hundred", hundred.name, events=HUNDRED)
        saves = self.theirs(1, events=HUNDRED)
        self.compare("by-the-hundred", hundred, saves, plain=2.0)
        self.compare(
            "on-their-way", self.ours("a hundred on their way", [hot.send] * HUNDRED), saves
        )
        in_turn = self.ours(f"{count:,} workspaces in turn", [round_robin(many)])
        at_once = self.ours(f"{count:,} workspaces at once", [task.send for task in many])
        saves = self.theirs(count)
        self.compare("many-in-turn", in_turn, saves)
        self.compare("many-at-once", at_once, saves)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("store", options)
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        stack.enter_context(pinned(SUBJECT_CORE))
        plain = stack.enter_context(theirs(database))
        tuned = stack.enter_context(theirs(database, functions=True))
        async with Runtime.open(database.dsn, domains=[tasks]) as runtime:
            bench = Bench(report, runtime, database, plain, tuned)
            await bench.prepare()
            for counts in rounds(options):
                for series, measure in bench.measures:
                    sample = await measure()
                    if counts:
                        series.samples.append(sample)
    return report
