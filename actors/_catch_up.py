"""Pages for those who are behind: at the beginning of a subscription, and after a gap.

A page is bounded by the hub's published head, so it never runs ahead of a barrier that a
revocation has yet to set, and never of the answers that leave before the events do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import CorruptLogError, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Event, Limits, Subscription

    from ._hub import Hub
    from ._store import Store


async def read_page(
    store: Store, hub: Hub, subscription: Subscription, limits: Limits
) -> Sequence[Event]:
    """Read what follows for a subscription that is behind; empty where it is live now.

    The subscription's place moves past the page.

    Raises:
        StoreUnavailableError: try again.
        CorruptLogError: the store's numbers have a gap.

    """
    while True:
        subscription.missed = False
        bound = hub.head
        if subscription.last_visible is not None:
            bound = min(bound, subscription.last_visible)
        if subscription.whole and subscription.sent >= bound:
            subscription.live = True
            return ()
        page = subscription.visible(await _read(store, subscription, bound, limits))
        if page:
            first = number(page[0], whole=subscription.whole)
            if first != subscription.sent + 1:
                raise CorruptLogError(
                    f"{subscription.stream_id}: {first} where {subscription.sent + 1} is due"
                )
            subscription.sent = number(page[-1], whole=subscription.whole)
            return page
        if subscription.whole:
            raise CorruptLogError(f"{subscription.stream_id}: nothing after {subscription.sent}")
        if not subscription.missed:
            subscription.live = True
            return ()


async def _read(
    store: Store, subscription: Subscription, bound: int, limits: Limits
) -> list[Event]:
    if subscription.whole:
        return await store.read_events(
            subscription.workspace_id,
            subscription.sent + 1,
            to_seq=bound,
            limit=limits.page_events,
            bytes_max=limits.page_bytes_max,
        )
    return await store.read_stream(
        subscription.workspace_id,
        subscription.stream_id,
        subscription.sent + 1,
        to_event_seq=bound,
        limit=limits.page_events,
        bytes_max=limits.page_bytes_max,
    )
