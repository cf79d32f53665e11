"""Sessions' events in a workspace: the trait of the files, kept by the log of a database.

What the log promises anyway needs nothing here: numbers without a gap, one writer, batches that are
all or none, a head that is no scan, versions that fail closed.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.sessions import (
    ClearSessionHalt,
    HaltSession,
    RecordSessionEvents,
    SessionEvent,
    session_halts,
    sessions,
)
from dalsegno.protocol import (
    BEGINNING,
    DalsegnoError,
    OutcomeUnknownError,
    Place,
    Reject,
    SchemaVersionError,
    SequenceOverflowError,
    UnavailableError,
    WorkspaceHaltedError,
)

from ._errors import (
    EventCompactedError,
    EventConflictError,
    EventIoError,
    EventProjectionHaltedError,
    EventSerializationError,
    EventStoreStateError,
    SchemaVersionMismatchError,
)
from ._event_store import (
    PAGE_BYTES_MAX,
    PAGE_MAX,
    EventStore,
    check_session_id,
)
from ._events import (
    EVENT_SCHEMA_VERSION,
    EventPage,
    EventProjectionHaltMarker,
    Inserted,
    Replayed,
    Source,
    StoredEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dalsegno.actors import World
    from dalsegno.protocol import Event
    from dalsegno.runtime import Workspace

    from ._event_store import Hold
    from ._events import Appended, EventEnvelope

_READ_MAX = 256
"""Events that are read in one query."""


class WorkspaceEventStore(EventStore):
    """Sessions' events in a workspace, whose app has `session_domains`.

    By their ids it knows the events that `append_once` has appended, and no others: each has an
    entity of its own for that.
    """

    def __init__(self, workspace: Workspace, *, world: World) -> None:
        """Make it.

        Args:
            workspace: where the sessions are.
            world: time and ids: ``rt.world``.

        """
        super().__init__(world)
        self._workspace = workspace

    def __repr__(self) -> str:
        return f"<WorkspaceEventStore {self._workspace.id}>"

    async def _append_all(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> int:
        return await self._record(session_id, envelopes, once=False)

    async def _append_each_once(
        self, session_id: str, envelopes: Sequence[EventEnvelope]
    ) -> Appended:
        try:
            return Inserted(await self._record(session_id, envelopes, once=True))
        except _ReplayedError as error:
            return Replayed(error.last_seq)

    async def _record(
        self, session_id: str, envelopes: Sequence[EventEnvelope], *, once: bool
    ) -> int:
        events = tuple(
            SessionEvent(
                event_id=envelope.event_id,
                source=msgspec.to_builtins(envelope.source),
                stream_seq=envelope.seq,
                mob_id=envelope.mob_id,
                timestamp_ms=envelope.timestamp_ms,
                event=envelope.payload,
            )
            for envelope in envelopes
        )
        command = RecordSessionEvents(session_id=session_id, session_events=events, once=once)
        with _translated(session_id):
            receipt = await self._workspace.send(command)
        return receipt.version

    async def read_page(
        self, session_id: str, from_seq: int | None = None, *, limit: int = PAGE_MAX
    ) -> EventPage:
        """Read events in order, from a number on, that included: none of an unknown session."""
        await self._check_not_halted(session_id)
        limit, rows, size = min(limit, PAGE_MAX), list[StoredEvent](), 0
        after = 0 if from_seq is None else max(from_seq - 1, 0)
        while True:
            with _translated(session_id):
                page = await self._workspace.history(
                    sessions, session_id, after=after, limit=min(_READ_MAX, limit - len(rows) + 1)
                )
            # Numbers have no gap here: what is missing before a page is no longer kept.
            is_asked_for = bool(rows) or from_seq is not None
            if page and page[0].stream_seq > after + 1 and is_asked_for:
                raise EventCompactedError(after, page[0].stream_seq - 1)
            for event in page:
                if len(rows) >= limit or (rows and size + len(event.payload) > PAGE_BYTES_MAX):
                    return EventPage(rows, has_more=True)
                rows.append(_row_of(event))
                size += len(event.payload)
            if not page:
                return EventPage(rows, has_more=False)
            after = page[-1].stream_seq

    async def last_seq(self, session_id: str) -> int:
        """Return the number of a session's last event, 0 where there is none."""
        await self._check_not_halted(session_id)
        with _translated(session_id):
            found = await self._workspace.look(sessions, session_id)
        return 0 if found is None else found.version

    async def min_available(self, session_id: str) -> int:
        """Return the lowest cursor from which a session can be read: a workspace keeps it all."""
        await self._check_not_halted(session_id)
        with _translated(session_id):
            first = await self._workspace.history(sessions, session_id, after=0, limit=1)
        return first[0].stream_seq - 1 if first else 0

    async def session_ids(self, *, after: str = "", limit: int = PAGE_MAX) -> list[str]:
        """List the ids of sessions that have events, in order, behind one."""
        place = Place(stream_id=sessions.stream_id(after)) if after else BEGINNING
        with _translated(after):
            items = await self._workspace.entities(sessions, after=place, limit=limit)
        return [item.stream_id.partition(":")[2] for item in items]

    # ----------------------------------------------------------------------------------- halts

    async def _record_halt(self, session_id: str, reason: str) -> None:
        with _translated(session_id):
            await self._workspace.send(HaltSession(session_halt_id=session_id, reason=reason))

    async def _read_halt(self, session_id: str) -> EventProjectionHaltMarker | None:
        with _translated(session_id):
            halt = await self._workspace.get(session_halts, session_id)
        if halt is None:
            return None
        return EventProjectionHaltMarker(
            session_id=session_id, reason=halt.reason, recorded_at=halt.recorded_at
        )

    async def _clear_halt(self, session_id: str, *, by: str, reason: str) -> bool:
        was_halted = await self._read_halt(session_id) is not None
        clear = ClearSessionHalt(session_halt_id=session_id, by=by, reason=reason)
        with _translated(session_id):
            await self._workspace.send(clear)
        return was_halted

    async def _check_not_halted(self, session_id: str) -> None:
        self._check_not_halted_here(session_id)
        marker = await self._read_halt(check_session_id(session_id))
        if marker is not None:
            raise EventProjectionHaltedError(marker)

    async def try_hold_turn(self, session_id: str) -> Hold:
        """Hold a session's turn, which is this process's: nobody is asked."""
        check_session_id(session_id)
        return _Held()


