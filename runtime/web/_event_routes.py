"""A workspace's log, page by page; at its end a reader may wait for what comes next: a long poll.

It is for clients that can have neither a socket nor a stream.  A cursor is valid here as it is
there.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from quart import Response

from dalsegno.protocol import CHAIN_START, Cursor, Event, Reject, chain_text, parse_cursor
from dalsegno.protocol.routes import Limited

from ._envelope import answer
from ._membership import check_role
from ._route_context import RouteContext
from ._route_table import IN_WORKSPACE, RouteTable, read_params

if TYPE_CHECKING:
    from dalsegno.runtime import Workspace

_WAIT_MAX_S = 30
"""Below what proxies wait for an answer, a minute as a rule."""


class EventsParams(Limited, frozen=True, kw_only=True):
    """Which events are read."""

    workspace_id: str
    after: str = "0"
    """A cursor: a number, or ``N-chain``."""
    wait: Annotated[int, Meta(ge=0, le=_WAIT_MAX_S)] = 0
    """How long to wait for an event where there is none yet, in seconds."""


class EventBody(msgspec.Struct, frozen=True, kw_only=True):
    """An event; its payload is the log's, byte for byte."""

    event_seq: int
    stream_id: str
    stream_seq: int
    event_id: str
    type: str
    type_version: int
    payload: msgspec.Raw
    actor_id: str | None
    recorded_at: datetime
    chain: str


class EventsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the log."""

    items: list[EventBody]
    next: int | None
    """After which the next page begins; None: this reaches the head."""
    head: int
    cursor: str
    """Where this ends, for the next poll or for a subscription: ``N-chain``, or as it was given."""


def event_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("events")
    rt = context.rt

    @routes.route(
        "GET",
        "/api/workspaces/{workspace_id}/events",
        "Read a page of a workspace's log, or wait for what comes.",
        params=EventsParams,
        returns=EventsBody,
        refusals=[*IN_WORKSPACE, 409, 429, 503],
    )
    async def list_events(workspace_id: str) -> Response:
        identity = await context.authenticate()
        await check_role(rt, workspace_id, identity.user_id)
        params = read_params(EventsParams)
        limit, wait_s, after = params.limit, params.wait, parse_cursor(params.after)
        workspace = identity.acting(rt.workspace(workspace_id))
        head = await workspace.head(cursor=after.seq)
        await _check_cursor(workspace, after, head)
        if wait_s and after.seq == head:
            with context.waiting(identity, wait_s):
                async with workspace.subscribe(after=str(after)) as events:
                    head = (await anext(events)).event_seq
        page = await workspace.events(after=after.seq, limit=limit) if after.seq < head else []
        last = page[-1].event_seq if page else after.seq
        await check_role(rt, workspace_id, identity.user_id)  # as it was when this was read (I8)
        items = [_event_body(event) for event in page]
        body = EventsBody(
            items=items,
            next=last if last < head else None,
            head=head,
            cursor=page[-1].position if page else str(after),
        )
        return answer(body)

    return routes


async def _check_cursor(workspace: Workspace, cursor: Cursor, head: int) -> None:
    """Raise for a cursor beyond the head, or of another history.

    Raises:
        Reject: ``CURSOR_AHEAD``, ``CURSOR_DIVERGED``.

    """
    if cursor.seq > head:
        raise Reject("CURSOR_AHEAD", f"the log ends at {head}", event_seq=cursor.seq, head=head)
    if cursor.chain is None:
        return
    found = await workspace.events(after=cursor.seq - 1, limit=1) if cursor.seq else []
    if cursor.chain != (found[0].chain if found else CHAIN_START):
        raise Reject("CURSOR_DIVERGED", "this cursor is of another history", event_seq=cursor.seq)


def _event_body(event: Event) -> EventBody:
    return EventBody(
        event_seq=event.event_seq,
        stream_id=event.stream_id,
        stream_seq=event.stream_seq,
        event_id=event.event_id,
        type=event.type,
        type_version=event.type_version,
        payload=msgspec.Raw(event.payload.encode()),
        actor_id=event.actor_id,
        recorded_at=event.recorded_at,
        chain=chain_text(event.chain),
    )
