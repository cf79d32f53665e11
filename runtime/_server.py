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
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.domains.jobs import job_app
from dalsegno.protocol import App, Limits

from ._exposure import Exposure
from ._front import open_front
from ._listening import open_listeners
from ._runtime import Runtime
from .web import serve_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from dalsegno.actors import Connection
    from dalsegno.protocol.providers import Providers

    from .store import DriverName
    from .web import Serving


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
    limits, tls = rt.limits, exposure.tls
    async with open_front(rt, exposure) as front, trio.open_nursery() as nursery:

        async def serve_here(task_status: trio.TaskStatus[Serving]) -> None:
            await serve_port(
                listeners,
                app=front.app,
                accept=front.sockets.accept,
                handle=front.sockets.handle,
                release=front.sockets.release,
                owns=front.sockets.owns,
                limits=limits,
                world=rt.world,
                hosts=exposure.hosts,
                tls=tls,
                task_status=task_status,
            )

        serving: Serving = await nursery.start(serve_here)
        port = listeners[0].socket.getsockname()[1]
        task_status.started(Ready(rt, exposure.host, port, front.setup_token, tls is not None))
        await stop.wait()
        # Twice the bound: once to settle commands, once to close the connections.
        serving.stop_accepting(drain_s=2 * limits.drain_deadline_s)
        await front.end(settle)
