"""psycopg 3 on Trio: its generator core, driven by Trio's waits.

Its internals are generators that step libpq and yield what they wait for, "readable" or
"writable"; see `_stepped`.  So this wraps neither asyncio nor threads; a statement is one generator
and, most of the time, one `trio.lowlevel.wait_readable`.

Statements bypass psycopg's cursors: parameters are text already, and adapting those of any type
costs as much again as the statement itself.  One private method of psycopg is needed,
``_connect_gen``; pyproject.toml pins psycopg below the next minor version because of it.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
import trio
from psycopg import generators
from psycopg.adapt import Loader, Transformer
from psycopg.pq import ExecStatus
from psycopg.types.string import TextLoader
from psycopg.waiting import Wait

from ._answers import DATA_EXCEPTION, INTERNAL_ERROR, STANDBY_WAIT, ends_session
from ._driver import CONNECT_TIMEOUT_S, ConnectionBrokenError, DatabaseError, DriverError
from ._opening import open_connection
from ._parameters import as_text
from ._session import open_session, until_ready
from ._stepped import SteppedConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg.abc import Buffer, ConnDict, PQGen
    from psycopg.pq.abc import PGresult

_PREPARED_MAX = 100
"""The most statements that a session prepares; there are half as many."""


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
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> PsycopgConnection:
    """Open a session, with ``settings`` as by ``SET``; see `open_connection`.

    A cancelled statement has ``finish_s`` to end; if it has not by then, the connection is closed.
    """

    async def open_one(address: ConnDict) -> PsycopgConnection:
        return PsycopgConnection(await open_session(address), finish_s)

    return await open_connection(dsn, open_one, settings=settings, timeout_s=connect_timeout_s)


class PsycopgConnection(SteppedConnection[Wait, "PGresult"]):
    """A `Connection` on psycopg; opened by `connect`."""

    _errors = (psycopg.Error, trio.ClosedResourceError)

    def __init__(self, session: psycopg.Connection[tuple[Any, ...]], finish_s: float) -> None:
        super().__init__(session.fileno(), finish_s)
        session.autocommit = True
        session.adapters.register_loader("json", TextLoader)
        session.adapters.register_loader("jsonb", TextLoader)
        session.adapters.register_loader("timestamptz", _UtcLoader)
        self._session = session
        self._values = Transformer(session)
        self._prepared: dict[str, bytes] = {}
        """The names of statements that this session has prepared."""
        self._socket = session.fileno()
        self._wait = partial(until_ready, self._socket)
        session.add_notice_handler(self._note)

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

    def abandon(self) -> None:
        """Close the socket now, whatever the connection is doing."""
        if not self._session.closed:
            # libpq closes a dead socket by itself, and its number may have been reused since; it
            # is ours only while the session is open.
            trio.lowlevel.notify_closing(self._socket)
        self._session.close()

    def _is_closed(self) -> bool:
        return self._session.closed

    def _rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        self._values.set_pgresult(result)
        return self._values.load_rows(0, result.ntuples, tuple) if result.nfields else []

    def _tag(self, result: PGresult) -> str:
        return (result.command_status or b"").decode()

    def _steps(self, sql: str, params: Sequence[object]) -> PQGen[PGresult]:
        """Run a statement, prepared where it has parameters."""
        self._check()
        pgconn = self._session.pgconn
        if not params:
            pgconn.send_query(sql.encode())
            return (yield from self._results())[-1]
        values = [param if param is None else as_text(param, self._values) for param in params]
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

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        # To the server a cancelled wait for a standby is not an error: the statement succeeds.
        if notice.source_function == STANDBY_WAIT:
            self._uncertain = notice.message_primary or "the wait for a standby was cancelled"

    def _translate(self, error: Exception) -> DriverError:
        if isinstance(error, trio.ClosedResourceError):
            return ConnectionBrokenError("the connection was closed meanwhile", sent=True)
        assert isinstance(error, psycopg.Error), "there are no others"
        sqlstate = error.sqlstate or ""
        if self._session.closed or ends_session(sqlstate, error.diag.severity_nonlocalized):
            self.abandon()
            return ConnectionBrokenError(str(error).strip(), sent=True)
        if not sqlstate:  # psycopg cannot read what the server has sent
            data = isinstance(error, psycopg.DataError)
            sqlstate = DATA_EXCEPTION if data else INTERNAL_ERROR
        return DatabaseError(sqlstate, error.diag.message_primary or str(error))
