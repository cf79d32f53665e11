"""A PostgreSQL of a test's own, which it may break."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import trio

from dalsegno.actors import PageBounds, Store
from dalsegno.protocol import Event
from dalsegno.runtime.store import PostgresStore
from dalsegno.runtime.store._embedded import EmbeddedPostgres

_PAGE = 1_000
_PAGE_BYTES = 64 * 2**20


class Database:
    """The cluster of a data directory; only the test manages it."""

    def __init__(self, data_dir: Path) -> None:
        self._server = EmbeddedPostgres(data_dir)
        self.data_dir = data_dir
        self._cluster = data_dir / "postgres"
        self._backup = data_dir / "backup"
        self.dsn = ""

    @property
    def postmaster(self) -> int:
        return int((self._cluster / "postmaster.pid").read_text().split()[0])

    async def start(self) -> None:
        await trio.to_thread.run_sync(self._server.start)
        self.dsn = self._server.dsn

    async def stop(self) -> None:
        await trio.to_thread.run_sync(self._server.stop)

    async def restart(self, mode: str) -> None:
        """``pg_ctl restart``; *immediate* leaves the log to recovery, as a crash does."""
        account = self._server._account
        assert account is not None
        how = ["restart", "-m", mode, "-l", str(self._server._log)]
        restart = partial(self._server._pg_ctl, account, *how, timeout_s=60)
        ended = await trio.to_thread.run_sync(restart)
        assert ended.ok, ended.said

    async def kill(self) -> None:
        """``kill -9`` of the postmaster, and a start, which waits for its children to notice."""
        os.kill(self.postmaster, signal.SIGKILL)
        while not await trio.to_thread.run_sync(self._server.revive):
            await trio.sleep(0.01)

    async def save(self) -> None:
        """Copy the whole directory, as an operator does who stops the server for it."""
        await self.stop()
        await _copy(self._cluster, self._backup)
        await self.start()

    async def restore(self) -> None:
        """Go back to the copy."""
        await self.stop()
        await trio.to_thread.run_sync(shutil.rmtree, self._cluster)
        await _copy(self._backup, self._cluster)
        await self.start()

    async def ask(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement as an operator does, on a connection of its own."""
        return await trio.to_thread.run_sync(self._ask, sql, parameters)

    def _ask(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True, application_name="operator") as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def limit_files(self, bytes_max: int | None) -> None:
        """Limit the size of files in all of its processes: the disk is full."""
        most = resource.RLIM_INFINITY if bytes_max is None else bytes_max
        _limit_files(self.postmaster, most)  # what it starts from now on has the limit too
        for pid in children_of(self.postmaster):
            with suppress(ProcessLookupError):
                _limit_files(pid, most)


async def _copy(source: Path, target: Path) -> None:
    await trio.run_process(["cp", "-a", str(source), str(target)])


def _limit_files(pid: int, most: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def open_database(data_dir: Path) -> AsyncIterator[Database]:
    database = Database(data_dir)
    await database.start()
    try:
        yield database
    finally:
        with trio.CancelScope(shield=True):  # `stop` is bounded by itself
            await database.stop()


async def read_log(store: Store, workspace_id: str) -> list[Event]:
    """Read a workspace's whole log."""
    log: list[Event] = []
    head = await store.read_head(workspace_id)
    while head is not None and len(log) < head.head_seq:
        bounds = PageBounds(
            from_seq=len(log) + 1, to_event_seq=head.head_seq, limit=_PAGE, bytes_max=_PAGE_BYTES
        )
        page = await store.read_events(workspace_id, bounds)
        assert page, "an event is missing"
        log += page
    return log


async def read_logs(dsn: str, *workspace_ids: str) -> dict[str, list[Event]]:
    """Read whole logs from a database, past every runtime."""
    async with PostgresStore.open(dsn) as store:
        return {workspace_id: await read_log(store, workspace_id) for workspace_id in workspace_ids}
