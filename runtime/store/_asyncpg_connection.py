"""A session of asyncpg's: its coroutines, stepped by Trio.

What a statement does is a coroutine, and what that awaits is always a future of the protocol's (see
`_stepped`).  So it needs no task in the loop; its first step writes to the socket, and a Trio task
that is cancelled stops waiting for the future without cancelling it, on which asyncpg would ask the
server to cancel the statement.

Parameters have to be of the types that the server says, which other drivers do not ask for; so all
those of the seam are exchanged as text, by codecs that leave it as it is.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import asyncpg
import trio
from psycopg.adapt import Transformer

from ._answers import DATA_EXCEPTION, INTERNAL_ERROR, STANDBY_WAIT, ends_session
from ._driver import ConnectionBrokenError, DatabaseError, DriverError
from ._parameters import as_text
from ._stepped import SteppedConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Generator, Sequence


class Future(Protocol):
    """What a coroutine of asyncpg's waits for: a future of asyncio's."""

    def add_done_callback(self, callback: Callable[[Future], object], /) -> None:
        """Call something soon after it is done, in the loop."""

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""

    def exception(self) -> BaseException | None:
        """Return what it raises."""


class Loop(Protocol):
    """The loop, as far as a session asks it."""

    def is_closed(self) -> bool:
        """Return whether it has ended."""


class _UnreadableError(ValueError):
    """The server sent what Python has no value for."""


ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    _UnreadableError,
    OSError,
)
"""What asyncpg raises."""


def _bool(text: str) -> bool:
    return text == "t"


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))


def _utc(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)  # the session's zone makes the offset zero
    except ValueError:
        raise _UnreadableError(f"no datetime can hold {text!r}") from None


READERS: dict[str, Callable[[str], object]] = {
    "bool": _bool,
    "int2": int,
    "int4": int,
    "int8": int,
    "float4": float,
    "float8": float,
    "bytea": _bytes,
    "timestamptz": _utc,
}
"""How types are read from text.  Text, and JSON, asyncpg leaves as they are by itself."""


class AsyncpgConnection(SteppedConnection[Future, Any]):
    """A `Connection` on asyncpg; opened by `AsyncpgDriver.connect`."""

    _errors = ERRORS

    def __init__(
        self,
        session: asyncpg.Connection,
        loop: Loop,
        sock: socket.socket,
        finish_s: float,
    ) -> None:
        super().__init__(sock.fileno(), finish_s)
        self._session = session
        self._loop = loop
        self._values = Transformer()
        self._wait = _until_done
        session.add_log_listener(self._note)

    async def listen(
        self,
        channel: str,
        heard: Callable[[str], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Call ``heard(payload)`` for every notification; see `Connection.listen`."""
        over = trio.Event()
        failures: list[Exception] = []

        def pass_on(_session: object, _pid: int, _channel: str, payload: str) -> None:
            try:
                heard(payload)
            except Exception as error:  # noqa: BLE001 - raised where it is listened
                failures.append(error)
                over.set()

        self._check()
        self._session.add_termination_listener(lambda _: over.set())
        await self._run(self._stepped(self._session.add_listener(channel, pass_on)))
        self._running = True
        task_status.started()
        try:
            await over.wait()
        finally:
            self._running = False
            self.abandon()
        raise failures[0] if failures else self._lost(sent=True)

    def abandon(self) -> None:
        """Close the socket now, whatever the connection is doing."""
        if not self._is_closed():
            self._session.terminate()

    def _is_closed(self) -> bool:
        return bool(self._session.is_closed()) or self._loop.is_closed()

    def _rows(self, result: list[asyncpg.Record]) -> list[tuple[Any, ...]]:
        return [tuple(record) for record in result]

    def _tag(self, result: str) -> str:
        return result

    def _steps(self, sql: str, params: Sequence[object]) -> Generator[Future, None, Any]:
        """Run a statement, prepared."""
        self._check()
        texts = [param if param is None else self._text(param) for param in params]
        return (yield from self._stepped(self._session.fetch(sql, *texts)))

    def _commands(self, sql: str, params: Sequence[object]) -> Generator[Future, None, Any]:
        if params:
            return (yield from self._steps(sql, params))
        self._check()
        return (yield from self._stepped(self._session.execute(sql)))

    def _stepped(self, coroutine: Coroutine[Future, None, Any]) -> Generator[Future, None, Any]:
        """Run a coroutine of asyncpg's, whose first step sends the statement."""
        try:
            wanted = coroutine.send(None)
        except StopIteration as done:
            return done.value
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if self._is_closed():
                raise self._lost(sent=False) from error
            raise
        try:
            while True:
                yield wanted
                wanted = coroutine.send(None)
        except StopIteration as done:
            return done.value
        except AttributeError as error:
            # Closed between two steps, asyncpg has no protocol to ask for the second.
            if self._is_closed():
                raise self._lost(sent=True) from error
            raise
        finally:
            coroutine.close()

    def _text(self, param: object) -> str:
        if isinstance(param, str) and "\0" not in param:
            return param
        return bytes(as_text(param, self._values)).decode()

    def _note(self, _session: object, message: asyncpg.PostgresLogMessage) -> None:
        # To the server a cancelled wait for a standby is not an error: the statement succeeds.
        # The loop calls this before it wakes the task that waits for the statement.
        if message.server_source_function == STANDBY_WAIT:
            self._uncertain = message.message or "the wait for a standby was cancelled"

    def _lost(self, *, sent: bool) -> ConnectionBrokenError:
        return ConnectionBrokenError("the connection to the database was lost", sent=sent)

    def _translate(self, error: Exception) -> DriverError:
        if isinstance(error, asyncpg.DataError) and error.severity_en is None:  # not the server's
            return DatabaseError(DATA_EXCEPTION, _unencodable(error))
        if isinstance(error, _UnreadableError):
            return DatabaseError(DATA_EXCEPTION, str(error))
        sqlstate, severity, words = INTERNAL_ERROR, None, str(error)
        if isinstance(error, asyncpg.PostgresError):
            sqlstate, severity = error.sqlstate or INTERNAL_ERROR, error.severity_en
            words = error.message or words
        is_lost = isinstance(error, OSError) or ends_session(sqlstate, severity)
        if is_lost or self._is_closed():
            self.abandon()
            return ConnectionBrokenError(words.strip(), sent=True)
        return DatabaseError(sqlstate, words)


def _unencodable(error: asyncpg.DataError) -> str:
    """Return what is wrong with a parameter; asyncpg's own words quote a part of it."""
    if isinstance(error.__cause__, UnicodeEncodeError):
        return "a text holds a lone surrogate"
    return "a parameter has not the form of its type"


async def _until_done(future: Future) -> None:
    """Wait for a future; cancelled, leave it as it is.

    Also where it is done, the loop first has to carry out what came before it; see `_note`.
    """
    over = trio.Event()

    def wake(done: Future) -> None:
        if not done.cancelled():
            done.exception()  # is retrieved: there may be nobody left who waits for it
        over.set()

    future.add_done_callback(wake)
    await over.wait()
