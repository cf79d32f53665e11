"""A port for a runtime that a program has opened, beside the program's own tasks.

`serve` opens one, and shows what ``dalsegno serve`` does.  `asgi` makes an application of the same,
for the program's own ASGI server, and `serve_asgi` is such a server: the one that we use.  All end
as ``dalsegno serve`` does: no more are let in, each client is told when to come back, what was
asked is answered, and the connections close.  The runtime goes on.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import trio

from dalsegno.protocol import Limits, Reject

from ._config import ConfigError, check_public_url, parse_bind, parse_origins, parse_proxies
from ._exposure import Exposure
from ._front import Front, open_front
from ._listening import open_listeners
from ._server import Ready as Ready, serve_on
from .seams import WORLD
from .web import (
    SessionCookie as SessionCookie,
    Tls as Tls,
    TokenIssuer as TokenIssuer,
    TokenKeys as TokenKeys,
    serve_port,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGISendCallable,
        Scope,
    )

    from dalsegno.actors import Connection

    from ._runtime import Runtime
    from .web import Serving

_LOOK_S = 0.01
"""How soon it is seen that all answers were written; at most `Limits.drain_deadline_s` is waited
for them."""


async def serve(
    rt: Runtime,
    bind: str = "127.0.0.1:8000",
    *,
    tls: Tls | None = None,
    public_url: str | None = None,
    origins: Sequence[str] = (),
    proxies: Sequence[str] = (),
    tokens: TokenIssuer | None = None,
    setup_token: str | None = None,
    cookie: SessionCookie | None = None,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a runtime until ``stop`` is set, then drain; cancelled, drain only what must be.

    The runtime is still open afterwards.  A runtime may be served on several ports.

    Args:
        rt: the runtime, in whose block this runs.
        bind: ``HOST:PORT``; IPv6 in brackets, and with port 0 the system chooses.
        tls: the certificate with which it speaks TLS itself; its files are looked at again every
            `Limits.tls_check_s`, and at its `Tls.reload`.
        public_url: where browsers reach it, by way of a proxy: ``https://board.example``.
        origins: further origins whose pages may use it.
        proxies: addresses or networks of proxies whose ``X-Forwarded-For`` is believed.
        tokens: whose tokens (JWT) are believed, besides log-ins and API keys.
        setup_token: the token that the setup of the first account asks for; None makes one, or
            where only this machine can connect, asks for none.
        cookie: how the session's cookie is named and marked; by default as it has to be for
            ``bind``, ``tls`` and ``public_url``.
        stop: ends it, having told each client when to come back.
        task_status: is given a `Ready`, with the port, once it accepts connections.

    Raises:
        Reject: ``BAD_REQUEST`` for a setting that cannot be used.
        OSError: the address cannot be bound.
        NoAccountsError: the runtime has no accounts, so that nobody could log in.

    """
    host, port = _parsed(bind)
    exposure = _exposure_of(
        rt,
        host,
        port,
        tls=tls,
        public_url=public_url,
        origins=origins,
        proxies=proxies,
        tokens=tokens,
        setup_token=setup_token,
        cookie=cookie,
    )
    async with AsyncExitStack() as stack:
        listeners = await open_listeners(exposure.host, exposure.port)
        for listener in listeners:
            await stack.enter_async_context(listener)
        await serve_on(
            rt,
            listeners,
            exposure,
            settle=_wait_answered,
            stop=trio.Event() if stop is None else stop,
            task_status=task_status,
        )


class AsgiApp:
    """A runtime as an ASGI application: HTTP, event streams and WebSockets."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def __repr__(self) -> str:
        return f"<AsgiApp {self._front!r}>"

    @property
    def setup_token(self) -> str | None:
        """The token that the setup of the first account asks for; None: it asks for none."""
        return self._front.setup_token

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve what the server has accepted."""
        await self._front.app(scope, receive, send)

    async def drain(self) -> None:
        """Let no more in, and close the connections, each with the time to come back.

        To be called before the server stops, which would cut them off without a word.  Requests
        are answered as before.
        """
        await self._front.end(_wait_answered)


