"""Whether the process is alive, and whether it can work."""

from __future__ import annotations

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

READY = "/readyz"
PROBES = frozenset({ALIVE, READY})
"""The paths that are answered under whatever name."""

PROBE_DEADLINE_S = 2.0
"""How long the database may take to answer one look-up."""


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the server."""

    status: str


def health_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("health", __name__)

    @routes.get(ALIVE)
    async def alive() -> Response:
        return answer(HealthBody(status="ok"))

    @routes.get(READY)
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
