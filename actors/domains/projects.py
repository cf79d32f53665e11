"""Projects: names under which a workspace's notes are put together.

A name is used once in a workspace.  As with an e-mail address, a claim beside the project keeps it:
an entity named after the name, which the commands of two projects of one name both touch, and the
log decides one of them first.

A deleted project is gone, and its name is free again.  Its notes still say its id, for they did not
change: it is for whoever deletes a project to move them, before or after.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Never

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.protocol import Context, Domain, Index, On, Reject, Touched

from .claims import check_name

DESCRIPTION_CHARS_MAX = 2_000
"""Characters in a project's description."""


class ProjectName(msgspec.Struct, frozen=True):
    """A name that a project has."""

    by: str


class ProjectNameTaken(msgspec.Struct, frozen=True):
    """A project has this name."""

    by: str


class ProjectNameReleased(msgspec.Struct, frozen=True):
    """The name is free again."""


project_names = Domain(
    "project_name",
    state=ProjectName,
    commands=Never,
    events=ProjectNameTaken | ProjectNameReleased,
)
"""One entity for each name in use, changed together with its project."""


@project_names.evolve
def _taken(_before: ProjectName | None, event: ProjectNameTaken) -> ProjectName:
    return ProjectName(event.by)


@project_names.evolve
def _released(_before: ProjectName | None, _event: ProjectNameReleased) -> ProjectName | None:
    return None


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project."""

    name: str
    description: str
    created_at: datetime


class CreateProject(msgspec.Struct, frozen=True):
    """Create a project; without an id the runtime makes one."""

    name: str
    description: str = ""
    project_id: str | None = None


class UpdateProject(msgspec.Struct, frozen=True):
    """Rename or describe a project; what is None stays."""

    project_id: str
    name: str | None = None
    description: str | None = None
    base_version: int | None = None


class DeleteProject(msgspec.Struct, frozen=True):
    """Delete a project, but not its notes."""

    project_id: str
    base_version: int | None = None


class ProjectCreated(msgspec.Struct, frozen=True):
    """A project was created."""

    name: str
    description: str
    created_at: datetime


class ProjectUpdated(msgspec.Struct, frozen=True):
    """A project has this name and this description now."""

    name: str
    description: str


class ProjectDeleted(msgspec.Struct, frozen=True):
    """A project was deleted."""


projects = Domain(
    "project",
    state=Project,
    commands=CreateProject | UpdateProject | DeleteProject,
    events=ProjectCreated | ProjectUpdated | ProjectDeleted,
)


# ------------------------------------------------------------------------------------- deciding


def project_of(project_id: str | None) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    """Return the project that a note is put into, for ``touches=``."""
    return [] if project_id is None else [(projects, project_id)]


def check_project(project_id: str | None, touched: Touched) -> None:
    """Raise unless a note can be put into a project: there is one, or none is named.

    Raises:
        Reject: ``PROJECT_SCOPE_INVALID``.

    """
    if project_id is not None and touched.get(projects, project_id) is None:
        message = "no such project in this workspace"
        raise Reject("PROJECT_SCOPE_INVALID", message, status=422, project_id=project_id)


def _name_id(name: str) -> str:
    """Return the id of the claim on a name, which is longer than an id, or has what no id has."""
    same = unicodedata.normalize("NFC", name.strip())
    return blake2b(same.encode(), digest_size=16).hexdigest()


def _new_name(
    command: CreateProject | UpdateProject,
) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return [] if command.name is None else [(project_names, _name_id(command.name))]


def _old_name(
    project: Project, _command: UpdateProject | DeleteProject
) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return [(project_names, _name_id(project.name))]


def _take(name: str, by: str, touched: Touched) -> On[ProjectNameTaken | ProjectNameReleased]:
    if touched.get(project_names, _name_id(name)) is not None:
        raise Reject("STATE_CONFLICT", "a project has this name", field="name")
    return On(project_names, _name_id(name), ProjectNameTaken(by))


def _release(name: str) -> On[ProjectNameTaken | ProjectNameReleased]:
    return On(project_names, _name_id(name), ProjectNameReleased())


@projects.decide(touches=_new_name)
def _create(
    project: Project | None, command: CreateProject, context: Context, touched: Touched
) -> Sequence[ProjectCreated | On[Any]]:
    if project is not None:
        raise Reject("STATE_CONFLICT", "a project has this id", field="project_id")
    name = check_name(command.name, what="name")
    created = ProjectCreated(name, check_description(command.description), context.now)
    return [created, _take(name, context.entity_id, touched)]


@projects.decide(touches=_new_name, follows=_old_name)
def _update(
    project: Project, command: UpdateProject, context: Context, touched: Touched
) -> Sequence[ProjectUpdated | On[Any]]:
    name = project.name if command.name is None else check_name(command.name, what="name")
    description = project.description
    if command.description is not None:
        description = check_description(command.description)
    if (name, description) == (project.name, project.description):
        return []
    updated = ProjectUpdated(name, description)
    if name == project.name:
        return [updated]
    return [updated, _take(name, context.entity_id, touched), _release(project.name)]


@projects.decide(follows=_old_name)
def _delete(project: Project, _command: DeleteProject) -> Sequence[ProjectDeleted | On[Any]]:
    return [ProjectDeleted(), _release(project.name)]


def check_description(text: str) -> str:
    """Check and return a description.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    if len(text) > DESCRIPTION_CHARS_MAX:
        message = f"a description has at most {DESCRIPTION_CHARS_MAX} characters"
        raise Reject("BAD_REQUEST", message, field="description")
    return text


# -------------------------------------------------------------------------------------- folding


@projects.evolve
def _created(_before: Project | None, event: ProjectCreated) -> Project:
    return Project(name=event.name, description=event.description, created_at=event.created_at)


@projects.evolve
def _updated(project: Project, event: ProjectUpdated) -> Project:
    return msgspec.structs.replace(project, name=event.name, description=event.description)


@projects.evolve
def _deleted(_project: Project, _event: ProjectDeleted) -> Project | None:
    return None


@projects.index
def _by_name(project: Project) -> Index:
    return Index(title=project.name)


class _Seen(msgspec.Struct, frozen=True, gc=False):
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET


class _Shown(msgspec.Struct, frozen=True, gc=False):
    project_id: str
    version: int
    name: str | UnsetType
    description: str | UnsetType


@projects.view(of=_Seen)
def _on_workspace_stream(event: _Seen, project_id: str, version: int) -> _Shown:
    return _Shown(project_id, version, event.name, event.description)
