"""The server: a runtime, the HTTP application and the sockets, behind one port.

Shutdown, each step bounded: stop accepting; tell each client when to reconnect; settle the commands
that were accepted, write acks and give up the lease, so that another node can serve clients that
reconnect soon; close the sockets with 1001; finish HTTP requests; stop the database if it was
started here.

A port of a runtime that goes on without it ends in the same way, but for what is the runtime's: see
`dalsegno.runtime.serving`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.jobs import job_app
from dalsegno.protocol import App, Limits

from ._background import in_background
from ._listening import open_listeners
from ._runtime import Runtime
from ._session_watch import watch_sessions
from ._shutdown import Shutdown
from ._sockets import Sockets
from .seams import new_secret
from .web import (
    Clients,
    Gate,
    Polls,
    SessionCookie,
    create_app,
    hosts_of,
    is_loopback,
    serve_port,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from dalsegno.actors import Connection
    from dalsegno.protocol.providers import Providers

    from .store import DriverName
    from .web import Hosts, Network, Serving, Tls, TokenIssuer


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Where a runtime is served, and to whom."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 lets the system choose."""
    advertise: str | None = None
    """The address that other nodes give to clients that they send here."""
    public_url: str | None = None
    """Where browsers reach this server, by way of a proxy."""
    tls: Tls | None = None
    """The certificate, where this server speaks TLS itself."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may open sockets, in addition to the host itself."""
    proxies: tuple[Network, ...] = ()
    """The proxies that are believed about the address of a client (``X-Forwarded-For``)."""
    tokens: TokenIssuer | None = None
    """Whose tokens are believed, besides sessions and keys."""
    setup_token: str | None = None
    """The token that setup asks for; None makes one, unless this serves only this machine."""
    session_cookie: SessionCookie | None = None
    """How the session's cookie is named and marked; None: as it has to be for what is above."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    @property
    def is_private(self) -> bool:
        """Whether it serves this machine alone, not even by way of a proxy."""
        return self.is_loopback and self.public_url is None

    @property
    def cookie(self) -> SessionCookie:
        """How the session's cookie is named and marked."""
        if self.session_cookie is not None:
            return self.session_cookie
        if self.public_url is None and self.tls is not None:
            return SessionCookie(secure=True, is_prefixed=True)
        if self.public_url is None:
            return SessionCookie(secure=not self.is_loopback)
        has_tls = self.public_url.startswith("https:")
        return SessionCookie(secure=has_tls, is_prefixed=has_tls)

    @property
    def hosts(self) -> Hosts:
        """What this server is called, and whose pages may talk to it."""
        return hosts_of(
            only_loopback=self.is_loopback,
            public_url=self.public_url,
            also=[] if self.advertise is None else [self.advertise],
            origins=self.origins,
            has_tls=self.tls is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig(Exposure):
    """The settings of `serve`."""

    data_dir: Path = Path(".data")
    """Where the embedded PostgreSQL is."""
    database: str | None = None
    """The DSN of a database to use instead of the embedded PostgreSQL."""
    driver: DriverName = "psycopg"
    """What speaks to either."""
    node_id: str | None = None
    """This node's id; None: that of the data directory or, with a DSN, a new one."""
    artifacts: Path | None = None
    """Where runs write files; None: in ``data_dir``, or with a DSN nowhere."""
    app: App = job_app
    """What is served: notes, their rules and jobs, unless a program has its own."""
    limits: Limits = field(default_factory=Limits)
    providers: Callable[[], AbstractAsyncContextManager[Providers]] | None = None
    """Opens whom runs ask models of; None: nobody is asked."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that accepts connections."""

    runtime: Runtime
    host: str
    port: int
    setup_token: str | None
    """The token that setup asks for; None if this serves only this machine."""
    has_tls: bool = False
    """Whether it speaks TLS itself."""

    @property
    def url(self) -> str:
        """Where it is, without a proxy."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.has_tls else 'http'}://{host}:{self.port}"


async def serve(
    config: ServeConfig,
    *,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then drain; cancelled, drain only what must be.

    Raises:
        DalsegnoError: it cannot start: the database is unavailable, in use, or of another version.
        OSError: the address cannot be bound.

    """
    stop = trio.Event() if stop is None else stop
    async with AsyncExitStack() as stack:
        listeners = await open_listeners(config.host, config.port)
        for listener in listeners:
            await stack.enter_async_context(listener)
        rt = await stack.enter_async_context(
            Runtime.open(
                config.database,
                app=config.app,
                data_dir=config.data_dir,
                driver=config.driver,
                node_id=config.node_id,
                address=config.advertise,
                limits=config.limits,
                providers=config.providers,
                artifacts=config.artifacts,
            )
        )

        async def drain(_connections: Callable[[], list[Connection]]) -> None:
            await rt.drain()

        await serve_on(rt, listeners, config, settle=drain, stop=stop, task_status=task_status)


async def serve_on(
    rt: Runtime,
    listeners: Sequence[trio.SocketListener],
    exposure: Exposure,
    *,
    settle: Callable[[Callable[[], list[Connection]]], Awaitable[None]],
    stop: trio.Event,
    task_status: trio.TaskStatus[Ready],
) -> None:
    """Serve an open runtime until ``stop`` is set, then drain.

    Args:
        rt: the runtime; it is still open afterwards.
        listeners: where connections come from; they are closed at the end.
        exposure: to whom it is served.
        settle: waits until what the port's connections have asked for is answered; it is called
            with what returns them, and given ``limits.drain_deadline_s``.
        stop: ends it.
        task_status: is given the port once it accepts connections.

    """
    limits, tokens, tls = rt.limits, exposure.tokens, exposure.tls
    setup_token = exposure.setup_token
    if setup_token is None and not exposure.is_private:
        setup_token = new_secret()
    clients = Clients(limits, rt.world)
    sockets = Sockets(rt, Gate(rt, exposure.cookie, tokens), exposure.proxies, clients)
    polls = Polls(limits)
    app = create_app(
        rt,
        cookie=exposure.cookie,
        hosts=exposure.hosts,
        setup_token=setup_token,
        close_session=sockets.close_session,
        close_user=sockets.close_user,
        proxies=exposure.proxies,
        polls=polls,
        clients=clients,
        tokens=tokens,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            in_background(partial(watch_sessions, rt, sockets.close_session))
        )
        if tokens is not None and tokens.keys is not None:
            await stack.enter_async_context(in_background(tokens.keys.run))
        if tls is not None:
            looking = partial(tls.run, rt.world.now, limits.tls_check_s)
            await stack.enter_async_context(in_background(looking))
        async with trio.open_nursery() as nursery:

            async def serve_here(task_status: trio.TaskStatus[Serving]) -> None:
                await serve_port(
                    listeners,
                    app=app,
                    accept=sockets.accept,
                    handle=sockets.handle,
                    release=sockets.release,
                    owns=sockets.owns,
                    limits=limits,
                    world=rt.world,
                    hosts=exposure.hosts,
                    tls=tls,
                    task_status=task_status,
                )

            serving: Serving = await nursery.start(serve_here)
            port = listeners[0].socket.getsockname()[1]
            ready = Ready(rt, exposure.host, port, setup_token, tls is not None)
            task_status.started(ready)
            await stop.wait()
            # Twice the bound: once to settle commands, once to close the connections.
            serving.stop_accepting(drain_s=2 * limits.drain_deadline_s)
            polls.end()
            sockets.end_unknown()
            shutdown = Shutdown(rt.service, sockets.connections)
            await shutdown.announce()
            with trio.move_on_after(limits.drain_deadline_s):
                await settle(sockets.connections)
            await shutdown.close()
