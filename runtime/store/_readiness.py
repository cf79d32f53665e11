"""Before a database is used: it is waited for, judged, and brought up to date.

A server often starts together with its database, and then a second too early.  So a database that
does not answer, or says that it is starting, is tried again; one that refuses us for good is not.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Backoff, StoreUnavailableError

from ._driver import ConnectionBrokenError, DatabaseError, SessionRefusedError
from ._migrations import migrate
from ._psycopg import connect
from ._suitability import DatabaseRefusedError, check_sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ._driver import Connect, Connection

_FIRST_S = 0.1
"""The delay before the second attempt; it doubles …"""
_MAX_S = 2.0
"""… up to this: nobody wants to wait longer once the database is there."""

_log = logging.getLogger("dalsegno.store")


async def bring_up_to_date(dsn: str, *, wait_s: float, connect: Connect = connect) -> list[str]:
    """Wait for a database, apply what it lacks, and return the names of the migrations applied.

    Args:
        dsn: its address.
        wait_s: for how long it is tried again while it may come by itself.
        connect: what opens a session; see `open_driver`.

    Raises:
        StoreUnavailableError: it did not come within ``wait_s``, or it refuses us.
        DatabaseRefusedError: a log cannot be kept in it, or not by this release.

    """
    open_session = partial(connect, dsn)
    try:
        async with (
            _session(await _wait_for(open_session, wait_s)) as one,
            _session(await open_session()) as other,
        ):
            await check_sessions(one, other)
            return await migrate(one)
    except SessionRefusedError as error:
        raise StoreUnavailableError(f"the database refuses us: {error.message}") from error
    except ConnectionBrokenError as error:
        raise StoreUnavailableError(f"the database cannot be reached: {error.message}") from error
    except DatabaseError as error:
        raise DatabaseRefusedError(f"the database cannot be prepared: {error}") from error


@asynccontextmanager
async def _session(connection: Connection) -> AsyncIterator[Connection]:
    try:
        yield connection
    finally:
        await connection.aclose()


async def _wait_for(open_session: Callable[[], Awaitable[Connection]], wait_s: float) -> Connection:
    """Open a session, again and again for ``wait_s`` where that may help."""
    backoff = Backoff(_FIRST_S, _MAX_S)
    deadline = trio.current_time() + wait_s
    while True:
        try:
            return await open_session()
        except SessionRefusedError:
            raise
        except ConnectionBrokenError as error:
            left_s = deadline - trio.current_time()
            if left_s <= 0:
                raise ConnectionBrokenError(
                    f"{error.message} (waited {wait_s:g} s)", sent=False
                ) from error
            if backoff.failures == 0:
                said = " ".join(error.message.split())
                _log.warning("waiting for the database, at most %g s: %s", wait_s, said)
            await trio.sleep(min(backoff.next_s(1.0), left_s))
