"""Messages between agents: each is delivered once and acknowledged once, or expires before that.

What was delivered does not expire.  An acknowledgement says that the message was there, so it may
come without a delivery before it; a delivery behind it may not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from dalsegno.protocol import Context, Domain, Due, Index, Reject, Touched, not_found

from ._agents import agents, check_agent
from ._offspring import Named
from ._tree import artifacts, check_place, scopes, trajectories
from ._words import Id, Ids, Instant, Label, MessagePriority, MessageType


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message, as it is sent: to an agent, or to whoever is of a type."""

    from_agent_id: Id
    to_agent_id: Id | None = None
    to_agent_type: Label | None = None
    message_type: MessageType
    payload: Any
    trajectory_id: Id | None = None
    scope_id: Id | None = None
    artifact_ids: Ids = ()
    priority: MessagePriority = "Normal"
    expires_at: Instant | None = None


class AgentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message."""

    sender_id: Id
    recipient_id: Id | None
    to_agent_type: Label | None
    message_type: MessageType
    payload: Any
    trajectory_id: Id | None
    scope_id: Id | None
    artifact_ids: Ids
    created_at: datetime
    delivered_at: datetime | None = None
    acknowledged_at: datetime | None = None
    priority: MessagePriority
    expires_at: Instant | None


class SendAgentMessage(NewMessage, frozen=True, kw_only=True):
    """Send a message; without an id the runtime makes one."""

    agent_message_id: str | None = None


class DeliverAgentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Mark a message as delivered to its agent."""

    agent_message_id: str


class AcknowledgeAgentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledge a message."""

    agent_message_id: str


class ExpireAgentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Expire a message that was not delivered in time; sent by its timer."""

    agent_message_id: str


class AgentMessageSent(msgspec.Struct, frozen=True):
    """A message was sent."""

    message: AgentMessage


class AgentMessageDelivered(msgspec.Struct, frozen=True):
    """A message has reached its agent."""

    at: datetime


class AgentMessageAcknowledged(msgspec.Struct, frozen=True):
    """A message was taken."""

    at: datetime


class AgentMessageExpired(msgspec.Struct, frozen=True):
    """A message was not delivered in time."""


class AgentMessageState(msgspec.Struct, frozen=True, kw_only=True):
    """A message, and whether it was said that it has expired."""

    record: AgentMessage
    has_expired: bool = False


agent_messages = Domain(
    "agent_message",
    state=AgentMessageState,
    commands=SendAgentMessage | DeliverAgentMessage | AcknowledgeAgentMessage | ExpireAgentMessage,
    events=AgentMessageSent
    | AgentMessageDelivered
    | AgentMessageAcknowledged
    | AgentMessageExpired,
)


# ------------------------------------------------------------------------------------- deciding


def _named(command: SendAgentMessage) -> Named:
    named: tuple[tuple[Domain[Any, Any, Any], str | None], ...] = (
        (agents, command.from_agent_id),
        (agents, command.to_agent_id),
        (trajectories, command.trajectory_id),
        (scopes, command.scope_id),
        *((artifacts, each) for each in command.artifact_ids),
    )
    return [(domain, each) for domain, each in named if each is not None]


@agent_messages.decide(touches=_named)
def _send(
    state: AgentMessageState | None, command: SendAgentMessage, context: Context, touched: Touched
) -> AgentMessageSent:
    if state is not None:
        raise Reject("ENTITY_ALREADY_EXISTS", "a message has this id")
    if command.to_agent_id is None and command.to_agent_type is None:
        message = "a message is to an agent, or to a type of agents"
        raise Reject("MISSING_FIELD", message, status=400, field="to_agent_id")
    if command.expires_at is not None and command.expires_at <= context.now:
        message = "a message expires in the future"
        raise Reject("INVALID_RANGE", message, status=400, field="expires_at")
    check_agent(command.from_agent_id, touched)
    if command.to_agent_id is not None:
        check_agent(command.to_agent_id, touched)
    check_place(command.trajectory_id, command.scope_id, touched)
    check_artifacts(command.artifact_ids, touched)
    sent = AgentMessage(
        sender_id=command.from_agent_id,
        recipient_id=command.to_agent_id,
        to_agent_type=command.to_agent_type,
        message_type=command.message_type,
        payload=command.payload,
        trajectory_id=command.trajectory_id,
        scope_id=command.scope_id,
        artifact_ids=command.artifact_ids,
        created_at=context.now,
        priority=command.priority,
        expires_at=command.expires_at,
    )
    return AgentMessageSent(sent)


