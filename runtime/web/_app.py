"""The HTTP application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import websocket

from dalsegno.protocol import Reject

from ._account_routes import account_routes
from ._auth import authenticate
from ._envelope import Application, install
from ._guesses import Guesses
from ._health_routes import health_routes
from ._note_routes import note_routes
from ._passwords import Passwords
from ._route_context import RouteContext
from ._workspace_routes import workspace_routes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from quart import Response

    from dalsegno.runtime import Runtime

    from ._client_address import Network


def create_app(
    rt: Runtime,
    *,
    secure_cookies: bool,
    setup_token: str | None,
    close_session: Callable[[bytes], Awaitable[None]],
    proxies: Collection[Network] = (),
) -> Application:
    """Create the HTTP application of a runtime.

    Args:
        rt: the runtime.
        secure_cookies: whether the session's cookie is sent over TLS only; False on loopback.
        setup_token: the token that setup asks for, if other machines can reach it.
        close_session: closes the connections of a session, given the digest of its id, and
            returns once nothing more is written to them.
        proxies: the proxies that are believed about the address of a client.

    Raises:
        NoAccountsError: the runtime has no accounts.

    """
    _ = rt.accounts  # without any, nobody could log in: say so now
    app = Application(__name__, static_folder=None)
    install(app, world=rt.world, limits=rt.limits)
    context = RouteContext(
        rt,
        secure_cookies,
        setup_token,
        close_session,
        proxies,
        passwords=Passwords(rt.limits),
        logins=Guesses(rt.limits),
        setups=Guesses(rt.limits),
    )
    for routes in (health_routes, account_routes, workspace_routes, note_routes):
        app.register_blueprint(routes(context))

    @app.get("/ws")
    async def upgrade_required() -> Response:
        await context.authenticate()
        raise Reject("UPGRADE_REQUIRED", "connect with a WebSocket")

    @app.websocket("/ws")
    async def fresh_connection_required() -> None:
        await authenticate(rt, "; ".join(websocket.headers.getlist("cookie")))
        raise Reject("UPGRADE_REQUIRED", "upgrade as the first request of a connection")

    return app
