"""What is served of coordination over HTTP: the surface of its source, under ``/api/v1``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dalsegno.protocol import Receipt, Reject
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    Limited,
    Reading,
    ReadRoute,
    SeenMembership,
)

from ._agent_notes import (
    AgentNoteChange,
    CreateAgentNote,
    DeleteAgentNote,
    NewAgentNote,
    UpdateAgentNote,
)
from ._agents import (
    AgentChange,
    HeartbeatAgent,
    NewAgent,
    RegisterAgent,
    UnregisterAgent,
    UpdateAgent,
)
from ._config import (
    CONFIG_ID,
    AgentConfig,
    UpdateAgentConfig,
    agent_configs,
    faults_of,
    whole_config,
)
from ._delegations import (
    AcceptDelegation,
    CompleteDelegation,
    CreateDelegation,
    DelegationResult,
    NewDelegation,
    RejectDelegation,
    StartDelegation,
)
from ._edges import (
    AgentEdgeBatch,
    CreateAgentEdge,
    CreateAgentEdges,
    NewEdge,
)
from ._handoffs import AcceptHandoff, CompleteHandoff, CreateHandoff, NewHandoff, RejectHandoff
from ._locks import (
    AcquireAgentLock,
    ExtendAgentLock,
    Milliseconds,
    ReleaseAgentLock,
)
from ._messages import (
    AcknowledgeAgentMessage,
    DeliverAgentMessage,
    NewMessage,
    SendAgentMessage,
)
from ._refusals import as_known, as_no_tenant
from ._reports import (
    NewSummarization,
    NewToolExecution,
    ReportToolExecution,
    TriggerSummarization,
)
from ._served import (
    REFUSED,
    TENANT,
    below,
    change,
    create,
    delete,
    many,
    read,
    search,
    shown_by,
    step,
)
from ._shown import (
    AGENTS,
    ARTIFACTS,
    DELEGATIONS,
    EDGES,
    HANDOFFS,
    LOCKS,
    MESSAGES,
    NOTES,
    SCOPES,
    SUMMARIZATIONS,
    TOOL_EXECUTIONS,
    TRAJECTORIES,
    TURNS,
)
from ._tree import (
    ArtifactChange,
    CheckpointScope,
    CloseScope,
    CreateArtifact,
    CreateScope,
    CreateTrajectory,
    CreateTurn,
    DeleteArtifact,
    DeleteTrajectory,
    NewArtifact,
    NewCheckpoint,
    NewScope,
    NewTrajectory,
    NewTurn,
    ScopeChange,
    TrajectoryChange,
    UpdateArtifact,
    UpdateScope,
    UpdateTrajectory,
)
from ._words import Document, Id, Label, Prose

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route

# ---------------------------------------------------------------------------------------- locks


class AcquireBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to lock a resource."""

    resource_type: Label
    resource_id: Id
    holder_agent_id: Id
    timeout_ms: Milliseconds
    mode: str = "Exclusive"
    """In any case."""


class ReleaseBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to give a lock back."""

    releasing_agent_id: Id


class ExtendBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to hold a lock for longer."""

    additional_ms: Milliseconds
    extending_agent_id: Id | None = None


def _acquire(asked: Asked[None, AcquireBody]) -> AcquireAgentLock:
    body = asked.body
    return AcquireAgentLock(
        resource_type=body.resource_type,
        resource_id=body.resource_id,
        holder_agent_id=body.holder_agent_id,
        timeout_ms=body.timeout_ms,
        mode=_mode(body.mode),
    )


def _mode(said: str) -> Literal["Exclusive", "Shared"]:
    match said.lower():
        case "exclusive":
            return "Exclusive"
        case "shared":
            return "Shared"
    raise Reject("VALIDATION_FAILED", "a lock is exclusive or shared", status=400, field="mode")


_locks = (
    CommandRoute(
        "POST",
        f"{LOCKS.path}/acquire",
        summary="Lock a resource for an agent.",
        group="locks",
        at=TENANT,
        body=AcquireBody,
        command=_acquire,
        returns=LOCKS.body,
        shows=shown_by(LOCKS),
        status=201,
        refusals=REFUSED,
        shows_error=as_known,
    ),
    step(LOCKS, "release", ReleaseAgentLock, body=ReleaseBody),
    step(LOCKS, "extend", ExtendAgentLock, body=ExtendBody, status=200),
    many(LOCKS, "resource_type", "resource_id", "holder_agent_id"),
    read(LOCKS),
)

# --------------------------------------------------------------------- delegations and hand-overs


