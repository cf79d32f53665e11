"""The server: a runtime, the HTTP application and the sockets, behind one port.

Shutdown, each step bounded: stop accepting; tell each client when to reconnect; settle the commands
that were accepted, write acks and give up the lease, so that another node can serve clients that
reconnect soon; close the sockets with 1001; finish HTTP requests; stop the database if it was
started here.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import trio

from dalsegno.actors import Connection, check_may_follow
from dalsegno.actors.domains.notes import note_app
from dalsegno.protocol import App, Close, DrainingError, Limits, Reject, check_id
from dalsegno.protocol.dialects import Conversation, Opening

from ._background import in_background
from ._listening import open_listeners
from ._runtime import Runtime
from ._session_watch import watch_sessions
from ._shutdown import Shutdown
from .seams import WORLD, new_secret
from .web import (
    SOCKET,
    Gate,
    Polls,
    SessionCookie,
    client_address,
    create_app,
    hosts_of,
    is_loopback,
    overloaded,
    serve_port,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from dalsegno.protocol.dialects import Language

    from .web import (
        Credentials,
        Hosts,
        Identity,
        NativeTransport,
        Network,
        Serving,
        TokenIssuer,
        UpgradeRequest,
    )


_QUERY_FIELDS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """The settings of `serve`."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 lets the system choose."""
    data_dir: Path = Path(".data")
    """Where the embedded PostgreSQL is."""
    database: str | None = None
    """The DSN of a database to use instead of the embedded PostgreSQL."""
    node_id: str | None = None
    """This node's id; None: that of the data directory or, with a DSN, a new one."""
    advertise: str | None = None
    """The address that other nodes give to clients that they send here."""
    public_url: str | None = None
    """Where browsers reach this server, by way of a proxy."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may open sockets, in addition to the host itself."""
    proxies: tuple[Network, ...] = ()
    """The proxies that are believed about the address of a client (``X-Forwarded-For``)."""
    tokens: TokenIssuer | None = None
    """Whose tokens are believed, besides sessions and keys."""
    app: App = note_app
    """What is served: notes, unless a program has its own."""
    limits: Limits = field(default_factory=Limits)

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
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that accepts connections."""

    runtime: Runtime
    host: str
    port: int
    setup_token: str | None
    """The token that setup asks for; None if this serves only this machine."""


@dataclass(frozen=True, slots=True)
class _Accepted:
    identity: Identity
    client_id: str
    credentials: Credentials
    address: str
    language: Language | None
    """What is said on its path; None on ``/ws``."""


class _Sockets:
    """Makes connections of WebSockets."""

    def __init__(self, rt: Runtime, gate: Gate, proxies: Collection[Network]) -> None:
        self._rt = rt
        self._gate = gate
        self._proxies = proxies
        self._taken: Counter[str] = Counter()
        """Sockets, by user."""

    async def accept(self, request: UpgradeRequest) -> _Accepted:
        """Admit a client; `release` has to follow, whatever becomes of it."""
        if self._rt.service.is_draining:
            raise DrainingError("the server shuts down")
        credentials = request.credentials
        identity = await self._gate.identify(credentials)
        query = _parsed(request.query)
        client_id = query.get("client_id", "default")
        check_id(client_id, chars_max=self._rt.limits.id_chars_max, what="client id")
        forwarded = [request.headers.get("x-forwarded-for") or ""]
        address = client_address(request.peer, forwarded, self._proxies)
        language = await self._language(request.path, identity, query)
        self._take(identity.user_id)
        return _Accepted(identity, client_id, credentials, address, language)

    def owns(self, path: str) -> bool:
        """Return whether sockets are served at a path."""
        return path == SOCKET or any(each.match(path) is not None for each in self._rt.app.sockets)

    async def _language(
        self, path: str, identity: Identity, query: dict[str, str]
    ) -> Language | None:
        """Return the language of a path of the app's own, if who connects may follow its streams.

        Raises:
            Reject: what the path's beginning refuses; ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``.

        """
        rt = self._rt
        principal = identity.acting(rt.system).principal
        for socket in rt.app.sockets:
            if (named := socket.match(path)) is not None:
                opening = Opening(principal=principal, path=named, query=query)
                language = Conversation(socket, opening)
                for asked in language.beginning.follows:
                    await check_may_follow(rt.service.sessions, asked, principal)
                return language
        return None

    def _take(self, user_id: str) -> None:
        """Count a user's socket, from before its handshake is answered.

        Raises:
            OverloadedError: the user has as many as may be.

        """
        bound = self._rt.limits.sockets_per_user_max
        if 0 < bound <= self._taken[user_id]:
            raise overloaded("too many sockets of this user", self._rt.world.random)
        self._taken[user_id] += 1

    def release(self, accepted: _Accepted) -> None:
        """Count a socket no more that was admitted: it has ended, or never began."""
        user_id = accepted.identity.user_id
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]

    async def handle(self, transport: NativeTransport, accepted: _Accepted) -> None:
        connection = Connection(
            transport,
            self._rt.service.sessions,
            user_id=accepted.identity.user_id,
            session_id=accepted.identity.session_hash,
            client_id=accepted.client_id,
            address=accepted.address,
            expires_at=accepted.identity.expires_at,
            language=accepted.language,
        )

        async def check() -> None:
            await self._gate.identify(accepted.credentials)

        await connection.run(check)

    async def close_session(self, session_hash: bytes) -> None:
        """Close a session's sockets; once this returns, nothing more is written to them."""
        self._rt.service.connections.close_session(
            session_hash, Close.UNAUTHORIZED, "the session ended"
        )
        await trio.lowlevel.checkpoint()

    async def close_user(self, user_id: str, keep: bytes | None) -> None:
        """Close a user's sockets but those of one session; once this returns, as above."""
        self._rt.service.connections.close_user(
            user_id, Close.UNAUTHORIZED, "the session ended", keep=keep
        )
        await trio.lowlevel.checkpoint()


