"""psycopg 3 on Trio: its generator core, driven by Trio's waits.

psycopg separates the protocol from the waiting: its internals are generators that step libpq and
yield what they wait for, "readable" or "writable".  The code that drives such a generator decides
how to wait.  So this wraps neither asyncio nor threads; a statement is one generator and, most of
the time, one `trio.lowlevel.wait_readable`.

Statements bypass psycopg's cursors: parameters are text already, and adapting those of any type
costs as much again as the statement itself.  One private method of psycopg is needed,
``_connect_gen``; pyproject.toml pins psycopg below the next minor version because of it.

A cancelled wait leaves an answer on the wire that will not be read.  Asking the server to cancel
the statement (PQcancel) would turn an append that is about to succeed into one that fails, through
another connection, at an unknown time; so the statement runs to its end at the server.  A
connection may be given ``finish_s`` to receive that end, and is then as good as before: a new one
costs a new process at the server, and any client can hang up in the middle of a read.  Otherwise it
is closed.
"""

from __future__ import annotations

import select
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import psycopg
import trio
from psycopg import generators
from psycopg.adapt import Loader, PyFormat, Transformer
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.types.string import TextLoader

from ._address import addresses_of
from ._driver import (
    CommitUncertainError,
    ConnectionBrokenError,
    DatabaseError,
    DriverError,
)
from ._session import open_first, until_ready

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence

    from psycopg.abc import Buffer, PQGen
    from psycopg.pq.abc import PGresult
    from psycopg.waiting import Wait

T = TypeVar("T")

# The loaders below, those of psycopg, and our statements rely on these.  A host may have set them
# otherwise for its server, a database or a role.
_SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "bytea_output": "hex",
    "client_encoding": "UTF8",  # parameters are sent as UTF-8, whatever the DSN says
    "array_nulls": "on",  # else NULL in an array is a text of four letters
    "standard_conforming_strings": "on",
    "client_min_messages": "notice",  # a warning tells that a commit is uncertain
}

_ROLLBACK_DEADLINE_S = 5.0

_PREPARED_MAX = 100
"""The most statements that a session prepares; there are half as many."""

# PostgreSQL manual, appendix A: connection exceptions, and operator interventions that end the
# session (but not 57014, a statement cancelled by a timeout).
_LOST = ("08", "57P0")
_DATA_EXCEPTION = "22000"
_INTERNAL_ERROR = "XX000"

# src/backend/replication/syncrep.c: the function in which a commit waits for standbys, and warns
# when the wait was cancelled.  The warning's SQLSTATE, 01000, is that of any warning and its text
# is translated; the name of the function identifies it.
_STANDBY_WAIT = "SyncRepWaitForLSN"

# Without POLLRDHUP (macOS), POLLHUP means the same.
_HANG_UP = getattr(select, "POLLRDHUP", 0)


class _UtcLoader(Loader):
    """Reads ``timestamptz`` into `datetime.UTC`: the session's zone makes the offset zero."""

    def load(self, data: Buffer) -> datetime:
        text = bytes(data).decode()
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise psycopg.DataError(f"no datetime can hold {text!r}") from None


async def connect(
    dsn: str,
    *,
    settings: Mapping[str, str] | None = None,
    finish_s: float = 0.0,
    connect_timeout_s: float = 10.0,
) -> PsycopgConnection:
    """Open a session, with ``settings`` as by ``SET``.

    A cancelled statement has ``finish_s`` to end; if it has not by then, the connection is closed.

    Every address of the DSN's hosts is tried in turn, each with an equal share of the time that
    is left.  Cancellation leaves nothing behind.

    Raises:
        ConnectionBrokenError: none could be reached, or none is ready.
        SessionRefusedError: … or each refuses us for good.
        DatabaseError: the server does not know a setting, or refuses its value.
    """
    try:
        with trio.fail_after(connect_timeout_s) as limit:
            session = await open_first(await addresses_of(dsn), limit.deadline)
            connection = PsycopgConnection(session, finish_s)
            try:
                await connection.configure(_SESSION | dict(settings or {}))
            except BaseException:
                connection.abandon()
                raise
            return connection
    except trio.TooSlowError:
        raise ConnectionBrokenError(
            f"no connection to the database within {connect_timeout_s:g} s", sent=False
        ) from None


