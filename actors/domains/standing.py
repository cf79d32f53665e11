"""How a workspace stands: its name since it was renamed, and whether it is archived or deleted.

    active ⇄ archived        what is archived can be read; its owners and admins look after it
       └────────┴─▶ deleted  what is deleted is there for nobody, for good

One entity in the workspace's own log, so that its order decides which commands came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from dalsegno.protocol import Audit, Domain, Reject, not_found

from .claims import check_name
from .members import ADMINS, members

MAIN: Literal["main"] = "main"
"""The id of the one entity that a log has; what `Domain.gate` asks for."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a workspace stands; one whose log has no such entity is active, under its first name."""

    name: str | None = None
    state: Literal["active", "archived", "deleted"] = "active"


class ChangeWorkspace(msgspec.Struct, frozen=True, kw_only=True):
    """Rename a workspace, archive it, or open it again; what is None stays."""

    name: str | None = None
    state: Literal["active", "archived"] | None = None
    standing_id: Literal["main"] = MAIN


class DeleteWorkspace(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a workspace for good; its log stays in the database."""

    standing_id: Literal["main"] = MAIN


class WorkspaceRenamed(msgspec.Struct, frozen=True):
    """A workspace has another name."""

    name: str


class WorkspaceArchived(msgspec.Struct, frozen=True):
    """A workspace can only be read from now on."""


class WorkspaceRestored(msgspec.Struct, frozen=True):
    """A workspace that was archived can be written to again."""


class WorkspaceDeleted(msgspec.Struct, frozen=True):
    """A workspace is there for nobody any more; nothing follows in its log."""


standings = Domain(
    "standing",
    state=Standing,
    commands=ChangeWorkspace | DeleteWorkspace,
    events=WorkspaceRenamed | WorkspaceArchived | WorkspaceRestored | WorkspaceDeleted,
    allow=ADMINS,
)
"""One entity per log, ``standing:main``."""

_MAINTENANCE = frozenset({standings.name, members.name})
"""The domains whose commands go on in a workspace that is archived: admins alone may send them."""


@standings.gate(closed_by=[WorkspaceDeleted])
def _gate(standing: Standing, asked: str | None) -> Reject | None:
    if standing.state == "deleted":
        return not_found("workspace")
    if standing.state == "archived" and asked is not None and asked not in _MAINTENANCE:
        return Reject("WORKSPACE_ARCHIVED", "the workspace is archived: it can only be read")
    return None


@standings.decide
def _change_workspace(
    standing: Standing | None, command: ChangeWorkspace
) -> Sequence[WorkspaceRenamed | WorkspaceArchived | WorkspaceRestored]:
    before = standing or Standing()
    events: list[WorkspaceRenamed | WorkspaceArchived | WorkspaceRestored] = []
    if command.name is not None and command.name != before.name:
        events.append(WorkspaceRenamed(check_name(command.name, what="name")))
    if command.state is not None and command.state != before.state:
        archives = command.state == "archived"
        events.append(WorkspaceArchived() if archives else WorkspaceRestored())
    return events


@standings.decide
def _delete_workspace(
    _standing: Standing | None, _command: DeleteWorkspace
) -> Sequence[WorkspaceDeleted]:
    return [WorkspaceDeleted()]


@standings.evolve
def _renamed(standing: Standing | None, event: WorkspaceRenamed) -> Standing:
    return msgspec.structs.replace(standing or Standing(), name=event.name)


@standings.evolve
def _archived(standing: Standing | None, _event: WorkspaceArchived) -> Standing:
    return msgspec.structs.replace(standing or Standing(), state="archived")


@standings.evolve
def _restored(standing: Standing | None, _event: WorkspaceRestored) -> Standing:
    return msgspec.structs.replace(standing or Standing(), state="active")


@standings.evolve
def _deleted(standing: Standing | None, _event: WorkspaceDeleted) -> Standing:
    return msgspec.structs.replace(standing or Standing(), state="deleted")


_ACTIONS = {
    WorkspaceRenamed: "WORKSPACE_RENAMED",
    WorkspaceArchived: "WORKSPACE_ARCHIVED",
    WorkspaceRestored: "WORKSPACE_RESTORED",
    WorkspaceDeleted: "WORKSPACE_DELETED",
}


@standings.audit
def _on_record(
    event: WorkspaceRenamed | WorkspaceArchived | WorkspaceRestored | WorkspaceDeleted,
    before: Standing | None,
    after: Standing | None,
) -> Audit:
    return Audit(
        action=_ACTIONS[type(event)], resource_type="workspace", old_value=before, new_value=after
    )
