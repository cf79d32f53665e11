"""What every store of sessions' events promises: an append-only log a session, numbered by it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dalsegno.protocol import DalsegnoError, encode_checked, read_back

from ._errors import (
    EventConflictError,
    EventProjectionHaltedError,
    EventSerializationError,
    EventStoreStateError,
    EventUnsupportedError,
)
from ._events import EventEnvelope, EventProjectionHaltMarker, Replayed, SessionSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dalsegno.actors import World

    from ._events import Appended, EventPage, StoredEvent

BATCH_MAX = 256
"""Events in one append, which is all or none."""
ONCE_MAX = 100
"""Events in one append of which each is there once."""
PAGE_MAX = 1_000
"""Events in a page …"""
PAGE_BYTES_MAX = 4 * 1024 * 1024
"""… and about how many bytes of them, unless a single one has more."""
EVENT_BYTES_MAX = 1024 * 1024
"""One event's payload as JSON."""
NESTING_MAX = 64

_SESSION_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


class EventStore(ABC):
    """An append-only log of events for each session."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._halted: dict[str, EventProjectionHaltMarker] = {}
        """Sessions that were halted here, as long as that is not durable."""

    async def append_envelopes(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> int:
        """Append envelopes, all or none, and return the number of the last one.

        They are numbered without a gap behind what the session has.  For none the session's last
        number is returned and nothing is written.  Cancelled, they may have been appended.

        Raises:
            EventStoreStateError: the sequence's owner cannot be read, there are no numbers left,
                there are more than 256 envelopes; `EventProjectionHaltedError`.
            EventSerializationError: a payload that is no JSON, or the log cannot be read.
            SchemaVersionMismatchError: the log has rows of another version.
            EventIoError: they could not be written.

        """
        check_batch(envelopes)
        check_session_id(session_id)
        self._check_not_halted_here(session_id)
        if not envelopes:
            return await self.last_seq(session_id)
        return await self._append_all(session_id, envelopes)

    async def append_once(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> Appended:
        """Append envelopes unless they are there already, by their ids; at most `ONCE_MAX`.

        It knows what it has appended itself; what `append_envelopes` has, a store may know or not.
        Ids of events that were removed (`compact`) it no longer knows: the same event is appended
        again then.

        Raises:
            EventConflictError: one of the ids is that of another event, or some of them are stored
                and others are not.
            EventStoreError: as `append_envelopes`.

        """
        check_batch(envelopes, ONCE_MAX)
        check_session_id(session_id)
        self._check_not_halted_here(session_id)
        if not envelopes:
            return Replayed(await self.last_seq(session_id))
        ids = [envelope.event_id for envelope in envelopes]
        if not all(ids) or len(set(ids)) < len(ids):
            raise EventConflictError("each envelope has an id of its own")
        return await self._append_each_once(session_id, envelopes)

    @abstractmethod
    async def _append_all(self, session_id: str, envelopes: Sequence[EventEnvelope]) -> int:
        """Append envelopes that can be; see `append_envelopes`."""

    @abstractmethod
    async def _append_each_once(
        self, session_id: str, envelopes: Sequence[EventEnvelope]
    ) -> Appended:
        """Append envelopes with different ids; see `append_once`."""

    async def append(self, session_id: str, events: Sequence[Any]) -> int:
        """Append bare events, each from the session itself; see `append_envelopes`."""
        source, now_ms = SessionSource(session_id), ms_of(self._world.now())
        return await self.append_envelopes(
            session_id,
            [
                EventEnvelope(
                    event_id=self._world.new_id(),
                    source=source,
                    timestamp_ms=now_ms,
                    payload=event,
                )
                for event in events
            ],
        )

    @abstractmethod
    async def read_page(
        self, session_id: str, from_seq: int | None = None, *, limit: int = PAGE_MAX
    ) -> EventPage:
        """Read events in order, from a number on, that included: none of an unknown session.

        A page has at most `PAGE_MAX` events, and about `PAGE_BYTES_MAX` bytes of them.  Without a
        number it begins with the first event that is kept.

        Raises:
            EventCompactedError: events from that number on were removed.
            EventProjectionHaltedError, EventSerializationError, SchemaVersionMismatchError,
                EventIoError.

        """

    async def read_from(self, session_id: str, from_seq: int) -> list[StoredEvent]:
        """Read all events from a number on; for a log that fits into memory, see `read_page`.

        Raises:
            EventStoreError: as `read_page`.

        """
        events: list[StoredEvent] = []
        while True:
            page = await self.read_page(session_id, from_seq)
            events += page.events
            if not page.has_more:
                return events
            from_seq = page.events[-1].seq + 1

    @abstractmethod
    async def last_seq(self, session_id: str) -> int:
        """Return the number of a session's last event, 0 where there is none."""

    @abstractmethod
    async def min_available(self, session_id: str) -> int:
        """Return the lowest cursor from which a session can be read: what follows it is all kept.

        A cursor is the number up to which events were seen.  It is 0 where nothing was removed,
        and for an unknown session.
        """

    async def compact(self, session_id: str, before_seq: int) -> int:
        """Remove a session's events with numbers below one, for good; return how many these were.

        The last event always stays, and no number is given again.  Cancelled, or interrupted at
        any step, it has happened or not, and whoever repeats it completes it.

        Raises:
            EventUnsupportedError: this kind of store keeps everything.
            EventStoreError: the session is halted, cannot be read, or could not be written.

        """
        raise EventUnsupportedError(f"{type(self).__name__} keeps every event")

    @abstractmethod
    async def session_ids(self, *, after: str = "", limit: int = PAGE_MAX) -> list[str]:
        """List the ids of sessions that have events, in order, behind one; at most `PAGE_MAX`."""

    async def record_projection_halt(self, session_id: str, reason: str) -> None:
        """Halt a session: it is neither read nor written until that is cleared.

        In this process that is so at once, and, should it raise, until it is repeated or cleared;
        once it returns, it is durable, and so for everybody.

        Raises:
            EventStoreError: it could not be made durable.

        """
        marker = EventProjectionHaltMarker(
            session_id=check_session_id(session_id), reason=reason, recorded_at=self._world.now()
        )
        self._halted.setdefault(session_id, marker)
        await self._record_halt(session_id, reason)
        self._halted.pop(session_id, None)

    @abstractmethod
    async def _record_halt(self, session_id: str, reason: str) -> None:
        """Make a halt durable."""

    async def projection_halt(self, session_id: str) -> EventProjectionHaltMarker | None:
        """Return the marker of a halted session, None where it is not halted."""
        check_session_id(session_id)
        return self._halted.get(session_id) or await self._read_halt(session_id)

    @abstractmethod
    async def _read_halt(self, session_id: str) -> EventProjectionHaltMarker | None:
        """Return the durable marker of a halted session."""

    def _check_not_halted_here(self, session_id: str) -> None:
        """Raise `EventProjectionHaltedError` for a session whose halt is not durable yet."""
        marker = self._halted.get(session_id)
        if marker is not None:
            raise EventProjectionHaltedError(marker, is_durable=False)

    async def clear_projection_halt(self, session_id: str, *, by: str, reason: str) -> bool:
        """Clear the halt of a session; who did so, and why, is on record.

        Returns:
            Whether it was halted.

        """
        check_session_id(session_id)
        was_halted = await self._clear_halt(session_id, by=by, reason=reason)
        return self._halted.pop(session_id, None) is not None or was_halted

    @abstractmethod
    async def _clear_halt(self, session_id: str, *, by: str, reason: str) -> bool:
        """Clear the durable halt of a session; return whether there was one."""

    @abstractmethod
    async def try_hold_turn(self, session_id: str) -> Hold | None:
        """Hold a session's turn (`open_sessions`); None where another process has it.

        Raises:
            EventIoError: the file system failed.

        """


