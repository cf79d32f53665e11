"""The work of agents as a tree: trajectories, their scopes, and in these turns and artifacts.

The four know each other: who is made looks whether its parents are there, and who goes takes its
parts along (`_offspring`).  Here they are declared; how each is decided has a module of its own.

A state is the record that its readers are shown, and what only deciders need.  Events that show a
record whole carry it whole.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dalsegno.protocol import Domain, Touched, not_found

from ._words import (
    Content,
    Count,
    Document,
    Id,
    Instant,
    Label,
    Name,
    OutcomeStatus,
    Prose,
    TrajectoryStatus,
    TurnRole,
)

# --------------------------------------------------------------------------------- trajectories


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trajectory."""

    status: OutcomeStatus
    summary: Prose = ""
    error: Prose | None = None


class NewTrajectory(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a trajectory when it begins."""

    name: Name
    description: Prose | None = None
    parent_trajectory_id: Id | None = None
    agent_id: Id | None = None
    metadata: Document | None = None


class TrajectoryChange(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a trajectory that may be changed; null removes an optional one."""

    name: Name | UnsetType = UNSET
    description: Prose | UnsetType | None = UNSET
    status: TrajectoryStatus | UnsetType = UNSET
    outcome: Outcome | UnsetType | None = UNSET
    metadata: Document | UnsetType | None = UNSET


class Trajectory(NewTrajectory, frozen=True, kw_only=True):
    """A course of work towards one goal."""

    status: TrajectoryStatus = "Active"
    outcome: Outcome | None = None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None = None


class CreateTrajectory(NewTrajectory, frozen=True, kw_only=True):
    """Begin a trajectory; without an id the runtime makes one."""

    trajectory_id: str | None = None


class UpdateTrajectory(TrajectoryChange, frozen=True, kw_only=True):
    """Change a trajectory."""

    trajectory_id: str
    base_version: int | None = None


class DeleteTrajectory(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a trajectory with its scopes, and the trajectories below it."""

    trajectory_id: str
    base_version: int | None = None


class SweepTrajectory(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a page of what belonged to a deleted trajectory; sent by its timer."""

    trajectory_id: str
    page: str


class TrajectoryCreated(msgspec.Struct, frozen=True):
    """A trajectory began."""

    trajectory: Trajectory


class TrajectoryUpdated(msgspec.Struct, frozen=True):
    """A trajectory was changed."""

    trajectory: Trajectory


class TrajectoryDeleted(msgspec.Struct, frozen=True):
    """A trajectory was deleted; what belongs to it goes next."""

    at: datetime


class TrajectoryPageTurned(msgspec.Struct, frozen=True):
    """What belongs to a trajectory takes one page more."""


class TrajectorySwept(msgspec.Struct, frozen=True):
    """A page of what belonged to a deleted trajectory has gone; the one before it goes next."""

    at: datetime


class TrajectoryState(msgspec.Struct, frozen=True, kw_only=True):
    """A trajectory, and what belongs to it."""

    record: Trajectory
    pages: int = 0
    ends_at: datetime | None = None
    """When it was deleted, or its last page went, while something of it is left: what asks for the
    same again is taken for stuck."""


trajectories = Domain(
    "trajectory",
    state=TrajectoryState,
    commands=CreateTrajectory | UpdateTrajectory | DeleteTrajectory | SweepTrajectory,
    events=TrajectoryCreated
    | TrajectoryUpdated
    | TrajectoryDeleted
    | TrajectoryPageTurned
    | TrajectorySwept,
)

# --------------------------------------------------------------------------------------- scopes


class NewScope(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a scope when it is opened."""

    trajectory_id: Id
    parent_scope_id: Id | None = None
    name: Name
    purpose: Prose | None = None
    token_budget: Count
    metadata: Document | None = None


class ScopeChange(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a scope that may be changed."""

    name: Name | UnsetType = UNSET
    purpose: Prose | UnsetType | None = UNSET
    token_budget: Count | UnsetType = UNSET
    metadata: Document | UnsetType | None = UNSET


class NewCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a scope keeps of where it is."""

    context_state: Document
    recoverable: bool = True


class Checkpoint(NewCheckpoint, frozen=True, kw_only=True):
    """Where a scope was."""

    created_at: datetime


class Scope(NewScope, frozen=True, kw_only=True):
    """A part of a trajectory with a budget of its own."""

    is_active: bool = True
    checkpoint: Checkpoint | None = None
    created_at: datetime
    closed_at: datetime | None = None


class CreateScope(NewScope, frozen=True, kw_only=True):
    """Open a scope; without an id the runtime makes one."""

    scope_id: str | None = None


class UpdateScope(ScopeChange, frozen=True, kw_only=True):
    """Change a scope."""

    scope_id: str
    base_version: int | None = None


class CheckpointScope(NewCheckpoint, frozen=True, kw_only=True):
    """Keep where a scope is, instead of where it was before."""

    scope_id: str


class CloseScope(msgspec.Struct, frozen=True, kw_only=True):
    """Close a scope, once."""

    scope_id: str
    base_version: int | None = None


class SweepScope(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a page of what belonged to a deleted scope; sent by its timer."""

    scope_id: str
    page: str


class ScopeCreated(msgspec.Struct, frozen=True):
    """A scope was opened."""

    scope: Scope


class ScopeUpdated(msgspec.Struct, frozen=True):
    """A scope was changed."""

    scope: Scope


class ScopeCheckpointed(msgspec.Struct, frozen=True):
    """A scope keeps where it is."""

    scope: Scope


class ScopeClosed(msgspec.Struct, frozen=True):
    """A scope was closed."""

    scope: Scope


class ScopeDeleted(msgspec.Struct, frozen=True):
    """A scope went with its trajectory; what belongs to it goes next."""

    at: datetime


class ScopePageTurned(msgspec.Struct, frozen=True):
    """What belongs to a scope takes one page more."""


class ScopeSwept(msgspec.Struct, frozen=True):
    """A page of what belonged to a scope has gone; the one before it goes next."""

    at: datetime


class ScopeState(msgspec.Struct, frozen=True, kw_only=True):
    """A scope, and what belongs to it."""

    record: Scope
    pages: int = 0
    ends_at: datetime | None = None
    """When its trajectory took it along, or its last page went, while something of it is left."""


scopes = Domain(
    "scope",
    state=ScopeState,
    commands=CreateScope | UpdateScope | CheckpointScope | CloseScope | SweepScope,
    events=ScopeCreated
    | ScopeUpdated
    | ScopeCheckpointed
    | ScopeClosed
    | ScopeDeleted
    | ScopePageTurned
    | ScopeSwept,
)

# ------------------------------------------------------------------------------------ artifacts


class NewArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of an artifact when it is made."""

    trajectory_id: Id
    scope_id: Id
    artifact_type: Label
    name: Name
    content: Content
    source_turn: Count
    extraction_method: Label
    confidence: Annotated[float, Meta(ge=0, le=1, extra={"code": "INVALID_RANGE"})] | None = None
    ttl: Label
    metadata: Document | None = None


class ArtifactChange(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of an artifact that may be changed."""

    artifact_type: Label | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    content: Content | UnsetType = UNSET
    ttl: Label | UnsetType = UNSET
    metadata: Document | UnsetType | None = UNSET


class Artifact(NewArtifact, frozen=True, kw_only=True):
    """Something that came of a scope's turns."""

    created_at: datetime
    updated_at: datetime


class CreateArtifact(NewArtifact, frozen=True, kw_only=True):
    """Make an artifact; without an id the runtime makes one."""

    artifact_id: str | None = None


class UpdateArtifact(ArtifactChange, frozen=True, kw_only=True):
    """Change an artifact."""

    artifact_id: str
    base_version: int | None = None


class DeleteArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """Delete an artifact."""

    artifact_id: str
    base_version: int | None = None


class ArtifactCreated(msgspec.Struct, frozen=True):
    """An artifact was made."""

    artifact: Artifact


class ArtifactUpdated(msgspec.Struct, frozen=True):
    """An artifact was changed."""

    artifact: Artifact


class ArtifactDeleted(msgspec.Struct, frozen=True):
    """An artifact was deleted, or went with its scope."""


artifacts = Domain(
    "artifact",
    state=Artifact,
    commands=CreateArtifact | UpdateArtifact | DeleteArtifact,
    events=ArtifactCreated | ArtifactUpdated | ArtifactDeleted,
)

# ---------------------------------------------------------------------------------------- turns


class NewTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn, as it is said."""

    scope_id: Id
    sequence: Count
    role: TurnRole
    content: Content
    token_count: Count
    tool_calls: Document | list[Document] | None = None
    tool_results: Document | list[Document] | None = None
    metadata: Document | None = None


class Turn(NewTurn, frozen=True, kw_only=True):
    """A turn of a conversation, which never changes."""

    created_at: Instant


class CreateTurn(NewTurn, frozen=True, kw_only=True):
    """Add a turn to a scope; without an id the runtime makes one."""

    turn_id: str | None = None


class TurnCreated(msgspec.Struct, frozen=True):
    """A turn was added."""

    turn: Turn


class TurnDeleted(msgspec.Struct, frozen=True):
    """A turn went with its scope."""


turns = Domain("turn", state=Turn, commands=CreateTurn, events=TurnCreated | TurnDeleted)

# ------------------------------------------------------------------------- what others name


def living_trajectory(trajectory_id: str, touched: Touched) -> TrajectoryState:
    """Return a trajectory that a command names.

    Raises:
        Reject: ``TRAJECTORY_NOT_FOUND``.

    """
    state = touched.get(trajectories, trajectory_id)
    if state is None or state.ends_at is not None:
        raise not_found(trajectories.stream_id(trajectory_id), trajectory_id=trajectory_id)
    return state


def living_scope(scope_id: str, touched: Touched) -> ScopeState:
    """Return a scope that a command names.

    Raises:
        Reject: ``SCOPE_NOT_FOUND``.

    """
    state = touched.get(scopes, scope_id)
    if state is None or state.ends_at is not None:
        raise not_found(scopes.stream_id(scope_id), scope_id=scope_id)
    return state


def check_scope(scope_id: str, trajectory_id: str | None, touched: Touched) -> None:
    """Raise unless there is such a scope, in this trajectory.

    Raises:
        Reject: ``SCOPE_NOT_FOUND``.

    """
    record = living_scope(scope_id, touched).record
    if trajectory_id is not None and record.trajectory_id != trajectory_id:
        raise not_found(scopes.stream_id(scope_id), scope_id=scope_id)


def check_place(trajectory_id: object, scope_id: object, touched: Touched) -> None:
    """Raise unless the trajectory and the scope that a command names are there; each is optional.

    Raises:
        Reject: ``TRAJECTORY_NOT_FOUND``, ``SCOPE_NOT_FOUND``.

    """
    if isinstance(trajectory_id, str):
        living_trajectory(trajectory_id, touched)
    if isinstance(scope_id, str):
        check_scope(scope_id, trajectory_id if isinstance(trajectory_id, str) else None, touched)
