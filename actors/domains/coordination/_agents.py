"""Agents: programs that say what they can do, and that they are there.

An agent that sends no heartbeat for some time is offline, which its timer says; its next heartbeat
brings it back, idle.  Locks, delegations and hand-overs of an agent that has gone end by their own
timers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from dalsegno.protocol import Context, Domain, Due, Index, Reject, Touched, not_found

from ._config import its_config, settings
from ._offspring import Named
from ._tree import check_place, scopes, trajectories
from ._words import AgentStatus, Id, Label, Labels, changed, fields_of


class MemoryAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Which memories an agent reads and writes: its own word, which nothing here enforces."""

    read: Labels = ()
    write: Labels = ()


Capabilities: TypeAlias = Annotated[tuple[Label, ...], Meta(min_length=1, max_length=100)]


class NewAgent(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself."""

    agent_type: Label
    capabilities: Capabilities
    memory_access: MemoryAccess
    can_delegate_to: Labels
    reports_to: Id | None = None


class AgentChange(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of an agent that may be changed."""

    status: AgentStatus | UnsetType = UNSET
    capabilities: Capabilities | UnsetType = UNSET
    memory_access: MemoryAccess | UnsetType = UNSET
    can_delegate_to: Labels | UnsetType = UNSET
    reports_to: Id | UnsetType | None = UNSET
    current_trajectory_id: Id | UnsetType | None = UNSET
    current_scope_id: Id | UnsetType | None = UNSET


class Agent(NewAgent, frozen=True, kw_only=True):
    """An agent."""

    status: AgentStatus = "Idle"
    current_trajectory_id: Id | None = None
    current_scope_id: Id | None = None
    created_at: datetime
    last_heartbeat: datetime


class RegisterAgent(NewAgent, frozen=True, kw_only=True):
    """Register an agent; without an id the runtime makes one."""

    agent_id: str | None = None


class UpdateAgent(AgentChange, frozen=True, kw_only=True):
    """Change an agent."""

    agent_id: str
    base_version: int | None = None


class HeartbeatAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Record the heartbeat of an agent."""

    agent_id: str


class MarkAgentOffline(msgspec.Struct, frozen=True, kw_only=True):
    """Mark an agent offline after too long a silence; sent by its timer."""

    agent_id: str


class UnregisterAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Unregister an agent that is not active."""

    agent_id: str
    base_version: int | None = None


class AgentRegistered(msgspec.Struct, frozen=True):
    """An agent was registered."""

    agent: Agent
    silent_max_s: float
    """How long it may be silent."""


class AgentUpdated(msgspec.Struct, frozen=True):
    """An agent was changed; its status has an event of its own."""

    agent: Agent


class AgentStatusChanged(msgspec.Struct, frozen=True):
    """An agent has this status now."""

    status: AgentStatus


class AgentHeartbeat(msgspec.Struct, frozen=True):
    """An agent was there at this time."""

    timestamp: datetime
    silent_max_s: float


class AgentUnregistered(msgspec.Struct, frozen=True):
    """An agent is no more."""


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, and how long it may be silent."""

    record: Agent
    silent_max_s: float


agents = Domain(
    "agent",
    state=AgentState,
    commands=RegisterAgent | UpdateAgent | HeartbeatAgent | MarkAgentOffline | UnregisterAgent,
    events=AgentRegistered | AgentUpdated | AgentStatusChanged | AgentHeartbeat | AgentUnregistered,
)


def check_agent(agent_id: str, touched: Touched) -> Agent:
    """Return an agent that a command names.

    Raises:
        Reject: ``AGENT_NOT_FOUND``.

    """
    state = touched.get(agents, agent_id)
    if state is None:
        raise not_found(agents.stream_id(agent_id), agent_id=agent_id)
    return state.record


# ------------------------------------------------------------------------------------- deciding


def _named_by_new(command: RegisterAgent) -> Named:
    reports_to = command.reports_to
    return [*its_config(), *([] if reports_to is None else [(agents, reports_to)])]


@agents.decide(touches=_named_by_new)
def _register(
    state: AgentState | None, command: RegisterAgent, context: Context, touched: Touched
) -> AgentRegistered:
    if state is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "an agent has this id")
    if command.reports_to is not None:
        check_agent(command.reports_to, touched)
    given = fields_of(command, NewAgent)
    agent = Agent(**given, created_at=context.now, last_heartbeat=context.now)
    return AgentRegistered(agent, settings(touched).agent_offline_after_s)


def _named_by_change(command: UpdateAgent) -> Named:
    named = (
        (agents, command.reports_to),
        (trajectories, command.current_trajectory_id),
        (scopes, command.current_scope_id),
    )
    return [(domain, each) for domain, each in named if isinstance(each, str)]


@agents.decide(touches=_named_by_change)
def _update(
    state: AgentState, command: UpdateAgent, touched: Touched
) -> Sequence[AgentUpdated | AgentStatusChanged]:
    before = state.record
    after = changed(before, command)
    if isinstance(command.reports_to, str):
        check_agent(command.reports_to, touched)
    check_place(command.current_trajectory_id, command.current_scope_id, touched)
    if before.status == "Offline" != after.status:
        raise Reject("STATE_CONFLICT", "an agent that is offline comes back with its heartbeat")
    events: list[AgentUpdated | AgentStatusChanged] = []
    if replace(after, status=before.status) != before:
        events.append(AgentUpdated(after))
    if after.status != before.status:
        events.append(AgentStatusChanged(after.status))
    return events


@agents.decide(touches=lambda _: its_config())
def _beat(
    state: AgentState, _command: HeartbeatAgent, context: Context, touched: Touched
) -> Sequence[AgentHeartbeat | AgentStatusChanged]:
    beat = AgentHeartbeat(context.now, settings(touched).agent_offline_after_s)
    return [beat, AgentStatusChanged("Idle")] if state.record.status == "Offline" else [beat]


@agents.decide(allow=())
def _mark_offline(_state: AgentState, _command: MarkAgentOffline) -> AgentStatusChanged:
    return AgentStatusChanged("Offline")


@agents.decide
def _unregister(state: AgentState, _command: UnregisterAgent) -> AgentUnregistered:
    if state.record.status == "Active":
        message = "an active agent is not unregistered"
        raise Reject("INVALID_INPUT", message, status=400, agent_status="Active")
    return AgentUnregistered()


# -------------------------------------------------------------------------------------- folding


@agents.evolve
def _registered(_: AgentState | None, event: AgentRegistered) -> AgentState:
    return AgentState(record=event.agent, silent_max_s=event.silent_max_s)


@agents.evolve
def _updated(state: AgentState, event: AgentUpdated) -> AgentState:
    return replace(state, record=event.agent)


@agents.evolve
def _status_changed(state: AgentState, event: AgentStatusChanged) -> AgentState:
    return replace(state, record=replace(state.record, status=event.status))


@agents.evolve
def _was_there(state: AgentState, event: AgentHeartbeat) -> AgentState:
    record = replace(state.record, last_heartbeat=event.timestamp)
    return AgentState(record=record, silent_max_s=event.silent_max_s)


@agents.evolve
def _unregistered(_: AgentState, _event: AgentUnregistered) -> AgentState | None:
    return None


@agents.due
def _due(state: AgentState, agent_id: str) -> Due | None:
    if state.record.status == "Offline":
        return None
    at = state.record.last_heartbeat + timedelta(seconds=state.silent_max_s)
    return Due(at, MarkAgentOffline(agent_id=agent_id))


@agents.index
def _index(state: AgentState) -> Index:
    it = state.record
    return Index(keys=("all", f"status:{it.status}", f"agent_type:{it.agent_type}"))
