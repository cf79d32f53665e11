"""The readers of a workspace, and the one place where committed events leave it.

A hub outlives the incarnations of its workspace.  Registering with it returns the published head
in the same step, without the mailbox: what is at or below that head is read from the tail or from
the store, what is above it will be offered.  No lock and no buffer joins the two.

Publishing one commit:

1. revocations in it become barriers on the readers they concern, before any offer (I8), and
   those concerned are present no longer;
2. the commands' answers go to their senders, so that a sender gets its answer before the events;
3. each stream's events are offered to its readers, entities' streams before the workspace's;
   cohorts move on as a whole (`Readers`), without the members that also have an answer to write;
4. readers that have something to write are flushed once each, then the cohorts are written to.
   Other tasks run in between; a reader among them may leave, and is not written to.

One commit is published at a time: the next one, an end, and the opening after it wait until every
reader of the last one was written to.  Else a cohort could be handed a later commit first.

Where the workspace is halted, moves to another node, or turns out to have another history than the
one that was published here, the hub *ends*: all readers, and all that wait for the head, get the
reason, and what was kept for them is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import CHAIN_START, Publication, workspace_stream

from ._cohorts import Readers
from ._tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from dalsegno.actors.ports import SocketSubscriber, Subscriber
    from dalsegno.protocol import DalsegnoError, Event, Frames, Subscription

    from ._cohorts import Cohort, Member
    from ._delivery import Delivery
    from ._presence import Presence

    _Due = tuple[Cohort, Frames, list[Member]]
    """What is to be written to those that were in a cohort when it was published."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A workspace's readers at one moment."""

    head: int
    """The published head."""
    streams: int
    """Streams that have readers."""
    subscriptions: int
    behind: int
    """Subscriptions that are being caught up."""
    tail: int
    """Events in memory."""


