"""The events of sessions: an envelope as it comes, and what a store keeps of it.

A store numbers what it is given; everything else of an envelope it keeps and gives back as it was:
who it is from, the mob that it belongs to, its number in its own stream, its id and its time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

import msgspec

EVENT_SCHEMA_VERSION = 2
"""The one version of rows that is read and written."""


class SessionSource(msgspec.Struct, tag="session", frozen=True):
    """A session's own event."""

    session_id: str


class RuntimeSource(msgspec.Struct, tag="runtime", frozen=True):
    """An event of a runtime."""

    runtime_id: str


class InteractionSource(msgspec.Struct, tag="interaction", frozen=True):
    """An event of an interaction."""

    interaction_id: str


class CallbackSource(msgspec.Struct, tag="callback", frozen=True):
    """An event of a callback."""

    callback_id: str


class ExternalSource(msgspec.Struct, tag="external", frozen=True):
    """An event from outside."""

    source_id: str


Source: TypeAlias = (
    SessionSource | RuntimeSource | InteractionSource | CallbackSource | ExternalSource
)
"""Who an event is from."""

LEGACY = ExternalSource("legacy-pre-schema-v2")
"""The source of a row that has none: one of version 1, which is refused by its version."""

REPAIR = ExternalSource("repair")
"""The source of the event by which a session says that some of its events were lost."""


class EventEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way, with its identity."""

    event_id: str
    source: Source
    seq: int = 0
    """Its number in the stream that it comes from."""
    mob_id: str | None = None
    timestamp_ms: int
    """When it happened, in milliseconds since 1970."""
    payload: Any
    """JSON."""


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event as it was stored: a row."""

    seq: int
    """Its number in the session, which the store gave it."""
    schema_version: int
    timestamp: datetime
    """When it was stored, UTC."""
    source: Source = LEGACY
    mob_id: str | None = None
    stream_seq: int = 0
    """The envelope's own number."""
    event_id: str = ""
    timestamp_ms: int = 0
    """When it happened."""
    event: Any

    def to_envelope(self) -> EventEnvelope:
        """Return the envelope that this was stored from: the very same."""
        return EventEnvelope(
            event_id=self.event_id,
            source=self.source,
            seq=self.stream_seq,
            mob_id=self.mob_id,
            timestamp_ms=self.timestamp_ms,
            payload=self.event,
        )


class EventProjectionHaltMarker(msgspec.Struct, frozen=True, kw_only=True):
    """A session's projection has halted: nothing of it is read or written until this is cleared."""

    session_id: str
    reason: str
    recorded_at: datetime


class Inserted(msgspec.Struct, frozen=True):
    """Envelopes were appended; the last of them has this number."""

    last_seq: int


class Replayed(msgspec.Struct, frozen=True):
    """Envelopes were there already, the last of them under this number."""

    last_seq: int


Appended: TypeAlias = Inserted | Replayed


class EventPage(msgspec.Struct, frozen=True):
    """A page of a session's events, in order."""

    events: list[StoredEvent]
    has_more: bool
