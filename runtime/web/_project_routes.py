"""Projects, under which a workspace's notes are put together."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from quart import Blueprint, Response

from dalsegno.actors.domains.claims import check_name
from dalsegno.actors.domains.projects import (
    CreateProject,
    DeleteProject,
    Project,
    UpdateProject,
    projects,
)
from dalsegno.protocol import WRITERS

from ._conditions import base_version, is_known, not_modified, query_base_version, tagged
from ._entity_lists import page_of, query_workspace
from ._envelope import answer, read, replayed, request_id
from ._located import change, delete, look_up
from ._membership import check_sender
from ._route_context import RouteContext, idempotency_key

if TYPE_CHECKING:
    from dalsegno.actors import Entity
    from dalsegno.runtime import Listed


class ProjectCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to create a project."""

    workspace_id: str
    name: str
    description: str = ""


class ProjectChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to rename or to describe a project."""

    name: str | None = None
    description: str | None = None
    base_version: int | None = None


class ProjectBody(msgspec.Struct, frozen=True, kw_only=True):
    """A project."""

    id: str
    workspace_id: str
    name: str
    description: str
    version: int
    created_at: datetime


class ProjectsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of projects."""

    projects: list[ProjectBody]
    next: str | None


class ProjectCreatedBody(msgspec.Struct, frozen=True, kw_only=True):
    """A project as it was created, and the number of the event in the workspace."""

    id: str
    workspace_id: str
    name: str
    description: str
    version: int
    event_seq: int


def project_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("projects", __name__)
    rt = context.rt

    @routes.get("/api/projects")
    async def list_projects() -> Response:
        identity = await context.authenticate()
        workspace_id = query_workspace()

        def show(listed: Listed[Project]) -> ProjectBody:
            return _project_body(workspace_id, listed.entity_id, listed)

        page = await page_of(rt, workspace_id, projects, identity.user_id, show)
        return answer(ProjectsBody(projects=page.items, next=page.next))

    @routes.post("/api/projects")
    async def create_project() -> Response:
        identity = await context.authenticate()
        body = await read(ProjectCreateBody, known=True)
        workspace = identity.acting(rt.workspace(body.workspace_id))
        command, key = CreateProject(body.name, body.description), idempotency_key()
        await check_sender(rt, workspace, command, key, allow=WRITERS)
        receipt = await workspace.send(command, key=key, correlation_id=request_id())
        created = ProjectCreatedBody(
            id=receipt.entity_id,
            workspace_id=body.workspace_id,
            name=check_name(body.name, what="name"),
            description=body.description,
            version=receipt.version,
            event_seq=receipt.event_seq,
        )
        return tagged(replayed(answer(created, 201), receipt), receipt.version)

    @routes.get("/api/projects/<project_id>")
    async def read_project(project_id: str) -> Response:
        identity = await context.authenticate()
        workspace, entity = await look_up(rt, projects, project_id, identity)
        if is_known(entity.version):
            return not_modified(entity.version)
        body = _project_body(workspace.id, project_id, entity)
        return tagged(answer(body), entity.version)

    @routes.patch("/api/projects/<project_id>")
    async def change_project(project_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(ProjectChangeBody, known=True)
        command = UpdateProject(
            project_id, body.name, body.description, base_version(body.base_version)
        )
        return await change(rt, projects, identity, project_id, command)

    @routes.delete("/api/projects/<project_id>")
    async def delete_project(project_id: str) -> Response:
        identity = await context.authenticate()
        command = DeleteProject(project_id, query_base_version())
        return await delete(rt, projects, identity, project_id, command)

    return routes


def _project_body(workspace_id: str, project_id: str, entity: Entity | Listed[Any]) -> ProjectBody:
    project: Project = entity.state
    return ProjectBody(
        id=project_id,
        workspace_id=workspace_id,
        name=project.name,
        description=project.description,
        version=entity.version,
        created_at=project.created_at,
    )
