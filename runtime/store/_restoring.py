"""Rows of a backup, put into an empty database: all of them in one transaction, or none.

Nobody serves the database meanwhile: the table of nodes is locked, so that no server gets a lease.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from dalsegno.protocol import DalsegnoError, StoreUnavailableError

from ._driver import ConnectionBrokenError, DatabaseError
from ._dumps import COMMON_TABLES, ROWS_VERSION, TABLES
from ._psycopg import connect
from ._sql import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._driver import Connect, Connection

_SESSION = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "10s",
    "jit": "off",
}


class RestoreRefusedError(DalsegnoError):
    """Nothing was restored: the database is not empty, or is served; or the backup does not fit."""

    code = "RESTORE_REFUSED"


class Restoring:
    """A database into which rows are put."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Restoring by {self._connection!r}>"

    async def put(self, table: str, workspace_id: str, rows: str) -> None:
        """Put rows of a table, a JSON array, as `PostgresDumps` has them.

        Raises:
            RestoreRefusedError: there is no such table, or the database refuses them.
            StoreUnavailableError: the database is away.

        """
        if table not in TABLES and table not in COMMON_TABLES:
            raise RestoreRefusedError(f"the backup has a table that is not known here: {table}")
        sql = queries()[f"restore_{table}"]
        try:
            await self._connection.execute(sql, (workspace_id, rows))
        except DatabaseError as error:
            message = f"the database refuses rows of {table} of {workspace_id!r}: {error}"
            raise RestoreRefusedError(message) from error


def check_rows_version(version: int) -> None:
    """Raise `RestoreRefusedError` unless rows of this form can be restored here."""
    if version != ROWS_VERSION:
        raise RestoreRefusedError(
            f"the backup has rows of version {version}, and this release knows {ROWS_VERSION}; "
            "restore it with the release that wrote it"
        )


@asynccontextmanager
async def restoring(dsn: str, *, connect: Connect = connect) -> AsyncIterator[Restoring]:
    """Restore into an empty database that was migrated, for the length of a block.

    It is there once the block has ended, and not at all where that raises.

    Raises:
        RestoreRefusedError: it is not empty, or somebody serves it.
        StoreUnavailableError: it is away.

    """
    try:
        connection = await partial(connect, dsn)(settings=_SESSION)
        try:
            async with connection.transaction():
                await _check_free(connection)
                yield Restoring(connection)
            await connection.execute("analyze dalsegno.event, dalsegno.entity")
        finally:
            await connection.aclose()
    except ConnectionBrokenError as error:
        raise StoreUnavailableError(f"the database is away: {error.message}") from error


async def _check_free(connection: Connection) -> None:
    """Lock the database for us alone.

    Raises:
        RestoreRefusedError: it is not empty, or somebody serves it.

    """
    try:
        await connection.execute(
            "lock table dalsegno.node, dalsegno.workspace_head in exclusive mode"
        )
    except DatabaseError as error:
        raise RestoreRefusedError(f"the database is in use: {error}") from error
    served = await connection.fetch(queries()["restore_served"])
    if served:
        raise RestoreRefusedError(
            f"a server, node {served[0][0]}, runs on this database: stop it first"
        )
    occupied = [what for (what,) in await connection.fetch(queries()["restore_occupied"])]
    if occupied:
        said = ", ".join(occupied)
        raise RestoreRefusedError(f"the database is not empty: it has {said}")
