"""What is still to be written to one client, in two kinds.

*Replies* cannot be read again: they keep their order and go first.  *Events* can: past the bound
they are dropped, and their subscriptions go back to what was surely given.  The events of a stream
that has ended are *last words*: nobody reads them again, so they and the error behind them stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import Frames

if TYPE_CHECKING:
    from dalsegno.protocol import Subscription


class Outbox:
    """Replies and events of one connection; see the module."""

    __slots__ = ("_bytes_max", "_events", "_replies", "events_bytes", "last_bytes", "replies_bytes")

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        # Lists, since it is emptied at once: an empty deque takes 0.7 KB of an idle connection.
        self._replies: list[bytes] = []
        self._events: list[tuple[Subscription, Frames, int | None]] = []
        """Each with the number before it; None where these are a stream's last words."""
        self.replies_bytes = 0
        self.events_bytes = 0
        """Of the events that can be read again."""
        self.last_bytes = 0
        """Of the last words."""

    def __repr__(self) -> str:
        return (
            f"<Outbox {len(self._replies)} replies, {len(self._events)} items, {self.size} bytes>"
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._replies and not self._events

    @property
    def has_events(self) -> bool:
        """Whether events wait."""
        return bool(self._events)

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
        """Whether more events wait than may."""
        return self.events_bytes > self._bytes_max

    def reply(self, text: bytes) -> None:
        """Add a reply."""
        self._replies.append(text)
        self.replies_bytes += len(text)

    def add(self, subscription: Subscription, frames: Frames, before: int) -> None:
        """Add events, with the number that the reader was given before them."""
        self._events.append((subscription, frames, before))
        self.events_bytes += frames.size

    def end(self, subscription: Subscription, last: Frames) -> None:
        """Add the last of a stream.

        Its events before that stay, unless so many last words wait already: they can be read
        again by who resumes.
        """
        waiting = sum(
            frames.size
            for whose, frames, before in self._events
            if whose is subscription and before is not None
        )
        if self.last_bytes + waiting > self._bytes_max:
            self.drop(subscription)
        else:
            self._events = [
                (whose, frames, None if whose is subscription else before)
                for whose, frames, before in self._events
            ]
            self.events_bytes -= waiting
            self.last_bytes += waiting
        self._events.append((subscription, last, None))
        self.last_bytes += last.size

    def drop(self, subscription: Subscription) -> int | None:
        """Drop a stream's events; tell the number before the first of them if there was one."""
        first: int | None = None
        kept: list[tuple[Subscription, Frames, int | None]] = []
        for entry in self._events:
            if entry[0] is subscription and entry[2] is not None:
                self.events_bytes -= entry[1].size
                first = entry[2] if first is None else first
            else:
                kept.append(entry)
        self._events = kept
        return first

    def drop_all(self) -> dict[Subscription, int]:
        """Drop all events that can be read again; tell each stream's number before the first."""
        dropped: dict[Subscription, int] = {}
        for subscription, _, before in self._events:
            if before is not None:
                dropped.setdefault(subscription, before)
        self._events = [entry for entry in self._events if entry[2] is None]
        self.events_bytes = 0
        return dropped

    def take(self) -> list[Frames]:
        """Empty it: replies first, then events; nothing where nothing waits."""
        if not self._replies and len(self._events) == 1:  # what a reader in step has
            self.events_bytes = self.last_bytes = 0
            return [self._events.pop()[1]]
        frames = [entry[1] for entry in self._events]
        if self._replies:
            frames.insert(0, Frames(tuple(self._replies)))
            self._replies.clear()
            self.replies_bytes = 0
        self._events.clear()
        self.events_bytes = self.last_bytes = 0
        return frames

    def clear(self) -> None:
        """Forget everything."""
        self._replies.clear()
        self._events.clear()
        self.replies_bytes = self.events_bytes = self.last_bytes = 0
