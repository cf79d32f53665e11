"""The seam to a database driver: one connection, a bounded pool of them, and their errors.

    DriverError
    ├── DatabaseError             the server refused the statement; the connection is fine
    ├── CommitUncertainError      the server committed, but does not know whether standbys have it
    └── ConnectionBrokenError     the connection was lost, or never established
        └── SessionRefusedError   … and will not be, until somebody changes something

A store that promises never to guess (I4) must know what became of a statement whose connection
broke: with ``sent=False`` it certainly did not run, with ``sent=True`` its outcome is unknown.  An
uncertain commit counts as unknown too: it is there now, and may be gone after a failover.

SQL is PostgreSQL's own, with ``$1`` placeholders.  Parameters are sent as text without a type, so
the statement casts them (``$1::text::bigint[]``).  Results: ``bigint`` as `int`,
``text`` and ``json`` as `str` (JSON is never decoded here), ``bytea`` as `bytes`, ``timestamptz``
as `datetime.datetime` in `datetime.UTC`, an array as `list`.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import trio

from dalsegno.protocol import DalsegnoError, StoreUnavailableError
from dalsegno.runtime._background import in_background

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager


CONNECT_TIMEOUT_S = 10.0
"""How long a connection may take to be opened."""


class DriverError(DalsegnoError):
    """The base of what a driver raises; a store translates it into its port's errors."""


class DatabaseError(DriverError):
    """The server refused a statement and undid it; the connection can still be used."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message, sqlstate=sqlstate)
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        return f"{self.sqlstate}: {self.message}"


class CommitUncertainError(DriverError):
    """A statement was committed here, but its wait for the standbys was cancelled."""

    code = "OUTCOME_UNKNOWN"


class ConnectionBrokenError(DriverError):
    """The connection was lost or could not be established; see ``sent``."""

    code = "STORE_UNAVAILABLE"
    retryable = True

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message, sent=sent)
        self.sent = sent
        """Whether the statement may have reached the server, so that its outcome is unknown."""


class SessionRefusedError(ConnectionBrokenError):
    """No session can be opened with this address, however long one waits; says what to do."""

    retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class Started(Protocol):
    """A statement that was sent."""

    async def rows(self) -> list[tuple[Any, ...]]:
        """Wait for its end and return all its rows; cancellation and errors are as in `fetch`."""


class Connection(Protocol):
    """One session with the server, in autocommit, used by one task at a time."""

    @property
    def broken(self) -> bool:
        """Whether this connection can no longer be used, as far as is known without waiting."""

    async def fetch(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return all its rows.

        Cancelled, the statement runs on at the server and may have taken effect.  If it ends within
        ``finish_s``, during which this waits, the connection is as before; else it is abandoned.
        """

    def start(self, sql: str, params: Sequence[object]) -> Started:
        """Send one statement in this very step; `Started.rows` has to follow.

        It raises nothing: errors come from there.
        """

    async def execute(self, sql: str, params: Sequence[object] = ()) -> None:
        """Run one statement, or without parameters several, as one implicit transaction.

        Cancellation is as in `fetch`.
        """

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Run a block in one transaction; an exception that leaves the block rolls it back."""

    async def listen(
        self,
        channel: str,
        heard: Callable[[str], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Call ``heard(payload)`` for every notification on ``channel``, until cancelled.

        It ends otherwise only with `ConnectionBrokenError`, as soon as the connection is lost.
        Afterwards the connection cannot be used for anything else.
        """

    async def aclose(self) -> None:
        """Close without waiting for the server; closing again does nothing."""


