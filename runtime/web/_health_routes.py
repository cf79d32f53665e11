"""What this is, whether the process is alive, and whether it can work."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import trio
from quart import Response

from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    DalsegnoError,
    DrainingError,
    NotReadyError,
    Reject,
)
from dalsegno.protocol.routes import Access

from ._envelope import ALIVE, answer
from ._route_table import RouteTable

if TYPE_CHECKING:
    from dalsegno.runtime import Runtime

    from ._route_context import RouteContext

READY = "/readyz"
PROBES = frozenset({ALIVE, READY})
"""The paths that are answered under whatever name."""

PROBE_DEADLINE_S = 2.0
"""How long the database may take to answer one look-up, and one statement of a commit."""
PROBE_VALID_S = 1.0
"""How long the result stands for all who ask: anybody may, as often as they like."""


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


class _Probe:
    """Asks the database whether it is read from and written to."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._asking = trio.Lock()
        self._valid_until = -math.inf
        self._failure: Reject | None = None

    async def check(self) -> None:
        """Raise `Reject` ``DB_UNAVAILABLE`` unless a command could be answered."""
        async with self._asking:
            if trio.current_time() >= self._valid_until:
                self._failure = await self._ask()
                self._valid_until = trio.current_time() + PROBE_VALID_S
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    async def _ask(self) -> Reject | None:
        service = self._rt.service
        what = "be read"
        try:
            with trio.fail_after(PROBE_DEADLINE_S):
                await service.store.read_head(SYSTEM_WORKSPACE)
            what = "be written to"
            with trio.fail_after(PROBE_DEADLINE_S):
                await service.committer.check()
        except (DalsegnoError, trio.TooSlowError):
            return Reject("DB_UNAVAILABLE", f"the database cannot {what}")
        return None


def health_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("server")
    probe = _Probe(context.rt)

    @routes.route(
        "GET",
        "/",
        "Say what this is, and where to go on.",
        returns=WelcomeBody,
        access=Access.ANYBODY,
    )
    async def welcome() -> Response:
        return answer(_WELCOME)

    @routes.route(
        "GET",
        ALIVE,
        "Say that the process is alive.",
        returns=HealthBody,
        access=Access.ANYBODY,
    )
    async def alive() -> Response:
        return answer(HealthBody(status="ok"))

    @routes.route(
        "GET",
        READY,
        "Say whether it can work.",
        returns=HealthBody,
        access=Access.ANYBODY,
        refusals=[503],
    )
    async def ready() -> Response:
        # That the schema is current was checked when the runtime was opened, before the first
        # request was read; the probe fails if it has been dropped since.
        service = context.rt.service
        if service.is_draining:
            raise DrainingError("the server shuts down")
        await probe.check()
        if not service.lease.is_held:
            raise NotReadyError("this node does not hold its lease")
        return answer(HealthBody(status="ready"))

    return routes
