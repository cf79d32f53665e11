"""A connection whose driver's core is stepped from Trio: what the drivers have in common.

psycopg and asyncpg separate the protocol from the waiting: a statement is a generator or a
coroutine, each step of which says what it waits for.  Whoever steps it decides how to wait.  So a
statement needs neither a thread nor a task, and its first step sends it in the very step in which
it is asked for.

A cancelled wait leaves an answer on the wire that will not be read.  Asking the server to cancel
the statement (PQcancel; what asyncpg does when its future is cancelled) would turn an append that
is about to succeed into one that fails, through another connection, at an unknown time; so the
statement runs to its end at the server.  A connection may be given ``finish_s`` to receive that
end, and is then as good as before: a new one costs a new process at the server, and any client can
hang up in the middle of a read.  Otherwise it is closed.
"""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

import trio

from ._driver import CommitUncertainError, ConnectionBrokenError, DatabaseError, DriverError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence

WantedT = TypeVar("WantedT")
"""What a step waits for."""
ResultT = TypeVar("ResultT")
"""How the core returns what a statement led to."""
T = TypeVar("T")

_ROLLBACK_DEADLINE_S = 5.0

_FAILED_TRANSACTION = "25P02"

# Without POLLRDHUP (macOS), POLLHUP means the same.
_HANG_UP = getattr(select, "POLLRDHUP", 0)


class Started(Generic[WantedT, ResultT]):
    """A statement that was sent, or could not be; see `SteppedConnection.start`."""

    __slots__ = ("_connection", "error", "steps", "wanted")

    def __init__(
        self,
        connection: SteppedConnection[WantedT, ResultT],
        *,
        steps: Generator[WantedT, Any, ResultT] | None = None,
        wanted: WantedT | None = None,
        error: Exception | None = None,
    ) -> None:
        self._connection = connection
        self.steps = steps
        self.wanted = wanted
        """What its first step waits for."""
        self.error = error
        """Why it could not be sent."""

    async def rows(self) -> list[tuple[Any, ...]]:
        """Wait for its end; see `dalsegno.runtime.store.Started`."""
        return await self._connection.finish(self)


