"""How an event, and every answer, looks on the wire: pure functions to whole messages.

One internal event has a view a dialect.  The seed's dialect is REQUIREMENTS §1.2.3, where a note's
stream and a workspace's have messages of their own; the generic one has ``event`` for any stream.
Payloads are stored JSON text and go out byte for byte, so a view joins texts around them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from ._errors import DalsegnoError
from ._position import chain_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ._domain import Domain
    from ._event import Event
    from ._subscription import Subscription, View

_encode = msgspec.json.encode
_AUTOMATION = "automation_"

_ENVELOPE = frozenset({"type", "code", "message", "request_id", "details"})


class Views:
    """The views of one set of domains."""

    def __init__(self, domains: Mapping[str, Domain[Any, Any, Any]]) -> None:
        self._domains = domains
        # Bound once: the hub shares what is encoded by the identity of the view.
        self._seed_entity: View = self._encode_seed_entity
        self._seed_workspace: View = self._encode_seed_workspace
        self._generic_entity: View = self._encode_generic_entity
        self._generic_workspace: View = self._encode_generic_workspace

    def of(self, subscription: Subscription, *, generic: bool) -> View:
        """Choose the view of a subscription, by the form of its subscribe."""
        if subscription.whole:
            return self._generic_workspace if generic else self._seed_workspace
        return self._generic_entity if generic else self._seed_entity

    def _encode_seed_entity(self, event: Event) -> bytes:
        name, _, entity_id = event.stream_id.partition(":")
        return (
            f'{{"type":"note_event","stream_id":{_quoted(event.stream_id)},'
            f'"{name}_id":{_quoted(entity_id)},'
            f'"event_seq":{event.stream_seq},"version":{event.stream_seq},'
            f'"event_type":{_quoted(event.type)},"event_id":"{event.event_id}",'
            f'"actor_id":{_quoted(event.actor_id)},"payload":{event.payload}}}'
        ).encode()

    def _encode_seed_workspace(self, event: Event) -> bytes:
        payload = self._workspace_payload(event)
        kind, extra = "workspace_event", ""
        if event.type.startswith(_AUTOMATION):
            kind, extra = "automation_event", _automation_fields(payload)
        return (
            f'{{"type":"{kind}","workspace_id":{_quoted(event.workspace_id)},'
            f'"stream_id":{_quoted(f"workspace:{event.workspace_id}")},'
            f'"event_seq":{event.event_seq}{extra},'
            f'"event_type":{_quoted(event.type)},"event_id":"{event.event_id}",'
            f'"actor_id":{_quoted(event.actor_id)},"payload":{payload}}}'
        ).encode()

    def _encode_generic_entity(self, event: Event) -> bytes:
        return _generic(event, event.stream_id, event.stream_seq, event.payload)

    def _encode_generic_workspace(self, event: Event) -> bytes:
        stream_id = f"workspace:{event.workspace_id}"
        return _generic(event, stream_id, event.event_seq, self._workspace_payload(event))

    def _workspace_payload(self, event: Event) -> str:
        """Show an event as its domain wants it on the workspace's stream."""
        name, _, entity_id = event.stream_id.partition(":")
        domain = self._domains.get(name)
        if domain is None:
            return event.payload
        return domain.viewed(
            event.type, event.type_version, event.payload, entity_id, event.stream_seq
        )


def _generic(event: Event, stream_id: str, seq: int, payload: str) -> bytes:
    return (
        f'{{"type":"event","stream_id":{_quoted(stream_id)},"seq":{seq},'
        f'"event_seq":{event.event_seq},"entity":{_quoted(event.stream_id)},'
        f'"version":{event.stream_seq},"event_type":{_quoted(event.type)},'
        f'"event_id":"{event.event_id}","actor_id":{_quoted(event.actor_id)},'
        f'"recorded_at":{_encode(event.recorded_at).decode()},'
        f'"chain":"{chain_text(event.chain)}","payload":{payload}}}'
    ).encode()


@lru_cache(maxsize=4_096)
def _quoted(text: str | None) -> str:
    """Write a name as JSON: the same few come with event after event."""
    return _encode(text).decode()


class _AutomationFields(msgspec.Struct):
    run_id: Any = None
    status: Any = None


def _automation_fields(payload: str) -> str:
    """Copy a run's id and status to the top of its message (REQUIREMENTS §1.2.3)."""
    try:
        fields = msgspec.json.decode(payload, type=_AutomationFields)
    except msgspec.MsgspecError:
        return ""
    run_id, status = _encode(fields.run_id).decode(), _encode(fields.status).decode()
    return f',"run_id":{run_id},"status":{status}'


def error_message(error: DalsegnoError, request_id: str | None, **context: Any) -> bytes:  # noqa: ANN401 - JSON
    """Show an error: the envelope of §1.3, and beside it, flat, what it is about (§1.2.5)."""
    details = {**error.details, **context}
    flat = {name: value for name, value in details.items() if name not in _ENVELOPE}
    return _encode(
        {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "request_id": request_id,
            "details": details or None,
            **flat,
        }
    )


def message(type_: str, request_id: str | None = None, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
    """Show any other message; ``request_id`` is left out where the client gave none."""
    if request_id is not None:
        fields["request_id"] = request_id
    return _encode({"type": type_, **fields})


def heartbeat(now: datetime) -> bytes:
    """Show the heartbeat."""
    return message("heartbeat", server_ts=now)
