"""The reference for durable appends: the `eventsourcing` library on PostgreSQL, or on SQLite.

An aggregate is a task that is renamed, as in `_domain`.  It stays in memory, so that a save is one
insert and no read; or every command gets it from the repository first, as an application does that
has to decide on the current state, here from the library's cache with what was saved since.  The
library blocks, so it runs in a thread, which has the process to itself meanwhile.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import trio
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict

from ._harness import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from ._servers import Postgres


class TheirTask(Aggregate):
    """A task with a title."""

    @event("Added")
    def __init__(self, title: str) -> None:
        self.title = title

    @event("Renamed")
    def rename(self, title: str) -> None:
        """Change its title."""
        self.title = title


class Theirs:
    """An application of theirs, and aggregates of it."""

    def __init__(self, application: Application[UUID], database: Postgres | None) -> None:
        self._application = application
        self._database = database

    def tasks(self, count: int) -> list[TheirTask]:
        """Make and save aggregates."""
        made = [TheirTask("first") for _ in range(count)]
        for task in made:
            self._application.save(task)
        return made

    async def run(
        self, tasks: Sequence[TheirTask], *, events: int, seconds: float, gets: bool = False
    ) -> Sample:
        """Save one aggregate after the other, each with so many new events at once.

        Args:
            tasks: the aggregates.
            events: how many each gets before it is saved.
            seconds: for how long.
            gets: whether each is first fetched from the repository.

        """
        return await trio.to_thread.run_sync(partial(self._run, tasks, events, seconds, gets=gets))

    def _run(
        self, tasks: Sequence[TheirTask], events: int, seconds: float, *, gets: bool
    ) -> Sample:
        latencies: list[float] = []
        cpu, postgres = time.process_time(), self._postgres_s()
        began = now = time.perf_counter()
        turn = 0
        while now < began + seconds:
            task = tasks[turn % len(tasks)]
            turn += 1
            if gets:
                task = self._application.repository.get(task.id)
            for _ in range(events):
                task.rename("again")
            self._application.save(task)
            last, now = now, time.perf_counter()
            latencies.append(now - last)
        return Sample(
            count=turn * events,
            wall_s=now - began,
            cpu_s=time.process_time() - cpu,
            postgres_s=self._postgres_s() - postgres,
            commits=turn,
            latencies_s=latencies,
        )

    def _postgres_s(self) -> float:
        return math.nan if self._database is None else self._database.cpu_s()


@contextmanager
def theirs(database: Postgres, *, functions: bool = False) -> Iterator[Theirs]:
    """Open their application for the length of a block.

    Args:
        database: where its table is; in a schema of its own.
        functions: whether it inserts with functions in the database, which is not its default.

    """
    known = conninfo_to_dict(database.dsn)
    environ = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(known["dbname"]),
        "POSTGRES_HOST": str(known["host"]),
        "POSTGRES_PORT": str(known["port"]),
        "POSTGRES_USER": str(known["user"]),
        "POSTGRES_PASSWORD": _password(str(known["passfile"])),
        "AGGREGATE_CACHE_MAXSIZE": "10000",
        "POSTGRES_ENABLE_DB_FUNCTIONS": "y" if functions else "n",
    }
    name = "with_functions" if functions else "plain"
    with _application(name, environ) as made:
        yield Theirs(made, database)


@contextmanager
def theirs_in_file(path: Path) -> Iterator[Theirs]:
    """Open their application on SQLite, in its default settings, for the length of a block."""
    environ = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(path),
        "AGGREGATE_CACHE_MAXSIZE": "10000",
    }
    with _application("in_file", environ) as made:
        yield Theirs(made, None)


@contextmanager
def _application(name: str, environ: dict[str, str]) -> Iterator[Application[UUID]]:
    with mock.patch.dict(os.environ, environ):
        made = type(name, (Application,), {})()
    try:
        yield made
    finally:
        made.close()


def _password(file: str) -> str:
    """Read the one password of a pgpass file."""
    return Path(file).read_text().strip().rpartition(":")[2]
