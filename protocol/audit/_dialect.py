"""``/ws/audit``: what is on record, as it comes, for global owners and admins (CF-7).

It is the connection of a project, whose one workspace is ``$audit``.  What its filter leaves out is
told as numbers, ``hidden``, so that its cursor moves all the same.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from dalsegno.protocol._position import chain_text
from dalsegno.protocol._subscription import workspace_stream
from dalsegno.protocol._validation import AUDIT_WORKSPACE
from dalsegno.protocol.dialects import (
    Beginning,
    Dialect,
    EventStreamDialect,
    ProjectDialect,
    ProjectHeartbeat,
    Said,
    Socket,
    SubscribeRequest,
    Text,
    ViewRequest,
    asked_by,
    encode_said,
)

from ._filter import RecordFilter, Time, filter_of
from ._trail import audit_event_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol._event import Event
    from dalsegno.protocol.dialects import Begun, Opening, Passes, Shown

STREAM = workspace_stream(AUDIT_WORKSPACE)


class AuditConnected(Said, tag="connected", kw_only=True, gc=False):
    """The first message: where the log is, and where this connection begins."""

    stream_id: str
    """By which its numbers are acknowledged."""
    head: int
    cursor: str


class AuditShown(msgspec.Struct, tag="audit_event", kw_only=True, gc=False):
    """Something that is on record."""

    seq: int
    cursor: str
    id: str
    timestamp: datetime
    user_id: str | None
    action: str
    resource_type: str
    resource_id: str
    old_value: Any
    new_value: Any
    ip_address: str | None
    request_id: str | None
    workspace_id: str | None


class FilterSet(Said, tag="filtered", kw_only=True, gc=False):
    """Another filter holds, for what is above a number."""

    seq: int


class AuditDialect(ProjectDialect):
    """What those are told who follow what is on record."""

    name = "audit"
    says: Sequence[type[msgspec.Struct]] = (
        AuditConnected,
        AuditShown,
        FilterSet,
        ProjectHeartbeat,
    )

    def workspace_event(self, event: Event, payload: object) -> Shown:
        """Encode a record; what is none is told by its number alone."""
        record = audit_event_of(event)
        if record is None:
            return ()
        return encode_said(
            AuditShown(
                seq=event.event_seq,
                cursor=f"{event.event_seq}-{chain_text(event.chain)}",
                id=record.id,
                timestamp=record.timestamp,
                user_id=record.user_id,
                action=record.action,
                resource_type=record.resource_type,
                resource_id=record.resource_id,
                old_value=_json(record.old_value),
                new_value=_json(record.new_value),
                ip_address=record.ip_address,
                request_id=record.request_id,
                workspace_id=record.workspace_id,
            )
        )

    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> bytes:
        """Encode where the log is, and where the connection begins."""
        chain = "" if begun.chain is None else f"-{chain_text(begun.chain)}"
        return encode_said(
            AuditConnected(
                stream_id=begun.stream_id,
                head=begun.head,
                cursor=f"{begun.cursor}{chain}",
                request_id=asked_by(asked.request_id),
            )
        )

    def viewed(self, asked: ViewRequest, seq: int) -> bytes:
        """Encode from where on the other filter holds."""
        return encode_said(FilterSet(seq=seq, request_id=asked_by(asked.request_id)))


AUDIT = AuditDialect()
AUDIT_EVENT_STREAM = EventStreamDialect(AUDIT)


class FollowAudit(SubscribeRequest, tag="follow_audit", frozen=True, kw_only=True):
    """Follow what is on record, from a cursor or the last ack."""

    dialect: ClassVar[Dialect] = AUDIT
    is_of_audit: ClassVar[bool] = True

    filter: RecordFilter = RecordFilter()

    @property
    def stream_id(self) -> str:
        """The stream of ``$audit``."""
        return STREAM

    @property
    def passes(self) -> Passes | None:
        """What the filter lets pass."""
        return self.filter.of_events()


class FollowAuditStream(FollowAudit, tag="follow_audit_stream", frozen=True, kw_only=True):
    """Follow it by server-sent events."""

    dialect: ClassVar[Dialect] = AUDIT_EVENT_STREAM


class FollowAuditFromNow(FollowAuditStream, tag="follow_audit_from_now", frozen=True, kw_only=True):
    """Follow it by server-sent events, from its end."""

    from_now: ClassVar[bool] = True


class SetFilter(ViewRequest, tag="filter", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Have another filter hold, instead of the last one: what is left out is whatever it is."""

    dialect: ClassVar[Dialect] = AUDIT

    user_id: Text | None = None
    action: Text | None = None
    resource_type: Text | None = None
    resource_id: Text | None = None
    since: Time | None = None
    until: Time | None = None

    @property
    def stream_id(self) -> str:
        """The stream of ``$audit``."""
        return STREAM

    @property
    def passes(self) -> Passes | None:
        """What the filter lets pass.

        Raises:
            Reject: ``BAD_REQUEST``, which names the field.

        """
        return (
            RecordFilter(
                user_id=self.user_id,
                action=self.action,
                resource_type=self.resource_type,
                resource_id=self.resource_id,
                since=self.since,
                until=self.until,
            )
            .check()
            .of_events()
        )


AuditDialect.messages = (SetFilter,)


def _begin(opening: Opening) -> Beginning:
    asked = FollowAudit(cursor=opening.cursor, filter=filter_of(opening.query))
    return Beginning(follows=[asked])


audit_socket = Socket("/ws/audit", AUDIT, begin=_begin, accepts_first=True)
"""The sockets of who follows what is on record."""


def _json(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
