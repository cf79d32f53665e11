"""Who listens to a workspace, and the one place where committed events leave it.

A hub outlives the incarnations of its workspace.  Registering with it returns the published head
in the same step, without the mailbox: what is at or below that head is read from the tail or from
the store, what is above it will be offered.  No lock and no buffer joins the two (DESIGN §5).

Publishing one commit:

1. revocations in it become barriers on the readers they concern, before any offer (I8);
2. the commands' answers go to their senders, so that who sent something hears of it first;
3. each stream's events are offered to its readers, entities' streams before the workspace's; those
   who are in step move on together (`Readers`), but for those who have an answer to be written too;
4. who has something to write is flushed once, then those in step are written to.  Others run in
   between, and may leave, or end, what is not written yet.

Where the workspace is halted, moves to another node, or turns out to have another history than the
one that was published here, the hub *ends*: every reader and everybody who waits for the head hears
why, and what was kept for them is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import MEMBER_REMOVED
from dalsegno.protocol import CHAIN_START, Published, workspace_stream

from ._cohorts import Readers
from ._tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dalsegno.protocol import DalsegnoError, Event, Frames, Subscription

    from ._cohorts import InStep, Member
    from ._delivery import Delivery, Follower, Writing

    _Due = tuple[InStep, Frames, list[Member]]
    """What is to be written to those who were in step when it was published."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A workspace's readers at one moment."""

    head: int
    """The published head."""
    streams: int
    """Those that somebody follows."""
    subscriptions: int
    behind: int
    """Subscriptions that are being caught up."""
    tail: int
    """Events in memory."""


