"""A host's own loop over a stream: the same subscription as a connection's, without a socket.

The loop may be slow and may be left by ``break``.  It takes its events from a memory channel.  What
it has not taken yet is bounded as a connection's outbox is, by bytes and by count: past a bound it
is not kept here, and read again from the tail or the store.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec
import trio

from dalsegno.actors.delivery import (
    check_cursor,
    check_not_ahead,
    event_bytes,
    read_length,
    read_page,
)
from dalsegno.protocol import Cursor, Subscription, parse_cursor
from dalsegno.protocol.dialects import GENERIC

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from dalsegno.actors.delivery import Hub
    from dalsegno.protocol import DalsegnoError, Event, Frames, Principal, Publication

    from ._context import SessionContext


_log = logging.getLogger("dalsegno.runs")


@dataclass(frozen=True, slots=True)
class EventStreamStatistics:
    """A loop at one moment."""

    given: int
    """The last number that was put before it."""
    is_live: bool
    """Otherwise it is behind, and reads pages."""
    waiting: int
    """Events that it has not taken yet …"""
    waiting_bytes: int
    """… and about how much memory they take."""


class EventStream:
    """An async iterator of committed events, inside ``async with``."""

    def __init__(
        self,
        context: SessionContext,
        workspace_id: str,
        stream_id: str,
        *,
        after: int | str | None,
        principal: Principal,
        hears: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.user_id = principal.user_id
        self._context = context
        self._delivery = context.node.delivery
        self._principal = principal
        self._after = after
        self._subscription = Subscription(workspace_id, stream_id)
        self._hears = hears
        if hears is not None:
            self._subscription.frame_view = GENERIC
        self._hub: Hub | None = None
        """Set once it is entered."""
        limits = context.node.limits
        self._bytes_max = limits.outbox_bytes_max
        # None: look again, there is something to be done before the next event.
        self._send: trio.MemorySendChannel[Event | None]
        self._receive: trio.MemoryReceiveChannel[Event | None]
        self._send, self._receive = trio.open_memory_channel(limits.outbox_items_max)
        self._page: deque[Event] = deque()
        """Events that were read, or left when the loop ended; none while the channel has some."""
        self._bytes = 0
        self._is_open = False

    def __repr__(self) -> str:
        return f"<EventStream {self._subscription!r}, {self._waiting} waiting>"

    @property
    def _waiting(self) -> int:
        return len(self._page) + self._receive.statistics().current_buffer_used

    def statistics(self) -> EventStreamStatistics:
        """Return how it stands."""
        return EventStreamStatistics(
            given=self._subscription.sent,
            is_live=self._subscription.live,
            waiting=self._waiting,
            waiting_bytes=self._bytes,
        )

    async def __aenter__(self) -> Self:
        """Begin to follow the stream.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` for a user who is not a member, ``CURSOR_AHEAD``,
                ``CURSOR_DIVERGED`` for a cursor of another history, or ``BAD_REQUEST`` for what is
                no cursor.
            StaleCursorError: what follows the cursor is no longer kept.
            WorkspaceMovedError: another node owns the workspace.
            WorkspaceHaltedError: the log needs a repair first.
            UnavailableError: try again.

        """
        context, subscription = self._context, self._subscription
        with context.directory.using(subscription.workspace_id) as active:
            await active.wait_open()
            hub = self._hub = active.hub
            hub.register(subscription, self)
        self._is_open = True
        try:
            # The program's own needs nothing of the store, and waits for nobody.
            needs_no_role = self.user_id is None or context.catalog.is_asserted(
                subscription.workspace_id, self._principal
            )
            given = Cursor(0) if self._after is None else parse_cursor(self._after)
            needs_no_look = needs_no_role and given.chain is None and given.seq <= hub.head
            if subscription.is_workspace_stream and needs_no_look:
                head = hub.head
            else:
                async with self._delivery.looking_up():
                    head = await self._look_up(hub, given)
            after = head if self._after is None else given.seq
        except BaseException:
            self._end()
            raise
        subscription.begin(after, head)
        return self

    async def _look_up(self, hub: Hub, given: Cursor) -> int:
        """Return the stream's last number, once the cursor is known to belong to it."""
        context, subscription = self._context, self._subscription
        await context.catalog.check_member(subscription.workspace_id, self._principal)
        head = await read_length(self._delivery, hub, subscription, cursor=given.seq) or 0
        is_certain = context.node.knows_head(hub)
        check_not_ahead(subscription.stream_id, given.seq, head, is_certain=is_certain)
        if given.chain is not None:
            await check_cursor(self._delivery, hub, subscription, given)
        return head

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop following."""
        self._end()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event; cancelled, it is still the next one.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` after the last event that the user may see.
            StaleCursorError: what follows is no longer kept.
            WorkspaceMovedError: another node owns the workspace now; follow it there.
            WorkspaceHaltedError: the log needs a repair first; then follow it again.
            UnavailableError: the store is away; ask again.

        """
        await trio.lowlevel.checkpoint()
        while True:
            event = self._next_nowait() or await self._next()
            if event is not None:
                self._bytes -= event_bytes(event)
                return event

    def _next_nowait(self) -> Event | None:
        """Return the next event that is here already, if there is one."""
        if self._page:
            return self._page.popleft()
        if not self._is_open:
            raise StopAsyncIteration
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return None

    async def _next(self) -> Event | None:
        """Read a page, or wait for the next event; None where there is something else to do."""
        subscription = self._subscription
        subscription.check_not_ended()
        if not subscription.live:
            await self._read()
            return None
        if subscription.last_visible is not None:
            self._end()
            error = subscription.farewell()
            error.details["stream_id"] = subscription.stream_id
            raise error
        return await self._receive.receive()

    def offer(self, subscription: Subscription, item: Publication) -> None:
        """Take what is due of a published item."""
        due = subscription.offer(item) or ()
        for count, event in enumerate(due):
            size = event_bytes(event)
            if self._bytes + size > self._bytes_max or not self._put(event):
                subscription.fall_behind(subscription.sent - (len(due) - count))
                break
            self._bytes += size
        if not subscription.live:
            self._wake()

    def _put(self, event: Event) -> bool:
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            return False
        return True

    def say(self, subscription: Subscription, frames: Frames) -> bool:
        """Pass on what a run says to who asked for it; the loop is over events."""
        if self._hears is None or not self._is_open:
            return False
        try:
            for text in frames.texts:
                self._hears(msgspec.json.decode(text))
        except Exception:  # noqa: BLE001 - a program's own: who speaks must not be affected
            _log.exception("what %s says was not taken", subscription.stream_id)
        return True

    def revoked(self, subscription: Subscription) -> None:
        """Wake the loop: its last events are here, or can be read."""
        del subscription
        self._wake()

    def ended(self, subscription: Subscription, error: DalsegnoError) -> None:
        """Wake the loop: it gets what was offered before, and then the error."""
        del subscription, error
        self._wake()

    def _wake(self) -> None:
        """Wake a loop that waits for an event; one that does not wait looks again by itself."""
        if self._receive.statistics().tasks_waiting_receive:
            self._send.send_nowait(None)

    async def _read(self) -> None:
        assert self._hub is not None, "entered before"
        read = await read_page(self._delivery, self._hub, self._subscription)
        if read is not None:
            self._page.extend(read[1])
            self._bytes += sum(map(event_bytes, read[1]))

    def _end(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        assert self._hub is not None, "entered before"
        self._hub.unregister(self._subscription)
        with suppress(trio.WouldBlock):  # what was offered before is still the loop's
            while True:
                self._page.extend(filter(None, [self._receive.receive_nowait()]))
        self._send.close()
        self._receive.close()
