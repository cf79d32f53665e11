"""A backup's file, restored into an empty database: checked to its end, then all or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.jobs import BEGIN, END, BackupCheck, PortionReader

from .store import bring_up_to_date, check_rows_version, connect as psycopg, restoring

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dalsegno.actors.domains.jobs import Ended, Portion, Progress

    from .store import Connect

_READ = 256 * 1024


async def check_backup(file: Path, *, progress: Progress | None = None) -> Ended:
    """Read a backup to its end, and return what it has.

    Args:
        file: the backup.
        progress: is told of each byte that was read.

    Raises:
        BackupDamagedError: it is none, or was damaged; the message says where.
        RestoreRefusedError: this release cannot restore it.
        OSError: it cannot be read.

    """
    check = BackupCheck()

    async def take(portion: Portion) -> None:
        check.take(portion)
        if portion.part == BEGIN:
            check_rows_version(check.began.schema)

    await _read(file, take, progress)
    return check.finish()


async def restore_backup(
    dsn: str,
    file: Path,
    *,
    progress: Progress | None = None,
    wait_s: float = 30.0,
    connect: Connect = psycopg,
) -> None:
    """Fill an empty database from a backup, all of it or nothing.

    Its schema is made where it is not there.  Cancelled, nothing was restored.  Check the file
    first (`check_backup`): what is found to be damaged here is undone, after all that was done.

    Args:
        dsn: the database's address.
        file: the backup.
        progress: is told of each byte that was read.
        wait_s: for how long the database is waited for.
        connect: what opens a session; see `open_driver`.

    Raises:
        RestoreRefusedError: the database is not empty, or a server runs on it.
        BackupDamagedError: the file is damaged.
        StoreUnavailableError: the database is away.
        DatabaseRefusedError: a log cannot be kept in it, or not by this release.
        OSError: the file cannot be read.

    """
    await bring_up_to_date(dsn, wait_s=wait_s, connect=connect)
    async with restoring(dsn, connect=connect) as target:

        async def take(portion: Portion) -> None:
            if portion.part not in (BEGIN, END):
                await target.put(portion.part, portion.workspace, portion.text)

        await _read(file, take, progress)


async def _read(
    file: Path, take: Callable[[Portion], Awaitable[None]], progress: Progress | None
) -> None:
    reader = PortionReader()
    async with await trio.open_file(file, "rb") as opened:
        while data := await opened.read(_READ):
            for portion in reader.feed(data):
                await take(portion)
            if progress is not None:
                await progress.add(len(data))
    reader.finish()
