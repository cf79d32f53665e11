"""How an event, and every answer, looks on the wire: pure functions to whole messages.

One internal event has a view a dialect.  The seed's dialect is REQUIREMENTS §1.2.3, where a note's
stream and a workspace's have messages of their own; the generic one has ``event`` for any stream.
Payloads are stored JSON text and go out byte for byte, so a view joins texts around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ._errors import DalsegnoError, InternalError
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
        return b"".join(
            (
                b'{"type":"note_event","stream_id":',
                _encode(event.stream_id),
                b',"%s_id":' % name.encode(),
                _encode(entity_id),
                b',"event_seq":%d,"version":%d,"event_type":'
                % (event.stream_seq, event.stream_seq),
                _encode(event.type),
                b',"event_id":"%s","actor_id":' % event.event_id.encode(),
                _encode(event.actor_id),
                b',"payload":',
                event.payload.encode(),
                b"}",
            )
        )

    def _encode_seed_workspace(self, event: Event) -> bytes:
        payload = self._workspace_payload(event)
        kind, extra = b"workspace_event", b""
        if event.type.startswith(_AUTOMATION):
            kind, extra = b"automation_event", _automation_fields(payload)
        return b"".join(
            (
                b'{"type":"',
                kind,
                b'","workspace_id":',
                _encode(event.workspace_id),
                b',"stream_id":',
                _encode(f"workspace:{event.workspace_id}"),
                b',"event_seq":%d' % event.event_seq,
                extra,
                b',"event_type":',
                _encode(event.type),
                b',"event_id":"%s","actor_id":' % event.event_id.encode(),
                _encode(event.actor_id),
                b',"payload":',
                payload,
                b"}",
            )
        )

    def _encode_generic_entity(self, event: Event) -> bytes:
        return _generic(event, event.stream_id, event.stream_seq, event.payload.encode())

    def _encode_generic_workspace(self, event: Event) -> bytes:
        stream_id = f"workspace:{event.workspace_id}"
        return _generic(event, stream_id, event.event_seq, self._workspace_payload(event))

    def _workspace_payload(self, event: Event) -> bytes:
        """Show an event as its domain wants it on the workspace's stream; unknown ones verbatim.

        Raises:
            DalsegnoError: the payload cannot be read, or the domain's view raised.

        """
        name, _, entity_id = event.stream_id.partition(":")
        domain = self._domains.get(name)
        if domain is None:
            return event.payload.encode()
        known = domain.decode(event.type, event.type_version, event.payload)
        if known is None:
            return event.payload.encode()
        try:
            view = domain.viewed(known, entity_id, event.stream_seq)
            return event.payload.encode() if view is None else _encode(view)
        except Exception as error:
            raise InternalError(f"the view of {event.type} on {name} raised") from error


def _generic(event: Event, stream_id: str, seq: int, payload: bytes) -> bytes:
    return b"".join(
        (
            b'{"type":"event","stream_id":',
            _encode(stream_id),
            b',"seq":%d,"event_seq":%d,"entity":' % (seq, event.event_seq),
            _encode(event.stream_id),
            b',"version":%d,"event_type":' % event.stream_seq,
            _encode(event.type),
            b',"event_id":"%s","actor_id":' % event.event_id.encode(),
            _encode(event.actor_id),
            b',"recorded_at":',
            _encode(event.recorded_at),
            b',"chain":"%s","payload":' % chain_text(event.chain).encode(),
            payload,
            b"}",
        )
    )


class _AutomationFields(msgspec.Struct):
    run_id: Any = None
    status: Any = None


def _automation_fields(payload: bytes) -> bytes:
    """Copy a run's id and status to the top of its message (REQUIREMENTS §1.2.3)."""
    try:
        fields = msgspec.json.decode(payload, type=_AutomationFields)
    except msgspec.MsgspecError:
        return b""
    return b',"run_id":%s,"status":%s' % (_encode(fields.run_id), _encode(fields.status))


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