@asynccontextmanager
async def asgi(
    rt: Runtime,
    *,
    public_url: str | None = None,
    origins: Sequence[str] = (),
    proxies: Sequence[str] = (),
    tokens: TokenIssuer | None = None,
    setup_token: str | None = None,
    cookie: SessionCookie | None = None,
) -> AsyncIterator[AsgiApp]:
    """Make an application of a runtime for a program's own ASGI server, for the length of a block.

    The server runs on Trio: Hypercorn's worker for it, or `serve_asgi`.  It may be mounted below a
    path, beside the program's own application.  At the block's end connections are drained.

    Args:
        rt: the runtime, in whose block this runs.
        public_url: where browsers reach it: ``https://board.example``.  Without it nobody's name
            for the server is refused, and the session's cookie is for TLS alone.
        origins: further origins whose pages may use it.
        proxies: addresses or networks of proxies whose ``X-Forwarded-For`` is believed.
        tokens: whose tokens (JWT) are believed, besides log-ins and API keys.
        setup_token: the token that the setup of the first account asks for; None makes one.
        cookie: how the session's cookie is named and marked; by default as it has to be for
            ``public_url``.

    Raises:
        Reject: ``BAD_REQUEST`` for a setting that cannot be used.
        NoAccountsError: the runtime has no accounts, so that nobody could log in.

    """
    exposure = _exposure_of(
        rt,
        "",
        0,
        public_url=public_url,
        origins=origins,
        proxies=proxies,
        tokens=tokens,
        setup_token=setup_token,
        cookie=cookie,
    )
    async with open_front(rt, exposure) as front:
        app = AsgiApp(front)
        try:
            yield app
        finally:
            with trio.CancelScope(
                shield=True, deadline=trio.current_time() + rt.limits.drain_deadline_s
            ):
                await app.drain()


async def serve_asgi(
    app: ASGIFramework,
    bind: str = "127.0.0.1:8000",
    *,
    limits: Limits | None = None,
    until: Callable[[], Awaitable[object]] = trio.sleep_forever,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve any ASGI application on the listener that `serve` has.

    Beneath, it is Hypercorn's worker for Trio, on HTTP/1.1.  What it does besides: a connection
    that fails, whatever it sends, fails alone; who does not read is cut off; connections, and the
    heads of requests, have bounds; and what other readers of a connection could take for something
    else is refused.

    Args:
        app: the application: a program's own, with `asgi` somewhere in it.
        bind: ``HOST:PORT``; IPv6 in brackets, and with port 0 the system chooses.
        limits: the bounds; of a runtime, its own.
        until: returns once it is to stop; by then, what has sockets is to have closed them
            (`AsgiApp.drain`).  Requests then have ``drain_deadline_s`` to end.
        task_status: is given the host and the port once connections are accepted.

    Raises:
        Reject: ``BAD_REQUEST`` for an address that is none.
        OSError: the address cannot be bound.

    """
    host, port = _parsed(bind)
    async with AsyncExitStack() as stack:
        listeners = await open_listeners(host, port)
        for listener in listeners:
            await stack.enter_async_context(listener)
        async with trio.open_nursery() as nursery:

            async def serve_here(task_status: trio.TaskStatus[Serving]) -> None:
                await serve_port(
                    listeners,
                    app=app,
                    accept=_no_socket,
                    handle=_no_socket,
                    owns=lambda _: False,
                    limits=limits or Limits(),
                    world=WORLD,
                    task_status=task_status,
                )

            serving: Serving = await nursery.start(serve_here)
            task_status.started((host, listeners[0].socket.getsockname()[1]))
            await until()
            serving.stop_accepting()


async def _no_socket(*_: object) -> NoReturn:
    raise AssertionError("every socket is the application's: none is owned here")


def _parsed(bind: str) -> tuple[str, int]:
    try:
        return parse_bind(bind)
    except ConfigError as error:
        raise Reject("BAD_REQUEST", str(error)) from error


def _exposure_of(
    rt: Runtime,
    host: str,
    port: int,
    *,
    tls: Tls | None = None,
    public_url: str | None,
    origins: Sequence[str],
    proxies: Sequence[str],
    tokens: TokenIssuer | None,
    setup_token: str | None,
    cookie: SessionCookie | None,
) -> Exposure:
    try:
        return Exposure(
            host=host,
            port=port,
            advertise=rt.address,
            tls=tls,
            public_url=None if public_url is None else check_public_url(public_url),
            origins=parse_origins(origins),
            proxies=parse_proxies(proxies),
            tokens=tokens,
            setup_token=setup_token,
            session_cookie=cookie,
        )
    except ConfigError as error:
        raise Reject("BAD_REQUEST", str(error)) from error


async def _wait_answered(connections: Callable[[], list[Connection]]) -> None:
    """Wait until every command that came over these connections is answered, and that written.

    Where the server itself ends, the runtime refuses and settles them; here it goes on, and only
    the connections know.
    """
    while any(map(_is_owing, connections())):  # noqa: ASYNC110 - they tell nobody
        await trio.sleep(_LOOK_S)


def _is_owing(connection: Connection) -> bool:
    standing = connection.statistics()
    return bool(standing.pending or standing.replies_bytes)