class SteppedConnection(ABC, Generic[WantedT, ResultT]):
    """A `Connection` on the core of a driver."""

    _errors: ClassVar[tuple[type[Exception], ...]]
    """What the core raises; `_translate` says what it means."""

    _wait: Callable[[WantedT], Awaitable[object]]
    """Waits for what a step wants, and returns what the next step is told."""

    def __init__(self, fileno: int, finish_s: float) -> None:
        self._hang_up = select.poll()
        self._hang_up.register(fileno, _HANG_UP)
        self._running = False
        self._finish_s = finish_s
        self._uncertain: str | None = None
        """What the server said about a commit that no standby may have."""

    def __repr__(self) -> str:
        state = "broken" if self.broken else "running" if self._running else "idle"
        return f"<{type(self).__name__} [{state}]>"

    @property
    def broken(self) -> bool:
        """Whether this connection can no longer be used, as far as is known without waiting.

        A server that ended while the connection was idle has hung up.  Checking before each
        statement makes the usual case, a restarted database, a certain "not sent".
        """
        return self._is_closed() or bool(self._hang_up.poll(0))

    # ---------------------------------------------------------------------------- the core

    @abstractmethod
    def _is_closed(self) -> bool:
        """Return whether the core has closed its socket, or knows that it is dead."""

    @abstractmethod
    def abandon(self) -> None:
        """Close the socket now, whatever the connection is doing."""

    @abstractmethod
    def _steps(self, sql: str, params: Sequence[object]) -> Generator[WantedT, Any, ResultT]:
        """Run one statement, whose rows are wanted."""

    def _commands(self, sql: str, params: Sequence[object]) -> Generator[WantedT, Any, ResultT]:
        """Run one statement, or without parameters several, whose rows are not wanted."""
        return self._steps(sql, params)

    @abstractmethod
    def _rows(self, result: ResultT) -> list[tuple[Any, ...]]:
        """Return the rows of a result."""

    @abstractmethod
    def _tag(self, result: ResultT) -> str:
        """Return what the server called the command that it has completed."""

    @abstractmethod
    def _translate(self, error: Exception) -> DriverError:
        """Return what an error of the core means; close the connection if it is lost."""

    @abstractmethod
    async def listen(
        self,
        channel: str,
        heard: Callable[[str], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Call ``heard(payload)`` for every notification; see `Connection.listen`."""

    # ------------------------------------------------------------------------- the contract

    async def configure(self, settings: Mapping[str, str]) -> None:
        """Set parameters of the session in one round trip, without a prepared statement.

        Behind a pooler that shares sessions, another client may have prepared one of that name.
        """
        calls = ", ".join(
            f"set_config({_literal(name)}, {_literal(value)}, false)"
            for name, value in settings.items()
        )
        await self.execute(f"select {calls}")

    async def fetch(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return all its rows; see `Connection.fetch`."""
        return await self.finish(self.start(sql, params))

    def start(self, sql: str, params: Sequence[object]) -> Started[WantedT, ResultT]:
        """Send one statement in this very step; see `Connection.start`.

        An error is kept, and raised where its end is waited for.
        """
        return self._begin(self._steps(sql, params))

    async def finish(self, started: Started[WantedT, ResultT]) -> list[tuple[Any, ...]]:
        """Wait for the end of what `start` sent."""
        with self._translated():
            return self._rows(await self._ended(started))

    async def execute(self, sql: str, params: Sequence[object] = ()) -> None:
        """Run one statement, or without parameters several; see `Connection.execute`."""
        await self._run(self._commands(sql, params))

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """Run a block in one transaction; see `Connection.transaction`."""
        await self.execute("BEGIN")
        try:
            yield
        except BaseException:
            await self._roll_back()
            raise
        ended = await self._run(self._commands("COMMIT", ()))
        if self._tag(ended) != "COMMIT":  # where a statement has failed, it rolls back
            raise DatabaseError(_FAILED_TRANSACTION, "a statement of this transaction failed")

    async def aclose(self) -> None:
        """Close without waiting for the server; closing again does nothing."""
        self.abandon()
        # Shielded, so that a cancelled task can close all of several connections.
        await trio.lowlevel.cancel_shielded_checkpoint()

    # ---------------------------------------------------------------------------- stepping

    def _check(self) -> None:
        """Raise where nothing can be sent, as certainly as that is known."""
        if self.broken:
            self.abandon()
            raise ConnectionBrokenError("the connection to the database was lost", sent=False)

    def _begin(self, steps: Generator[WantedT, Any, ResultT]) -> Started[WantedT, ResultT]:
        self._uncertain = None
        try:
            return Started(self, steps=steps, wanted=next(steps))
        except DriverError as error:
            return Started(self, error=error)
        except self._errors as error:
            return Started(self, error=error)

    async def _run(self, steps: Generator[WantedT, Any, ResultT]) -> ResultT:
        with self._translated():
            return await self._ended(self._begin(steps))

    async def _ended(self, started: Started[WantedT, ResultT]) -> ResultT:
        if started.error is not None:
            raise started.error
        assert started.steps is not None, "one of both"
        result = await self._drive(started.steps, finish_s=self._finish_s, wanted=started.wanted)
        if self._uncertain is not None:
            raise CommitUncertainError(self._uncertain)
        return result

    async def _drive(
        self,
        steps: Generator[WantedT, Any, T],
        *,
        finish_s: float = 0.0,
        wanted: WantedT | None = None,
    ) -> T:
        """Step to the end, from the first step on, or from what a step has ``wanted``."""
        assert not self._running, "one task at a time"
        self._running = True
        try:
            if wanted is None:
                wanted = next(steps)
            while True:
                try:
                    told = await self._wait(wanted)
                except trio.Cancelled:
                    await self._finish(steps, wanted, finish_s)
                    raise
                except BaseException:
                    self.abandon()
                    raise
                wanted = steps.send(told)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            self._running = False

    async def _finish(
        self, steps: Generator[WantedT, Any, T], wanted: WantedT, finish_s: float
    ) -> None:
        """Receive the end of a cancelled statement; close the connection if it takes longer."""
        ended = False
        with trio.move_on_after(finish_s, shield=True):
            try:
                while True:
                    wanted = steps.send(await self._wait(wanted))
            except StopIteration:
                ended = True
            except self._errors as error:
                self._translate(error)
                ended = True
        if not ended:
            self.abandon()

    async def _roll_back(self) -> None:
        # The exception that is propagating is worth more than one from here; a connection that
        # cannot roll back is abandoned, and the transaction ends with it.
        with trio.move_on_after(_ROLLBACK_DEADLINE_S, shield=True):
            try:
                await self.execute("ROLLBACK")
            except DriverError:
                self.abandon()

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except self._errors as error:
            raise self._translate(error) from error


def _literal(text: str) -> str:
    """Return a text as SQL that means the same whatever ``standard_conforming_strings`` is."""
    quoted = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{quoted}'"
