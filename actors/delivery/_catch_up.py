"""Pages for subscriptions that are behind: at their beginning, and after a gap.

A page is bounded by the hub's published head, so it never runs ahead of a barrier that a
revocation has yet to set, nor of the answers that leave before the events do.  It is a
page that another reader has read if that reaches as far as this one may, else what the tail has,
else what the store has.  Pages end at multiples of their size, so readers that began at different
cursors meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import PageBounds
from dalsegno.protocol import SEQ_MAX, CorruptLogError, DalsegnoError, StaleCursorError, seq_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.ports import Store
    from dalsegno.protocol import Event, Publication, Subscription

    from ._delivery import Delivery
    from ._hub import Hub

_ALONE = 0
"""In a key: an event looked up by itself, published or not, which no page may begin with."""


async def read_page(
    delivery: Delivery, hub: Hub, subscription: Subscription
) -> tuple[Publication, Sequence[Event]] | None:
    """Read what follows for a subscription that is behind; None where it is live now.

    Returns the page, which others may share, and what of it is due: ``page.events`` itself where
    all of it is.  The subscription moves past what is due; cancelled, it does not.

    Raises:
        StaleCursorError: what follows is no longer kept.
        StoreUnavailableError: try again.
        CorruptLogError: the store's numbers have a gap.

    """
    await trio.lowlevel.checkpoint()  # reading from memory is none
    while not subscription.reaches(hub.head):
        subscription.missed = False
        page = await _page(delivery, hub, subscription)
        if page is not None:
            due = subscription.take(page)
            if due:
                return page, due
            break  # all that follows is above the barrier
        if not subscription.missed:
            break  # what the store has beyond this is not published yet
    subscription.live = True
    return None


async def read_ahead(delivery: Delivery, hub: Hub, subscription: Subscription) -> None:
    """Read the next page into memory, so that `read_page` finds it there."""
    try:
        await _page(delivery, hub, subscription)
    except DalsegnoError:
        return  # the reader that needs the page meets it too


async def read_event(delivery: Delivery, hub: Hub, stream_id: str, seq: int) -> Event | None:
    """Read one event by its number in its stream; None where it is no longer kept.

    Raises:
        StoreUnavailableError: try again.
        CorruptLogError: it should be kept, and is missing.

    """
    source = _Source(delivery, hub, stream_id)
    event = hub.tail.at(seq, source.entity)
    if event is not None:
        return event
    key = (hub.cache_generation, stream_id, seq, _ALONE)
    try:
        page = delivery.pages.find(key) or await source.read(key, SEQ_MAX)
    except StaleCursorError:
        return None
    return None if page is None else page.events[0]


async def _page(delivery: Delivery, hub: Hub, subscription: Subscription) -> Publication | None:
    limits, pages = delivery.limits, delivery.pages
    source = _Source(delivery, hub, subscription.stream_id)
    sent = subscription.sent
    limit = limits.page_events - sent % limits.page_events
    key = (hub.cache_generation, source.stream_id, sent + 1, limit)
    newest = hub.head if source.is_workspace_stream else subscription.head
    kept = pages.find(key)
    if kept is not None and kept.last >= min(sent + limit, newest):
        return kept
    recent = hub.tail.read(sent + 1, source.entity, limit=limit, bytes_max=limits.page_bytes_max)
    if recent and (kept is None or kept.last < source.seq_of(recent[-1])):
        return pages.keep(key, recent, is_workspace_stream=source.is_workspace_stream)
    return kept or await source.read(key, hub.head)


class _Source:
    """One stream, as the store has it."""

    __slots__ = ("delivery", "entity", "is_workspace_stream", "stream_id", "workspace_id")

    def __init__(self, delivery: Delivery, hub: Hub, stream_id: str) -> None:
        self.delivery = delivery
        self.workspace_id = hub.workspace_id
        self.stream_id = stream_id
        self.is_workspace_stream = stream_id == hub.stream_id
        self.entity = None if self.is_workspace_stream else stream_id

    def seq_of(self, event: Event) -> int:
        """Return an event's number in this stream."""
        return seq_of(event, is_workspace_stream=self.is_workspace_stream)

    async def read(self, key: tuple[object, str, int, int], bound: int) -> Publication | None:
        """Read a page, sharing the read with all that need the same one."""

        async def read() -> Sequence[Event]:
            return await self._read(key[2], max(key[3], 1), bound)

        return await self.delivery.pages.read(
            key, read, bound=bound, is_workspace_stream=self.is_workspace_stream
        )

    async def _read(self, first: int, limit: int, bound: int) -> Sequence[Event]:
        store = self.delivery.store
        bounds = PageBounds(
            from_seq=first,
            to_event_seq=bound,
            limit=limit,
            bytes_max=self.delivery.limits.page_bytes_max,
        )
        if self.is_workspace_stream:
            events = await store.read_events(self.workspace_id, bounds)
        else:
            events = await store.read_stream(self.workspace_id, self.stream_id, bounds)
        numbers = [self.seq_of(event) for event in events]
        if numbers != [*range(first, first + len(events))] or (
            self.is_workspace_stream and not events
        ):
            raise await _gap(store, self, first)
        return events


async def _gap(store: Store, source: _Source, first: int) -> DalsegnoError:
    """Return the error for a missing event."""
    kept = await first_cursor(store, source.workspace_id, source.entity)
    if kept < first:
        return CorruptLogError(f"{source.stream_id}: no event {first}, or a gap behind it")
    return StaleCursorError(
        "what follows this cursor is no longer kept",
        stream_id=source.stream_id,
        requested_cursor=first - 1,
        min_available_cursor=kept,
        recovery="resubscribe_full",
    )


async def first_cursor(store: Store, workspace_id: str, stream_id: str | None) -> int:
    """Return the lowest cursor that can be honoured, in a stream or (None) in the workspace."""
    head = await store.read_head(workspace_id)
    if head is None or head.first_seq == 1:
        return 0
    if stream_id is None:
        return head.first_seq - 1
    one = PageBounds(from_seq=1, limit=1, bytes_max=1)
    oldest = await store.read_stream(workspace_id, stream_id, one)
    if oldest:
        return oldest[0].stream_seq - 1
    versions = await store.read_versions(workspace_id, [stream_id])
    return versions.get(stream_id, 0)
