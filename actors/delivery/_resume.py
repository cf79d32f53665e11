"""From where a subscription may begin: how long its stream is, and whether its cursor is of it.

What the tail has is answered from there, so whoever was here a moment ago costs no read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import (
    CHAIN_START,
    Reject,
    StaleCursorError,
    StoreUnavailableError,
    chained,
)

from ._catch_up import first_cursor, read_event

if TYPE_CHECKING:
    from dalsegno.protocol import Cursor, Subscription

    from ._delivery import Delivery
    from ._hub import Hub


async def read_length(delivery: Delivery, hub: Hub, subscription: Subscription) -> int | None:
    """Tell the last number of a stream; None for an entity that never existed.

    Of an entity it may count what is committed and not published yet.

    Raises:
        StoreUnavailableError: try again.

    """
    if subscription.whole:
        return hub.head
    stream_id = subscription.stream_id
    version = hub.tail.newest(stream_id)
    if version is None:
        versions = await delivery.store.read_versions(hub.workspace_id, [stream_id])
        version = versions.get(stream_id)
    return version


def check_not_ahead(stream_id: str, seq: int, head: int, *, is_certain: bool) -> None:
    """Pass a cursor within the stream.

    Raises:
        Reject: ``CURSOR_AHEAD``.
        StoreUnavailableError: another node may have written on, so who knows.

    """
    if seq > head and not is_certain:
        raise StoreUnavailableError("this node was away for a while: ask again")
    if seq > head:
        raise Reject(
            "CURSOR_AHEAD",
            "the stream is not that long",
            stream_id=stream_id,
            event_seq=seq,
            latest_seq=head,
        )


async def check_cursor(
    delivery: Delivery, hub: Hub, subscription: Subscription, cursor: Cursor
) -> int | None:
    """Check that a cursor is of this history, and what follows it kept; tell the chain there.

    None where the event at the cursor is gone and only those behind it are kept.

    Raises:
        Reject: ``CURSOR_DIVERGED``.
        StaleCursorError: what follows is not kept any more, or the event is gone that would tell
            whether this is the cursor's history.
        StoreUnavailableError: try again.
        CorruptLogError: the log has a gap there.

    """
    if cursor.seq == 0:
        chain = CHAIN_START
    elif subscription.whole and cursor.seq == hub.head:
        chain = hub.chain
    else:
        event = await read_event(delivery, hub, subscription.stream_id, cursor.seq)
        if event is None:
            return await _check_kept(delivery, hub, subscription, cursor)
        chain = event.chain
    if cursor.chain is not None and cursor.chain != chain:
        raise _diverged(subscription, cursor)
    return chain


async def _check_kept(
    delivery: Delivery, hub: Hub, subscription: Subscription, cursor: Cursor
) -> int | None:
    """Pass the lowest cursor that can be honoured, the event at it being gone."""
    entity = None if subscription.whole else subscription.stream_id
    lowest = await first_cursor(delivery.store, hub.workspace_id, entity)
    # The chain of the workspace's next event tells: it is made of the one at the cursor.
    can_be_checked = cursor.chain is None or subscription.whole
    if cursor.seq < lowest or not can_be_checked:
        raise StaleCursorError(
            "what follows this cursor is not kept any more",
            stream_id=subscription.stream_id,
            requested_cursor=cursor.seq,
            min_available_cursor=lowest,
            recovery="resubscribe_full",
        )
    if cursor.chain is not None:
        following = await read_event(delivery, hub, subscription.stream_id, cursor.seq + 1)
        if following is None or chained(cursor.chain, following) != following.chain:
            raise _diverged(subscription, cursor)
    return cursor.chain


def _diverged(subscription: Subscription, cursor: Cursor) -> Reject:
    return Reject(
        "CURSOR_DIVERGED",
        "this cursor is of another history: start again from the state",
        stream_id=subscription.stream_id,
        cursor=str(cursor),
    )
