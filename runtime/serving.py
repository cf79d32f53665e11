"""A port for a runtime that a program has opened: `serve`, beside the program's own tasks.

The port shows what ``dalsegno serve`` does, and ends as that does: it stops accepting, tells each
client when to come back, answers what was asked, and closes.  The runtime goes on.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Reject

from ._config import ConfigError, check_public_url, parse_bind, parse_origins, parse_proxies
from ._listening import open_listeners
from ._server import Exposure, Ready as Ready, serve_on
from .web import (
    SessionCookie as SessionCookie,
    Tls as Tls,
    TokenIssuer as TokenIssuer,
    TokenKeys as TokenKeys,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dalsegno.actors import Connection

    from ._runtime import Runtime

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
        origins: further origins whose pages may open sockets.
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
    exposure = _exposure_of(
        rt, bind, tls, public_url, origins, proxies, tokens, setup_token, cookie
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


def _exposure_of(
    rt: Runtime,
    bind: str,
    tls: Tls | None,
    public_url: str | None,
    origins: Sequence[str],
    proxies: Sequence[str],
    tokens: TokenIssuer | None,
    setup_token: str | None,
    cookie: SessionCookie | None,
) -> Exposure:
    try:
        host, port = parse_bind(bind)
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
