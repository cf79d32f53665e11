"""Who listens to a workspace, and the one place where committed events leave it.

A hub outlives the incarnations of its workspace.  Registering with it returns the published head
in the same step, without the mailbox: what is at or below that head is read from the store, what is
above it will be offered.  No lock and no buffer joins the two (DESIGN §5).

Publishing one commit:

1. revocations in it become barriers on the readers they concern, before any offer (I8);
2. the commands' answers go to their senders, so that who sent something hears of it first;
3. each stream's events are offered to its readers, entities' streams before the workspace's;
4. readers with something to write are flushed once each, and others run in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from dalsegno.protocol import Published, workspace_stream

from ._roles import MEMBER_REMOVED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dalsegno.protocol import Event, Subscription


class Follower(Protocol):
    """Who holds subscriptions: a connection, or a loop in the host's program."""

    user_id: str | None
    """Whose eyes these are; None for the host's own."""

    def offer(self, subscription: Subscription, item: Published) -> None:
        """Take what is due of an item; never waits, never raises."""

    def revoked(self, subscription: Subscription) -> None:
        """Notice that everything visible was offered; ends it unless it is behind."""

    def flush_nowait(self) -> None:
        """Write what is due, as far as that goes without waiting; never raises."""


class Delivery:
    """Collects those with something to write while a commit is published."""

    def __init__(self, *, offers_per_yield: int) -> None:
        self._dirty: dict[Follower, None] | None = None
        self._offers_per_yield = offers_per_yield

    def begin(self) -> None:
        """Begin to collect; until `end`, which follows in the same step, nobody is flushed."""
        assert self._dirty is None, "publishing does not nest"
        self._dirty = {}

    def touch(self, follower: Follower) -> None:
        """Note that somebody has something to write, or write it at once."""
        if self._dirty is None:
            follower.flush_nowait()
        else:
            self._dirty[follower] = None

    def end(self) -> Iterable[Follower]:
        """Stop collecting; tell who is to be flushed."""
        dirty, self._dirty = self._dirty, None
        assert dirty is not None, "begun before"
        return dirty

    async def flush(self, dirty: Iterable[Follower]) -> None:
        """Flush everybody once, and let others run in between."""
        for count, follower in enumerate(dirty, 1):
            follower.flush_nowait()
            if count % self._offers_per_yield == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()


class Hub:
    """The readers of one workspace."""

    def __init__(self, workspace_id: str, *, delivery: Delivery) -> None:
        self.workspace_id = workspace_id
        self.head = 0
        """The last published ``event_seq``; meaningful once `is_open`."""
        self.is_open = False
        self._delivery = delivery
        self._streams: dict[str, dict[Subscription, Follower]] = {}
        self._whole = workspace_stream(workspace_id)
        self._published = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Hub {self.workspace_id} at {self.head}, {self.subscriptions} subscriptions>"

    @property
    def subscriptions(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._streams.values()))

    def open(self, head: int) -> None:
        """Begin at the head of the log as it was found."""
        self.head = head
        self.is_open = True
        self._published.unpark_all()

    def register(self, subscription: Subscription, follower: Follower) -> int:
        """Add a reader; return the published head of the workspace."""
        self._streams.setdefault(subscription.stream_id, {})[subscription] = follower
        return self.head

    def unregister(self, subscription: Subscription) -> None:
        """Take a reader out; nothing where it is out already."""
        readers = self._streams.get(subscription.stream_id)
        if readers is not None:
            readers.pop(subscription, None)
            if not readers:
                del self._streams[subscription.stream_id]

    async def wait_head(self, event_seq: int) -> None:
        """Wait until the hub is open, and an event and all before it are published."""
        while not self.is_open or self.head < event_seq:
            await self._published.park()

    async def publish(self, events: Sequence[Event], answer: Callable[[], None]) -> None:
        """Publish what was committed; ``answer`` gives the answers that waited for it."""
        self._delivery.begin()
        try:
            self._publish(events, answer)
        finally:
            dirty = self._delivery.end()
        self._published.unpark_all()
        await self._delivery.flush(dirty)

    def _publish(self, events: Sequence[Event], answer: Callable[[], None]) -> None:
        revoked: list[tuple[Subscription, Follower]] = []
        if events:
            assert events[0].event_seq == self.head + 1, "published in order, without a gap"
            self.head = events[-1].event_seq
            revoked = self._revoke(events)
        answer()
        if events and self._streams:
            self._offer(events)
        for subscription, follower in revoked:
            follower.revoked(subscription)

    def _offer(self, events: Sequence[Event]) -> None:
        streams = self._streams
        if len(streams) > (self._whole in streams):
            by_stream: dict[str, list[Event]] = {}
            for event in events:
                if event.stream_id in streams:
                    by_stream.setdefault(event.stream_id, []).append(event)
            for stream_id, its_events in by_stream.items():
                self._offer_item(stream_id, Published(its_events, whole=False))
        if self._whole in streams:
            self._offer_item(self._whole, Published(events, whole=True))

    def _offer_item(self, stream_id: str, item: Published) -> None:
        for subscription, follower in list(self._streams[stream_id].items()):
            follower.offer(subscription, item)

    def _revoke(self, events: Sequence[Event]) -> list[tuple[Subscription, Follower]]:
        revoked = []
        for event in events:
            if event.type == MEMBER_REMOVED and event.stream_id.startswith("member:"):
                user_id = event.stream_id.partition(":")[2]
                for subscription, follower in self._of(user_id):
                    subscription.revoke(event.event_seq)
                    revoked.append((subscription, follower))
        return revoked

    def _of(self, user_id: str) -> Iterable[tuple[Subscription, Follower]]:
        for readers in self._streams.values():
            for subscription, follower in readers.items():
                if follower.user_id == user_id:
                    yield subscription, follower