class _Held:
    def release(self) -> None:
        pass


class _ReplayedError(Exception):
    def __init__(self, last_seq: int) -> None:
        super().__init__(last_seq)
        self.last_seq = last_seq


def _row_of(event: Event) -> StoredEvent:
    recorded = sessions.decode(event.type, event.type_version, event.payload)
    assert recorded is not None, "a session's stream has nothing else"
    return StoredEvent(
        seq=event.stream_seq,
        schema_version=EVENT_SCHEMA_VERSION,
        timestamp=event.recorded_at,
        source=msgspec.convert(recorded.source, Source),
        mob_id=recorded.mob_id,
        stream_seq=recorded.stream_seq,
        event_id=recorded.event_id,
        timestamp_ms=recorded.timestamp_ms,
        event=recorded.event,
    )


@contextmanager
def _translated(session_id: str) -> Iterator[None]:
    """Raise what a workspace raises as what a store of events does."""
    try:
        yield
    except Reject as error:
        match error.code:
            case "EVENT_REPLAYED":
                raise _ReplayedError(error.details["last_seq"]) from None
            case "EVENT_CONFLICT":
                raise EventConflictError(error.message) from None
            case "SESSION_HALTED":
                halt = error.details
                marker = EventProjectionHaltMarker(
                    session_id=session_id, reason=halt["reason"], recorded_at=halt["recorded_at"]
                )
                raise EventProjectionHaltedError(marker) from None
            case "BAD_REQUEST":
                raise EventSerializationError(error.message) from error
        raise EventStoreStateError(error.message, code=error.code) from error
    except SequenceOverflowError as error:
        raise EventStoreStateError("event sequence overflow while allocating range") from error
    except SchemaVersionError as error:
        raise SchemaVersionMismatchError(error.found) from error
    except WorkspaceHaltedError as error:
        raise EventSerializationError(error.message) from error
    except (UnavailableError, OutcomeUnknownError) as error:
        raise EventIoError(error.message) from error
    except DalsegnoError as error:
        raise EventStoreStateError(error.message) from error
