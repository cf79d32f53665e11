"""What a store of sessions' events raises.

EventStoreError
├── EventIoError                   the file system, or the database, failed
├── EventSerializationError        a row, or an event, that cannot be read or written
├── EventStoreStateError           the store's own: an owner that is no number, a full sequence
│   ├── EventConflictError         … an event's id under which another one is stored
│   ├── EventCompactedError        … events that were removed
│   ├── EventUnsupportedError      … what this kind of store does not do
│   └── EventProjectionHaltedError … a session that was halted
└── SchemaVersionMismatchError     a row of another version
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import DalsegnoError

from ._events import EVENT_SCHEMA_VERSION

if TYPE_CHECKING:
    from ._events import EventProjectionHaltMarker


class EventStoreError(DalsegnoError):
    """The base of all."""

    code = "SESSION_STORE_ERROR"


class EventIoError(EventStoreError):
    """The file system, or the database, failed; nothing was appended, as far as is known."""

    code = "EVENT_STORE_IO"
    retryable = True


class EventSerializationError(EventStoreError):
    """A row that is no event, or an event that cannot be a row."""

    code = "EVENT_SERIALIZATION"


class EventStoreStateError(EventStoreError):
    """The store cannot do this as things are; nothing was appended."""

    code = "EVENT_STORE"


class EventConflictError(EventStoreStateError):
    """An event with this id is stored, and is another one."""

    code = "EVENT_CONFLICT"


class EventCompactedError(EventStoreStateError):
    """Events that were asked for were removed: read from the first one that is kept (C2)."""

    code = "STALE_CURSOR"

    def __init__(self, requested_cursor: int, min_available_cursor: int) -> None:
        super().__init__(
            f"the events up to {min_available_cursor} were removed",
            requested_cursor=requested_cursor,
            min_available_cursor=min_available_cursor,
            recovery="resubscribe_full",
        )


class EventUnsupportedError(EventStoreStateError):
    """This kind of store does not do this."""

    code = "SESSION_UNSUPPORTED"


class EventProjectionHaltedError(EventStoreStateError):
    """The session was halted: it is neither read nor written until somebody clears that."""

    code = "SESSION_HALTED"

    def __init__(self, marker: EventProjectionHaltMarker, *, is_durable: bool = True) -> None:
        super().__init__(
            f"the session was halted: {marker.reason}",
            session_id=marker.session_id,
            reason=marker.reason,
            recorded_at=marker.recorded_at.isoformat(),
        )
        self.marker = marker
        self.is_durable = is_durable
        """Whether it is so for everybody; else in this process alone, which could not write it."""


class SchemaVersionMismatchError(EventStoreError):
    """A row has another schema than this program reads; the whole log is refused (X-PER-5)."""

    code = "SCHEMA_VERSION_MISMATCH"

    def __init__(self, found: int) -> None:
        super().__init__(
            f"event log schema version mismatch: stored row has schema_version {found}, "
            f"runtime expects {EVENT_SCHEMA_VERSION}; refusing to project an unknown schema",
            expected=EVENT_SCHEMA_VERSION,
            found=found,
        )
        self.expected = EVENT_SCHEMA_VERSION
        self.found = found
