"""A host's own loop over a stream: the same subscription as a connection's, without a socket.

The loop may be slow and may be left by ``break``.  What it has not taken yet is bounded as a
connection's outbox is: past the bound it is dropped here and read again, from the tail or the
store.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio

from dalsegno.actors.delivery import check_not_ahead, event_bytes, read_length, read_page
from dalsegno.protocol import Reject, Subscription, parse_cursor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from dalsegno.actors._service import Service
    from dalsegno.actors.delivery import Hub
    from dalsegno.protocol import DalsegnoError, Event, Published


@dataclass(frozen=True, slots=True)
class ListeningStatistics:
    """A loop at one moment."""

    given: int
    """The last number that was put in front of it."""
    is_live: bool
    """Else it is behind, and reads pages."""
    waiting: int
    """Events that it has not taken yet …"""
    waiting_bytes: int
    """… and about how much memory they take."""


class Listening:
    """An async iterator of committed events, inside ``async with``."""

    def __init__(
        self,
        service: Service,
        workspace_id: str,
        stream_id: str,
        *,
        after: int | None,
        user_id: str | None,
        role: str | None,
    ) -> None:
        self.user_id = user_id
        self._service = service
        self._delivery = service.directory.delivery
        self._role = role
        self._after = after
        self._subscription = Subscription(workspace_id, stream_id)
        self._hub: Hub | None = None
        """Once it is entered."""
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._wake = trio.Event()
        self._is_open = False

    def __repr__(self) -> str:
        return f"<Listening {self._subscription!r}, {len(self._events)} waiting>"

    def statistics(self) -> ListeningStatistics:
        """Tell how it stands."""
        return ListeningStatistics(
            given=self._subscription.sent,
            is_live=self._subscription.live,
            waiting=len(self._events),
            waiting_bytes=self._bytes,
        )

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` for a user who is no member, ``CURSOR_AHEAD``, or
                ``BAD_REQUEST`` for what is no cursor.
            WorkspaceMovedError: another node owns the workspace.
            WorkspaceHaltedError: the log needs a repair first.
            UnavailableError: try again.

        """
        subscription = self._subscription
        with self._service.directory.using(subscription.workspace_id) as slot:
            await slot.wait_open()
            hub = self._hub = slot.hub
            hub.register(subscription, self)
        self._is_open = True
        try:
            # The program's own needs nothing of the store, and waits for nobody.
            if subscription.whole and (self.user_id is None or self._role is not None):
                head = hub.head
            else:
                async with self._delivery.looking_up():
                    await self._check_role()
                    head = await read_length(self._delivery, hub, subscription) or 0
            after = head if self._after is None else parse_cursor(self._after).seq
            is_certain = self._service.directory.is_certain(hub)
            check_not_ahead(subscription.stream_id, after, head, is_certain=is_certain)
        except BaseException:
            self._end()
            raise
        subscription.begin(after, head)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._end()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event; cancelled, it is still the next one.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` after the last event that the user may see.
            StaleCursorError: what follows is not kept any more.
            WorkspaceMovedError: another node owns the workspace now; listen there.
            WorkspaceHaltedError: the log needs a repair first; then listen again.
            UnavailableError: the store is away; ask again.

        """
        await trio.lowlevel.checkpoint()
        subscription = self._subscription
        while not self._events:
            if not self._is_open:
                raise StopAsyncIteration
            subscription.check_not_ended()
            if not subscription.live:
                await self._read()
            elif subscription.last_visible is not None:
                self._end()
                raise Reject(
                    "ROLE_FORBIDDEN", "no longer a member", stream_id=subscription.stream_id
                )
            else:
                self._wake = trio.Event()
                await self._wake.wait()
        event = self._events.popleft()
        self._bytes -= event_bytes(event)
        return event

    def offer(self, subscription: Subscription, item: Published) -> None:
        """Take what is due of a published item."""
        due = subscription.offer(item)
        if due is not None:
            self._take(due)
            if self._bytes > self._service.limits.outbox_bytes_max:
                # What was offered before this item is still to be taken; this is read again.
                for _ in due:
                    self._bytes -= event_bytes(self._events.pop())
                subscription.fall_behind(subscription.sent - len(due))
        self._wake.set()

    def revoked(self, subscription: Subscription) -> None:
        """Wake the loop: its last events are there, or can be read."""
        del subscription
        self._wake.set()

    def ended(self, subscription: Subscription, error: DalsegnoError) -> None:
        """Wake the loop: it gets what was offered before, and then the error."""
        del subscription, error
        self._wake.set()

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events.append(event)
            self._bytes += event_bytes(event)

    async def _read(self) -> None:
        assert self._hub is not None, "entered before"
        read = await read_page(self._delivery, self._hub, self._subscription)
        if read is not None:
            self._take(read[1])

    async def _check_role(self) -> None:
        if self.user_id is None or self._role is not None:
            return
        workspace_id = self._subscription.workspace_id
        if await self._service.role_of(workspace_id, self.user_id) is None:
            raise Reject("ROLE_FORBIDDEN", "not a member of this workspace")

    def _end(self) -> None:
        self._is_open = False
        if self._hub is not None:
            self._hub.unregister(self._subscription)
