"""A proxy between a runtime and its PostgreSQL that loses answers on purpose.

It reads the wire protocol as far as it must (PostgreSQL manual, "Message Formats"): every message
but a session's first is a letter and a length; a *request* is what a client sends up to and with
its ``Sync``, or with a ``Flush``, after which it waits as well; the server has answered the former
with its ``ReadyForQuery``.  A request that executes one of
the store's named statements has that statement's name, and an `Accident` can be kept ready for the
next one of a name.

It listens on a Unix socket: there libpq asks for neither TLS nor Kerberos, so the
protocol is in clear.
"""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import trio
from psycopg.conninfo import conninfo_to_dict

from dalsegno.runtime.store._sql import queries

_BREAKS = (trio.BrokenResourceError, trio.ClosedResourceError)
_ENDS_A_REQUEST = frozenset({b"S", b"H", b"Q", b"X", b"p", b""})
"""Sync, Flush (of asyncpg, which prepares a statement so), Query, Terminate, what answers a
challenge, and a session's first message."""


class Exchange:
    """A request in flight, under the control of an `Accident`."""

    def __init__(self, proxy: Proxy, session: _Session, request: bytes) -> None:
        self.proxy = proxy
        self._session = session
        self._request = request

    async def pass_on(self) -> None:
        """Send it to the server unchanged."""
        await self._session.to_server(self._request)

    async def apply(self) -> None:
        """Send it to the server, wait until that is done with it, and keep the answer."""
        self._session.done = trio.Event()
        await self._session.to_server(self._request)
        await self._session.done.wait()

    async def hang_up(self) -> None:
        """Cut the client off; the server stays connected."""
        await self._session.client.aclose()


Accident = Callable[[Exchange], Awaitable[None]]
"""What happens to a request; the session is cut afterwards."""


async def answer_lost(exchange: Exchange) -> None:
    """FI-2: the connection is lost during COMMIT, which has taken effect."""
    await exchange.apply()


async def request_lost(exchange: Exchange) -> None:
    """FI-3: the connection is lost, and nothing has taken effect."""
    await trio.lowlevel.checkpoint()


async def late(exchange: Exchange) -> None:
    """The connection is lost first, and then the statement takes effect."""
    await exchange.hang_up()
    await exchange.apply()


class Proxy:
    """Sessions between a runtime and PostgreSQL."""

    def __init__(self, dsn: str, folder: Path) -> None:
        known = conninfo_to_dict(dsn)
        self._upstream = f"{known['host']}/.s.PGSQL.{known['port']}"
        self._folder = folder
        self.dsn = (
            f"postgresql://postgres@/{known['dbname']}?host={quote(str(folder), safe='')}"
            f"&port=5432&passfile={quote(str(known['passfile']), safe='')}"
        )
        """How to connect through it."""
        self.requests: Counter[str] = Counter()
        """Executions of the store's statements, by name; both forms of an append are one."""
        self.accidents = 0
        """Those that have happened."""
        self._ready: deque[tuple[str, Accident | None]] = deque()
        self._sessions: set[_Session] = set()
        self._is_away = False
        self._flows = trio.Event()
        self._flows.set()

    def prepare(self, name: str, accident: Accident, *, after: int = 0) -> None:
        """Schedule an accident for a later execution of a statement, each in its turn.

        ``after`` executions of that name are forwarded first.
        """
        self._ready.extend([(name, None)] * after)
        self._ready.append((name, accident))

    async def cut(self) -> None:
        """End every open session."""
        for session in list(self._sessions):
            await session.aclose()

    async def go_away(self) -> None:
        """End every session and accept none: a network partition."""
        self._is_away = True
        await self.cut()

    def come_back(self) -> None:
        self._is_away = False

    def freeze(self) -> None:
        """Forward nothing, and end nothing: silence."""
        if self._flows.is_set():
            self._flows = trio.Event()

    def thaw(self) -> None:
        self._flows.set()

    async def wait_flow(self) -> None:
        await self._flows.wait()

    def accident_of(self, name: str) -> Accident | None:
        if not self._ready or self._ready[0][0] != name:
            return None
        _, accident = self._ready.popleft()
        self.accidents += accident is not None
        return accident

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        path = str(self._folder / ".s.PGSQL.5432")
        with trio.socket.socket(trio.socket.AF_UNIX) as sock:
            await sock.bind(path)
            sock.listen(64)
            listener = trio.SocketListener(sock)
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        if self._is_away:
            await client.aclose()
            return
        try:
            server = await trio.open_unix_socket(self._upstream)
        except OSError:  # the database is unavailable, and so is the proxy
            await client.aclose()
            return
        session = _Session(self, client, server)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.remove(session)


