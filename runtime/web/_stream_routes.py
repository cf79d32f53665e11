"""The server's event streams: workspaces, entities, projects, runs, and what is on record."""

from __future__ import annotations

from functools import partial

from quart import Response

from dalsegno.protocol.audit import (
    FILTER_FIELDS,
    FollowAuditFromNow,
    FollowAuditStream,
    RecordFilter,
    Time,
)
from dalsegno.protocol.dialects import (
    Follow,
    FollowFromNow,
    FollowProjectFromNow,
    FollowProjectStream,
    SubscribeRequest,
)
from dalsegno.protocol.routes import EVENT_STREAM_TYPE, FROM_NOW, OF_EVENT_STREAMS, Following
from dalsegno.protocol.runs import runs

from ._following import EventStreams
from ._identity import Identity
from ._located import workspace_of
from ._route_context import RouteContext
from ._route_table import RouteTable, read_params


class WorkspaceStreamParams(Following, frozen=True, kw_only=True):
    """Which workspace is followed."""

    workspace_id: str


class EntityStreamParams(Following, frozen=True, kw_only=True):
    """Which stream is followed."""

    stream_id: str
    workspace_id: str | None = None


class ProjectStreamParams(Following, frozen=True, kw_only=True):
    """Which project is followed."""

    project_id: str


class AuditStreamParams(Following, frozen=True, kw_only=True):
    """Which records are shown."""

    user_id: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    since: Time | None = None
    until: Time | None = None


class RunStreamParams(Following, frozen=True, kw_only=True):
    """Which run is followed."""

    run_id: str
    workspace_id: str | None = None


def stream_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("event streams")
    streams = EventStreams(context)
    stream = partial(
        routes.route,
        "GET",
        returns=bytes,
        media_types=(EVENT_STREAM_TYPE,),
        refusals=OF_EVENT_STREAMS,
        headers=("last-event-id",),
    )

    @stream(
        "/api/v1/workspaces/{workspace_id}/events",
        "Follow a workspace, as server-sent events.",
        params=WorkspaceStreamParams,
    )
    async def follow_workspace(workspace_id: str) -> Response:
        params = read_params(WorkspaceStreamParams)
        return await streams.follow(
            await context.authenticate(), partial(_asked, f"workspace:{workspace_id}"), params
        )

    @stream(
        "/api/v1/projects/{project_id}/events",
        "Follow a project, as server-sent events.",
        params=ProjectStreamParams,
        also={204: None},
    )
    async def follow_project(project_id: str) -> Response:
        params = read_params(ProjectStreamParams)
        asking = partial(_asked_of_project, f"workspace:{project_id}")
        return await streams.follow(
            await context.authenticate(), asking, params, project_id=project_id
        )

    @stream(
        "/api/v1/audit/events",
        "Follow what is on record, as server-sent events.",
        params=AuditStreamParams,
    )
    async def follow_audit() -> Response:
        params = read_params(AuditStreamParams)
        return await streams.follow(
            await context.authenticate(), partial(_asked_of_audit, params), params
        )

    @stream(
        "/api/v1/streams/{stream_id}/events",
        "Follow an entity, or any stream, as server-sent events.",
        params=EntityStreamParams,
    )
    async def follow_stream(stream_id: str) -> Response:
        params = read_params(EntityStreamParams)
        asking = partial(_asked, stream_id, workspace_id=params.workspace_id)
        return await streams.follow(await context.authenticate(), asking, params)

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
            identity = await context.authenticate()
            is_over = partial(_is_over, context, identity, run_id, params.workspace_id)
            return await streams.follow(identity, asking, params, is_over=is_over)

    return routes


async def _is_over(
    context: RouteContext,
    identity: Identity,
    run_id: str,
    workspace_id: str | None,
    begins: int,
) -> bool:
    """Return whether nothing comes any more of a run: it has ended, and all of it is known."""
    if workspace_id is None:
        workspace, _ = await workspace_of(context.rt, runs, run_id, identity)
    else:
        workspace = identity.acting(context.rt.workspace(workspace_id))
    entity = await workspace.look(runs, run_id)
    if entity is None or entity.state is None:
        return False
    return not entity.state.is_open and begins >= entity.version


def _asked(
    stream_id: str, cursor: str | None, *, workspace_id: str | None = None
) -> SubscribeRequest:
    if cursor == FROM_NOW:
        return FollowFromNow(stream_id=stream_id, workspace_id=workspace_id)
    return Follow(stream_id=stream_id, workspace_id=workspace_id, cursor=cursor)


def _asked_of_project(stream_id: str, cursor: str | None) -> SubscribeRequest:
    if cursor == FROM_NOW:
        return FollowProjectFromNow(stream_id=stream_id)
    return FollowProjectStream(stream_id=stream_id, cursor=cursor)


def _asked_of_audit(params: AuditStreamParams, cursor: str | None) -> SubscribeRequest:
    """Return what is asked for.

    Raises:
        Reject: ``BAD_REQUEST``, which names the field.

    """
    given = {name: getattr(params, name) for name in FILTER_FIELDS}
    shown = RecordFilter(**given).check()
    if cursor == FROM_NOW:
        return FollowAuditFromNow(filter=shown)
    return FollowAuditStream(filter=shown, cursor=cursor)
