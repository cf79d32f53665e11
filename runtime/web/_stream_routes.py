"""Server-sent events: a stream from a cursor on, over HTTP, for who can have no socket.

It is the same connection as a WebSocket's, so it is bounded, revoked and caught up in the same way,
and the same cursors are valid.  What is wrong with a request is known before the answer begins, as
any error is; what goes wrong later is a ``problem``, after which the stream ends.

EventSource takes any status but 200 for the end of everything.  So a server that shuts down or is
full answers 200, says when to come back, and hangs up; and 204 is the answer where there is nothing
more to come.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio
from quart import Response, request

from dalsegno.actors import Connection, try_to_follow
from dalsegno.protocol import Close, OverloadedError, check_id, parse_cursor
from dalsegno.protocol.audit import (
    FILTER_FIELDS,
    FollowAuditFromNow,
    FollowAuditStream,
    RecordFilter,
    Time,
)
from dalsegno.protocol.dialects import (
    EventStreamLanguage,
    Follow,
    FollowFromNow,
    FollowProjectFromNow,
    FollowProjectStream,
    SubscribeRequest,
)
from dalsegno.protocol.runs import runs

from ._clients import Place, check_tab
from ._credentials import credentials_of
from ._envelope import held, nothing
from ._event_stream import EventStreamBody, EventStreamTransport
from ._located import workspace_of
from ._route_context import RouteContext
from ._route_table import RouteTable, read_params

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._identity import Identity

_FROM_NOW = "head"
"""The cursor of who wants nothing of what was."""
_RETRY_MS, _RETRY_SPREAD_MS = 1_000, 2_000
"""When a client comes back that was cut off; drawn, so that not all come at once."""
_LATER_MS, _LATER_SPREAD_MS = 5_000, 10_000
"""… and one that a full server, or one that shuts down, sends away."""
_ROTATES_S, _ROTATES_SPREAD_S = 600.0, 1_200.0
"""How long a stream lasts: proxies and phones end long ones without a word."""
_MEDIA_TYPES = ("text/event-stream",)
_NO_STORE = {
    "content-type": _MEDIA_TYPES[0],  # UTF-8, always
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
}


class StreamParams(msgspec.Struct, frozen=True, kw_only=True):
    """From where a stream is followed."""

    cursor: str | None = None
    """A number, ``N-chain``, or ``head``: from now on.  ``Last-Event-ID`` counts before it; without
    either it begins after what the client has acknowledged."""
    client_id: str | None = None
    tab: str | None = None
    """Which tab of the client, 1 to 64 characters: it takes the place of its own older stream."""


class WorkspaceStreamParams(StreamParams, frozen=True, kw_only=True):
    """Which workspace is followed."""

    workspace_id: str


class EntityStreamParams(StreamParams, frozen=True, kw_only=True):
    """Which stream is followed."""

    stream_id: str
    workspace_id: str | None = None


class ProjectStreamParams(StreamParams, frozen=True, kw_only=True):
    """Which project is followed."""

    project_id: str


class AuditStreamParams(StreamParams, frozen=True, kw_only=True):
    """Which records are shown."""

    user_id: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    since: Time | None = None
    until: Time | None = None


class RunStreamParams(StreamParams, frozen=True, kw_only=True):
    """Which run is followed."""

    run_id: str
    workspace_id: str | None = None


_REFUSALS = [400, 403, 404, 409, 421, 503]


def stream_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("event streams")
    streams = _Streams(context)
    stream = partial(
        routes.route,
        "GET",
        returns=bytes,
        media_types=_MEDIA_TYPES,
        refusals=_REFUSALS,
        headers=("last-event-id",),
    )

    @stream(
        "/api/v1/workspaces/{workspace_id}/events",
        "Follow a workspace, as server-sent events.",
        params=WorkspaceStreamParams,
    )
    async def follow_workspace(workspace_id: str) -> Response:
        params = read_params(WorkspaceStreamParams)
        return await streams.follow(partial(_asked, f"workspace:{workspace_id}"), params)

    @stream(
        "/api/v1/projects/{project_id}/events",
        "Follow a project, as server-sent events.",
        params=ProjectStreamParams,
        also={204: None},
    )
    async def follow_project(project_id: str) -> Response:
        params = read_params(ProjectStreamParams)
        asking = partial(_asked_of_project, f"workspace:{project_id}")
        return await streams.follow(asking, params, project_id=project_id)

    @stream(
        "/api/v1/audit/events",
        "Follow what is on record, as server-sent events.",
        params=AuditStreamParams,
    )
    async def follow_audit() -> Response:
        params = read_params(AuditStreamParams)
        return await streams.follow(partial(_asked_of_audit, params), params)

    @stream(
        "/api/v1/streams/{stream_id}/events",
        "Follow an entity, or any stream, as server-sent events.",
        params=EntityStreamParams,
    )
    async def follow_stream(stream_id: str) -> Response:
        params = read_params(EntityStreamParams)
        asking = partial(_asked, stream_id, workspace_id=params.workspace_id)
        return await streams.follow(asking, params)

    if runs.name in context.rt.service.catalog.domains:

        @stream(
            "/api/v1/runs/{run_id}/events",
            "Follow a run and what it says, as server-sent events.",
            params=RunStreamParams,
            also={204: None},
        )
        async def follow_run(run_id: str) -> Response:
            params = read_params(RunStreamParams)
            stream_id = runs.stream_id(run_id)
            asking = partial(_asked, stream_id, workspace_id=params.workspace_id)
            return await streams.follow(asking, params)

    return routes


class _Streams:
    """Answers requests for event streams."""

    def __init__(self, context: RouteContext) -> None:
        self._context = context
        self._rt = context.rt

    async def follow(
        self,
        asking: Callable[[str | None], SubscribeRequest],
        params: StreamParams,
        *,
        project_id: str | None = None,
    ) -> Response:
        """Return the stream, once it is known that it can begin.

        Args:
            asking: returns what is followed, from a cursor as it was said.
            params: of the request.
            project_id: the project that it is, if it is one.

        Raises:
            Reject: who asks may not, there is none, or it does not begin there.
            UnavailableError: it cannot be told now.
            OverloadedError: the project has as many as may be.

        """
        context, rt = self._context, self._rt
        identity = await context.authenticate()
        if context.clients.is_ending or context.clients.is_full or rt.service.is_draining:
            return self._sent_away()
        client_id = check_id(
            params.client_id or "default", chars_max=rt.limits.id_chars_max, what="client id"
        )
        place = Place(
            identity.user_id,
            project_id=project_id,
            client_id=client_id,
            tab=check_tab(params.tab),
            url=request.full_path,
        )
        asked = asking(_cursor(params))
        principal = identity.acting(rt.system).principal
        begins = await try_to_follow(rt.service.sessions, asked, principal, client_id=client_id)
        if await self._is_over(asked.stream_id, asked.workspace_id, identity, begins):
            return nothing()
        comes_back = "last-event-id" in request.headers
        if comes_back and context.clients.was_evicted(identity.user_id, request.full_path):
            return nothing()
        try:
            context.clients.take(place)
        except OverloadedError:
            if project_id is not None:
                raise  # CF-6.2: nobody is to come back by itself
            return self._sent_away()
        held().callback(context.clients.leave, place)
        held().enter_context(context.streaming())
        body = self._stream(asked, identity, place)
        response = Response(body, headers=_NO_STORE)
        response.timeout = None
        return response

    def _stream(self, asked: SubscribeRequest, identity: Identity, place: Place) -> EventStreamBody:
        context, rt = self._context, self._rt
        retry = f"retry: {self._drawn(_RETRY_MS, _RETRY_SPREAD_MS)}\n\n".encode()
        transport = EventStreamTransport(retry)
        connection = Connection(
            transport,
            rt.service.sessions,
            user_id=identity.user_id,
            session_id=identity.session_hash,
            client_id=place.client_id,
            address=context.address,
            expires_at=identity.expires_at,
            language=EventStreamLanguage(asked),
        )
        given = credentials_of(request.headers)
        lasts_s = self._drawn(_ROTATES_S, _ROTATES_SPREAD_S)

        async def check() -> None:
            await context.gate.identify(given)

        async def serve() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_rotate, connection, lasts_s)
                with context.clients.serving(connection, place):
                    await connection.run(check)
                nursery.cancel_scope.cancel(reason="the stream has ended")

        return EventStreamBody(transport, serve)

    async def _is_over(
        self, stream_id: str, workspace_id: str | None, identity: Identity, begins: int
    ) -> bool:
        """Return whether nothing comes any more: of a run that has ended, and all is known."""
        domain, _, entity_id = stream_id.partition(":")
        if domain != runs.name:
            return False
        if workspace_id is None:
            workspace, _ = await workspace_of(self._rt, runs, entity_id, identity)
        else:
            workspace = identity.acting(self._rt.workspace(workspace_id))
        entity = await workspace.look(runs, entity_id)
        if entity is None or entity.state is None:
            return False
        return not entity.state.is_open and begins >= entity.version

    def _sent_away(self) -> Response:
        """Return the answer of a server that is full or shuts down: come back later."""
        later = self._drawn(_LATER_MS, _LATER_SPREAD_MS)
        return Response(f"retry: {later:g}\n\n", headers=_NO_STORE)

    def _drawn(self, least: float, spread: float) -> float:
        return round(least + spread * self._rt.world.random())


async def _rotate(connection: Connection, lasts_s: float) -> None:
    await trio.sleep(lasts_s)
    connection.close(Close.NORMAL, "the stream has lasted long enough: come back")


def _cursor(params: StreamParams) -> str | None:
    """Return where a stream begins, as it was said.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    last = request.headers.get("last-event-id")
    said = params.cursor if last is None or not last.strip() else last.strip()
    if said is not None and said != _FROM_NOW:
        parse_cursor(said)
    return said


def _asked(
    stream_id: str, cursor: str | None, *, workspace_id: str | None = None
) -> SubscribeRequest:
    if cursor == _FROM_NOW:
        return FollowFromNow(stream_id=stream_id, workspace_id=workspace_id)
    return Follow(stream_id=stream_id, workspace_id=workspace_id, cursor=cursor)


def _asked_of_project(stream_id: str, cursor: str | None) -> SubscribeRequest:
    if cursor == _FROM_NOW:
        return FollowProjectFromNow(stream_id=stream_id)
    return FollowProjectStream(stream_id=stream_id, cursor=cursor)


def _asked_of_audit(params: AuditStreamParams, cursor: str | None) -> SubscribeRequest:
    """Return what is asked for.

    Raises:
        Reject: ``BAD_REQUEST``, which names the field.

    """
    given = {name: getattr(params, name) for name in FILTER_FIELDS}
    shown = RecordFilter(**given).check()
    if cursor == _FROM_NOW:
        return FollowAuditFromNow(filter=shown)
    return FollowAuditStream(filter=shown, cursor=cursor)
