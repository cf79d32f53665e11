"""What is on record of an event, as it is written beside it, and as ``$audit`` has it."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.ports import AuditWrite
from dalsegno.protocol import DomainError, check_id, check_nul
from dalsegno.protocol.audit import AuditEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.ports import RecordKey, Uncollected
    from dalsegno.protocol import Audit, Event, Principal

_NAME_CHARS_MAX = 256
_VALUE_BYTES_MAX = 64 * 1024
"""Of a value before or after: whoever reads the record sees what it was, not all of a document."""


def audit_writes(found: Sequence[Audit], event: Event, principal: Principal) -> list[AuditWrite]:
    """Return the rows of what is put on record of an event.

    Raises:
        Reject: ``BAD_REQUEST`` for text that cannot be stored.
        DomainError: a value that is no JSON, or too long.

    """
    domain, _, entity_id = event.stream_id.partition(":")
    writes = []
    for n, audit in enumerate(found):
        named = (audit.action, audit.resource_type or domain, audit.resource_id or entity_id)
        for text in named:
            check_id(text, chars_max=_NAME_CHARS_MAX, what="what is put on record")
        action, resource_type, resource_id = named
        writes.append(
            AuditWrite(
                event_seq=event.event_seq,
                n=n,
                recorded_at=event.recorded_at,
                actor_id=event.actor_id,
                action=action,
                resource_type=resource_type,
                resource_id=resource_id,
                old_value=_written(audit.old_value),
                new_value=_written(audit.new_value),
                request_id=event.correlation_id,
                address=principal.address,
            )
        )
    return writes


def recorded(row: Uncollected) -> AuditEvent:
    """Return the event of ``$audit`` that a row on record becomes."""
    return AuditEvent(
        id=_id_of(row.key),
        timestamp=row.recorded_at.astimezone(UTC),
        user_id=row.actor_id,
        action=row.action,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        old_value=row.old_value,
        new_value=row.new_value,
        ip_address=row.address,
        request_id=row.request_id,
        workspace_id=row.workspace_id,
    )


def _id_of(key: RecordKey) -> str:
    if key.kind == "refusal":
        return f"$refused/{key.scope}"
    number = f"{key.number}-{key.n}" if key.kind == "event" else f"x-{key.number}"
    return f"{key.scope}/{number}"


def _written(value: Any) -> str | None:  # noqa: ANN401 - JSON
    if value is None:
        return None
    try:
        written = msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        raise DomainError(f"a value on record is no JSON: {error}") from error
    if len(written) > _VALUE_BYTES_MAX:
        raise DomainError(f"a value on record has at most {_VALUE_BYTES_MAX} bytes")
    if b"\\" in written:
        check_nul(written)
    return written.decode()