class _Session:
    """One client's connection and the one made for it."""

    def __init__(self, proxy: Proxy, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.client = client
        self.done: trio.Event | None = None
        """Set when the server is ready again; while it is there, answers are kept."""
        self._server = server
        self._proxy = proxy
        self._names = {sql.encode(): name.removesuffix("_one") for name, sql in queries().items()}
        self._prepared: dict[bytes, str] = {}

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:

                async def until_it_ends(way: Callable[[], Awaitable[None]]) -> None:
                    with suppress(*_BREAKS):
                        await way()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_it_ends, self._from_client)
                nursery.start_soon(until_it_ends, self._from_server)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # closing a socket does not wait
            await self.client.aclose()
            await self._server.aclose()

    async def to_server(self, request: bytes) -> None:
        await self._proxy.wait_flow()
        await self._server.send_all(request)

    async def _from_client(self) -> None:
        request, name = b"", None
        messages = _Messages(self.client, first_is_bare=True)
        while found := await messages.next():
            letter, message = found
            request += message
            name = self._name_of(letter, message) or name
            if letter in _ENDS_A_REQUEST:
                if not await self._handle(request, name):
                    return
                request, name = b"", None

    async def _handle(self, request: bytes, name: str | None) -> bool:
        """Forward a request, or let the prepared accident happen; return whether there is more."""
        if name is not None:
            self._proxy.requests[name] += 1
            accident = self._proxy.accident_of(name)
            if accident is not None:
                await accident(Exchange(self._proxy, self, request))
                await self.aclose()
                return False
        await self.to_server(request)
        return True

    def _name_of(self, letter: bytes, message: bytes) -> str | None:
        """Read the name of the statement that a message executes, and learn which is which."""
        if letter == b"P":  # name, text, types
            statement, text, _ = message[5:].split(b"\0", 2)
            if text in self._names:
                self._prepared[statement] = self._names[text]
        elif letter == b"B":  # portal, name, parameters
            return self._prepared.get(message[5:].split(b"\0", 2)[1])
        return None

    async def _from_server(self) -> None:
        messages = _Messages(self._server)
        while found := await messages.next():
            letter, message = found
            await self._proxy.wait_flow()
            if self.done is None:
                await self.client.send_all(message)
            elif letter == b"Z":
                self.done.set()


class _Messages:
    """What comes from a stream, cut into messages."""

    def __init__(self, stream: trio.SocketStream, *, first_is_bare: bool = False) -> None:
        self._stream = stream
        self._head = 0 if first_is_bare else 1
        self._buffer = bytearray()

    async def next(self) -> tuple[bytes, bytes] | None:
        """Wait for a message, its letter first; None at the end."""
        head, buffer = self._head, self._buffer
        while len(buffer) < head + 4 or len(buffer) < self._size():
            data = await self._stream.receive_some()
            if not data:
                return None
            buffer += data
        message = bytes(buffer[: self._size()])
        del buffer[: self._size()]
        self._head = 1
        return message[:head], message

    def _size(self) -> int:
        return self._head + int.from_bytes(self._buffer[self._head : self._head + 4])


@asynccontextmanager
async def open_proxy(dsn: str) -> AsyncIterator[Proxy]:
    """Open a proxy before the database of a DSN for the length of a block."""
    # A socket's address holds 107 bytes: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        proxy = Proxy(dsn, Path(folder))
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            yield proxy
            nursery.cancel_scope.cancel()
