"""A host's own loop over a stream: the same subscription as a connection's, without a socket.

The loop may be slow and may be left by ``break``.  What it has not taken yet is bounded as a
connection's outbox is: past the bound it is dropped here and read again from the store.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import trio

from dalsegno.protocol import Reject, Subscription, parse_cursor

from ._catch_up import read_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from dalsegno.protocol import Event, Published

    from ._service import Service


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
        self._role = role
        self._after = after
        self._subscription = Subscription(workspace_id, stream_id)
        self._slot = service.directory.slot(workspace_id)
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._wake = trio.Event()
        self._is_open = False

    def __repr__(self) -> str:
        return f"<Listening {self._subscription!r}, {len(self._events)} waiting>"

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` for a user who is no member, ``CURSOR_AHEAD``, or
                ``BAD_REQUEST`` for what is no cursor.
            UnavailableError: try again.

        """
        subscription, hub = self._subscription, self._slot.hub
        await self._slot.wait_open()
        hub.register(subscription, self)
        self._is_open = True
        try:
            await self._check_role()
            after = await self._checked_cursor()
        except BaseException:
            self._end()
            raise
        subscription.begin(after)
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
            UnavailableError: the store is away; ask again.

        """
        await trio.lowlevel.checkpoint()
        while not self._events:
            if not self._is_open:
                raise StopAsyncIteration
            if not self._subscription.live:
                self._take(await self._read())
            elif self._subscription.last_visible is not None:
                self._end()
                raise Reject(
                    "ROLE_FORBIDDEN", "no longer a member", stream_id=self._subscription.stream_id
                )
            else:
                self._wake = trio.Event()
                await self._wake.wait()
        event = self._events.popleft()
        self._bytes -= len(event.payload)
        return event

    def offer(self, subscription: Subscription, item: Published) -> None:
        """Take what is due of a published item."""
        due = subscription.offer(item)
        if due is not None:
            self._take(due)
            if self._bytes > self._service.limits.outbox_bytes_max:
                # What was offered before this item is still to be taken; this is read again.
                for _ in due:
                    self._bytes -= len(self._events.pop().payload)
                subscription.fall_behind(subscription.sent - len(due))
        self._wake.set()

    def revoked(self, subscription: Subscription) -> None:
        """Wake the loop: its last events are there, or can be read."""
        del subscription
        self._wake.set()

    def flush_nowait(self) -> None:
        """Do nothing: the loop takes what it wants."""

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events.append(event)
            self._bytes += len(event.payload)

    async def _read(self) -> Sequence[Event]:
        return await read_page(
            self._service.store, self._slot.hub, self._subscription, self._service.limits
        )

    async def _check_role(self) -> None:
        if self.user_id is None or self._role is not None:
            return
        workspace_id = self._subscription.workspace_id
        if await self._service.role_of(workspace_id, self.user_id) is None:
            raise Reject("ROLE_FORBIDDEN", "not a member of this workspace")

    async def _checked_cursor(self) -> int:
        head = await self._head()
        after = head if self._after is None else parse_cursor(self._after).seq
        if after > head:
            raise Reject(
                "CURSOR_AHEAD",
                "the stream is not that long",
                stream_id=self._subscription.stream_id,
                event_seq=after,
                latest_seq=head,
            )
        return after

    async def _head(self) -> int:
        subscription = self._subscription
        if subscription.whole:
            return self._slot.hub.head
        versions = await self._service.store.read_versions(
            subscription.workspace_id, [subscription.stream_id]
        )
        return versions.get(subscription.stream_id, 0)

    def _end(self) -> None:
        self._is_open = False
        self._slot.hub.unregister(self._subscription)