class Hub:
    """The readers of one workspace."""

    def __init__(
        self, workspace_id: str, *, delivery: Delivery, unused: Callable[[], None] = lambda: None
    ) -> None:
        """Make it; ``unused`` is called when the last of those that use it has left."""
        self.workspace_id = workspace_id
        self.stream_id = workspace_stream(workspace_id)
        """The stream of all its events."""
        self.head = 0
        """The last published ``event_seq``; meaningful once `is_open`."""
        self.chain = CHAIN_START
        """… and its chain."""
        self.is_open = False
        self.is_unverified = False
        """Whether another node may have written on since it was looked at."""
        self.tail = Tail(workspace_id)
        """The newest of what was published; it ends at the head."""
        self.cache_generation = object()
        """Identifies the pages that may be shared; replaced once the log may have changed."""
        self._delivery = delivery
        self._unused = unused
        self._streams: dict[str, Readers] = {}
        self._waiting: dict[int, trio.lowlevel.ParkingLot] = {}
        """The tasks that wait for the head, by the number that each waits for."""
        self.opened_at = 0.0
        """When it last began at a head, in Trio's time."""
        self.presence: Presence | None = None
        """Who is present; None: nobody was since then."""
        self._ended: DalsegnoError | None = None
        self._is_publishing = False
        self._published = trio.lowlevel.ParkingLot()
        """Those that wait until the commit being published is."""
        self._ending: DalsegnoError | None = None
        """What the hub ends with once the commit being published is."""

    def __repr__(self) -> str:
        state = f"at {self.head}" if self.is_open else "closed"
        return f"<Hub {self.workspace_id} {state}, {self.subscriptions} subscriptions>"

    def statistics(self) -> HubStatistics:
        """Return how many readers there are, and where they are."""
        every = [one for readers in self._streams.values() for one in readers]
        return HubStatistics(
            head=self.head,
            streams=len(self._streams),
            subscriptions=len(every),
            behind=sum(not one.live for one, _ in every),
            tail=len(self.tail),
        )

    @property
    def subscriptions(self) -> int:
        """The number of subscriptions."""
        return sum(map(len, self._streams.values()))

    @property
    def is_used(self) -> bool:
        """Whether there are subscriptions, tasks that wait for the head, or somebody present."""
        if self._streams or self._waiting:
            return True
        return self.presence is not None and self.presence.is_used

    # ------------------------------------------------------------------------------- the head

    def open(self, head: int, chain: int) -> None:
        """Begin at the head of the log as it was found, at first and after `end`.

        While there are readers the rest is published instead, so that they get it too.
        """
        assert not self._is_publishing, "waited for"
        assert not self._streams, "readers get what was published, or hear of an end"
        self.tail = self._delivery.tails.find(self.workspace_id, head, chain)
        self.head, self.chain = head, chain
        self.opened_at = trio.current_time()
        self.is_open = True
        self.is_unverified = False
        self._ended = None
        self._wake()
        self._delivery.watcher.opened(self.workspace_id)

    def end(self, error: DalsegnoError) -> None:
        """End every subscription, and every wait for the head, with an error.

        While a commit is being published, it ends after that.
        """
        if self._is_publishing:
            self._ending = self._ending or error
            return
        self.is_open = False
        self._ended = error
        self._delivery.tails.forget(self.tail)
        self.tail = Tail(self.workspace_id)
        self.cache_generation = object()
        streams, self._streams = self._streams, {}
        presence, self.presence = self.presence, None
        self._delivery.begin()
        for readers in streams.values():
            for subscription, subscriber in list(readers):
                readers.remove(subscription)
                subscription.ended = error
                subscriber.ended(subscription, error)
        if presence is not None:
            presence.end(error)
        for touched in self._delivery.end():
            touched.flush_nowait()
        self._wake()
        self._delivery.watcher.ended(self.workspace_id)

    def user_ids(self) -> list[str]:
        """Return the users who follow something of it, in no particular order, each once."""
        found = {s.user_id: None for readers in self._streams.values() for _, s in readers}
        return [user_id for user_id in found if user_id is not None]

    def dismiss(self, user_ids: Collection[str], error: DalsegnoError) -> None:
        """End what some users follow, with an error: from this step on they are given nothing.

        It may be called while another workspace's commit is published, or this one's.
        """
        for user_id in user_ids:
            for subscription, subscriber in list(self._of(user_id)):
                self._streams[subscription.stream_id].remove(subscription)
                subscription.ended = error
                subscriber.ended(subscription, error)
        for stream_id in [name for name, readers in self._streams.items() if not readers]:
            del self._streams[stream_id]
        self.check_used()

    def confirm_head(self) -> None:
        """Mark the head as confirmed by the store."""
        if self.is_unverified:
            self.is_unverified = False
            self._wake()

    async def wait_head(self, event_seq: int) -> None:
        """Wait until the hub is open, and an event and all before it are published.

        Raises:
            DalsegnoError: the hub ended meanwhile.

        """
        while not self.is_open or self.is_unverified or self.head < event_seq:
            await self._wait_for(event_seq)
            if self._ended is not None:
                raise self._ended.with_traceback(None)

    async def _wait_for(self, event_seq: int) -> None:
        lot = self._waiting.setdefault(event_seq, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._waiting.get(event_seq) is lot:
                del self._waiting[event_seq]
            self.check_used()

    def check_used(self) -> None:
        """Report to whoever keeps it that nothing uses it, if so."""
        if not self.is_used:
            self._unused()

    def _wake(self) -> None:
        """Wake the tasks that wait for what is there now, or for what will not come.

        No others: a task that waits for a number far ahead must not make each commit dearer.
        """
        is_open, head = self.is_open, self.head
        for event_seq in [seq for seq in self._waiting if seq <= head or not is_open]:
            self._waiting.pop(event_seq).unpark_all()

    # ---------------------------------------------------------------------------- the readers

    def register(self, subscription: Subscription, subscriber: Subscriber) -> int:
        """Add a reader; return the published head of the workspace."""
        assert self.is_open, "waited for"
        self._streams.setdefault(subscription.stream_id, Readers()).add(subscription, subscriber)
        return self.head

    def unregister(self, subscription: Subscription) -> None:
        """Remove a reader, if it is registered."""
        readers = self._streams.get(subscription.stream_id)
        if readers is not None:
            readers.remove(subscription)
            if not readers:
                del self._streams[subscription.stream_id]
                self.check_used()

    def join_cohort(self, subscription: Subscription, subscriber: SocketSubscriber) -> bool:
        """Serve a reader for which nothing waits together with others; return whether it is so."""
        readers = self._streams.get(subscription.stream_id)
        return readers is not None and readers.join(subscription, subscriber)

    def leave_cohort(self, subscription: Subscription) -> None:
        """Serve a reader individually."""
        readers = self._streams.get(subscription.stream_id)
        if readers is not None:
            readers.leave(subscription)

    def hearing(self, stream_ids: Iterable[str]) -> list[tuple[Subscription, Subscriber]]:
        """Return the readers of some streams that are shown what runs say."""
        streams = [self._streams[each] for each in stream_ids if each in self._streams]
        return [one for readers in streams for one in readers.hearing()]

    def told_presence(self) -> list[tuple[Subscription, Subscriber]]:
        """Return the readers of all that happens here that are told who is present, unasked."""
        readers = self._streams.get(self.stream_id)
        return [] if readers is None else readers.told_presence()

    # ----------------------------------------------------------------------------- publishing

    async def publish(self, events: Sequence[Event], answer: Callable[[], None]) -> None:
        """Publish what was committed; ``answer`` gives the answers that waited for it.

        It waits for its turn; cancelled before that, nothing was published, and nobody answered.

        Raises:
            DalsegnoError: the hub ended meanwhile.

        """
        await self.wait_published()
        if self._ended is not None and not self.is_open:
            raise self._ended.with_traceback(None)
        self._is_publishing = True
        try:
            self._delivery.begin()
            try:
                due = self._publish(events, answer)
            finally:
                dirty = self._delivery.end()
            if self._waiting:
                self._wake()
            if dirty:
                await self._delivery.flush(dirty)
            if due:
                await self._write(due)
        finally:
            self._is_publishing = False
            if self._published:
                self._published.unpark_all()
            ending, self._ending = self._ending, None
            if ending is not None:
                self.end(ending)

    async def wait_published(self) -> None:
        """Wait until no commit is being published; without a checkpoint if none is."""
        while self._is_publishing:
            await self._published.park()

    def _publish(self, events: Sequence[Event], answer: Callable[[], None]) -> list[_Due]:
        revoked: list[tuple[Subscription, Subscriber]] = []
        if events:
            assert self.is_open, "opened before"
            assert events[0].event_seq == self.head + 1, "published in order, without a gap"
            self.head, self.chain = events[-1].event_seq, events[-1].chain
            self._delivery.tails.extend(self.tail, events)
            revoked = self._revoke(events)
        answer()
        due: list[_Due] = []
        if events and self._streams:
            due = self._offer(events)
        for subscription, subscriber in revoked:
            subscriber.revoked(subscription)
        if events:
            self._delivery.watcher.published(self.workspace_id, events)
        return due

    def _offer(self, events: Sequence[Event]) -> list[_Due]:
        streams, due = self._streams, []
        items: dict[str, Publication] = {}
        if len(streams) > (self.stream_id in streams):
            by_stream: dict[str, list[Event]] = {}
            for event in events:
                if event.stream_id in streams:
                    by_stream.setdefault(event.stream_id, []).append(event)
            for stream_id, its_events in by_stream.items():
                items[stream_id] = Publication(its_events, is_workspace_stream=False)
        if self.stream_id in streams:
            items[self.stream_id] = Publication(events, is_workspace_stream=True)
        self._delivery.leave_cohorts(self.workspace_id, items)
        for stream_id, item in items.items():
            due += self._offer_item(streams[stream_id], item)
        return due

    def _offer_item(self, readers: Readers, item: Publication) -> list[_Due]:
        due = [(*one, list(one[0].members.values())) for one in readers.advance(item)]
        for subscription, subscriber in list(readers.individual.items()):
            subscriber.offer(subscription, item)
        return due

    async def _write(self, due: list[_Due]) -> None:
        """Write to the members of the cohorts, and let others run in between."""
        chunk, written = self._delivery.limits.offers_per_yield, 0
        for cohort, frames, members in due:
            last = cohort.sent
            for first in range(0, len(members), chunk):
                here = members[first : first + chunk]
                self._send(cohort.remaining(here), (frames,), last)
                written += len(here)
                if written >= chunk:
                    written = 0
                    await trio.lowlevel.cancel_shielded_checkpoint()

    def _send(self, members: list[Member], frames: tuple[Frames], last: int) -> None:
        """Write the same to each, up to the same number; a member that does not take it leaves."""
        for subscription, subscriber, send in members:
            subscription.sent = last
            try:
                if send(frames):
                    continue
                subscriber.write_on()
            except Exception as error:  # noqa: BLE001 - it is that reader's alone
                subscriber.on_write_error(error)
            self.leave_cohort(subscription)

    def _revoke(self, events: Sequence[Event]) -> list[tuple[Subscription, Subscriber]]:
        revoked = []
        roles = self._delivery.roles
        for event in events:
            if event.type not in roles.ending and event.type not in roles.closing:
                continue
            closes = roles.closed_by(event)
            user_id = roles.removed_by(event)
            if user_id is None and not closes:
                continue
            if self.presence is not None:
                self.presence.revoke(None if closes else user_id)
            for subscription, subscriber in list(self._of(user_id)):
                self.leave_cohort(subscription)
                subscription.revoke(event.event_seq, from_all=closes)
                revoked.append((subscription, subscriber))
        return revoked

    def _of(self, user_id: str | None) -> Iterable[tuple[Subscription, Subscriber]]:
        """Yield what a user follows; None: what all users do, and the program does not."""
        for readers in self._streams.values():
            for subscription, subscriber in readers:
                if subscriber.user_id is not None and user_id in (None, subscriber.user_id):
                    yield subscription, subscriber
