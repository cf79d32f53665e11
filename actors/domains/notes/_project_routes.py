"""Projects over HTTP, under which a workspace's notes are put together."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.claims import check_name
from dalsegno.actors.domains.projects import (
    CreateProject,
    DeleteProject,
    Project,
    UpdateProject,
    projects,
)
from dalsegno.protocol import Listed, Receipt
from dalsegno.protocol.routes import (
    Asked,
    BaseVersion,
    ChangedBody,
    CommandRoute,
    InWorkspace,
    OfEntity,
    Paging,
    Reading,
    ReadRoute,
    Seen,
    changed,
    found,
    page_of,
)

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route


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


class ProjectsParams(Paging, frozen=True, kw_only=True):
    """Whose projects are listed."""

    workspace_id: str


class ProjectReading(Reading, frozen=True, kw_only=True):
    """Which project is read."""

    project_id: str


class ProjectParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which project is changed."""

    project_id: str


class ProjectBasis(ProjectParams, frozen=True, kw_only=True):
    """Which project is deleted, at which version."""

    base_version: BaseVersion | None = None


_OF_PROJECT = OfEntity(projects, "project_id")


async def _list(asked: Asked[ProjectsParams, None]) -> ProjectsBody:
    workspace = asked.workspace

    def show(listed: Listed[Project]) -> ProjectBody:
        return _body(workspace.id, listed.entity_id, listed)

    page = await page_of(workspace, projects, asked.params, show)
    return ProjectsBody(projects=page.items, next=page.next)


def _create(asked: Asked[None, ProjectCreateBody]) -> CreateProject:
    return CreateProject(asked.body.name, asked.body.description)


def _created(asked: Asked[None, ProjectCreateBody], receipt: Receipt) -> ProjectCreatedBody:
    return ProjectCreatedBody(
        id=receipt.entity_id,
        workspace_id=receipt.workspace_id,
        name=check_name(asked.body.name, what="name"),
        description=asked.body.description,
        version=receipt.version,
        event_seq=receipt.event_seq,
    )


async def _read(asked: Asked[ProjectReading, None]) -> ProjectBody:
    project_id, workspace = asked.params.project_id, asked.workspace
    entity = await found(workspace, projects, project_id, min_seq=asked.params.min_seq)
    return _body(workspace.id, project_id, entity)


def _change(asked: Asked[ProjectParams, ProjectChangeBody]) -> UpdateProject:
    body = asked.body
    return UpdateProject(
        asked.params.project_id, body.name, body.description, asked.based_on(body.base_version)
    )


def _delete(asked: Asked[ProjectBasis, None]) -> DeleteProject:
    params = asked.params
    return DeleteProject(params.project_id, asked.based_on(params.base_version))


def _body(workspace_id: str, project_id: str, entity: Seen) -> ProjectBody:
    project: Project = entity.state
    return ProjectBody(
        id=project_id,
        workspace_id=workspace_id,
        name=project.name,
        description=project.description,
        version=entity.version,
        created_at=project.created_at,
    )


project_routes: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/projects",
        summary="List a workspace's projects.",
        at=InWorkspace(),
        params=ProjectsParams,
        read=_list,
        returns=ProjectsBody,
    ),
    CommandRoute(
        "POST",
        "/api/projects",
        summary="Create a project.",
        at=InWorkspace(place="body"),
        body=ProjectCreateBody,
        command=_create,
        returns=ProjectCreatedBody,
        answer=_created,
        status=201,
    ),
    ReadRoute(
        "GET",
        "/api/projects/{project_id}",
        summary="Read a project.",
        at=_OF_PROJECT,
        params=ProjectReading,
        read=_read,
        returns=ProjectBody,
        version_of=lambda body: body.version,
    ),
    CommandRoute(
        "PATCH",
        "/api/projects/{project_id}",
        summary="Rename or describe a project.",
        at=_OF_PROJECT,
        params=ProjectParams,
        body=ProjectChangeBody,
        command=_change,
        returns=ChangedBody,
        answer=changed,
        makes_key=True,
    ),
    CommandRoute(
        "DELETE",
        "/api/projects/{project_id}",
        summary="Delete a project.",
        at=_OF_PROJECT,
        params=ProjectBasis,
        command=_delete,
    ),
)
