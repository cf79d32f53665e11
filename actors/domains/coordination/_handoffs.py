"""Hand-overs: an agent hands what it was at to another one, which takes it or not, and ends it.

Initiated ── accept ──▶ Accepted ── complete ──▶ Completed
    ├── reject ──▶ Rejected
    └── its time is over, here and further on ──▶ Rejected, with the reason Timeout
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from dalsegno.protocol import Audit, Context, Domain, Due, Index, On, Reject, Touched

from ._config import settings
from ._offspring import Named
from ._pacts import (
    TIMEOUT,
    AgentPairFreed,
    Steps,
    agent_pairs,
    check_actor,
    check_in_time,
    check_offer,
    named_by,
    pair_id,
    stepped,
    take_pair,
    waiting_between,
)
from ._words import HandoffReason, HandoffStatus, Id, Prose

HANDOFF_STEPS: Steps = {
    "accept": {"Initiated": "Accepted"},
    "reject": {"Initiated": "Rejected"},
    "complete": {"Accepted": "Completed"},
    "time out": {"Initiated": "Rejected", "Accepted": "Rejected"},
}
_KIND = "handoff"


class NewHandoff(msgspec.Struct, frozen=True, kw_only=True):
    """What is handed over, by whom and to whom."""

    from_agent_id: Id
    to_agent_id: Id
    trajectory_id: Id
    scope_id: Id
    reason: HandoffReason
    context_snapshot: Any


class Handoff(NewHandoff, frozen=True, kw_only=True):
    """A hand-over."""

    status: HandoffStatus = "Initiated"
    created_at: datetime
    accepted_at: datetime | None = None
    completed_at: datetime | None = None


class CreateHandoff(NewHandoff, frozen=True, kw_only=True):
    """Hand over; without an id the runtime makes one."""

    handoff_id: str | None = None


class AcceptHandoff(msgspec.Struct, frozen=True, kw_only=True):
    """Accept a hand-over, as its recipient."""

    handoff_id: str
    accepting_agent_id: Id


class RejectHandoff(msgspec.Struct, frozen=True, kw_only=True):
    """Reject a hand-over, as its recipient."""

    handoff_id: str
    rejecting_agent_id: Id
    reason: Prose


class CompleteHandoff(msgspec.Struct, frozen=True, kw_only=True):
    """Complete a hand-over."""

    handoff_id: str
    completing_agent_id: Id | None = None
    """The agent that completes it, if given: its recipient."""


class TimeOutHandoff(msgspec.Struct, frozen=True, kw_only=True):
    """End a hand-over that timed out; sent by its timer."""

    handoff_id: str


class HandoffCreated(msgspec.Struct, frozen=True):
    """An agent hands over; unless something comes of it, that ends at the deadline."""

    handoff: Handoff
    timeout_s: float
    deadline: datetime


class HandoffAccepted(msgspec.Struct, frozen=True):
    """The recipient takes over."""

    at: datetime
    deadline: datetime


class HandoffRejected(msgspec.Struct, frozen=True):
    """The recipient does not take over, or not in time."""

    reason: str


class HandoffCompleted(msgspec.Struct, frozen=True):
    """All was taken over."""

    handoff: Handoff


class HandoffState(msgspec.Struct, frozen=True, kw_only=True):
    """A hand-over, and how long it may stay as it is."""

    record: Handoff
    timeout_s: float
    deadline: datetime


handoffs = Domain(
    "handoff",
    state=HandoffState,
    commands=CreateHandoff | AcceptHandoff | RejectHandoff | CompleteHandoff | TimeOutHandoff,
    events=HandoffCreated | HandoffAccepted | HandoffRejected | HandoffCompleted,
)


# ------------------------------------------------------------------------------------- deciding


def _named(command: CreateHandoff) -> Named:
    return named_by(_KIND, command)


def _waiting(_: HandoffState | None, command: CreateHandoff, touched: Touched) -> Named:
    waiting = waiting_between(_KIND, command, touched)
    return [] if waiting is None else [(handoffs, waiting)]


@handoffs.decide(touches=_named, follows=_waiting)
def _create(
    state: HandoffState | None, command: CreateHandoff, context: Context, touched: Touched
) -> Sequence[HandoffCreated | On[Any]]:
    if state is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a hand-over has this id")
    check_offer(command, touched)
    ended = HandoffRejected(TIMEOUT)
    taken = take_pair(handoffs, command, context, touched, ended=ended)
    record = Handoff(
        from_agent_id=command.from_agent_id,
        to_agent_id=command.to_agent_id,
        trajectory_id=command.trajectory_id,
        scope_id=command.scope_id,
        reason=command.reason,
        context_snapshot=command.context_snapshot,
        created_at=context.now,
    )
    timeout_s = settings(touched).handoff_timeout_s
    deadline = context.now + timedelta(seconds=timeout_s)
    return [*taken, HandoffCreated(record, timeout_s, deadline)]


def _its_pair(state: HandoffState, _command: object) -> Named:
    return [(agent_pairs, _pair_of(state))]


@handoffs.decide(follows=_its_pair)
def _accept(
    state: HandoffState, command: AcceptHandoff, context: Context
) -> Sequence[HandoffAccepted | On[Any]]:
    _step(state, "accept", command.accepting_agent_id, context)
    accepted = HandoffAccepted(context.now, context.now + timedelta(seconds=state.timeout_s))
    return [accepted, On(agent_pairs, _pair_of(state), AgentPairFreed())]


@handoffs.decide(follows=_its_pair)
def _reject(
    state: HandoffState, command: RejectHandoff, context: Context
) -> Sequence[HandoffRejected | On[Any]]:
    _step(state, "reject", command.rejecting_agent_id, context)
    freed = On(agent_pairs, _pair_of(state), AgentPairFreed())
    return [HandoffRejected(command.reason), freed]


@handoffs.decide
def _complete(state: HandoffState, command: CompleteHandoff, context: Context) -> HandoffCompleted:
    _step(state, "complete", command.completing_agent_id, context)
    done = replace(state.record, status="Completed", completed_at=context.now)
    return HandoffCompleted(done)


@handoffs.decide(follows=_its_pair, allow=())
def _time_out(state: HandoffState, _command: TimeOutHandoff) -> Sequence[HandoffRejected | On[Any]]:
    stepped(HANDOFF_STEPS, "time out", state.record.status)
    rejected = HandoffRejected(TIMEOUT)
    if state.record.status != "Initiated":
        return [rejected]
    return [rejected, On(agent_pairs, _pair_of(state), AgentPairFreed())]


def _step(state: HandoffState, name: str, actor: str | None, context: Context) -> None:
    check_actor(actor, state.record.to_agent_id)
    stepped(HANDOFF_STEPS, name, state.record.status)
    check_in_time(state.deadline, context)


def _pair_of(state: HandoffState) -> str:
    return pair_id(_KIND, state.record.from_agent_id, state.record.to_agent_id)


# -------------------------------------------------------------------------------------- folding


@handoffs.evolve
def _created(_: HandoffState | None, event: HandoffCreated) -> HandoffState:
    return HandoffState(record=event.handoff, timeout_s=event.timeout_s, deadline=event.deadline)


@handoffs.evolve
def _accepted(state: HandoffState, event: HandoffAccepted) -> HandoffState:
    record = replace(state.record, status="Accepted", accepted_at=event.at)
    return replace(state, record=record, deadline=event.deadline)


@handoffs.evolve
def _rejected(state: HandoffState, _event: HandoffRejected) -> HandoffState:
    return replace(state, record=replace(state.record, status="Rejected"))


@handoffs.evolve
def _completed(state: HandoffState, event: HandoffCompleted) -> HandoffState:
    return replace(state, record=event.handoff)


@handoffs.due
def _due(state: HandoffState, handoff_id: str) -> Due | None:
    if state.record.status not in HANDOFF_STEPS["time out"]:
        return None
    return Due(state.deadline, TimeOutHandoff(handoff_id=handoff_id))


@handoffs.index
def _index(state: HandoffState) -> Index:
    it = state.record
    keys = (
        "all",
        f"status:{it.status}",
        f"from_agent_id:{it.from_agent_id}",
        f"to_agent_id:{it.to_agent_id}",
    )
    return Index(keys=keys)


@handoffs.audit
def _audit(
    event: HandoffCreated | HandoffAccepted | HandoffRejected | HandoffCompleted,
    before: HandoffState | None,
    _after: HandoffState | None,
) -> Audit | None:
    if before is None or not isinstance(event, HandoffRejected) or event.reason != TIMEOUT:
        return None
    return Audit(action="HANDOFF_TIMED_OUT", old_value={"status": before.record.status})