class Hub:
    """The readers of one workspace."""

    def __init__(self, workspace_id: str, *, delivery: Delivery) -> None:
        self.workspace_id = workspace_id
        self.stream_id = workspace_stream(workspace_id)
        """The stream of all its events."""
        self.head = 0
        """The last published ``event_seq``; meaningful once `is_open`."""
        self.chain = CHAIN_START
        """… and its chain."""
        self.is_open = False
        self.is_doubtful = False
        """Whether another node may have written on since it was looked at."""
        self.tail = Tail(workspace_id)
        """The newest of what was published; it ends at the head."""
        self.era = object()
        """Whose pages may be shared: another one once the log may have been touched."""
        self._delivery = delivery
        self._streams: dict[str, Readers] = {}
        self._waiting: dict[int, trio.lowlevel.ParkingLot] = {}
        """Who waits for the head, by the number that each waits for."""
        self._ended: DalsegnoError | None = None

    def __repr__(self) -> str:
        state = f"at {self.head}" if self.is_open else "closed"
        return f"<Hub {self.workspace_id} {state}, {self.subscriptions} subscriptions>"

    def statistics(self) -> HubStatistics:
        """Tell who listens."""
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
        """How many subscriptions there are."""
        return sum(map(len, self._streams.values()))

    @property
    def is_used(self) -> bool:
        """Whether there are subscriptions, or somebody waits for the head."""
        return bool(self._streams) or bool(self._waiting)

    # ------------------------------------------------------------------------------- the head

    def open(self, head: int, chain: int) -> None:
        """Begin at the head of the log as it was found, at first and after `end`.

        While there are readers the rest is published instead, so that they get it.
        """
        assert not self._streams, "readers get what was published, or hear of an end"
        self.tail = self._delivery.tails.find(self.workspace_id, head, chain)
        self.head, self.chain = head, chain
        self.is_open = True
        self.is_doubtful = False
        self._ended = None
        self._wake()

    def end(self, error: DalsegnoError) -> None:
        """End every subscription, and every wait for the head, with an error."""
        self.is_open = False
        self._ended = error
        self._delivery.tails.forget(self.tail)
        self.tail = Tail(self.workspace_id)
        self.era = object()
        streams, self._streams = self._streams, {}
        self._delivery.begin()
        for readers in streams.values():
            for subscription, follower in list(readers):
                readers.remove(subscription)
                subscription.ended = error
                follower.ended(subscription, error)
        for follower in self._delivery.end():
            follower.flush_nowait()
        self._wake()

    def trust(self) -> None:
        """Take it that the head is the log's: the store was asked."""
        if self.is_doubtful:
            self.is_doubtful = False
            self._wake()

    async def wait_head(self, event_seq: int) -> None:
        """Wait until the hub is open, and an event and all before it are published.

        Raises:
            DalsegnoError: the hub ended meanwhile.

        """
        while not self.is_open or self.is_doubtful or self.head < event_seq:
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

    def _wake(self) -> None:
        """Wake who waits for what is there now, or for what will not come.

        Nobody else: whoever waits for a number far ahead must not make each commit dearer.
        """
        is_open, head = self.is_open, self.head
        for event_seq in [seq for seq in self._waiting if seq <= head or not is_open]:
            self._waiting.pop(event_seq).unpark_all()

    # ---------------------------------------------------------------------------- the readers

    def register(self, subscription: Subscription, follower: Follower) -> int:
        """Add a reader; return the published head of the workspace."""
        assert self.is_open, "waited for"
        self._streams.setdefault(subscription.stream_id, Readers()).add(subscription, follower)
        return self.head

    def unregister(self, subscription: Subscription) -> None:
        """Take a reader out; nothing where it is out already."""
        readers = self._streams.get(subscription.stream_id)
        if readers is not None:
            readers.remove(subscription)
            if not readers:
                del self._streams[subscription.stream_id]

    def join(self, subscription: Subscription, writing: Writing) -> None:
        """Let a reader for whom nothing waits go on in step with others, if that may be."""
        readers = self._streams.get(subscription.stream_id)
        if readers is not None:
            readers.join(subscription, writing)

    def part(self, subscription: Subscription) -> None:
        """Let a reader go on by itself."""
        readers = self._streams.get(subscription.stream_id)
        if readers is not None:
            readers.part(subscription)

    # ----------------------------------------------------------------------------- publishing

    async def publish(self, events: Sequence[Event], answer: Callable[[], None]) -> None:
        """Publish what was committed; ``answer`` gives the answers that waited for it."""
        self._delivery.begin()
        try:
            due = self._publish(events, answer)
        finally:
            dirty = self._delivery.end()
        self._wake()
        await self._delivery.flush(dirty)
        await self._write(due)

    def _publish(self, events: Sequence[Event], answer: Callable[[], None]) -> list[_Due]:
        revoked: list[tuple[Subscription, Follower]] = []
        if events:
            assert self.is_open, "opened before"
            assert events[0].event_seq == self.head + 1, "published in order, without a gap"
            self.head, self.chain = events[-1].event_seq, events[-1].chain
            self._delivery.tails.extend(self.tail, events)
            revoked = self._revoke(events)
        answer()
        due: list[_Due] = []
        if events and self._streams:
            self._delivery.part(self)
            due = self._offer(events)
        for subscription, follower in revoked:
            follower.revoked(subscription)
        return due

    def _offer(self, events: Sequence[Event]) -> list[_Due]:
        streams, due = self._streams, []
        if len(streams) > (self.stream_id in streams):
            by_stream: dict[str, list[Event]] = {}
            for event in events:
                if event.stream_id in streams:
                    by_stream.setdefault(event.stream_id, []).append(event)
            for stream_id, its_events in by_stream.items():
                due += self._offer_item(streams[stream_id], Published(its_events, whole=False))
        if self.stream_id in streams:
            due += self._offer_item(streams[self.stream_id], Published(events, whole=True))
        return due

    def _offer_item(self, readers: Readers, item: Published) -> list[_Due]:
        due = [(*one, list(one[0].members.values())) for one in readers.advance(item)]
        for subscription, follower in list(readers.apart.items()):
            follower.offer(subscription, item)
        return due

    async def _write(self, due: list[_Due]) -> None:
        """Write to everybody who is in step, and let others run in between."""
        chunk, written = self._delivery.limits.offers_per_yield, 0
        for step, frames, members in due:
            last = step.sent
            for first in range(0, len(members), chunk):
                here = members[first : first + chunk]
                self._give(step.still(here), (frames,), last)
                written += len(here)
                if written >= chunk:
                    written = 0
                    await trio.lowlevel.cancel_shielded_checkpoint()

    def _give(self, members: list[Member], frames: tuple[Frames], last: int) -> None:
        """Write the same to each, up to the same number; who does not take it goes on by itself."""
        for subscription, writing, send in members:
            subscription.sent = last
            try:
                if send(frames):
                    continue
                writing.write_on()
            except Exception as error:  # noqa: BLE001 - it is that reader's alone
                writing.broke(error)
            self.part(subscription)

    def _revoke(self, events: Sequence[Event]) -> list[tuple[Subscription, Follower]]:
        revoked = []
        for event in events:
            if event.type == MEMBER_REMOVED and event.stream_id.startswith("member:"):
                user_id = event.stream_id.partition(":")[2]
                for subscription, follower in list(self._of(user_id)):
                    self.part(subscription)
                    subscription.revoke(event.event_seq)
                    revoked.append((subscription, follower))
        return revoked

    def _of(self, user_id: str) -> Iterable[tuple[Subscription, Follower]]:
        for readers in self._streams.values():
            for subscription, follower in readers:
                if follower.user_id == user_id:
                    yield subscription, follower
