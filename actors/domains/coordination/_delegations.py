"""Delegations: one agent gives another a task, which it takes or not, begins, and completes.

    Pending ── accept ──▶ Accepted ── start ──▶ InProgress
       │                     └────── complete ──────┴──▶ Completed
       ├── reject ──▶ Rejected
       └── its time is over, here and further on ──▶ Failed

The time counts anew from each step.  What was accepted has at least until its expected completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from dalsegno.protocol import Audit, Context, Domain, Due, Index, On, Reject, Touched

from ._config import settings
from ._messages import check_artifacts
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
from ._tree import artifacts
from ._words import DelegationStatus, Document, Id, Ids, Instant, OutcomeStatus, Prose

DELEGATION_STEPS: Steps = {
    "accept": {"Pending": "Accepted"},
    "reject": {"Pending": "Rejected"},
    "start": {"Accepted": "InProgress"},
    "complete": {"Accepted": "Completed", "InProgress": "Completed"},
    "fail": {"Pending": "Failed", "Accepted": "Failed", "InProgress": "Failed"},
}
_KIND = "delegation"


class DelegationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a delegation."""

    status: OutcomeStatus
    output: Any = None
    artifacts: Ids = ()
    error: Prose | None = None


class NewDelegation(msgspec.Struct, frozen=True, kw_only=True):
    """What is delegated, by whom and to whom."""

    from_agent_id: Id
    to_agent_id: Id
    trajectory_id: Id
    scope_id: Id
    task_description: Prose
    expected_completion: Instant | None = None
    context: Document | None = None


class Delegation(msgspec.Struct, frozen=True, kw_only=True):
    """A delegation."""

    delegator_id: Id
    delegatee_id: Id
    trajectory_id: Id
    scope_id: Id
    task_description: Prose
    status: DelegationStatus = "Pending"
    created_at: datetime
    accepted_at: datetime | None = None
    completed_at: datetime | None = None
    expected_completion: Instant | None = None
    result: DelegationResult | None = None
    context: Document | None = None


class CreateDelegation(NewDelegation, frozen=True, kw_only=True):
    """Delegate a task; without an id the runtime makes one."""

    delegation_id: str | None = None


class AcceptDelegation(msgspec.Struct, frozen=True, kw_only=True):
    """Accept a delegation, as its delegatee."""

    delegation_id: str
    accepting_agent_id: Id


class RejectDelegation(msgspec.Struct, frozen=True, kw_only=True):
    """Reject a delegation, as its delegatee."""

    delegation_id: str
    rejecting_agent_id: Id
    reason: Prose


class StartDelegation(msgspec.Struct, frozen=True, kw_only=True):
    """Start an accepted delegation, as its delegatee."""

    delegation_id: str
    starting_agent_id: Id


class CompleteDelegation(msgspec.Struct, frozen=True, kw_only=True):
    """Complete a delegation with its result."""

    delegation_id: str
    result: DelegationResult
    completing_agent_id: Id | None = None
    """The agent that completes it, if given: its delegatee."""


class FailDelegation(msgspec.Struct, frozen=True, kw_only=True):
    """Fail a delegation that timed out; sent by its timer."""

    delegation_id: str


class DelegationCreated(msgspec.Struct, frozen=True):
    """A task was delegated; unless something comes of it, that ends at the deadline."""

    delegation: Delegation
    timeout_s: float
    deadline: datetime


class DelegationAccepted(msgspec.Struct, frozen=True):
    """The delegatee has taken the task."""

    at: datetime
    deadline: datetime


class DelegationRejected(msgspec.Struct, frozen=True):
    """The delegatee has not taken the task."""

    reason: str


class DelegationStarted(msgspec.Struct, frozen=True):
    """The delegatee has begun."""

    deadline: datetime


class DelegationCompleted(msgspec.Struct, frozen=True):
    """This came of it."""

    delegation: Delegation


class DelegationFailed(msgspec.Struct, frozen=True):
    """Nothing came of it in time."""

    reason: str


class DelegationState(msgspec.Struct, frozen=True, kw_only=True):
    """A delegation, and how long it may stay as it is."""

    record: Delegation
    timeout_s: float
    deadline: datetime


delegations = Domain(
    "delegation",
    state=DelegationState,
    commands=CreateDelegation
    | AcceptDelegation
    | RejectDelegation
    | StartDelegation
    | CompleteDelegation
    | FailDelegation,
    events=DelegationCreated
    | DelegationAccepted
    | DelegationRejected
    | DelegationStarted
    | DelegationCompleted
    | DelegationFailed,
)


# ------------------------------------------------------------------------------------- deciding


def _named(command: CreateDelegation) -> Named:
    return named_by(_KIND, command)


def _waiting(_: DelegationState | None, command: CreateDelegation, touched: Touched) -> Named:
    waiting = waiting_between(_KIND, command, touched)
    return [] if waiting is None else [(delegations, waiting)]


@delegations.decide(touches=_named, follows=_waiting)
def _create(
    state: DelegationState | None, command: CreateDelegation, context: Context, touched: Touched
) -> Sequence[DelegationCreated | On[Any]]:
    if state is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a delegation has this id")
    check_offer(command, touched)
    expected = command.expected_completion
    if expected is not None and expected <= context.now:
        message = "it is expected in the future"
        raise Reject("INVALID_RANGE", message, status=400, field="expected_completion")
    ended = DelegationFailed(TIMEOUT)
    taken = take_pair(delegations, command, context, touched, ended=ended)
    record = Delegation(
        delegator_id=command.from_agent_id,
        delegatee_id=command.to_agent_id,
        trajectory_id=command.trajectory_id,
        scope_id=command.scope_id,
        task_description=command.task_description,
        created_at=context.now,
        expected_completion=expected,
        context=command.context,
    )
    timeout_s = settings(touched).delegation_timeout_s
    deadline = context.now + timedelta(seconds=timeout_s)
    return [*taken, DelegationCreated(record, timeout_s, deadline)]


