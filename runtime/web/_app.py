"""The HTTP application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import request, websocket

from dalsegno.protocol import DomainError, Reject
from dalsegno.protocol.routes import Access

from ._account_routes import account_routes
from ._app_routes import app_routes
from ._audit_routes import audit_routes
from ._auth import SessionCookie
from ._clients import Clients
from ._cors import install_cors
from ._credentials import Gate
from ._documents import Documents
from ._domain_routes import domain_routes
from ._envelope import Application, install
from ._event_routes import event_routes
from ._guesses import Guesses
from ._health_routes import PROBES, health_routes
from ._hosts import Hosts
from ._key_routes import key_routes
from ._listener import SOCKET
from ._passwords import Passwords
from ._polls import Polls
from ._rates import Rates, install_rates
from ._refused import install_refused
from ._route_context import RouteContext
from ._route_table import register, rule_of
from ._schema_routes import schema_routes
from ._space_routes import space_routes
from ._stream_routes import stream_routes
from ._token_routes import token_routes
from ._user_routes import user_routes
from ._workspace_routes import workspace_routes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from quart import Response
    from quart.wrappers.base import BaseRequestWebsocket

    from dalsegno.protocol.routes import Operation
    from dalsegno.runtime import Runtime

    from ._client_address import Network
    from ._tokens import TokenIssuer

_ROUTES = (
    health_routes,
    account_routes,
    token_routes,
    user_routes,
    workspace_routes,
    space_routes,
    event_routes,
    stream_routes,
    domain_routes,
    key_routes,
    audit_routes,
    app_routes,
)

_ACCOUNTS = ("/api/setup/", "/api/auth/")


def create_app(
    rt: Runtime,
    *,
    secure_cookies: bool = False,
    cookie: SessionCookie | None = None,
    hosts: Hosts | None = None,
    setup_token: str | None,
    proxies: Collection[Network] = (),
    polls: Polls | None = None,
    clients: Clients | None = None,
    tokens: TokenIssuer | None = None,
) -> Application:
    """Create the HTTP application of a runtime.

    Args:
        rt: the runtime.
        secure_cookies: whether the session's cookie is sent over TLS only; False on loopback.
        cookie: how that is named and marked, where this is not all to be said of it.
        hosts: what the server is called, and whose pages may talk to it; None: anything.
        setup_token: the token that setup asks for, if other machines can reach it.
        proxies: the proxies that are believed about the address of a client.
        polls: the requests that wait, which are to be ended when the server shuts down.
        clients: those that stay, sockets and event streams.
        tokens: whose tokens are believed besides sessions and keys.

    Raises:
        NoAccountsError: the runtime has no accounts.
        DomainError: a route or socket of the app is over one of the server's, or of its own.

    """
    _ = rt.accounts  # without any, nobody could log in: say so now
    app = Application(__name__, static_folder=None)
    install(app, world=rt.world, limits=rt.limits)
    gate = Gate(rt, cookie or SessionCookie(secure=secure_cookies), tokens)
    hosts = hosts or Hosts()
    _check_names(app, hosts)
    install_cors(app, hosts)
    context = RouteContext(
        rt,
        gate,
        hosts,
        setup_token,
        proxies,
        passwords=Passwords(rt.limits),
        logins=Guesses(rt.limits),
        setups=Guesses(rt.limits),
        polls=polls or Polls(rt.limits),
        clients=clients or Clients(rt.limits, rt.world),
        streaming=app.streaming,
        rates=Rates(rt.limits, rt.world),
    )
    documents = app.documents = Documents(rt, cookie=gate.cookie.name)
    tables = [*(routes(context) for routes in _ROUTES), schema_routes(context, documents)]
    documents.operations += register(app, tables)
    install_refused(app, context)
    install_rates(app, context.rates, lambda: context.address, _secret(documents.operations))
    read = {each.shape: each.path for each in documents.operations if each.method == "GET"}
    for socket in rt.app.sockets:
        if socket.shape in read:
            raise DomainError(f"the socket {socket.path} is over the route {read[socket.shape]}")
    for path in (SOCKET, *(socket.path for socket in rt.app.sockets)):
        _register_socket(app, context, path)
    return app


def _secret(operations: Iterable[Operation]) -> frozenset[str]:
    """Return the rules of what takes a secret, of somebody who need not be known."""
    return frozenset(
        rule_of(each.path)
        for each in operations
        if each.access is Access.ANYBODY and each.path.startswith(_ACCOUNTS)
    )


def _register_socket(app: Application, context: RouteContext, path: str) -> None:
    """Answer requests for a socket's path."""
    rule = rule_of(path)

    async def upgrade_required(**_path: str) -> Response:
        await context.authenticate()
        raise Reject("UPGRADE_REQUIRED", "connect with a WebSocket")

    app.add_url_rule(rule, endpoint=f"get {path}", view_func=upgrade_required, methods=["GET"])


def _check_names(app: Application, hosts: Hosts) -> None:
    """Refuse what is meant for another server, or comes from another's page."""
    if hosts.names is None:
        return

    def check(asked: BaseRequestWebsocket) -> None:
        # Probes name what they like, an address as a rule, and learn nothing.
        if asked.path not in PROBES:
            named = asked.headers.getlist("host")
            hosts.check_host(named)
            hosts.check_origin(asked.headers.getlist("origin"), named)

    @app.before_request
    async def check_request() -> None:
        check(request)

    @app.before_websocket
    async def check_upgrade() -> None:
        check(websocket)
