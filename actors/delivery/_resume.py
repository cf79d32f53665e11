"""Where a subscription may begin: how long its stream is, and whether its cursor belongs to it.

What the tail holds is answered from there, so a client that was here a moment ago costs no read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import (
    CHAIN_START,
    NotReadyError,
    Reject,
    StaleCursorError,
    chained,
)

from ._catch_up import first_cursor, read_event

if TYPE_CHECKING:
    from dalsegno.protocol import Cursor, Subscription

    from ._delivery import Delivery
    from ._hub import Hub


async def read_length(
    delivery: Delivery, hub: Hub, subscription: Subscription, *, cursor: int = 0
) -> int | None:
    """Return the last number of a stream; None for an entity that never existed.

    For an entity it may include what is committed and not yet published.  A cursor above what is
    published and at most the log's is waited for: somebody read that number from the log.

    Raises:
        StoreUnavailableError: try again; `NotReadyError` where that wait took too long.
        DalsegnoError: the hub ended meanwhile.

    """
    length = await _length(delivery, hub, subscription)
    if cursor <= (length or 0):
        return length
    # An entity's version is read before the head, so that the head is at or above its event.
    is_of_workspace = subscription.is_workspace_stream
    if not is_of_workspace and cursor > (await _version(delivery, subscription) or 0):
        return length
    head = await delivery.store.read_head(hub.workspace_id)
    head_seq = 0 if head is None else head.head_seq
    if is_of_workspace and cursor > head_seq:
        return length
    with trio.move_on_after(delivery.limits.mailbox_deadline_s) as scope:
        await hub.wait_head(head_seq)
    if scope.cancelled_caught:
        raise NotReadyError("what this cursor saw is not published here yet: ask again")
    return await _length(delivery, hub, subscription)


async def _length(delivery: Delivery, hub: Hub, subscription: Subscription) -> int | None:
    if subscription.is_workspace_stream:
        return hub.head
    version = hub.tail.newest(subscription.stream_id)
    return await _version(delivery, subscription) if version is None else version


async def _version(delivery: Delivery, subscription: Subscription) -> int | None:
    workspace_id, stream_id = subscription.workspace_id, subscription.stream_id
    return (await delivery.store.read_versions(workspace_id, [stream_id])).get(stream_id)


def check_not_ahead(stream_id: str, seq: int, head: int, *, is_certain: bool) -> None:
    """Raise unless a cursor is within the stream.

    Raises:
        Reject: ``CURSOR_AHEAD``.
        NotReadyError: another node may have appended, so this one cannot tell.

    """
    if seq > head and not is_certain:
        raise NotReadyError("this node was away for a while: ask again")
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
    """Check that a cursor belongs to this history and can be honoured; return the chain there.

    None where the event at the cursor is gone and only later ones are kept.

    Raises:
        Reject: ``CURSOR_DIVERGED``.
        StaleCursorError: what follows is no longer kept, or the event is gone that would show
            whether this is the cursor's history.
        StoreUnavailableError: try again.
        CorruptLogError: the log has a gap there.

    """
    if cursor.seq == 0:
        chain = CHAIN_START
    elif subscription.is_workspace_stream and cursor.seq == hub.head:
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
    """Check a cursor whose event is gone: it is honoured if everything after it is kept."""
    entity = None if subscription.is_workspace_stream else subscription.stream_id
    lowest = await first_cursor(delivery.store, hub.workspace_id, entity)
    # The chain of the workspace's next event shows it: it is computed from the one at the cursor.
    can_be_checked = cursor.chain is None or subscription.is_workspace_stream
    if cursor.seq < lowest or not can_be_checked:
        raise StaleCursorError(
            "what follows this cursor is no longer kept",
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
