"""What must be true of coordination: of every state, and of a history.

It says anew what the deciders keep, without asking them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from dalsegno.actors.domains.coordination import (
    _locks,
    agent_locks,
    agent_pairs,
    artifacts,
    coordination_domains,
    delegations,
    handoffs,
    locked_resources,
    offspring,
    scopes,
    trajectories,
    turns,
)
from dalsegno.actors.domains.coordination._agents import AgentState
from dalsegno.actors.domains.coordination._delegations import DelegationState
from dalsegno.actors.domains.coordination._handoffs import HandoffState
from dalsegno.actors.domains.coordination._locks import AgentLockState, Hold
from dalsegno.actors.domains.coordination._messages import AgentMessageState
from dalsegno.actors.domains.coordination._pacts import TIMEOUT, pair_id
from dalsegno.actors.domains.coordination._tree import ScopeState, TrajectoryState
from dalsegno.actors.testing.simulation._invariant import fold_into
from dalsegno.protocol import Domain, Event

StateT = TypeVar("StateT", bound=msgspec.Struct)
States = Mapping[str, Any]

_BY_NAME = {domain.name: domain for domain in coordination_domains}

# ------------------------------------------------------------------------------------- states


def wrong_state(states: States) -> str | None:
    """Return what is wrong with the entities of a workspace, for the simulation."""
    checks = (_wrong_holds, _wrong_claims, _wrong_fields, _orphans)
    return next((wrong for check in checks for wrong in check(states)), None)


def _of(states: States, domain: Domain[StateT, Any, Any]) -> dict[str, StateT]:
    """Return the entities of a domain, by their ids."""
    prefix = domain.stream_id("")
    return {
        stream_id.removeprefix(prefix): state
        for stream_id, state in states.items()
        if stream_id.startswith(prefix)
    }


def _wrong_holds(states: States) -> Iterator[str]:
    """The holds of resources are the locks that live, and an exclusive one is alone."""
    expected: defaultdict[str, dict[str, Hold]] = defaultdict(dict)
    for lock_id, lock in _of(states, agent_locks).items():
        if not lock.has_expired:
            it = lock.record
            hold = Hold(it.holder_agent_id, it.mode, it.expires_at)
            expected[_locks._resource_of(it)][lock_id] = hold
    holds = {name: resource.holds for name, resource in _of(states, locked_resources).items()}
    if holds != expected:
        yield f"resources have {holds}, and the locks are {dict(expected)}"
    for each in holds.values():
        if len(each) > 1 and any(hold.mode == "Exclusive" for hold in each.values()):
            yield f"an exclusive lock is not alone: {each}"


def _wrong_claims(states: States) -> Iterator[str]:
    """A pair is claimed by what waits between its agents, and by nothing else."""
    waiting = [
        (pair_id("delegation", it.record.delegator_id, it.record.delegatee_id), delegation_id)
        for delegation_id, it in _of(states, delegations).items()
        if it.record.status == "Pending"
    ]
    waiting += [
        (pair_id("handoff", it.record.from_agent_id, it.record.to_agent_id), handoff_id)
        for handoff_id, it in _of(states, handoffs).items()
        if it.record.status == "Initiated"
    ]
    claims = [(name, pair.by) for name, pair in _of(states, agent_pairs).items()]
    if sorted(claims) != sorted(waiting):
        yield f"the claims are {claims}, and what waits is {waiting}"


_DONE = ("accepted_at", "completed_at", "result")
_GIVEN: Mapping[str, Sequence[str]] = {
    "Pending": ("",),
    "Initiated": ("",),
    "Accepted": ("accepted_at",),
    "InProgress": ("accepted_at",),
    "Completed": ("accepted_at completed_at", "accepted_at completed_at result"),
    "Rejected": ("", "accepted_at"),
    "Failed": ("", "accepted_at"),
}
"""By status, the fields of delegations and hand-overs that have a value."""


def _wrong_fields(states: States) -> Iterator[str]:
    """What a record says of its status, its other fields say too."""
    for stream_id, state in states.items():
        is_right = True
        match state:
            case DelegationState() | HandoffState():
                it = state.record
                given = [name for name in _DONE if getattr(it, name, None) is not None]
                times = [it.created_at, it.accepted_at, it.completed_at]
                known = [at for at in times if at is not None]
                is_right = " ".join(given) in _GIVEN[it.status] and known == sorted(known)
                if isinstance(state, DelegationState):
                    is_right &= (it.status == "Completed") == ("result" in given)
                    is_right &= (it.status, *given) != ("Rejected", "accepted_at")
            case AgentMessageState():
                reached = (state.record.delivered_at, state.record.acknowledged_at)
                is_right = not state.has_expired or reached == (None, None)
            case TrajectoryState():
                is_over = state.record.status in {"Completed", "Failed"}
                is_right = (state.record.completed_at is not None) == is_over
            case ScopeState():
                is_right = (state.record.closed_at is None) == state.record.is_active
        if not is_right:
            yield f"the fields of {stream_id} contradict each other: {state}"


def _orphans(states: States) -> Iterator[str]:
    """A part has its parent, and is on one of that one's pages."""
    of_trajectories, of_scopes = _of(states, trajectories), _of(states, scopes)
    parts: dict[str, bool] = {}
    for trajectory_id, trajectory in of_trajectories.items():
        parent_id = trajectory.record.parent_trajectory_id
        if parent_id is not None and trajectory.ends_at is None:
            parts[trajectories.stream_id(trajectory_id)] = parent_id in of_trajectories
    for scope_id, scope in of_scopes.items():
        if scope.ends_at is None:
            parts[scopes.stream_id(scope_id)] = scope.record.trajectory_id in of_trajectories
    for artifact_id, artifact in _of(states, artifacts).items():
        parts[artifacts.stream_id(artifact_id)] = artifact.scope_id in of_scopes
    for turn_id, turn in _of(states, turns).items():
        parts[turns.stream_id(turn_id)] = turn.scope_id in of_scopes
    listed = {each for page in _of(states, offspring).values() for each in page.streams}
    for stream_id, has_parent in parts.items():
        if not has_parent:
            yield f"{stream_id} outlives what it belongs to"
        if stream_id not in listed:
            yield f"{stream_id} is on no page, and will never go"


