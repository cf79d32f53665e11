"""The dialect of the source's socket: an event is a message in PascalCase, with what it is about.

A message has the source's fields and, beside them, ``seq``, the number in the tenant's stream, and
``cursor``, from which a client continues.  Clients say ``ack``, or show another token; all else
that they say is passed over, as the source does.  Bookkeeping is not shown: who holds a resource,
which pair something waits between, what is swept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from dalsegno.protocol import Ack, Authenticate, Close, Domain, Event, workspace_stream
from dalsegno.protocol.dialects import (
    Beginning,
    Dialect,
    Opening,
    Seq,
    Socket,
    SubscribeRequest,
    Text,
    encode_said,
)

from ._config import agent_configs
from ._edges import agent_edge_batches
from ._refusals import as_known
from ._served import TENANT
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
    Family,
)
from ._words import AgentStatus, Document

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dalsegno.protocol import DalsegnoError, Receipt
    from dalsegno.protocol.dialects import (
        AnyRequest,
        Begun,
        CommandRequest,
        Ping,
        UnsubscribeRequest,
    )

_CLOSED = "Connection closed"


class Connected(msgspec.Struct, tag="Connected", frozen=True, kw_only=True):
    """The first message: whose events follow."""

    tenant_id: str


class Disconnected(msgspec.Struct, tag="Disconnected", frozen=True, kw_only=True):
    """The last message, where there is time for one."""

    reason: str


class Error(msgspec.Struct, tag="Error", frozen=True, kw_only=True):
    """Something was refused, or failed."""

    message: str
    code: str


@dataclass(frozen=True, slots=True)
class _Form:
    """How an event of one type looks."""

    domain: Domain[Any, Any, Any]
    message: type[msgspec.Struct]
    show: Callable[[Any, Event], Mapping[str, Any]]
    """Returns the source's fields, from the event as its domain has it and as the log has it."""


def _message(name: str, fields: Iterable[tuple[str, Any]]) -> type[msgspec.Struct]:
    numbered = [*fields, ("seq", int), ("cursor", str)]
    return msgspec.defstruct(name, numbered, tag=name, frozen=True, kw_only=True)


def _whole(name: str, family: Family) -> _Form:
    """Return the form of an event that shows an entity whole, by the name of its family."""

    def show(said: Any, event: Event) -> Mapping[str, Any]:  # noqa: ANN401 - the domain's
        _, _, entity_id = event.stream_id.partition(":")
        record = getattr(said, family.name)
        shown = family.show(event.workspace_id, entity_id, event.stream_seq, record)
        return {family.name: shown}

    return _Form(family.domain, _message(name, [(family.name, family.body)]), show)


def _by_id(name: str, family: Family, id_name: str = "", /, **fields: Any) -> _Form:  # noqa: ANN401 - types
    """Return the form of an event that names its entity, with some of the event's own fields."""
    id_name = id_name or family.id_name

    def show(said: Any, event: Event) -> Mapping[str, Any]:  # noqa: ANN401 - the domain's
        _, _, entity_id = event.stream_id.partition(":")
        own = {each: getattr(said, each) for each in fields}
        return {"tenant_id": event.workspace_id, id_name: entity_id, **own}

    shape = [("tenant_id", str), (id_name, str), *fields.items()]
    return _Form(family.domain, _message(name, shape), show)


def _edge_created(said: Any, event: Event) -> Mapping[str, Any]:  # noqa: ANN401 - the domain's
    _, _, edge_id = event.stream_id.partition(":")
    return {
        "tenant_id": event.workspace_id,
        "edge_id": edge_id,
        "edge_type": said.edge.edge_type,
    }


def _edges_created(said: Any, event: Event) -> Mapping[str, Any]:  # noqa: ANN401 - the domain's
    return {"tenant_id": event.workspace_id, "count": len(said.edge_ids)}


def _fields(attribute: str, names: Iterable[str]) -> Callable[[Any, Event], Mapping[str, Any]]:
    def show(said: Any, event: Event) -> Mapping[str, Any]:  # noqa: ANN401 - the domain's
        record = getattr(said, attribute)
        return {
            "tenant_id": event.workspace_id,
            **{each: getattr(record, each) for each in names},
        }

    return show


_TOOL = {
    "agent_id": str | None,
    "tool_name": str,
    "success": bool,
    "duration_ms": int,
    "error": str | None,
}
_SUMMARY = {
    "policy_id": str,
    "trigger": str,
    "scope_id": str,
    "trajectory_id": str,
    "source_level": str,
    "target_level": str,
    "max_sources": int,
    "create_edges": bool,
}

