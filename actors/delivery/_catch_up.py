"""Pages for those who are behind: at the beginning of a subscription, and after a gap.

A page is bounded by the hub's published head, so it never runs ahead of a barrier that a
revocation has yet to set, and never of the answers that leave before the events do.  It comes from
the tail where that still has what follows, else from a page that somebody else has read, else from
the store.  Pages end at multiples of their size, so readers who begin at different places meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import SEQ_MAX, CorruptLogError, DalsegnoError, StaleCursorError, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.ports import Store
    from dalsegno.protocol import Event, Published, Subscription

    from ._delivery import Delivery
    from ._hub import Hub

_ALONE = 0
"""In a key: an event looked up by itself, published or not, which no page may begin with."""


async def read_page(
    delivery: Delivery, hub: Hub, subscription: Subscription
) -> tuple[Published, Sequence[Event]] | None:
    """Read what follows for a subscription that is behind; None where it is live now.

    Returns the page, which others may share, and what of it is due: ``page.events`` itself where
    all of it is.  The subscription's place moves past that.  Cancelled, it stays where it is.

    Raises:
        StaleCursorError: what follows is not kept any more.
        StoreUnavailableError: try again.
        CorruptLogError: the store's numbers have a gap.

    """
    await trio.lowlevel.checkpoint()  # what is in memory is read without one
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
    """Read the page that follows what was taken, to be there when `read_page` is asked for it."""
    try:
        await _page(delivery, hub, subscription)
    except DalsegnoError:
        return  # who needs the page will meet it too


async def read_event(delivery: Delivery, hub: Hub, stream_id: str, seq: int) -> Event | None:
    """Read one event by its number in its stream; None where it is not kept any more.

    Raises:
        StoreUnavailableError: try again.
        CorruptLogError: it has to be there, and is not.

    """
    source = _Source(delivery, hub, stream_id)
    event = hub.tail.at(seq, source.entity)
    if event is not None:
        return event
    key = (hub.era, stream_id, seq, _ALONE)
    try:
        page = delivery.pages.find(key) or await source.read(key, SEQ_MAX)
    except StaleCursorError:
        return None
    return None if page is None else page.events[0]


async def _page(delivery: Delivery, hub: Hub, subscription: Subscription) -> Published | None:
    limits, pages = delivery.limits, delivery.pages
    source = _Source(delivery, hub, subscription.stream_id)
    sent = subscription.sent
    limit = limits.page_events - sent % limits.page_events
    key = (hub.era, source.stream_id, sent + 1, limit)
    newest = hub.head if source.whole else subscription.head
    kept = pages.find(key)
    if kept is not None and kept.last >= min(sent + limit, newest):
        return kept
    recent = hub.tail.read(sent + 1, source.entity, limit=limit, bytes_max=limits.page_bytes_max)
    if recent and (kept is None or kept.last < number(recent[-1], whole=source.whole)):
        return pages.keep(key, recent, whole=source.whole)
    return kept or await source.read(key, hub.head)


class _Source:
    """One stream, as the store has it."""

    __slots__ = ("delivery", "entity", "stream_id", "whole", "workspace_id")

    def __init__(self, delivery: Delivery, hub: Hub, stream_id: str) -> None:
        self.delivery = delivery
        self.workspace_id = hub.workspace_id
        self.stream_id = stream_id
        self.whole = stream_id == hub.stream_id
        self.entity = None if self.whole else stream_id

    async def read(self, key: tuple[object, str, int, int], bound: int) -> Published | None:
        """Read a page together with whoever needs the same one."""

        async def read() -> Sequence[Event]:
            return await self._read(key[2], max(key[3], 1), bound)

        return await self.delivery.pages.read(key, read, bound=bound, whole=self.whole)

    async def _read(self, first: int, limit: int, bound: int) -> Sequence[Event]:
        store, bytes_max = self.delivery.store, self.delivery.limits.page_bytes_max
        if self.whole:
            events = await store.read_events(
                self.workspace_id, first, to_seq=bound, limit=limit, bytes_max=bytes_max
            )
        else:
            events = await store.read_stream(
                self.workspace_id,
                self.stream_id,
                first,
                to_event_seq=bound,
                limit=limit,
                bytes_max=bytes_max,
            )
        numbers = [number(event, whole=self.whole) for event in events]
        if numbers != [*range(first, first + len(events))] or (self.whole and not events):
            raise await _gap(store, self, first)
        return events


async def _gap(store: Store, source: _Source, first: int) -> DalsegnoError:
    """Tell what is wrong where an event is not there."""
    kept = await first_cursor(store, source.workspace_id, source.entity)
    if kept < first:
        return CorruptLogError(f"{source.stream_id}: no event {first}, or a gap behind it")
    return StaleCursorError(
        "what follows this cursor is not kept any more",
        stream_id=source.stream_id,
        requested_cursor=first - 1,
        min_available_cursor=kept,
        recovery="resubscribe_full",
    )


async def first_cursor(store: Store, workspace_id: str, stream_id: str | None) -> int:
    """Tell the lowest cursor that all that is kept follows; a stream's, or the workspace's."""
    head = await store.read_head(workspace_id)
    if head is None or head.first_seq == 1:
        return 0
    if stream_id is None:
        return head.first_seq - 1
    oldest = await store.read_stream(
        workspace_id, stream_id, 1, to_event_seq=SEQ_MAX, limit=1, bytes_max=1
    )
    if oldest:
        return oldest[0].stream_seq - 1
    versions = await store.read_versions(workspace_id, [stream_id])
    return versions.get(stream_id, 0)