class Started:
    """A statement that was sent, or could not be; see `PsycopgConnection.start`."""

    __slots__ = ("_connection", "error", "steps", "wanted")

    def __init__(
        self,
        connection: PsycopgConnection,
        steps: PQGen[PGresult],
        *,
        wanted: Wait | None = None,
        error: Exception | None = None,
    ) -> None:
        self._connection = connection
        self.steps = steps
        self.wanted = wanted
        """Whether libpq has to read or to write next."""
        self.error = error
        """Why it could not be sent."""

    async def rows(self) -> list[tuple[Any, ...]]:
        """Wait for its end; see `dalsegno.runtime.store.Started`."""
        return await self._connection.finish(self)


class PsycopgConnection:
    """A `Connection` on psycopg; opened by `connect`."""

    def __init__(self, session: psycopg.Connection[tuple[Any, ...]], finish_s: float) -> None:
        session.autocommit = True
        session.adapters.register_loader("json", TextLoader)
        session.adapters.register_loader("jsonb", TextLoader)
        session.adapters.register_loader("timestamptz", _UtcLoader)
        self._session = session
        self._values = Transformer(session)
        self._prepared: dict[str, bytes] = {}
        """The names of statements that this session has prepared."""
        self._socket = session.fileno()
        self._hang_up = select.poll()
        self._hang_up.register(self._socket, _HANG_UP)
        self._running = False
        self._finish_s = finish_s
        self._uncertain: str | None = None
        session.add_notice_handler(self._note)

    def __repr__(self) -> str:
        state = "broken" if self.broken else "running" if self._running else "idle"
        return f"<PsycopgConnection [{state}]>"

    @property
    def broken(self) -> bool:
        """Whether this connection can no longer be used, as far as is known without waiting.

        A server that ended while the connection was idle has hung up.  Checking before each
        statement makes the usual case, a restarted database, a certain "not sent".
        """
        return self._session.closed or bool(self._hang_up.poll(0))

    async def configure(self, settings: Mapping[str, str]) -> None:
        """Set parameters of the session in one round trip.

        They are no array: its elements are read by ``array_nulls``, which may be among them.
        """
        places = ", ".join(
            f"set_config(${i}::text, ${i + 1}::text, false)" for i in range(1, 2 * len(settings), 2)
        )
        parameters = [text.encode() for setting in settings.items() for text in setting]
        with self._translated():
            await self._drive(self._once(f"select {places}", parameters))

    async def fetch(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return all its rows; see `Connection.fetch`."""
        with self._translated():
            return self._rows(await self._run(sql, params))

    def start(self, sql: str, params: Sequence[object]) -> Started:
        """Send one statement in this very step; see `Connection.start`.

        An error is kept, and raised where its end is waited for.
        """
        steps = self._steps(sql, params)
        self._uncertain = None
        try:
            return Started(self, steps, wanted=next(steps))
        except (psycopg.Error, DriverError, UnicodeEncodeError) as error:
            return Started(self, steps, error=error)

    async def finish(self, started: Started) -> list[tuple[Any, ...]]:
        """Wait for the end of what `start` sent."""
        with self._translated():
            return self._rows(await self._ended(started))

    async def execute(self, sql: str, params: Sequence[object] = ()) -> None:
        """Run one statement, or without parameters several; see `Connection.execute`."""
        with self._translated():
            await self._run(sql, params)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """Run a block in one transaction; see `Connection.transaction`."""
        await self.execute("BEGIN")
        try:
            yield
        except BaseException:
            await self._roll_back()
            raise
        if self._session.pgconn.transaction_status == TransactionStatus.INERROR:
            # COMMIT would roll back here and report success.
            await self._roll_back()
            raise DatabaseError("25P02", "a statement of this transaction failed")
        await self.execute("COMMIT")

    async def listen(
        self,
        channel: str,
        heard: Callable[[str], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Call ``heard(payload)`` for every notification; see `Connection.listen`."""

        def pass_on(notify: psycopg.Notify) -> None:
            heard(notify.payload)

        self._session.add_notify_handler(pass_on)
        quoted = channel.replace('"', '""')
        await self.execute(f'LISTEN "{quoted}"')
        task_status.started()
        with self._translated():
            while True:
                await self._drive(generators.notifies(self._session.pgconn))

    async def aclose(self) -> None:
        """Close without waiting for the server; closing again does nothing."""
        self.abandon()
        # Shielded, so that a cancelled task can close all of several connections.
        await trio.lowlevel.cancel_shielded_checkpoint()

    def abandon(self) -> None:
        """Close the socket now, whatever the connection is doing."""
        if not self._session.closed:
            # libpq closes a dead socket by itself, and its number may have been reused since; it
            # is ours only while the session is open.
            trio.lowlevel.notify_closing(self._socket)
        self._session.close()

    def _rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        self._values.set_pgresult(result)
        return self._values.load_rows(0, result.ntuples, tuple) if result.nfields else []

    async def _run(self, sql: str, params: Sequence[object]) -> PGresult:
        return await self._ended(self.start(sql, params))

    async def _ended(self, started: Started) -> PGresult:
        if started.error is not None:
            raise started.error
        result = await self._drive(started.steps, finish_s=self._finish_s, wanted=started.wanted)
        if self._uncertain is not None:
            raise CommitUncertainError(self._uncertain)
        return result

    def _steps(self, sql: str, params: Sequence[object]) -> PQGen[PGresult]:
        """Run a statement, prepared where it has parameters."""
        if self.broken:
            self.abandon()
            raise ConnectionBrokenError("the connection to the database was lost", sent=False)
        pgconn = self._session.pgconn
        if not params:
            pgconn.send_query(sql.encode())
            return (yield from self._results())[-1]
        values = [param if param is None else self._dump(param) for param in params]
        name = self._prepared.get(sql)
        if name is None and len(self._prepared) < _PREPARED_MAX:
            name = b"s%d" % len(self._prepared)
            pgconn.send_prepare(name, sql.encode(), [0] * len(values))
            yield from self._results()
            self._prepared[sql] = name
        if name is None:
            return (yield from self._once(sql, values))
        pgconn.send_query_prepared(name, values)
        return (yield from self._results())[-1]

    def _once(self, sql: str, values: Sequence[Buffer | None]) -> PQGen[PGresult]:
        """Run a statement with parameters that is not prepared."""
        self._session.pgconn.send_query_params(sql.encode(), values)
        return (yield from self._results())[-1]

    def _results(self) -> PQGen[list[PGresult]]:
        """Receive the server's answers to what was sent."""
        results: list[PGresult] = yield from generators.execute(self._session.pgconn)
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        return results

    def _dump(self, param: object) -> Buffer:
        """Return a parameter in PostgreSQL's text format."""
        if not isinstance(param, str):
            dumped = self._values.get_dumper(param, PyFormat.TEXT).dump(param)
            assert dumped is not None, "None is dumped nowhere"
            return dumped
        if "\0" in param:
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return param.encode()

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        # To the server a cancelled wait for a standby is not an error: the statement succeeds.
        if notice.source_function == _STANDBY_WAIT:
            self._uncertain = notice.message_primary or "the wait for a standby was cancelled"

    async def _drive(
        self, steps: PQGen[T], *, finish_s: float = 0.0, wanted: Wait | None = None
    ) -> T:
        """Step to the end, from the first step on, or from what a step has ``wanted``."""
        assert not self._running, "one task at a time"
        self._running = True
        try:
            if wanted is None:
                wanted = next(steps)
            while True:
                try:
                    ready = await until_ready(self._socket, wanted)
                except trio.Cancelled:
                    await self._finish(steps, wanted, finish_s)
                    raise
                except BaseException:
                    self.abandon()
                    raise
                wanted = steps.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            self._running = False

    async def _finish(self, steps: PQGen[T], wanted: Wait, finish_s: float) -> None:
        """Receive the end of a cancelled statement; close the connection if it takes longer."""
        ended = False
        with trio.move_on_after(finish_s, shield=True):
            try:
                while True:
                    wanted = steps.send(await until_ready(self._socket, wanted))
            except StopIteration:
                ended = True
            except psycopg.Error as error:
                self._translate(error)
                ended = True
            except trio.ClosedResourceError:
                pass  # closed meanwhile, with its pool
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
        except psycopg.Error as error:
            raise self._translate(error) from error
        except trio.ClosedResourceError as error:
            raise ConnectionBrokenError("the connection was closed meanwhile", sent=True) from error
        except UnicodeEncodeError as error:
            raise DatabaseError(_DATA_EXCEPTION, "a text holds a lone surrogate") from error

    def _translate(self, error: psycopg.Error) -> DriverError:
        sqlstate = error.sqlstate or ""
        fatal = error.diag.severity_nonlocalized in {"FATAL", "PANIC"}
        if self._session.closed or fatal or sqlstate.startswith(_LOST):
            self.abandon()
            return ConnectionBrokenError(str(error).strip(), sent=True)
        if not sqlstate:  # psycopg refused a parameter, and sent nothing
            data = isinstance(error, psycopg.DataError)
            sqlstate = _DATA_EXCEPTION if data else _INTERNAL_ERROR
        return DatabaseError(sqlstate, error.diag.message_primary or str(error))