FORMS: Mapping[str, _Form] = MappingProxyType(
    {
        "trajectory_created": _whole("TrajectoryCreated", TRAJECTORIES),
        "trajectory_updated": _whole("TrajectoryUpdated", TRAJECTORIES),
        "trajectory_deleted": _by_id("TrajectoryDeleted", TRAJECTORIES, "id"),
        "scope_created": _whole("ScopeCreated", SCOPES),
        "scope_updated": _whole("ScopeUpdated", SCOPES),
        "scope_closed": _whole("ScopeClosed", SCOPES),
        "scope_checkpointed": _whole("ScopeCheckpointed", SCOPES),
        "artifact_created": _whole("ArtifactCreated", ARTIFACTS),
        "artifact_updated": _whole("ArtifactUpdated", ARTIFACTS),
        "artifact_deleted": _by_id("ArtifactDeleted", ARTIFACTS, "id"),
        "agent_note_created": _whole("NoteCreated", NOTES),
        "agent_note_updated": _whole("NoteUpdated", NOTES),
        "agent_note_deleted": _by_id("NoteDeleted", NOTES, "id"),
        "turn_created": _whole("TurnCreated", TURNS),
        "agent_registered": _whole("AgentRegistered", AGENTS),
        "agent_updated": _whole("AgentUpdated", AGENTS),
        "agent_status_changed": _by_id("AgentStatusChanged", AGENTS, status=AgentStatus),
        "agent_heartbeat": _by_id("AgentHeartbeat", AGENTS, timestamp=datetime),
        "agent_unregistered": _by_id("AgentUnregistered", AGENTS, "id"),
        "agent_lock_acquired": _whole("LockAcquired", LOCKS),
        "agent_lock_extended": _whole("LockExtended", LOCKS),
        "agent_lock_released": _by_id("LockReleased", LOCKS),
        "agent_lock_expired": _by_id("LockExpired", LOCKS),
        "agent_message_sent": _whole("MessageSent", MESSAGES),
        "agent_message_delivered": _by_id("MessageDelivered", MESSAGES),
        "agent_message_acknowledged": _by_id("MessageAcknowledged", MESSAGES),
        "agent_message_expired": _by_id("MessageExpired", MESSAGES),
        "delegation_created": _whole("DelegationCreated", DELEGATIONS),
        "delegation_accepted": _by_id("DelegationAccepted", DELEGATIONS),
        "delegation_rejected": _by_id("DelegationRejected", DELEGATIONS, reason=str),
        "delegation_started": _by_id("DelegationStarted", DELEGATIONS),
        "delegation_completed": _whole("DelegationCompleted", DELEGATIONS),
        "delegation_failed": _by_id("DelegationFailed", DELEGATIONS, reason=str),
        "handoff_created": _whole("HandoffCreated", HANDOFFS),
        "handoff_accepted": _by_id("HandoffAccepted", HANDOFFS),
        "handoff_rejected": _by_id("HandoffRejected", HANDOFFS, reason=str),
        "handoff_completed": _whole("HandoffCompleted", HANDOFFS),
        "agent_config_updated": _Form(
            agent_configs,
            _message("ConfigUpdated", [("config", Document)]),
            lambda said, _event: {"config": said.config},
        ),
        "agent_edge_created": _Form(
            EDGES.domain,
            _message("EdgeCreated", [("tenant_id", str), ("edge_id", str), ("edge_type", str)]),
            _edge_created,
        ),
        "agent_edges_created": _Form(
            agent_edge_batches,
            _message("EdgesBatchCreated", [("tenant_id", str), ("count", int)]),
            _edges_created,
        ),
        "tool_executed": _Form(
            TOOL_EXECUTIONS.domain,
            _message("ToolExecuted", [("tenant_id", str), *_TOOL.items()]),
            _fields("execution", _TOOL),
        ),
        "summarization_triggered": _Form(
            SUMMARIZATIONS.domain,
            _message("SummarizationTriggered", [("tenant_id", str), *_SUMMARY.items()]),
            _fields("summarization", _SUMMARY),
        ),
    }
)
"""By an event's type: the message that it is here.  What is not in it is not shown."""


