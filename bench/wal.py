"""How many bytes does a command cost, in the write-ahead log and on disk?

The runtime is embedded: a command is one `Workspace.send`.  WAL bytes are what `pg_current_wal_lsn`
advances by, so they include everything, indexes and commit records too;
disk is what the tables and their indexes grow by.  No checkpoint falls into a round, so the whole
pages that PostgreSQL writes once after each checkpoint are not included: a database that is
checkpointed often pays more.

The reference is a save with the `eventsourcing` library.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dalsegno.actors.domains.notes import notes
from dalsegno.runtime import Runtime
from dalsegno.runtime.store import connect

from ._domain import tasks
from ._harness import Report, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import Postgres, postgres
from ._theirs import theirs
from ._writers import NoteWriter, TaskWriter, create, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.runtime.store import Connection

    from ._harness import Figure, Options, Sample
    from ._theirs import Theirs

HEADLINE = "one-by-one"

_HUNDRED = 100
_LONG_CHARS = 100_000
_BYTES = """
select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
       sum(pg_total_relation_size(c.oid))::bigint
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and n.nspname in ('dalsegno', 'public')
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Something that writes, and what it cost."""

    measure: Callable[[], Awaitable[Sample]]
    wal: Figure
    disk: Figure

    async def run(self, asking: Connection, *, counts: bool) -> None:
        """Write for a round."""
        ((wal, disk),) = await asking.fetch(_BYTES)
        sample = await self.measure()
        ((wal_after, disk_after),) = await asking.fetch(_BYTES)
        if counts:
            self.wal.rounds.append((wal_after - wal) / sample.count)
            self.disk.rounds.append((disk_after - disk) / sample.count)


class Cases:
    """All of them."""

    def __init__(self, report: Report, runtime: Runtime, database: Postgres) -> None:
        self.all: list[Case] = []
        self._report = report
        self._runtime = runtime
        self._database = database
        self._random = random.Random(report.options.seed)

    def add(self, name: str, measure: Callable[[], Awaitable[Sample]]) -> Case:
        """Begin a case."""
        wal = self._report.figure(f"{name}: WAL", "bytes each")
        disk = self._report.figure("  disk", "bytes each")
        case = Case(measure, wal, disk)
        self.all.append(case)
        return case

    async def add_ours(self, name: str, writers: Sequence[NoteWriter | TaskWriter]) -> Case:
        """Begin one whose writers are on our side."""
        await create(writers)
        senders, seconds = [writer.send for writer in writers], self._report.options.seconds
        return self.add(name, partial(write, self._runtime, self._database, senders, seconds))

    def tasks(self, workspace_id: str, count: int) -> list[TaskWriter]:
        """Make writers of a task each."""
        workspace = self._runtime.workspace(workspace_id)
        return [TaskWriter(workspace, f"t{n}") for n in range(count)]

    def note(self, workspace_id: str, chars: int, *, has_keys: bool = False) -> list[NoteWriter]:
        """Make the writer of a note."""
        workspace = self._runtime.workspace(workspace_id)
        return [NoteWriter(workspace, "n", self._random, chars=chars, has_keys=has_keys)]


async def _cases(cases: Cases, report: Report, application: Theirs) -> None:
    seconds, made = report.options.seconds, application.tasks(1)
    one = await cases.add_ours("a rename", cases.tasks("lone", 1))
    several = await cases.add_ours("a rename of a hundred", cases.tasks("hot", _HUNDRED))
    theirs_one = cases.add(
        "  eventsourcing, one event", partial(application.run, made, events=1, seconds=seconds)
    )
    theirs_several = cases.add(
        "  eventsourcing, one of a hundred",
        partial(application.run, made, events=_HUNDRED, seconds=seconds),
    )
    await cases.add_ours("a patch of 1 KB", cases.note("short", 1_000))
    await cases.add_ours("  with a key", cases.note("keyed", 1_000, has_keys=True))
    await cases.add_ours("a patch of 100 KB", cases.note("long", _LONG_CHARS))
    says = "WAL of a rename / eventsourcing"
    report.compare(f"{says}, one by one", one.wal, theirs_one.wal, ratio_id="one-by-one")
    report.compare(
        f"{says}, by the hundred", several.wal, theirs_several.wal, ratio_id="by-the-hundred"
    )


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("wal", options)
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        stack.enter_context(pinned(SUBJECT_CORE))
        application = stack.enter_context(theirs(database))
        async with Runtime.open(database.dsn, domains=[notes, tasks]) as runtime:
            asking = await connect(database.dsn)
            try:
                cases = Cases(report, runtime, database)
                await _cases(cases, report, application)
                for counts in rounds(options):
                    for case in cases.all:
                        await case.run(asking, counts=counts)
            finally:
                await asking.aclose()
    return report
