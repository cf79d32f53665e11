"""What this is, whether the process is alive, and whether it can work."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import trio
from quart import Blueprint, Response

from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    DalsegnoError,
    DrainingError,
    NotReadyError,
    Reject,
)

from ._envelope import ALIVE, answer

if TYPE_CHECKING:
    from ._route_context import RouteContext

PROBE_DEADLINE_S = 2.0
"""How long the database may take to answer one look-up."""


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the server."""

    status: str


class WelcomeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a browser gets that was pointed at the server: which one it is, and where to go on."""

    name: str
    version: str
    links: dict[str, str]
    documentation: str


_WELCOME = WelcomeBody(
    name="dalsegno",
    version=version("dalsegno"),
    links={"health": ALIVE, "ready": "/readyz", "api": "/api/", "websocket": "/ws"},
    documentation="docs/protocol.md of this version has every route and every message",
)


def health_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("health", __name__)

    @routes.get("/")
    async def welcome() -> Response:
        return answer(_WELCOME)

    @routes.get(ALIVE)
    async def alive() -> Response:
        return answer(HealthBody(status="ok"))

    @routes.get("/readyz")
    async def ready() -> Response:
        # That the schema is current was checked when the runtime was opened, before the first
        # request was read; the look-up fails if it has been dropped since.
        service = context.rt.service
        if service.is_draining:
            raise DrainingError("the server shuts down")
        try:
            with trio.fail_after(PROBE_DEADLINE_S):
                await context.rt.store.read_head(SYSTEM_WORKSPACE)
        except (DalsegnoError, trio.TooSlowError) as error:
            raise Reject("DB_UNAVAILABLE", "the database does not answer") from error
        if not service.lease.is_held:
            raise NotReadyError("this node does not hold its lease")
        return answer(HealthBody(status="ready"))

    return routes
