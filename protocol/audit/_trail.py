"""The log of ``$audit``: what is on record of every workspace, and what was refused, in one order.

Its events are made of rows that are not on it yet, by its owner, and each row once.  Nobody sends
it a command; who reads it is decided by global roles alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Never

import msgspec

from dalsegno.protocol._domain import Domain
from dalsegno.protocol._errors import Reject

if TYPE_CHECKING:
    from dalsegno.protocol._event import Event

AUDIT_READERS = frozenset({"owner", "admin"})
"""The global roles that read it."""

TRAIL_ID = "main"
"""The id of the one entity that the log has."""


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is on record."""

    id: str
    """Where it is on record: ``WORKSPACE/EVENT-N`` of an event, ``WORKSPACE/x-N`` of what was done
    to a workspace from outside its log, ``$refused/ID`` of what was refused."""
    timestamp: datetime
    """When it happened: no later than the event says that it was recorded here."""
    user_id: str | None
    action: str
    resource_type: str
    resource_id: str
    old_value: str | None = None
    """JSON text."""
    new_value: str | None = None
    """JSON text."""
    ip_address: str | None = None
    request_id: str | None = None
    workspace_id: str | None = None
    """None where it was of none."""


class Trail(msgspec.Struct, frozen=True):
    """How much there is."""

    count: int


trail = Domain("audit_trail", state=Trail, commands=Never, events=AuditEvent, reserved=True)
"""One entity, ``audit_trail:main``, in ``$audit``."""


@trail.evolve
def _on_record(before: Trail | None, _event: AuditEvent) -> Trail:
    return Trail(1 if before is None else before.count + 1)


_decode = msgspec.json.Decoder(AuditEvent).decode


def audit_event_of(event: Event) -> AuditEvent | None:
    """Return what an event of the log has; None for one of a kind that is not known here."""
    is_known = event.type in trail.events and event.type_version == trail.type_version(event.type)
    return _decode(event.payload) if is_known else None


def not_a_reader() -> Reject:
    """Return the refusal of somebody who may not read it."""
    return Reject("ROLE_FORBIDDEN", "what is on record is for global owners and admins")
