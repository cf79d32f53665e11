"""The store's connections, by what they are for, so that unrelated work never queues behind it.

Every session uses generic plans without sequential scans.  There is one sensible plan for each
statement, and with these settings the planner chooses it also in a database that was never
analysed.  A custom plan for each append would cost three times the append.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from ._driver import Connection, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol import Limits

    from ._driver import Connect

_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
    "default_transaction_isolation": "read committed",
}
_APPENDING = _PLANS | {"statement_timeout": "0", "lock_timeout": "0"}
_OTHERWISE = _PLANS | {"statement_timeout": "15s", "lock_timeout": "5s"}

_READERS = 4
_READ_BYTES = 64 * 1024
"""What a page of a log takes, more or less."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Pools of connections, which each opens as they are needed."""

    appending: Pool
    """For appends only."""
    reading: Pool
    """For reads, and for changes of a workspace's owner."""
    writing: Pool
    """For ack cursors and accounts."""
    maintenance: Pool
    """For what nothing waits for: sweeps, and states of entities that are passivated."""
    heartbeat: Pool
    """For a node's lease only, which other statements must not delay."""

    @classmethod
    def of(cls, dsn: str, limits: Limits, connect: Connect) -> Self:
        """Make the pools of a database, whose sessions a driver's ``connect`` opens."""
        answer_s, finish_s = limits.answer_deadline_s, limits.finish_deadline_s
        open_session = partial(_open, connect, dsn)
        otherwise = partial(open_session, _OTHERWISE)
        # A client may hang up in the middle of any of these; it must not cost a connection.
        finishing = partial(otherwise, finish_s=finish_s)
        return cls(
            # One for short batches, and one for long ones; see the committer.
            appending=Pool(partial(open_session, _APPENDING), 2),
            reading=Pool(
                partial(finishing, read_bytes=_READ_BYTES),
                _READERS,
                answer_deadline_s=answer_s,
                finish_s=finish_s,
            ),
            writing=Pool(finishing, 1, answer_deadline_s=answer_s, finish_s=finish_s),
            maintenance=Pool(otherwise, 1, answer_deadline_s=answer_s),
            # While the lease lasts, a late heartbeat is better repeated than waited for.
            heartbeat=Pool(
                partial(open_session, _PLANS | _timeouts(limits.lease_s / 4)),
                1,
                answer_deadline_s=limits.lease_s / 3,
            ),
        )

    async def aclose(self) -> None:
        """Close every connection, also those whose statements are running."""
        for pool in (self.appending, self.reading, self.writing, self.maintenance, self.heartbeat):
            await pool.aclose()


def _timeouts(seconds: float) -> dict[str, str]:
    milliseconds = f"{max(seconds * 1000, 1.0):.0f}ms"
    return {"statement_timeout": milliseconds, "lock_timeout": milliseconds}


async def _open(
    connect: Connect,
    dsn: str,
    settings: Mapping[str, str],
    *,
    finish_s: float = 0.0,
    read_bytes: int = 0,
) -> Connection:
    connection = await connect(dsn, settings=settings, finish_s=finish_s)
    # A host's server may be configured to answer before a commit is on disk.  Ours must be on disk:
    # what was acknowledged must not be lost, and no epoch may be handed out twice.
    try:
        await connection.execute(
            "select set_config('synchronous_commit', 'on', false)"
            " where current_setting('synchronous_commit') = 'off'"
        )
        if read_bytes:
            # libpq receives 16 KB at a time, with a wait for each, until a row was longer: its
            # buffer is doubled for that, and stays (fe-misc.c, pqCheckInBufferSpace).
            await connection.execute(f"select repeat(' ', {read_bytes})")
    except BaseException:
        await connection.aclose()
        raise
    return connection
