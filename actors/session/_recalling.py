"""What of before is shown to who begins to view something: the events so far of one stream.

The stream is named by an entity's state, as a proposal's names the run that is under way.  It is
read up to where the connection is with its workspace, which stays there meanwhile; so what is shown
of before ends where the new view begins, and nothing is missing or shown twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import PageBounds
from dalsegno.protocol import Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dalsegno.protocol import Event, Principal
    from dalsegno.protocol.dialects import ViewRequest

    from ._context import SessionContext
    from ._streams import ActiveSubscription
    from ._writer import Writer

_LOOK_S = 0.01
"""How often it is looked whether the client has taken something."""


class Recalling:
    """Shows one client what of before it needs."""

    def __init__(
        self,
        context: SessionContext,
        principal: Principal,
        writer: Writer,
        stream: ActiveSubscription,
    ) -> None:
        self._context = context
        self._principal = principal
        self._writer = writer
        self._stream = stream

    async def show(self, asked: ViewRequest, check: Callable[[], None]) -> None:
        """Show it, as fast as the client takes it.

        Args:
            asked: the request.
            check: raises where nothing more may be shown.

        Raises:
            Reject: ``NOT_SUBSCRIBED``: the stream is followed no longer; and what reading raises.
            UnavailableError: the store is away; some of it may have been shown.

        """
        assert asked.looks_at is not None, "else there is nothing to show"
        await self._rested()
        context, workspace_id = self._context, self._stream.subscription.workspace_id
        entity = await context.catalog.look(workspace_id, *asked.looks_at, self._principal)
        named = asked.recalled(None if entity is None else entity.state)
        passes, after = asked.passes, 0
        while named is not None:
            events = await self._read(named, after)
            if not events:
                return
            for event in events:
                for text in self._shown(asked, event) if passes is None or passes(event) else ():
                    await self._taken()
                    self._check_followed()
                    check()
                    self._writer.reply(text)
            after = events[-1].stream_seq

    async def _read(self, stream_id: str, after: int) -> list[Event]:
        node, subscription = self._context.node, self._stream.subscription
        bounds = PageBounds(
            from_seq=after + 1,
            to_event_seq=subscription.sent,
            limit=node.limits.page_events,
            bytes_max=node.limits.page_bytes_max,
        )
        found = await node.store.read_stream(subscription.workspace_id, stream_id, bounds)
        return list(found)

    def _shown(self, asked: ViewRequest, event: Event) -> Sequence[bytes]:
        shown = asked.dialect.recalled(event, self._context.views.payload(event))
        return [shown] if isinstance(shown, bytes) else shown

    def _check_followed(self) -> None:
        """Raise once it is followed no longer, or somebody has ended that: where the connection
        is held, its stream ends later.
        """
        subscription = self._stream.subscription
        stream_id = subscription.stream_id
        is_followed = self._writer.streams.get(stream_id) is self._stream
        if not is_followed or subscription.last_visible is not None:
            raise Reject("NOT_SUBSCRIBED", "it is followed no longer", stream_id=stream_id)

    async def _rested(self) -> None:
        """Wait until no page is on its way: until then it is not sure where the stream stands."""
        writer = self._writer
        while writer.is_writing and not writer.is_closed:  # noqa: ASYNC110 - rare
            await trio.sleep(_LOOK_S)

    async def _taken(self) -> None:
        """Wait until the client has taken most of what was said: one that does not is closed."""
        writer, most = self._writer, self._context.node.limits.replies_bytes_max // 2
        while not writer.is_closed and writer.outbox.replies_bytes > most:  # noqa: ASYNC110 - rare
            await trio.sleep(_LOOK_S)
