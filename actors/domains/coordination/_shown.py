"""The families of entities as their readers see them: a record, its tenant, its id, its version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from dalsegno.protocol import Domain

from ._agent_notes import AgentNote, agent_notes
from ._agents import Agent, agents
from ._delegations import Delegation, delegations
from ._edges import AgentEdge, agent_edges
from ._handoffs import Handoff, handoffs
from ._locks import AgentLock, agent_locks
from ._messages import AgentMessage, agent_messages
from ._reports import Summarization, ToolExecution, summarizations, tool_executions
from ._tree import (
    Artifact,
    Scope,
    Trajectory,
    Turn,
    artifacts,
    scopes,
    trajectories,
    turns,
)


class TrajectoryBody(Trajectory, frozen=True, kw_only=True):
    """A trajectory, as it is shown."""

    tenant_id: str
    trajectory_id: str
    version: int


class ScopeBody(Scope, frozen=True, kw_only=True):
    """A scope, as it is shown."""

    tenant_id: str
    scope_id: str
    version: int


class ArtifactBody(Artifact, frozen=True, kw_only=True):
    """An artifact, as it is shown."""

    tenant_id: str
    artifact_id: str
    version: int


class TurnBody(Turn, frozen=True, kw_only=True):
    """A turn, as it is shown."""

    tenant_id: str
    turn_id: str
    version: int


class NoteBody(AgentNote, frozen=True, kw_only=True):
    """A note of agents, as it is shown."""

    tenant_id: str
    note_id: str
    version: int


class AgentBody(Agent, frozen=True, kw_only=True):
    """An agent, as it is shown."""

    tenant_id: str
    agent_id: str
    version: int


class LockBody(AgentLock, frozen=True, kw_only=True):
    """A lock, as it is shown."""

    tenant_id: str
    lock_id: str
    version: int


class MessageBody(AgentMessage, frozen=True, kw_only=True):
    """A message, as it is shown."""

    tenant_id: str
    message_id: str
    version: int


class DelegationBody(Delegation, frozen=True, kw_only=True):
    """A delegation, as it is shown."""

    tenant_id: str
    delegation_id: str
    version: int


class HandoffBody(Handoff, frozen=True, kw_only=True):
    """A hand-over, as it is shown."""

    tenant_id: str
    handoff_id: str
    version: int


class EdgeBody(AgentEdge, frozen=True, kw_only=True):
    """An edge, as it is shown."""

    tenant_id: str
    edge_id: str
    version: int


class ToolExecutionBody(ToolExecution, frozen=True, kw_only=True):
    """A tool that ran, as it is shown."""

    tenant_id: str
    execution_id: str
    version: int


class SummarizationBody(Summarization, frozen=True, kw_only=True):
    """A summary that is due, as it is shown."""

    tenant_id: str
    summarization_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Family:
    """The entities of one kind, and how they are shown."""

    name: str
    """What one of them is called: in a message, the field that has it."""
    domain: Domain[Any, Any, Any]
    body: type[msgspec.Struct]
    """A record with ``tenant_id``, its own id and its version."""
    id_name: str
    path: str
    """Where they are served."""

    def show(
        self, tenant_id: str, entity_id: str, version: int, record: msgspec.Struct
    ) -> msgspec.Struct:
        """Return a record as it is shown."""
        ids = {"tenant_id": tenant_id, self.id_name: entity_id, "version": version}
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        return self.body(**fields, **ids)

    def show_state(
        self,
        tenant_id: str,
        entity_id: str,
        version: int,
        state: Any,  # noqa: ANN401 - the domain's
    ) -> msgspec.Struct | None:
        """Return an entity as it is shown; None for one that is on its way out."""
        if getattr(state, "ends_at", None) is not None:
            return None
        return self.show(tenant_id, entity_id, version, getattr(state, "record", state))


TRAJECTORIES = Family(
    "trajectory", trajectories, TrajectoryBody, "trajectory_id", "/api/v1/trajectories"
)
SCOPES = Family("scope", scopes, ScopeBody, "scope_id", "/api/v1/scopes")
ARTIFACTS = Family("artifact", artifacts, ArtifactBody, "artifact_id", "/api/v1/artifacts")
TURNS = Family("turn", turns, TurnBody, "turn_id", "/api/v1/turns")
NOTES = Family("note", agent_notes, NoteBody, "note_id", "/api/v1/notes")
AGENTS = Family("agent", agents, AgentBody, "agent_id", "/api/v1/agents")
LOCKS = Family("lock", agent_locks, LockBody, "lock_id", "/api/v1/locks")
MESSAGES = Family("message", agent_messages, MessageBody, "message_id", "/api/v1/messages")
DELEGATIONS = Family(
    "delegation", delegations, DelegationBody, "delegation_id", "/api/v1/delegations"
)
HANDOFFS = Family("handoff", handoffs, HandoffBody, "handoff_id", "/api/v1/handoffs")
EDGES = Family("edge", agent_edges, EdgeBody, "edge_id", "/api/v1/edges")
TOOL_EXECUTIONS = Family(
    "tool execution", tool_executions, ToolExecutionBody, "execution_id", "/api/v1/tools/executions"
)
SUMMARIZATIONS = Family(
    "summarization",
    summarizations,
    SummarizationBody,
    "summarization_id",
    "/api/v1/summarizations",
)