def _its_pair(state: DelegationState, _command: object) -> Named:
    return [(agent_pairs, _pair_of(state))]


@delegations.decide(follows=_its_pair)
def _accept(
    state: DelegationState, command: AcceptDelegation, context: Context
) -> Sequence[DelegationAccepted | On[Any]]:
    _step(state, "accept", command.accepting_agent_id, context)
    accepted = DelegationAccepted(context.now, _deadline(state, context))
    return [accepted, On(agent_pairs, _pair_of(state), AgentPairFreed())]


@delegations.decide(follows=_its_pair)
def _reject(
    state: DelegationState, command: RejectDelegation, context: Context
) -> Sequence[DelegationRejected | On[Any]]:
    _step(state, "reject", command.rejecting_agent_id, context)
    freed = On(agent_pairs, _pair_of(state), AgentPairFreed())
    return [DelegationRejected(command.reason), freed]


@delegations.decide
def _start(state: DelegationState, command: StartDelegation, context: Context) -> DelegationStarted:
    _step(state, "start", command.starting_agent_id, context)
    return DelegationStarted(_deadline(state, context))


def _its_artifacts(command: CompleteDelegation) -> Named:
    return [(artifacts, each) for each in command.result.artifacts]


@delegations.decide(touches=_its_artifacts)
def _complete(
    state: DelegationState, command: CompleteDelegation, context: Context, touched: Touched
) -> DelegationCompleted:
    _step(state, "complete", command.completing_agent_id, context)
    check_artifacts(command.result.artifacts, touched)
    done = replace(
        state.record, status="Completed", completed_at=context.now, result=command.result
    )
    return DelegationCompleted(done)


@delegations.decide(follows=_its_pair, allow=())
def _fail(state: DelegationState, _command: FailDelegation) -> Sequence[DelegationFailed | On[Any]]:
    stepped(DELEGATION_STEPS, "fail", state.record.status)
    failed = DelegationFailed(TIMEOUT)
    if state.record.status != "Pending":
        return [failed]
    return [failed, On(agent_pairs, _pair_of(state), AgentPairFreed())]


def _step(state: DelegationState, name: str, actor: str | None, context: Context) -> None:
    check_actor(actor, state.record.delegatee_id)
    stepped(DELEGATION_STEPS, name, state.record.status)
    check_in_time(state.deadline, context)


def _deadline(state: DelegationState, context: Context) -> datetime:
    """Return the deadline of what was accepted."""
    deadline = context.now + timedelta(seconds=state.timeout_s)
    expected = state.record.expected_completion
    return deadline if expected is None else max(deadline, expected)


def _pair_of(state: DelegationState) -> str:
    return pair_id(_KIND, state.record.delegator_id, state.record.delegatee_id)


# -------------------------------------------------------------------------------------- folding


@delegations.evolve
def _created(_: DelegationState | None, event: DelegationCreated) -> DelegationState:
    return DelegationState(
        record=event.delegation, timeout_s=event.timeout_s, deadline=event.deadline
    )


@delegations.evolve
def _accepted(state: DelegationState, event: DelegationAccepted) -> DelegationState:
    record = replace(state.record, status="Accepted", accepted_at=event.at)
    return replace(state, record=record, deadline=event.deadline)


@delegations.evolve
def _rejected(state: DelegationState, _event: DelegationRejected) -> DelegationState:
    return _with_status(state, "Rejected")


@delegations.evolve
def _started(state: DelegationState, event: DelegationStarted) -> DelegationState:
    return replace(_with_status(state, "InProgress"), deadline=event.deadline)


@delegations.evolve
def _completed(state: DelegationState, event: DelegationCompleted) -> DelegationState:
    return replace(state, record=event.delegation)


@delegations.evolve
def _failed(state: DelegationState, _event: DelegationFailed) -> DelegationState:
    return _with_status(state, "Failed")


def _with_status(
    state: DelegationState, status: Literal["Rejected", "InProgress", "Failed"]
) -> DelegationState:
    return replace(state, record=replace(state.record, status=status))


@delegations.due
def _due(state: DelegationState, delegation_id: str) -> Due | None:
    if state.record.status not in DELEGATION_STEPS["fail"]:
        return None
    return Due(state.deadline, FailDelegation(delegation_id=delegation_id))


@delegations.index
def _index(state: DelegationState) -> Index:
    it = state.record
    keys = (
        "all",
        f"status:{it.status}",
        f"from_agent_id:{it.delegator_id}",
        f"to_agent_id:{it.delegatee_id}",
    )
    return Index(keys=keys)


@delegations.audit
def _audit(
    event: DelegationCreated
    | DelegationAccepted
    | DelegationRejected
    | DelegationStarted
    | DelegationCompleted
    | DelegationFailed,
    before: DelegationState | None,
    _after: DelegationState | None,
) -> Audit | None:
    if before is None or not isinstance(event, DelegationFailed):
        return None
    return Audit(action="DELEGATION_TIMED_OUT", old_value={"status": before.record.status})
