"""What is still to be written to one client, in three kinds.

*Replies* cannot be read again: they keep their order and go first.  *Last words* are the events of
a stream that has ended, with the error that ended it: nobody reads them again, so they stay.  All
other *events* can be read again: past a bound, by bytes or by count, they are not kept, and their
subscriptions go back to what was surely given.

While the connection is idle, events stay here only within one step, until they are written.  Its
writer takes them from a memory channel, which is made with the writer and gone with it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import trio

from dalsegno.protocol import Frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dalsegno.protocol import Subscription

    _Entry: TypeAlias = tuple[Subscription, Frames, int]
    """Events of a stream, with the number before them."""
    _Channel: TypeAlias = tuple[trio.MemorySendChannel[_Entry], trio.MemoryReceiveChannel[_Entry]]


class Outbox:
    """Replies, last words and events of one connection; see the module."""

    __slots__ = (
        "_bytes_max",
        "_channel",
        "_events",
        "_items_max",
        "_last",
        "_replies",
        "events_bytes",
        "last_bytes",
        "replies_bytes",
    )

    def __init__(self, *, bytes_max: int, items_max: int) -> None:
        self._bytes_max = bytes_max
        self._items_max = items_max
        # Lists, since they are emptied at once: an empty deque takes 0.7 KB of an idle connection.
        self._replies: list[bytes] = []
        self._last: list[Frames] = []
        self._events: list[_Entry] = []
        """Those that are written at the end of this step, while there is no channel."""
        self._channel: _Channel | None = None
        self.replies_bytes = 0
        self.events_bytes = 0
        """Of the events that can be read again."""
        self.last_bytes = 0
        """Of the last words."""

    def __repr__(self) -> str:
        items = len(self._last) + self._waiting
        return f"<Outbox {len(self._replies)} replies, {items} items, {self.size} bytes>"

    @property
    def _waiting(self) -> int:
        """How many items can be read again."""
        if self._channel is None:
            return len(self._events)
        return self._channel[0].statistics().current_buffer_used

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._replies and not self.has_events

    @property
    def has_events(self) -> bool:
        """Whether events wait."""
        return bool(self._last) or self._waiting > 0

    @property
    def size(self) -> int:
        """Bytes that wait, altogether."""
        return self.replies_bytes + self.events_bytes + self.last_bytes

    @property
    def replies(self) -> int:
        """How many replies wait."""
        return len(self._replies)

    @property
    def is_over(self) -> bool:
        """Whether more bytes of events wait than may."""
        return self.events_bytes > self._bytes_max

    @property
    def can_end_all(self) -> bool:
        """Whether there is room for all events to become last words."""
        return self.last_bytes + self.events_bytes <= self._bytes_max

    # ------------------------------------------------------------------------------ the channel

    def open_channel(self) -> None:
        """Begin to pass events through a channel: there is a writer now."""
        assert self._channel is None, "one writer at a time"
        events, self._events = self._events, []
        self._channel = trio.open_memory_channel(self._items_max)
        self._put(events)

    def close_channel(self) -> None:
        """Keep what is left for the end of this step: the writer is gone."""
        assert self._channel is not None, "opened before"
        left = self._take_events()
        for end in self._channel:
            end.close()
        self._channel = None
        self._put(left)

    def _take_events(self) -> list[_Entry]:
        if self._channel is None:
            events, self._events = self._events, []
            return events
        events = []
        with suppress(trio.WouldBlock):
            while True:
                events.append(self._channel[1].receive_nowait())
        return events

    def _put(self, events: Iterable[_Entry]) -> None:
        """Put events where they wait; those that come back find the room that they had."""
        for entry in events:
            if self._channel is None:
                self._events.append(entry)
            else:
                self._channel[0].send_nowait(entry)

    # --------------------------------------------------------------------------------- filling

    def reply(self, text: bytes) -> None:
        """Add a reply."""
        self._replies.append(text)
        self.replies_bytes += len(text)

    def add(self, subscription: Subscription, frames: Frames, before: int) -> bool:
        """Add events, with the number that the reader was given before them.

        Returns:
            False where they were not kept, since as many items wait as may.

        """
        # As many as a channel takes, which may have to take over all of them.
        if self._channel is None and len(self._events) >= self._items_max:
            return False
        try:
            self._put([(subscription, frames, before)])
        except trio.WouldBlock:
            return False
        self.events_bytes += frames.size
        return True

    def end(self, subscription: Subscription, last: Frames) -> bool:
        """Add the end of a stream behind its events, which are last words from now on.

        Returns:
            False where its events were dropped, since so many last words wait already: they can
            be read again once the client has resumed.

        """
        its = [frames for whose, frames, _ in self._take(subscription)]
        size = sum(frames.size for frames in its)
        fits = self.last_bytes + size <= self._bytes_max
        if fits:
            self._last += its
            self.last_bytes += size
        self._last.append(last)
        self.last_bytes += last.size
        return fits

    # -------------------------------------------------------------------------------- emptying

    def _take(self, subscription: Subscription) -> list[_Entry]:
        """Take a stream's events out."""
        entries = self._take_events()
        taken = [entry for entry in entries if entry[0] is subscription]
        self._put(entry for entry in entries if entry[0] is not subscription)
        self.events_bytes -= sum(entry[1].size for entry in taken)
        return taken

    def drop(self, subscription: Subscription) -> int | None:
        """Drop a stream's events; return the number before the first of them if there was one."""
        dropped = self._take(subscription)
        return dropped[0][2] if dropped else None

    def drop_all(self) -> dict[Subscription, int]:
        """Drop all events that can be read again; return each stream's number before the first."""
        dropped: dict[Subscription, int] = {}
        for subscription, _, before in self._take_events():
            dropped.setdefault(subscription, before)
        self.events_bytes = 0
        return dropped

    def take(self) -> list[Frames]:
        """Empty it: replies first, then last words, then events; nothing where nothing waits."""
        frames = []
        if self._replies:
            frames.append(Frames(tuple(self._replies)))
            self._replies.clear()
            self.replies_bytes = 0
        if self._last:
            frames += self._last
            self._last.clear()
            self.last_bytes = 0
        if self._events or self._channel is not None:
            frames += [entry[1] for entry in self._take_events()]
            self.events_bytes = 0
        return frames

    def clear(self) -> None:
        """Forget everything."""
        self.take()
