"""The HTTP application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import websocket

from dalsegno.protocol import Reject

from ._account_routes import account_routes
from ._auth import authenticate
from ._envelope import Application, install
from ._health_routes import health_routes
from ._note_routes import note_routes
from ._site import Site
from ._workspace_routes import workspace_routes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from quart import Response

    from dalsegno.runtime import Runtime


def create_app(
    rt: Runtime,
    *,
    secure_cookies: bool,
    setup_token: str | None,
    close_session: Callable[[bytes], Awaitable[None]],
) -> Application:
    """Make the HTTP application of a runtime.

    Args:
        rt: whose workspaces it shows.
        secure_cookies: whether the session's cookie goes over TLS only; False on loopback.
        setup_token: what setup asks for, where others than this machine can reach it.
        close_session: closes the connections of a session, known by the digest of its id, and
            returns when nothing more reaches them.

    """
    app = Application(__name__, static_folder=None)
    install(app, world=rt.world, limits=rt.limits)
    site = Site(rt, secure_cookies, setup_token, close_session)
    for routes in (health_routes, account_routes, workspace_routes, note_routes):
        app.register_blueprint(routes(site))

    @app.get("/ws")
    async def upgrade_required() -> Response:
        await site.enter()
        raise Reject("UPGRADE_REQUIRED", "connect with a WebSocket")

    @app.websocket("/ws")
    async def fresh_connection_required() -> None:
        await authenticate(rt, "; ".join(websocket.headers.getlist("cookie")))
        raise Reject("UPGRADE_REQUIRED", "upgrade as the first request of a connection")

    return app