def _parsed(query: str) -> dict[str, str]:
    """Return the parameters of a query, of which there may be few: of each the first.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    try:
        said = parse_qs(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError:
        raise Reject("BAD_REQUEST", "too many parameters") from None
    return {name: values[0] for name, values in said.items()}


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
                node_id=config.node_id,
                address=config.advertise,
                limits=config.limits,
            )
        )
        setup_token = None if config.is_private else new_secret()
        sockets = _Sockets(rt, Gate(rt, config.cookie, config.tokens), config.proxies)
        polls = Polls(config.limits)
        app = create_app(
            rt,
            cookie=config.cookie,
            hosts=config.hosts,
            setup_token=setup_token,
            close_session=sockets.close_session,
            close_user=sockets.close_user,
            proxies=config.proxies,
            polls=polls,
            tokens=config.tokens,
        )
        await stack.enter_async_context(
            in_background(partial(watch_sessions, rt, sockets.close_session))
        )
        if config.tokens is not None and config.tokens.keys is not None:
            await stack.enter_async_context(in_background(config.tokens.keys.run))
        async with trio.open_nursery() as nursery:

            async def serve_here(task_status: trio.TaskStatus[Serving]) -> None:
                await serve_port(
                    listeners,
                    app=app,
                    accept=sockets.accept,
                    handle=sockets.handle,
                    release=sockets.release,
                    owns=sockets.owns,
                    limits=config.limits,
                    world=WORLD,
                    hosts=config.hosts,
                    task_status=task_status,
                )

            serving: Serving = await nursery.start(serve_here)
            port = listeners[0].socket.getsockname()[1]
            task_status.started(Ready(rt, config.host, port, setup_token))
            await stop.wait()
            # Twice the bound: once to settle commands, once to close the connections.
            serving.stop_accepting(drain_s=2 * config.limits.drain_deadline_s)
            polls.end()
            shutdown = Shutdown(rt.service)
            await shutdown.announce()
            with trio.move_on_after(config.limits.drain_deadline_s):
                await rt.drain()
            await shutdown.close()