class CaliberDialect(Dialect):
    """The dialect of a tenant's events."""

    name = "caliber"
    says = (Connected, Disconnected, Error, *(form.message for form in FORMS.values()))

    def entity_event(self, event: Event) -> bytes | tuple[()]:
        """Encode an event as on the tenant's stream: here no other one is followed."""
        return self.workspace_event(event, None)

    def workspace_event(self, event: Event, _payload: object) -> bytes | tuple[()]:
        """Encode an event as the source's message, or as none."""
        form = FORMS.get(event.type)
        if form is None or not event.stream_id.startswith(f"{form.domain.name}:"):
            return ()
        said = form.domain.decode(event.type, event.type_version, event.payload)
        if said is None:
            return ()
        shown = form.show(said, event)
        return encode_said(form.message(**shown, seq=event.event_seq, cursor=str(event.position)))

    def subscribed(self, _asked: SubscribeRequest, _begun: Begun) -> None:
        """Send nothing: `Connected` was the answer."""

    def committed(self, _asked: CommandRequest, _receipt: Receipt) -> None:
        """Send nothing: this socket takes no commands."""

    def rejected(self, _asked: CommandRequest, _error: DalsegnoError) -> None:
        """Send nothing: this socket takes no commands."""

    def hidden(self, _stream_id: str, _first: int, _last: int, _chain: int) -> None:
        """Send nothing: the source's clients do not count numbers."""

    def unsubscribed(self, _asked: UnsubscribeRequest) -> None:
        """Send nothing: a client cannot ask for that here."""

    def error(self, error: DalsegnoError, request_id: str | None, **context: Any) -> bytes:  # noqa: ANN401 - JSON
        """Encode an error."""
        shown = as_known(error)
        return encode_said(Error(message=shown.message, code=shown.code))

    def pong(self, _asked: Ping, _now: datetime) -> None:
        """Send nothing: a client cannot ask for that here."""

    def heartbeat(self, _now: datetime) -> None:
        """Send nothing: protocol pings show whether a client is alive."""

    def reconnect(self, _after_ms: int) -> None:
        """Send nothing: the source's clients decide themselves when to reconnect."""


caliber_dialect = CaliberDialect()


class _FollowTenant(SubscribeRequest, frozen=True, kw_only=True):
    dialect: ClassVar[Dialect] = caliber_dialect

    @property
    def stream_id(self) -> str:
        """The tenant's stream."""
        return workspace_stream(str(self.workspace_id))


class FollowFromNow(_FollowTenant, tag="follow_from_now", frozen=True, kw_only=True):
    """Follow a tenant as the source has it: what happens from now on."""

    from_now: ClassVar[bool] = True


class FollowFromAck(_FollowTenant, tag="follow_from_ack", frozen=True, kw_only=True):
    """Follow a tenant behind what this client has acknowledged, from the beginning if nothing."""


class _SaidAck(msgspec.Struct, tag="ack"):
    seq: Seq


class _SaidToken(msgspec.Struct, tag="authenticate"):
    token: str
    request_id: Text | None = None


_decode = msgspec.json.Decoder(_SaidAck | _SaidToken).decode
_HEARD_BYTES = 16 * 1024
"""A longer message is none of these two."""


def _begin(opening: Opening) -> Beginning:
    tenant_id, cursor = opening.workspace_id, opening.query.get("cursor")
    follow = FollowFromAck if "client_id" in opening.query else FollowFromNow
    return Beginning(
        state=tenant_id,
        says=[encode_said(Connected(tenant_id=tenant_id))],
        follows=[follow(workspace_id=tenant_id, cursor=cursor)],
    )


def _hear(tenant_id: str, received: str | bytes) -> tuple[str, AnyRequest | None]:
    if isinstance(received, bytes) or len(received) > _HEARD_BYTES:
        return tenant_id, None
    try:
        said = _decode(received)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return tenant_id, None
    if isinstance(said, _SaidToken):
        return tenant_id, Authenticate(token=said.token, request_id=said.request_id)
    return tenant_id, Ack(stream_id=workspace_stream(tenant_id), seq=said.seq)


def _farewell(_tenant_id: str, _code: Close, reason: str) -> bytes:
    return encode_said(Disconnected(reason=reason or _CLOSED))


caliber_socket = Socket(
    "/api/v1/ws",
    caliber_dialect,
    begin=_begin,
    hears=_hear,
    farewell=_farewell,
    at=TENANT,
    shows_error=as_known,
)
"""Where a tenant's events are followed."""
