"""Where a subscription may begin: how long its stream is, and whether its cursor belongs to it.

What the tail holds is answered from there, so a client that was here a moment ago costs no read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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


async def read_length(delivery: Delivery, hub: Hub, subscription: Subscription) -> int | None:
    """Return the last number of a stream; None for an entity that never existed.

    For an entity it may include what is committed and not yet published.

    Raises:
        StoreUnavailableError: try again.

    """
    if subscription.is_workspace_stream:
        return hub.head
    stream_id = subscription.stream_id
    version = hub.tail.newest(stream_id)
    if version is None:
        versions = await delivery.store.read_versions(hub.workspace_id, [stream_id])
        version = versions.get(stream_id)
    return version


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
