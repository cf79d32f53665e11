"""Sessions from one store to another one, verified; as often as needed, until all of it is there.

A log's numbers are what cursors and checkpoints hold on to, so they stay the same, or the session
is refused: a log that has left numbers out, because its owner was ahead of it, goes nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._errors import (
    EventConflictError,
    EventIoError,
    EventStoreError,
    EventStoreStateError,
)
from ._event_store import ONCE_MAX, PAGE_MAX
from ._events import Inserted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._event_store import EventStore
    from ._events import EventEnvelope, StoredEvent


@dataclass(slots=True)
class Transfer:
    """What became of a transfer."""

    sessions: int = 0
    """Sessions that are the same in both stores now."""
    events: int = 0
    """Events of these …"""
    appended: int = 0
    """… and those of them that were not there before."""
    refused: dict[str, EventStoreError] = field(default_factory=dict)
    """Sessions that could not be read, or differ, by their ids; the others do not wait for them."""


async def session_ids_of(store: EventStore) -> list[str]:
    """Return the ids of all sessions of a store, in order."""
    ids: list[str] = []
    while page := await store.session_ids(after=ids[-1] if ids else "", limit=PAGE_MAX):
        ids += page
    return ids


async def transfer(
    source: EventStore,
    target: EventStore,
    session_ids: Sequence[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> Transfer:
    """Append to each session of a store what another one has more, and compare all of it.

    The target is never shortened and nothing in it is changed.  Interrupted, it goes on where it
    was.  Halted sessions are refused.

    Args:
        source: where the events are.
        target: where they shall be.
        session_ids: the sessions.
        progress: called with the number of events that were compared, again and again.

    Raises:
        EventIoError: a store is away; what was appended stays.

    """
    done = Transfer()
    for session_id in session_ids:
        try:
            appended = await _append_what_is_missing(source, target, session_id)
            events = await _compare(source, target, session_id, progress)
        except EventIoError:
            raise
        except EventStoreError as error:
            done.refused[session_id] = error
            continue
        done.sessions += 1
        done.events += events
        done.appended += appended
    return done


async def _append_what_is_missing(source: EventStore, target: EventStore, session_id: str) -> int:
    """Append it, with the source's numbers, and return how much that was.

    A session of which events were removed is refused before anything is appended.
    """
    for store in (source, target):
        await store.read_page(session_id, 1, limit=1)
    last = began = await target.last_seq(session_id)
    while rows := (await source.read_page(session_id, last + 1, limit=ONCE_MAX)).events:
        if rows[0].seq != last + 1 or rows[-1].seq != last + len(rows):
            raise EventStoreStateError(
                f"the numbers {last + 1} to {rows[-1].seq} are not all there: "
                "a log that leaves numbers out stays in the files"
            )
        given = await _append(target, session_id, [row.to_envelope() for row in rows])
        last = rows[-1].seq
        if given != last:
            raise EventStoreStateError(f"event {last} became event {given}: who else appends?")
    return last - began


async def _append(target: EventStore, session_id: str, envelopes: list[EventEnvelope]) -> int:
    """Append envelopes so that each is known by its id, where they have ids of their own."""
    try:
        appended = await target.append_once(session_id, envelopes)
    except EventConflictError:
        return await target.append_envelopes(session_id, envelopes)
    if isinstance(appended, Inserted):
        return appended.last_seq
    return await target.append_envelopes(session_id, envelopes)


async def _compare(
    source: EventStore,
    target: EventStore,
    session_id: str,
    progress: Callable[[int], None] | None,
) -> int:
    """Compare all events and return their number.

    Raises:
        EventConflictError: the stores differ.

    """
    count = last = 0
    while rows := (await source.read_page(session_id, last + 1)).events:
        there = await _read(target, session_id, rows[0].seq, len(rows))
        for row, other in zip(rows, there, strict=False):
            if row.seq != other.seq or row.to_envelope() != other.to_envelope():
                raise EventConflictError(f"event {row.seq} differs")
        if len(there) < len(rows):
            raise EventConflictError(f"event {rows[len(there)].seq} is not there")
        count, last = count + len(rows), rows[-1].seq
        if progress is not None:
            progress(len(rows))
    if await target.last_seq(session_id) > last:
        raise EventConflictError(f"event {last + 1} is there, and not in the source")
    return count


async def _read(store: EventStore, session_id: str, from_seq: int, count: int) -> list[StoredEvent]:
    """Read as many events as there are, which another store has in one page."""
    found: list[StoredEvent] = []
    while len(found) < count:
        page = await store.read_page(session_id, from_seq, limit=count - len(found))
        found += page.events
        if not page.has_more:
            break
        from_seq = found[-1].seq + 1
    return found
