"""The replay of a session's events: cursors, pages and snapshots, over any log that has them.

A cursor names its session and says "seen up to N", 0 before the first event.  It is refused where
it is of another session, ahead of the log, no number of a log, or below what the log has kept.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from dalsegno.protocol import SEQ_MAX, Reject, StaleCursorError, not_found

CONTRACT_VERSION = "0.7.10"
"""The contract that the answers keep: that of the source system's replay (§3.5)."""


class SessionScope(msgspec.Struct, tag="session", frozen=True):
    """What a cursor counts in: a session."""

    session_id: str


class ReplayCursor(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a session was seen."""

    scope: SessionScope
    sequence: Annotated[int, Meta(ge=0)]
    """The last event's number; 0 before the first one."""


class ReplayedEventId(msgspec.Struct, frozen=True, kw_only=True):
    """Which event it is, within all sessions."""

    scope: SessionScope
    sequence: int


class ReplayedEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event as it is replayed, with the identity that it came with."""

    event_id: ReplayedEventId
    cursor: ReplayCursor
    """The cursor of who has seen it."""
    timestamp_ms: int
    """When it happened, in milliseconds since 1970."""
    source: dict[str, str]
    """A type, and the id that goes with it."""
    session_id: str
    mob_id: str | None = None
    stream_seq: int = 0
    """Its number in the stream that it comes from."""
    source_event_id: str = ""
    """Its id there."""
    event: Any


def replayed(
    session_id: str,
    sequence: int,
    *,
    event: Any,  # noqa: ANN401 - JSON
    source: dict[str, str],
    timestamp_ms: int,
    mob_id: str | None,
    stream_seq: int,
    source_event_id: str,
) -> ReplayedEvent:
    """Return a stored event as it is replayed."""
    scope = SessionScope(session_id)
    return ReplayedEvent(
        event_id=ReplayedEventId(scope=scope, sequence=sequence),
        cursor=ReplayCursor(scope=scope, sequence=sequence),
        timestamp_ms=timestamp_ms,
        source=source,
        session_id=session_id,
        mob_id=mob_id,
        stream_seq=stream_seq,
        source_event_id=source_event_id,
        event=event,
    )


class SessionSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag="session"):
    """A session at one event, folded from its log."""

    session_id: str
    last_seq: int
    created_at: datetime
    """When the first event that is kept was stored."""
    updated_at: datetime
    """When the last one was."""
    summary: str | None
    """The assistant's last text; see `assistant_text`."""


class SessionLog(Protocol):
    """A session's log, as who asks may read it."""

    async def last_seq(self) -> int:
        """Return the last event's number; 0: there is no such session.

        Raises:
            Reject: ``SESSION_HALTED``, and what reading raises.

        """

    async def page(self, after: int | None, limit: int) -> list[ReplayedEvent]:
        """Read events in order, those behind a cursor; None: from the first that is kept.

        Raises:
            StaleCursorError: some of them are no longer kept.
            Reject: as `last_seq`.

        """

    async def min_available(self) -> int:
        """Return the lowest cursor behind which everything is kept."""

    async def snapshot(self) -> SessionSnapshot:
        """Fold the log, which has events, up to the last one of a moment."""


class LatestCursor(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session ends."""

    contract_version: str
    cursor: ReplayCursor


class EventsSince(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a session's events."""

    contract_version: str
    scope: SessionScope
    from_cursor: ReplayCursor
    latest_cursor: ReplayCursor
    events: list[ReplayedEvent]
    has_more: bool


class SnapshotAt(msgspec.Struct, frozen=True, kw_only=True):
    """A session, and the cursor from which its events go on."""

    contract_version: str
    scope: SessionScope
    cursor: ReplayCursor
    snapshot: SessionSnapshot


async def latest_cursor(log: SessionLog, scope: SessionScope) -> LatestCursor:
    """Return the cursor behind which there is nothing yet.

    Raises:
        Reject: ``SESSION_NOT_FOUND``, and what reading raises.

    """
    sequence = await _length(log, scope)
    return LatestCursor(
        contract_version=CONTRACT_VERSION, cursor=ReplayCursor(scope=scope, sequence=sequence)
    )


async def list_since(
    log: SessionLog, scope: SessionScope, cursor: ReplayCursor | None, limit: int
) -> EventsSince:
    """Return a page of the events behind a cursor; without one, of all that are kept.

    Raises:
        Reject: ``SESSION_NOT_FOUND``, ``CURSOR_SCOPE_MISMATCH``, ``CURSOR_AHEAD`` with both
            numbers, ``CURSOR_OVERFLOW``, and what reading raises.
        StaleCursorError: what follows is no longer kept.

    """
    latest = await _length(log, scope)
    if cursor is not None:
        _check(cursor, scope, latest)
    began = await log.min_available() if cursor is None else cursor.sequence
    events = await log.page(None if cursor is None else cursor.sequence, limit)
    reached = events[-1].cursor.sequence if events else began
    latest = max(latest, reached)
    return EventsSince(
        contract_version=CONTRACT_VERSION,
        scope=scope,
        from_cursor=ReplayCursor(scope=scope, sequence=began),
        latest_cursor=ReplayCursor(scope=scope, sequence=latest),
        events=events,
        has_more=bool(events) and reached < latest,
    )


async def snapshot(log: SessionLog, scope: SessionScope) -> SnapshotAt:
    """Return a session at its last event.

    Raises:
        Reject: ``SESSION_NOT_FOUND``, and what reading raises.

    """
    await _length(log, scope)
    folded = await log.snapshot()
    return SnapshotAt(
        contract_version=CONTRACT_VERSION,
        scope=scope,
        cursor=ReplayCursor(scope=scope, sequence=folded.last_seq),
        snapshot=folded,
    )


async def _length(log: SessionLog, scope: SessionScope) -> int:
    last_seq = await log.last_seq()
    if last_seq == 0:
        raise not_found(f"session:{scope.session_id}")
    return last_seq


def _check(cursor: ReplayCursor, scope: SessionScope, latest: int) -> None:
    if cursor.scope != scope:
        raise Reject("CURSOR_SCOPE_MISMATCH", "the cursor is of another session", status=400)
    if cursor.sequence > latest and cursor.sequence <= SEQ_MAX:
        raise Reject(
            "CURSOR_AHEAD",
            "the session is not that long",
            requested_sequence=cursor.sequence,
            latest_sequence=latest,
        )
    if cursor.sequence >= SEQ_MAX:
        raise Reject("CURSOR_OVERFLOW", "no event has a number behind this one", status=400)


def stale(requested: int, min_available: int) -> StaleCursorError:
    """Return the refusal of a cursor below what is kept (C2)."""
    return StaleCursorError(
        "what follows this cursor is no longer kept",
        requested_cursor=requested,
        min_available_cursor=min_available,
        recovery="resubscribe_full",
    )
