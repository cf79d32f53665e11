"""Where to compact a session so that it keeps so many events, or those since a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from ._event_store import EventStore


async def first_of_last(store: EventStore, session_id: str, count: int) -> int:
    """Return the number of the first one of a session's last events; 0 where there are none.

    They are counted one by one: numbers that were left out are no events.
    """
    last = deque[int](maxlen=count)
    page = await store.read_page(session_id)
    while page.events:
        last += [event.seq for event in page.events]
        page = await store.read_page(session_id, page.events[-1].seq + 1)
    return last[0] if last else 0


async def first_since(store: EventStore, session_id: str, time: datetime) -> int:
    """Return the number of the first event that was stored since a time.

    Where none was it is one more than the last one's.
    """
    last_seq = 0
    page = await store.read_page(session_id)
    while page.events:
        for event in page.events:
            if event.timestamp >= time:
                return event.seq
        last_seq = page.events[-1].seq
        page = await store.read_page(session_id, last_seq + 1)
    return last_seq + 1
