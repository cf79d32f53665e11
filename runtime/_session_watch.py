"""Closes sockets whose session was ended by another server, or in the database.

A server closes the sockets of a session that it ends itself before it answers.  It cannot reach
those on the other servers of its database, so each asks after the sessions of its own sockets,
every few seconds, some hundred in one statement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from dalsegno.protocol import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._runtime import Runtime

_AT_A_TIME = 500

_log = structlog.get_logger("dalsegno.serve")


async def watch_sessions(rt: Runtime, close_session: Callable[[bytes], Awaitable[None]]) -> None:
    """Watch until cancelled; a database that is away says nothing about sessions."""
    while True:
        await trio.sleep(rt.limits.session_check_s)
        # One that began with another issuer's token has none: it lasts until that expires.
        hashes = sorted({each.session_id for each in rt.service.connections} - {b""})
        try:
            for first in range(0, len(hashes), _AT_A_TIME):
                for ended in await rt.accounts.find_ended(hashes[first : first + _AT_A_TIME]):
                    await close_session(ended)
        except UnavailableError as error:
            _log.info("sessions_not_checked", error=str(error))