class AcceptBody(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes what was offered."""

    accepting_agent_id: Id


class RejectBody(msgspec.Struct, frozen=True, kw_only=True):
    """Who does not take what was offered, and why."""

    rejecting_agent_id: Id
    reason: Prose


class StartBody(msgspec.Struct, frozen=True, kw_only=True):
    """Who begins."""

    starting_agent_id: Id


class DelegationDoneBody(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a delegation."""

    result: DelegationResult
    completing_agent_id: Id | None = None


class HandoffDoneBody(msgspec.Struct, frozen=True, kw_only=True):
    """Who has taken over."""

    completing_agent_id: Id | None = None


_pacts = (
    create(DELEGATIONS, NewDelegation, CreateDelegation),
    many(DELEGATIONS, "status", "from_agent_id", "to_agent_id"),
    read(DELEGATIONS),
    step(DELEGATIONS, "accept", AcceptDelegation, body=AcceptBody),
    step(DELEGATIONS, "reject", RejectDelegation, body=RejectBody),
    step(DELEGATIONS, "start", StartDelegation, body=StartBody),
    step(DELEGATIONS, "complete", CompleteDelegation, body=DelegationDoneBody),
    create(HANDOFFS, NewHandoff, CreateHandoff),
    many(HANDOFFS, "status", "from_agent_id", "to_agent_id"),
    read(HANDOFFS),
    step(HANDOFFS, "accept", AcceptHandoff, body=AcceptBody),
    step(HANDOFFS, "reject", RejectHandoff, body=RejectBody),
    step(HANDOFFS, "complete", CompleteHandoff, body=HandoffDoneBody),
)

# ---------------------------------------------------------------------------------------- edges


class EdgesBody(msgspec.Struct, frozen=True, kw_only=True):
    """The edges that were made at once."""

    edge_ids: tuple[str, ...]


class NewEdgesBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to make several edges."""

    edges: tuple[NewEdge, ...]


def _edges_made(_receipt: Receipt, state: Any) -> EdgesBody:  # noqa: ANN401 - as all of these
    assert isinstance(state, AgentEdgeBatch), "the batch was just made"
    return EdgesBody(edge_ids=state.edge_ids)


_edges = (
    create(EDGES, NewEdge, CreateAgentEdge),
    CommandRoute(
        "POST",
        f"{EDGES.path}/batch",
        summary="Create several edges, all or none.",
        group="edges",
        at=TENANT,
        body=NewEdgesBody,
        command=lambda asked: CreateAgentEdges(edges=asked.body.edges),
        returns=EdgesBody,
        shows=_edges_made,
        status=201,
        refusals=REFUSED,
        shows_error=as_known,
    ),
    many(EDGES, "edge_type", "entity_id"),
    read(EDGES),
)

# ------------------------------------------------------------------------------- configurations


class ConfigBody(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration, and what is wrong with it."""

    config: Document
    valid: bool
    errors: list[str]


class ConfigChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a configuration, or one that is only looked at."""

    config: Document


async def _read_config(asked: Asked[Reading, None]) -> ConfigBody:
    min_seq = asked.params.min_seq or None
    found = await asked.workspace.look(agent_configs, CONFIG_ID, min_seq=min_seq)
    state: AgentConfig | None = None if found is None else found.state
    return ConfigBody(config=whole_config(state), valid=True, errors=[])


def _change_config(asked: Asked[None, ConfigChange]) -> UpdateAgentConfig:
    return UpdateAgentConfig(config=asked.body.config, base_version=asked.if_match)


def _config_changed(_receipt: Receipt, state: AgentConfig) -> ConfigBody:
    return ConfigBody(config=whole_config(state), valid=True, errors=[])


async def _validate(asked: Asked[None, ConfigChange]) -> ConfigBody:
    faults = faults_of(asked.body.config)
    return ConfigBody(config=asked.body.config, valid=not faults, errors=faults)


_config = (
    ReadRoute(
        "GET",
        "/api/v1/config",
        summary="Read the configuration, with the settings that it does not mention.",
        group="config",
        at=TENANT,
        params=Reading,
        read=_read_config,
        returns=ConfigBody,
        refusals=REFUSED,
        shows_error=as_known,
    ),
    CommandRoute(
        "PATCH",
        "/api/v1/config",
        summary="Change fields of the configuration; null takes one away.",
        group="config",
        at=TENANT,
        body=ConfigChange,
        command=_change_config,
        returns=ConfigBody,
        shows=_config_changed,
        refusals=REFUSED,
        shows_error=as_known,
    ),
    ReadRoute(
        "POST",
        "/api/v1/config/validate",
        summary="Look whether a configuration is valid.",
        group="config",
        at=TENANT,
        body=ConfigChange,
        read=_validate,
        returns=ConfigBody,
        refusals=REFUSED,
        shows_error=as_known,
    ),
)

# -------------------------------------------------------------------------------------- tenants


class TenantBody(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant: a workspace, as one of its members."""

    tenant_id: str
    name: str
    role: str
    member_since: datetime


class TenantsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the tenants of who asks."""

    items: list[TenantBody]
    next: str | None


class TenantsParams(Limited, frozen=True, kw_only=True):
    """Which tenants are listed."""

    after: str = ""


class TenantParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which tenant is read."""

    tenant_id: str


def _tenant(seen: SeenMembership) -> TenantBody:
    return TenantBody(
        tenant_id=seen.workspace_id, name=seen.name, role=seen.role, member_since=seen.since
    )


async def _list_tenants(asked: Asked[TenantsParams, None]) -> TenantsBody:
    page, after = await asked.own.page(after=asked.params.after, limit=asked.params.limit)
    return TenantsBody(items=[_tenant(each) for each in page], next=after)


async def _read_tenant(asked: Asked[TenantParams, None]) -> TenantBody:
    return _tenant(await asked.own.of(asked.params.tenant_id))


_tenants = (
    ReadRoute(
        "GET",
        "/api/v1/tenants",
        summary="List the tenants of which the caller is a member.",
        group="tenants",
        params=TenantsParams,
        read=_list_tenants,
        returns=TenantsBody,
        shows_error=as_known,
    ),
    ReadRoute(
        "GET",
        "/api/v1/tenants/{tenant_id}",
        summary="Read a tenant.",
        group="tenants",
        params=TenantParams,
        read=_read_tenant,
        returns=TenantBody,
        refusals=frozenset({404}),
        shows_error=as_no_tenant,
    ),
)

# ------------------------------------------------------------------------------------ all of them

coordination_routes: tuple[Route, ...] = (
    create(TRAJECTORIES, NewTrajectory, CreateTrajectory),
    many(TRAJECTORIES, "status", "agent_id", "parent_trajectory_id"),
    read(TRAJECTORIES),
    change(TRAJECTORIES, TrajectoryChange, UpdateTrajectory),
    delete(TRAJECTORIES, DeleteTrajectory),
    below(SCOPES, TRAJECTORIES, "scopes", by="trajectory_id"),
    below(TRAJECTORIES, TRAJECTORIES, "children", by="parent_trajectory_id"),
    create(SCOPES, NewScope, CreateScope),
    read(SCOPES),
    change(SCOPES, ScopeChange, UpdateScope),
    step(SCOPES, "checkpoint", CheckpointScope, body=NewCheckpoint, status=201),
    step(SCOPES, "close", CloseScope, status=200),
    below(TURNS, SCOPES, "turns", by="scope_id"),
    below(ARTIFACTS, SCOPES, "artifacts", by="scope_id"),
    create(ARTIFACTS, NewArtifact, CreateArtifact),
    many(ARTIFACTS, "trajectory_id", "scope_id", "artifact_type"),
    read(ARTIFACTS),
    change(ARTIFACTS, ArtifactChange, UpdateArtifact),
    delete(ARTIFACTS, DeleteArtifact),
    search(ARTIFACTS, "trajectory_id", "scope_id", "artifact_type"),
    create(NOTES, NewAgentNote, CreateAgentNote),
    many(NOTES, "note_type", "source_trajectory_id"),
    read(NOTES),
    change(NOTES, AgentNoteChange, UpdateAgentNote),
    delete(NOTES, DeleteAgentNote),
    search(NOTES, "note_type", "source_trajectory_id"),
    create(TURNS, NewTurn, CreateTurn),
    read(TURNS),
    create(AGENTS, NewAgent, RegisterAgent),
    many(AGENTS, "status", "agent_type"),
    read(AGENTS),
    change(AGENTS, AgentChange, UpdateAgent),
    delete(AGENTS, UnregisterAgent),
    step(AGENTS, "heartbeat", HeartbeatAgent, status=200),
    *_locks,
    create(MESSAGES, NewMessage, SendAgentMessage),
    many(MESSAGES, "to_agent_id", "from_agent_id", "to_agent_type", "message_type"),
    read(MESSAGES),
    step(MESSAGES, "deliver", DeliverAgentMessage),
    step(MESSAGES, "acknowledge", AcknowledgeAgentMessage),
    *_pacts,
    *_edges,
    create(TOOL_EXECUTIONS, NewToolExecution, ReportToolExecution),
    many(TOOL_EXECUTIONS, "tool_name"),
    read(TOOL_EXECUTIONS),
    create(SUMMARIZATIONS, NewSummarization, TriggerSummarization),
    many(SUMMARIZATIONS, "trajectory_id"),
    read(SUMMARIZATIONS),
    *_config,
    *_tenants,
)
"""What is served over HTTP, besides what every domain has."""