class Hold(Protocol):
    """Something that is held until it is released."""

    def release(self) -> None:
        """Release it."""


def is_session_id(text: str) -> bool:
    """Return whether a text can be a session's id."""
    return _SESSION_ID.fullmatch(text) is not None


def check_session_id(session_id: str) -> str:
    """Check and return a session's id, which names files.

    Raises:
        EventStoreStateError: it has not 1 to 128 of ``A-Z a-z 0-9 _ . -``, or begins with a dot or
            a hyphen.

    """
    if not is_session_id(session_id):
        raise EventStoreStateError(
            "a session's id has 1 to 128 of A-Z a-z 0-9 _ . -, and begins with none of the last two"
        )
    return session_id


def check_batch(envelopes: Sequence[EventEnvelope], most: int = BATCH_MAX) -> None:
    """Raise unless envelopes can be appended together.

    Raises:
        EventStoreStateError: there are too many.
        EventSerializationError: a payload that is no JSON, too long, or too deep.

    """
    if len(envelopes) > most:
        raise EventStoreStateError(f"at most {most} events are appended at once")
    for envelope in envelopes:
        try:
            encoded = encode_checked(envelope.payload, nesting_max=NESTING_MAX)
            read_back(envelope.payload, encoded, msgspec.json.decode)
        except DalsegnoError as error:
            raise EventSerializationError(error.message) from None
        except ValueError as error:  # an infinity would be null
            raise EventSerializationError(str(error)) from None
        if len(encoded) > EVENT_BYTES_MAX:
            raise EventSerializationError(f"an event has at most {EVENT_BYTES_MAX} bytes")


def ms_of(time: datetime) -> int:
    """Return a time in milliseconds since 1970."""
    return int(time.timestamp() * 1000)
