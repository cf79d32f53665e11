"""One server a database: an advisory lock, held for as long as the server runs.

It decides who serves, and so spares two servers from fencing each other in turns; it never
decides what may be written, which is the epoch's part (I3).

The lock lives and dies with its connection.  A task watches that connection; when it is lost, the
lock is taken again on a new one.  While the database is away nobody else can take it either, so
that is no reason to stop.  Once the database answers again somebody else may have been faster, or
the server may not have noticed yet that our old connection is gone; after a while the lock
counts as another's.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import DalsegnoError, StoreUnavailableError
from dalsegno.runtime._beside import beside

from ._driver import ConnectionBrokenError, DatabaseError, DriverError
from ._psycopg import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._driver import Connection

_LOCK_KEY = int.from_bytes(b"dalsegno")
_RETRY_S = 0.1


class DatabaseInUseError(DalsegnoError):
    """Another server serves this database."""

    code = "STORE_UNAVAILABLE"


@asynccontextmanager
async def hold_exclusively(
    dsn: str, *, patience_s: float = 2.0, check_interval_s: float = 2.0
) -> AsyncIterator[None]:
    """Be the only server of a database for the length of a block.

    ``patience_s`` bounds how long a lock that is held counts as a predecessor's, who is just
    about to end.

    Raises:
        DatabaseInUseError: another server has it; inside an `ExceptionGroup` and with the block
            cancelled where it took over while the database was away.
        StoreUnavailableError: the database could not be reached at the start.
    """
    try:
        connection = await connect(dsn)
    except DriverError as error:
        raise StoreUnavailableError(f"the database is away: {error.message}") from error
    holder = _Holder(dsn, connection, patience_s)
    try:
        try:
            await holder.take()
        except DriverError as error:
            raise StoreUnavailableError(f"the database is away: {error.message}") from error
        async with beside(partial(holder.keep, check_interval_s)):
            yield
    finally:
        await holder.aclose()


class _Holder:
    """The lock and its connection."""

    def __init__(self, dsn: str, connection: Connection, patience_s: float) -> None:
        self._dsn = dsn
        self._connection = connection
        self._patience_s = patience_s

    async def aclose(self) -> None:
        """Let go."""
        await self._connection.aclose()

    async def take(self) -> None:
        """Take the lock; `DatabaseInUseError` if somebody else keeps it."""
        deadline = trio.current_time() + self._patience_s
        while True:
            ((taken,),) = await self._connection.fetch(
                "select pg_try_advisory_lock($1::bigint)", (_LOCK_KEY,)
            )
            if taken:
                return
            if trio.current_time() >= deadline:
                raise DatabaseInUseError(
                    "another dalsegno server is running on this database; stop it first, or "
                    "give this one a database of its own"
                )
            await trio.sleep(_RETRY_S)

    async def keep(self, check_interval_s: float) -> None:
        """Look after the lock, until cancelled or lost to somebody else."""
        while True:
            await trio.sleep(check_interval_s)
            try:
                with trio.fail_after(check_interval_s):
                    await self._connection.fetch("select 1")
            except (DatabaseError, ConnectionBrokenError, trio.TooSlowError):
                await self._connection.aclose()
                await self._take_again()

    async def _take_again(self) -> None:
        try:
            self._connection = await connect(self._dsn)
            await self.take()
        except DriverError:
            # Still away: the next look finds this connection broken, and comes here again.
            await self._connection.aclose()