# ---------------------------------------------------------------------------------- histories

_LIVES = {
    "agent_lock": r"agent_lock_acquired( agent_lock_extended)*( agent_lock_(released|expired))?",
    "agent_message": (
        r"agent_message_sent"
        r"( agent_message_expired|( agent_message_delivered)?( agent_message_acknowledged)?)"
    ),
    "delegation": (
        r"delegation_created"
        r"( delegation_(rejected|failed)"
        r"| delegation_accepted( delegation_started)?( delegation_(completed|failed))?)?"
    ),
    "handoff": (
        r"handoff_created( handoff_rejected| handoff_accepted( handoff_(completed|rejected))?)?"
    ),
}
"""The events of an entity in their order, whose ids are used once."""

_BY_TIME = {
    *("agent_lock_expired", "agent_message_expired", "delegation_failed"),
    *("trajectory_swept", "scope_swept"),
}
_IN_TIME = {
    *("agent_lock_extended", "agent_lock_released"),
    *("agent_message_delivered", "agent_message_acknowledged"),
    *("delegation_accepted", "delegation_rejected", "delegation_started", "delegation_completed"),
    *("handoff_accepted", "handoff_rejected", "handoff_completed"),
}
_OPEN = {"Pending", "Initiated", "Accepted", "InProgress"}


def wrong_lives(events: Sequence[Event]) -> Iterator[str]:
    """Each ends once at most: nothing is released and lapses, nothing is told twice."""
    lives: defaultdict[str, list[str]] = defaultdict(list)
    for event in events:
        lives[event.stream_id].append(event.type)
    for stream_id, types in lives.items():
        life = _LIVES.get(stream_id.partition(":")[0])
        if life is not None and not re.fullmatch(life, " ".join(types)):
            yield f"{stream_id} had the life {' '.join(types)}"


def wrong_times(events: Sequence[Event]) -> Iterator[str]:
    """Nothing ends before its time, nothing is done behind it, and no part goes by itself."""
    states: dict[str, Any] = {}
    for event in events:
        before = states.get(event.stream_id)
        due_at = _due_at(before)
        if _is_by_time(event):
            if due_at is None or event.recorded_at < due_at:
                yield f"{event.event_seq} {event.type} was due at {due_at}: {event}"
        elif event.type in _IN_TIME and due_at is not None and event.recorded_at >= due_at:
            yield f"{event.event_seq} {event.type} came behind {due_at}: {event}"
        if event.actor_id is None and event.type.endswith("_deleted"):
            parent = states.get(_parent_of(before))
            if parent is None or parent.ends_at is None:
                yield f"{event.event_seq} {event.type}: it went, and its parent did not: {event}"
        fold_into(_BY_NAME, states, event)


def left_undone(events: Sequence[Event], until: datetime) -> Iterator[str]:
    """Return what was due by then, and has not happened."""
    states: dict[str, Any] = {}
    for event in events:
        fold_into(_BY_NAME, states, event)
    for stream_id, state in states.items():
        due_at = _due_at(state)
        if due_at is not None and due_at <= until:
            yield f"{stream_id} was due at {due_at}, and is there: {state}"


def _is_by_time(event: Event) -> bool:
    """Return whether an event says that a time is over."""
    if event.type == "handoff_rejected":
        return bool(msgspec.json.decode(event.payload)["reason"] == TIMEOUT)
    if event.type == "agent_status_changed":
        return event.actor_id is None
    return event.type in _BY_TIME


def _due_at(state: Any) -> datetime | None:
    """Return when an entity ends as it is, or goes on to end."""
    match state:
        case AgentLockState(has_expired=False):
            return state.record.expires_at
        case AgentMessageState(has_expired=False):
            it = state.record
            is_open = it.delivered_at is None and it.acknowledged_at is None
            return it.expires_at if is_open else None
        case DelegationState() | HandoffState() if state.record.status in _OPEN:
            return state.deadline
        case AgentState() if state.record.status != "Offline":
            return state.record.last_heartbeat + timedelta(seconds=state.silent_max_s)
        case TrajectoryState() | ScopeState():
            return state.ends_at
    return None


def _parent_of(state: Any) -> str:
    """Return the stream of what an entity of the tree belongs to."""
    match state:
        case TrajectoryState():
            return trajectories.stream_id(str(state.record.parent_trajectory_id))
        case ScopeState():
            return trajectories.stream_id(state.record.trajectory_id)
    return scopes.stream_id(state.scope_id)
