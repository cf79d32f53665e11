"""A session's log in a workspace, as the routes read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.protocol import Reject
from dalsegno.protocol.routes import Asked, OfEntity, Reads

from ._domain import SessionEventRecorded, session_halts, sessions
from ._replay import ReplayedEvent, SessionSnapshot, replayed, stale
from ._routes import replay_routes
from ._summary import assistant_text

if TYPE_CHECKING:
    from dalsegno.protocol import Event


class _WorkspaceLog:
    def __init__(self, workspace: Reads, session_id: str) -> None:
        self._workspace = workspace
        self._session_id = session_id

    async def last_seq(self) -> int:
        halted = await self._workspace.look(session_halts, self._session_id)
        if halted is not None and halted.state is not None:
            raise Reject(
                "SESSION_HALTED",
                "the session was halted",
                reason=halted.state.reason,
                recorded_at=halted.state.recorded_at.isoformat(),
            )
        found = await self._workspace.look(sessions, self._session_id)
        return 0 if found is None else found.version

    async def page(self, after: int | None, limit: int) -> list[ReplayedEvent]:
        events = await self._history(after or 0, limit)
        if after is not None and events and events[0].stream_seq > after + 1:
            raise stale(after, events[0].stream_seq - 1)
        return [self._shown(event) for event in events]

    async def min_available(self) -> int:
        (first,) = await self._history(0, 1)
        return first.stream_seq - 1

    async def snapshot(self) -> SessionSnapshot:
        found = await self._workspace.look(sessions, self._session_id)
        assert found is not None, "it has events"
        (first,) = await self._history(0, 1)
        (last,) = await self._history(found.version - 1, 1)
        return SessionSnapshot(
            session_id=self._session_id,
            last_seq=found.version,
            created_at=first.recorded_at,
            updated_at=last.recorded_at,
            summary=await self._text_at(found.state.summary_seq),
        )

    async def _text_at(self, seq: int) -> str | None:
        """Return what the event with that number makes the summary."""
        if seq == 0:
            return None
        (event,) = await self._history(seq - 1, 1)
        return assistant_text(None, _recorded(event).event)

    async def _history(self, after: int, limit: int) -> list[Event]:
        return list(
            await self._workspace.history(sessions, self._session_id, after=after, limit=limit)
        )

    def _shown(self, event: Event) -> ReplayedEvent:
        recorded = _recorded(event)
        return replayed(
            self._session_id,
            event.stream_seq,
            event=recorded.event,
            source=recorded.source,
            timestamp_ms=recorded.timestamp_ms,
            mob_id=recorded.mob_id,
            stream_seq=recorded.stream_seq,
            source_event_id=recorded.event_id,
        )


def _recorded(event: Event) -> SessionEventRecorded:
    recorded = sessions.decode(event.type, event.type_version, event.payload)
    assert isinstance(recorded, SessionEventRecorded), "a session's stream has nothing else"
    return recorded


async def _log_of(asked: Asked[Any, Any], session_id: str) -> _WorkspaceLog:
    """Return a session's log in the one workspace of the caller's that has it (C22)."""
    if asked.reads is not None:
        return _WorkspaceLog(asked.reads, session_id)
    return _WorkspaceLog(await asked.own.holding(sessions, session_id), session_id)


session_routes = replay_routes(_log_of, at=OfEntity(sessions, "session_id"))
"""The replay of a workspace's sessions, for its members."""
