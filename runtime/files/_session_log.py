"""The replay of a store's sessions over HTTP: the routes of workspaces' ones, over any store."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from cachetools import LRUCache

from dalsegno.actors.domains.sessions import (
    ReplayedEvent,
    SessionSnapshot,
    assistant_text,
    replay_routes,
    replayed,
    stale,
)
from dalsegno.protocol import Reject, not_found

from ._errors import EventCompactedError, EventProjectionHaltedError
from ._event_store import is_session_id
from ._events import REPAIR
from ._session_errors import SessionStoreError, of_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dalsegno.protocol import Principal
    from dalsegno.protocol.routes import Asked, Route

    from ._event_store import EventStore
    from ._events import StoredEvent

_FOLDED_MAX = 256
"""Sessions whose summary is remembered, so that a snapshot reads only what is new."""


class _Fold(NamedTuple):
    """A session's summary at an event, which says whether it is of this log."""

    seq: int
    event_id: str
    summary: str | None


class _StoreLog:
    def __init__(self, store: EventStore, session_id: str, folds: LRUCache[str, _Fold]) -> None:
        self._store = store
        self._session_id = session_id
        self._folds = folds

    async def last_seq(self) -> int:
        with _refused(self._session_id):
            return await self._store.last_seq(self._session_id)

    async def min_available(self) -> int:
        with _refused(self._session_id):
            return await self._store.min_available(self._session_id)

    async def page(self, after: int | None, limit: int) -> list[ReplayedEvent]:
        from_seq = None if after is None else after + 1
        with _refused(self._session_id):
            page = await self._store.read_page(self._session_id, from_seq, limit=limit)
        return [_shown(self._session_id, row) for row in page.events]

    async def snapshot(self) -> SessionSnapshot:
        with _refused(self._session_id):
            first = (await self._store.read_page(self._session_id, limit=1)).events[0]
            fold, last = await self._fold(first)
        return SessionSnapshot(
            session_id=self._session_id,
            last_seq=last.seq,
            created_at=first.timestamp,
            updated_at=last.timestamp,
            summary=fold.summary,
        )

    async def _fold(self, first: StoredEvent) -> tuple[_Fold, StoredEvent]:
        """Fold what is behind the remembered event, or everything; return that and the last one."""
        known = self._folds.get(self._session_id)
        last, summary = first, assistant_text(None, first.event)
        if known is not None and known.seq >= first.seq:
            page = await self._store.read_page(self._session_id, known.seq, limit=1)
            if page.events and page.events[0].event_id == known.event_id:
                last, summary = page.events[0], known.summary
        has_more = True
        while has_more:
            page = await self._store.read_page(self._session_id, last.seq + 1)
            is_repaired = any(row.source == REPAIR for row in page.events)
            if is_repaired and self._session_id in self._folds:
                del self._folds[self._session_id]  # what was remembered may be of what was lost
                return await self._fold(first)
            for row in page.events:
                last, summary = row, assistant_text(summary, row.event)
            has_more = page.has_more
        self._folds[self._session_id] = fold = _Fold(last.seq, last.event_id, summary)
        return fold, last


def _shown(session_id: str, row: StoredEvent) -> ReplayedEvent:
    return replayed(
        session_id,
        row.seq,
        event=row.event,
        source=msgspec.to_builtins(row.source),
        timestamp_ms=row.timestamp_ms,
        mob_id=row.mob_id,
        stream_seq=row.stream_seq,
        source_event_id=row.event_id,
    )


@contextmanager
def _refused(session_id: str) -> Iterator[None]:
    """Raise what a store raises as clients are told of it.

    Raises:
        Reject: ``SESSION_HALTED``, ``STALE_CURSOR``.
        SessionStoreError: all else.

    """
    try:
        with of_session(session_id):
            yield
    except SessionStoreError as error:
        match error.__cause__:
            case EventProjectionHaltedError(marker=marker):
                raise Reject(
                    "SESSION_HALTED",
                    "the session was halted",
                    reason=marker.reason,
                    recorded_at=marker.recorded_at.isoformat(),
                ) from error
            case EventCompactedError() as compacted:
                details = compacted.details
                raise stale(details["requested_cursor"], details["min_available_cursor"]) from error
        raise


def store_routes(
    store: EventStore, *, may_read: Callable[[Principal, str], bool]
) -> tuple[Route, ...]:
    """Return the routes of the replay of a store's sessions.

    A store has no members, so that it is for the program to say who reads what.

    Args:
        store: has the sessions.
        may_read: returns whether somebody may read the session with an id.  Pure and quick; for
            others there is no such session (C22).

    """
    folds: LRUCache[str, _Fold] = LRUCache(_FOLDED_MAX)

    async def log_of(asked: Asked[Any, Any], session_id: str) -> _StoreLog:
        if not is_session_id(session_id) or not may_read(asked.principal, session_id):
            raise not_found("session:")
        return _StoreLog(store, session_id, folds)

    return replay_routes(log_of)