def check_artifacts(artifact_ids: Ids, touched: Touched) -> None:
    """Raise unless all of these artifacts are there.

    Raises:
        Reject: ``ARTIFACT_NOT_FOUND``.

    """
    for artifact_id in artifact_ids:
        if touched.get(artifacts, artifact_id) is None:
            raise not_found(artifacts.stream_id(artifact_id), artifact_id=artifact_id)


@agent_messages.decide
def _deliver(
    state: AgentMessageState, _command: DeliverAgentMessage, context: Context
) -> AgentMessageDelivered:
    _check_in_time(state, context)
    if state.record.delivered_at is not None or state.record.acknowledged_at is not None:
        raise Reject("STATE_CONFLICT", "the message was delivered before")
    return AgentMessageDelivered(context.now)


@agent_messages.decide
def _acknowledge(
    state: AgentMessageState, _command: AcknowledgeAgentMessage, context: Context
) -> AgentMessageAcknowledged:
    _check_in_time(state, context)
    if state.record.acknowledged_at is not None:
        raise Reject("STATE_CONFLICT", "the message was acknowledged before")
    return AgentMessageAcknowledged(context.now)


@agent_messages.decide(allow=())
def _expire(_state: AgentMessageState, _command: ExpireAgentMessage) -> AgentMessageExpired:
    return AgentMessageExpired()


def _is_open(record: AgentMessage) -> bool:
    return record.delivered_at is None and record.acknowledged_at is None


def _check_in_time(state: AgentMessageState, context: Context) -> None:
    record = state.record
    is_late = record.expires_at is not None and record.expires_at <= context.now
    if state.has_expired or (is_late and _is_open(record)):
        raise Reject("STATE_CONFLICT", "the message has expired", expires_at=record.expires_at)


# -------------------------------------------------------------------------------------- folding


@agent_messages.evolve
def _sent(_: AgentMessageState | None, event: AgentMessageSent) -> AgentMessageState:
    return AgentMessageState(record=event.message)


@agent_messages.evolve
def _delivered(state: AgentMessageState, event: AgentMessageDelivered) -> AgentMessageState:
    return replace(state, record=replace(state.record, delivered_at=event.at))


@agent_messages.evolve
def _acknowledged(state: AgentMessageState, event: AgentMessageAcknowledged) -> AgentMessageState:
    return replace(state, record=replace(state.record, acknowledged_at=event.at))


@agent_messages.evolve
def _expired(state: AgentMessageState, _event: AgentMessageExpired) -> AgentMessageState:
    return replace(state, has_expired=True)


@agent_messages.due
def _due(state: AgentMessageState, message_id: str) -> Due | None:
    at = state.record.expires_at
    if at is None or state.has_expired or not _is_open(state.record):
        return None
    return Due(at, ExpireAgentMessage(agent_message_id=message_id))


@agent_messages.index
def _index(state: AgentMessageState) -> Index:
    it = state.record
    keys = ["all", f"from_agent_id:{it.sender_id}", f"message_type:{it.message_type}"]
    if it.recipient_id is not None:
        keys.append(f"to_agent_id:{it.recipient_id}")
    if it.to_agent_type is not None:
        keys.append(f"to_agent_type:{it.to_agent_type}")
    return Index(keys=tuple(keys))