class Connect(Protocol):
    """What a driver opens a session with."""

    async def __call__(
        self,
        dsn: str,
        *,
        settings: Mapping[str, str] | None = None,
        finish_s: float = 0.0,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> Connection:
        """Open a session, with ``settings`` as by ``SET``, and ``finish_s`` as in `fetch`.

        Raises:
            ConnectionBrokenError: the server could not be reached, or is not ready.
            SessionRefusedError: … or refuses us for good.
            DatabaseError: the server does not know a setting, or refuses its value.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """How busy a pool is."""

    size: int
    """The most connections that it opens."""
    open: int
    """Connections that are open, idle ones included."""
    idle: int
    """Connections that are open and not in use."""
    waiting: int
    """Tasks that wait for a connection."""


class Pool:
    """At most ``size`` connections, opened when needed, each lent to one task at a time.

    The one that was used last is lent first, so that a quiet pool uses few of them.  One that is
    being opened for a task that is cancelled has ``finish_s`` to be there for the next.
    """

    def __init__(
        self,
        open_connection: Callable[[], Awaitable[Connection]],
        size: int,
        *,
        wait_deadline_s: float = 5.0,
        answer_deadline_s: float = math.inf,
        finish_s: float = 0.0,
    ) -> None:
        assert size > 0
        self.answer_deadline_s = answer_deadline_s
        """How long a borrower may wait for an answer; enforced by the borrower."""
        self._finish_s = finish_s
        self._open_connection = open_connection
        self._wait_deadline_s = wait_deadline_s
        self._size = size
        self._free = trio.Semaphore(size, max_value=size)
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._closed = False

    def __repr__(self) -> str:
        now = self.statistics()
        state = "closed, " if self._closed else ""
        return (
            f"<Pool [{state}{now.open} of {now.size} open, {now.idle} idle, {now.waiting} waiting]>"
        )

    def statistics(self) -> PoolStatistics:
        """Count connections and waiting tasks."""
        return PoolStatistics(
            size=self._size,
            open=self._open,
            idle=len(self._idle),
            waiting=self._free.statistics().tasks_waiting,
        )

    def lend_nowait(self) -> Connection | None:
        """Lend a connection that is open and idle; None where there is none.

        `give_back` has to follow, or `return_unused`.
        """
        if self._closed or not self._idle:
            return None
        try:
            self._free.acquire_nowait()
        except trio.WouldBlock:
            return None
        connection = self._idle.pop()
        if connection.broken:
            self._idle.append(connection)
            self._free.release()
            return None
        return connection

    def return_unused(self, connection: Connection) -> None:
        """Take back what `lend_nowait` lent, and nothing was done with."""
        self._idle.append(connection)
        self._free.release()

    async def give_back(self, connection: Connection) -> None:
        """Take back what `lend_nowait` lent."""
        try:
            await self._give_back(connection)
        finally:
            self._free.release()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Lend a connection for the length of a block.

        Raises:
            StoreUnavailableError: none became free in time, or the pool is closed.
            ConnectionBrokenError: a new one could not be opened; nothing was sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._free.acquire_nowait()  # without a checkpoint: the statement is sent at once
        except trio.WouldBlock:
            await self._wait_free()
        try:
            connection = await self._take()
            try:
                yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._free.release()

    async def _wait_free(self) -> None:
        with trio.move_on_after(self._wait_deadline_s) as waiting:
            await self._free.acquire()
        if waiting.cancelled_caught:
            raise StoreUnavailableError(
                f"no database connection became free within {self._wait_deadline_s:g} s"
            )

    async def aclose(self) -> None:
        """Close idle connections now, others when they are returned; lend no more."""
        self._closed = True
        while self._idle:
            await self._discard(self._idle.pop())

    async def _take(self) -> Connection:
        while self._idle and not self._closed:
            connection = self._idle.pop()
            if not connection.broken:
                return connection
            await self._discard(connection)
        if self._closed:
            raise StoreUnavailableError("the connection pool is closed")
        connection = await self._opened()
        self._open += 1
        return connection

    async def _opened(self) -> Connection:
        connection: Connection | None = None
        # It has a deadline of its own, and another one from when the task is cancelled.
        opening = trio.CancelScope(shield=True)
        try:
            async with in_background(partial(_limit_when_cancelled, opening, self._finish_s)):
                with opening:
                    connection = await self._open_connection()
        except BaseException:
            if connection is not None:
                self._open += 1
                await self._give_back(connection)
            raise
        assert connection is not None, "else this task is cancelled"
        return connection

    async def _give_back(self, connection: Connection) -> None:
        if self._closed or connection.broken:
            await self._discard(connection)
        else:
            self._idle.append(connection)

    async def _discard(self, connection: Connection) -> None:
        self._open -= 1
        await connection.aclose()


async def _limit_when_cancelled(scope: trio.CancelScope, seconds: float) -> None:
    """Wait to be cancelled, and let a shielded scope go on for so long."""
    try:
        await trio.sleep_forever()
    finally:
        scope.deadline = trio.current_time() + seconds
