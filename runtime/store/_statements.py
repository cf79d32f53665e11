"""Statements on a pool's connections, with the driver's errors translated into the port's.

What a failed statement means depends on its purpose.  A lost connection leaves the outcome of an
append unknown, and a read or a repeatable write simply undone.  A refused statement wrote nothing;
the question is whether its data are at fault, which will fail again, or the server, which may not.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from dalsegno.protocol import (
    CorruptLogError,
    DalsegnoError,
    InternalError,
    StoreUnavailableError,
)

from ._driver import CommitUncertainError, ConnectionBrokenError, DatabaseError, DriverError
from ._sql import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._driver import Connection, Pool
    from ._rows import Row

_log = structlog.get_logger("dalsegno.store")

# Cardinality violation, data exception, integrity constraint violation, program limit exceeded
# (PostgreSQL manual, appendix A).
_DATA_CLASSES = ("21", "22", "23", "54")

# data_corrupted, index_corrupted
_CORRUPTED = ("XX001", "XX002")


@asynccontextmanager
async def lent(
    pool: Pool,
    *,
    lost: type[DalsegnoError] = StoreUnavailableError,
    refused: type[DalsegnoError] = InternalError,
) -> AsyncIterator[Connection]:
    """Lend a connection of ``pool`` for the length of a block.

    Raises:
        StoreUnavailableError: nothing was sent, or the server undid it.
        DalsegnoError: ``lost`` if the statement's outcome is unknown, ``refused`` if the server
            refused its data.
        CorruptLogError: the server found its own files damaged.
    """
    try:
        async with pool.connection() as connection:
            try:
                yield connection
            except DriverError as error:
                raise await failure_of(error, connection, lost=lost, refused=refused) from error
    except DriverError as error:
        # The pool could not open a session; no statement of ours was sent.
        raise StoreUnavailableError(_unavailable(error)) from error


async def failure_of(
    error: DriverError,
    connection: Connection,
    *,
    lost: type[DalsegnoError],
    refused: type[DalsegnoError],
) -> DalsegnoError:
    """Return what a statement's error means to whoever asked for it; see `lent`.

    A connection that may be at fault is closed.
    """
    if isinstance(error, ConnectionBrokenError):
        kind = lost if error.sent else StoreUnavailableError
        return kind(_unavailable(error))
    if isinstance(error, CommitUncertainError):
        _log.warning("commit_uncertain", reason=error.message)
        return lost("the database cannot say whether its standbys have this")
    assert isinstance(error, DatabaseError), "there are no others"
    if not error.sqlstate.startswith(_DATA_CLASSES):
        # Perhaps it is the session: with a server that a failover has left behind, it
        # refuses every write.  The next statement gets a new one.
        await connection.aclose()
    return _refusal(error, refused)


def _unavailable(error: DriverError) -> str:
    """Log the driver's words, which contain the server's address, and return others."""
    _log.warning("database_unavailable", reason=error.message)
    return "the database is unavailable"


def _refusal(error: DatabaseError, refused: type[DalsegnoError]) -> DalsegnoError:
    _log.warning("database_refused", sqlstate=error.sqlstate, reason=error.message)
    message = f"the database refused a statement ({error.sqlstate})"
    if error.sqlstate.startswith(_DATA_CLASSES):
        return refused(message)
    if error.sqlstate in _CORRUPTED:
        return CorruptLogError(message)
    return StoreUnavailableError(message)


async def fetch(
    pool: Pool,
    name: str,
    *params: str | int | None,
    lost: type[DalsegnoError] = StoreUnavailableError,
) -> list[Row]:
    """Run the statement of that name on a connection of ``pool``; errors are as in `lent`.

    The server ends it after its ``statement_timeout``; a server that does not is frozen or
    unreachable, and the connection is abandoned.
    """
    try:
        with trio.fail_after(pool.answer_deadline_s):
            async with lent(pool, lost=lost) as connection:
                return await connection.fetch(queries()[name], params)
    except trio.TooSlowError as error:
        raise lost("the database does not answer") from error
