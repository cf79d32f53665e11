"""asyncpg on Trio: its coroutines, stepped by Trio, on a loop of trio-asyncio's.

asyncpg needs a loop of asyncio's for its sockets and futures.  `open_asyncpg` opens one within the
program's Trio (``trio_asyncio.open_loop``), in a task of its own: nothing else of the program sees
it.  Only opening a session is a task in it; statements are not (see `_asyncpg_connection`).

Importing trio-asyncio replaces functions of asyncio for the whole process.  Hence this module is
imported when the driver is chosen, and not before.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import asyncpg
import structlog
import trio

from dalsegno.runtime._background import in_background

from ._asyncpg_address import arguments_of, keep_alive, place_of
from ._asyncpg_connection import ERRORS, READERS, AsyncpgConnection
from ._driver import CONNECT_TIMEOUT_S, ConnectionBrokenError, SessionRefusedError
from ._opening import open_connection

_WAS_THERE = "trio_asyncio" in sys.modules
"""Whether the program has imported it for itself."""

with warnings.catch_warnings():
    # Python 3.12 and 3.13 say that some of what it is made of will go with 3.14.
    warnings.simplefilter("ignore", DeprecationWarning)
    import trio_asyncio
    from trio_asyncio import _loop as _its_loop

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping

    from psycopg.abc import ConnDict

    from ._driver import Connect

_log = structlog.get_logger("dalsegno.store")

# Outside of Trio, asyncio goes on as if trio-asyncio had not been imported: without this a later
# `asyncio.run`, in any thread, would get a loop that runs on a Trio of its own.  What is set is the
# class's default, of a record that each thread has.  pyproject.toml pins trio-asyncio below the
# next minor version because of it.
if not _WAS_THERE:
    _its_loop._FakedPolicy.policy = _its_loop._original_policy  # noqa: SLF001

_CLOSE_DEADLINE_S = 5.0
"""How long the loop may take to end, once every session is abandoned."""
_PREPARED_MAX = 100
"""The most statements that a session prepares; there are half as many."""


class _Towards:
    """The loop as asyncpg is given it, which connects to an address of the host.

    asyncpg itself is told the host's name, which is what a certificate is for.
    """

    def __init__(self, loop: trio_asyncio.TrioEventLoop, address: ConnDict) -> None:
        self._loop = loop
        self._address = address
        self.socket: socket.socket
        """That of the latest connection."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any of the loop's
        return getattr(self._loop, name)

    async def create_connection(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        **options: Any,  # noqa: ANN401 - as asyncio has them
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to the address."""
        if options.get("ssl"):
            options["server_hostname"] = host
        hostaddr = self._address.get("hostaddr") or host
        transport, protocol = await self._loop.create_connection(
            factory, str(hostaddr), port, **options
        )
        self._keep(transport)
        return transport, protocol

    async def create_unix_connection(
        self, factory: Callable[[], asyncio.Protocol], path: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to a socket of the system's."""
        transport, protocol = await self._loop.create_unix_connection(factory, path)
        self._keep(transport)
        return transport, protocol

    def _keep(self, transport: asyncio.Transport) -> None:
        self.socket = transport.get_extra_info("socket")
        keep_alive(self.socket, self._address)


class AsyncpgDriver:
    """The sessions of one loop."""

    def __init__(self, loop: trio_asyncio.TrioEventLoop) -> None:
        self._loop = loop
        self._connections: WeakSet[AsyncpgConnection] = WeakSet()
        loop.set_exception_handler(self._failed)

    async def connect(
        self,
        dsn: str,
        *,
        settings: Mapping[str, str] | None = None,
        finish_s: float = 0.0,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> AsyncpgConnection:
        """Open a session, with ``settings`` as by ``SET``; see `open_connection`.

        A cancelled statement has ``finish_s`` to end; if it has not by then, the connection is
        closed.
        """

        async def open_one(address: ConnDict) -> AsyncpgConnection:
            return await self._open_one(address, finish_s)

        return await open_connection(dsn, open_one, settings=settings, timeout_s=connect_timeout_s)

    def abandon_all(self) -> None:
        """Close every connection, whatever it is doing."""
        for connection in list(self._connections):
            connection.abandon()

    async def _open_one(self, address: ConnDict, finish_s: float) -> AsyncpgConnection:
        if self._loop.is_closed():
            raise _ended()
        arguments = arguments_of(address)
        towards = _Towards(self._loop, address)
        try:
            session = await self._loop.run_aio_coroutine(_open_session(towards, arguments))
        except asyncpg.ClientConfigurationError as error:
            raise SessionRefusedError(
                f"asyncpg cannot read the database's address: {error}: correct the address"
            ) from error
        except ERRORS as error:
            words = f"connection to {place_of(address)} failed: {_words(error)}"
            raise ConnectionBrokenError(words, sent=False) from error
        except asyncio.CancelledError as error:  # by the loop, which ends
            raise _ended() from error
        if session.is_closed():  # by the server, before Trio was told that it is open
            words = f"connection to {place_of(address)} was closed at once"
            raise ConnectionBrokenError(words, sent=False)
        connection = AsyncpgConnection(session, self._loop, towards.socket, finish_s)
        self._connections.add(connection)
        return connection

    def _failed(self, _loop: trio_asyncio.TrioEventLoop, context: dict[str, Any]) -> None:
        """Abandon every session after a failed callback: it is not known whose it was."""
        _log.error("asyncpg_failed", reason=context["message"], exc_info=context.get("exception"))
        self.abandon_all()


async def _open_session(towards: _Towards, arguments: dict[str, Any]) -> asyncpg.Connection:
    """Open a session, in the loop."""
    session = await asyncpg.connect(
        loop=towards,
        timeout=None,
        statement_cache_size=_PREPARED_MAX,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        **arguments,
    )
    for name, read in READERS.items():
        # What is sent is text already.
        await session.set_type_codec(
            name, schema="pg_catalog", encoder=str, decoder=read, format="text"
        )
    return session


def _ended() -> ConnectionBrokenError:
    return ConnectionBrokenError("the runtime has ended", sent=False)


def _words(error: Exception) -> str:
    """Return what is wrong where no session could be opened."""
    if isinstance(error, asyncpg.PostgresError):
        return error.message or str(error)
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        return os.strerror(error.errno)
    return str(error)


@asynccontextmanager
async def open_asyncpg() -> AsyncIterator[Connect]:
    """Open a loop for the length of a block, and yield what opens a session in it.

    At the end every session is closed.
    """
    opened, over = trio.Event(), trio.Event()
    driver: AsyncpgDriver

    async def hold() -> None:
        nonlocal driver
        # A program that is cancelled still has statements to finish.  This ends with the block, and
        # then has a deadline.
        with trio.CancelScope(shield=True) as scope:
            async with trio_asyncio.open_loop() as loop:
                driver = AsyncpgDriver(loop)
                opened.set()
                await over.wait()
                scope.deadline = trio.current_time() + _CLOSE_DEADLINE_S
                driver.abandon_all()

    async with in_background(hold):
        try:
            await opened.wait()
            yield driver.connect
        finally:
            over.set()
