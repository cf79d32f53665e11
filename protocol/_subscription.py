"""The state of one reader of one stream: what it was given, what is due, and where it must end.

A subscription is *live* while it takes what is published as it comes, and *behind* while pages
are read for it from the store: at its beginning, and again whenever it missed something.  What is
due is decided by numbers alone, so replay and live join without a gap and without a repeat (I6).

    behind ──(everything published was given)──▶ live
    live ──(a gap in the numbers, or its reader's buffer overflowed)──▶ behind
    either ──(everything up to ``last_visible`` was given, or the hub ended)──▶ ended
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ._errors import DalsegnoError, membership_ended, not_found
from ._frames import Frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._event import Event
    from ._presence import PresenceView
    from ._spoken import FrameView

View: TypeAlias = "Callable[[Sequence[Event]], list[bytes]]"
"""The encoding of events in a row for a reader, as whole JSON messages: one for each as a rule,
or several, or fewer.  A `DalsegnoError` if it fails."""


def workspace_stream(workspace_id: str) -> str:
    """Return the name of the stream of all events of a workspace."""
    return f"workspace:{workspace_id}"


class Publication:
    """Published events of one stream, in order: those of one commit, or a page of them."""

    __slots__ = ("_frames", "events", "first", "last")

    def __init__(self, events: Sequence[Event], *, is_workspace_stream: bool) -> None:
        self.events = events
        self.first = seq_of(events[0], is_workspace_stream=is_workspace_stream)
        """The number of its first event in the stream."""
        self.last = seq_of(events[-1], is_workspace_stream=is_workspace_stream)
        self._frames: dict[View, Frames] = {}

    def frames(self, view: View) -> Frames:
        """Return all of it in one view, encoded once for all readers with that view."""
        frames = self._frames.get(view)
        if frames is None:
            frames = self._frames[view] = encode(self.events, view)
        return frames


def encode(events: Sequence[Event], view: View) -> Frames:
    """Encode events as one reader sees them."""
    return Frames(view(events))


def seq_of(event: Event, *, is_workspace_stream: bool) -> int:
    """Return an event's number in the workspace's stream, or in its entity's."""
    return event.event_seq if is_workspace_stream else event.stream_seq


class Subscription:
    """One reader's progress in one stream."""

    __slots__ = (
        "ended",
        "frame_view",
        "head",
        "is_closed",
        "is_workspace_stream",
        "last_visible",
        "live",
        "missed",
        "presence_view",
        "sent",
        "start",
        "stream_id",
        "view",
        "workspace_id",
    )

    def __init__(self, workspace_id: str, stream_id: str, *, start: int = 0) -> None:
        self.workspace_id = workspace_id
        self.stream_id = stream_id
        self.is_workspace_stream = stream_id == workspace_stream(workspace_id)
        """Whether this is the workspace's stream; else an entity's."""
        self.start = start
        """The cursor that it began after."""
        self.sent = start
        """The last number given to the reader."""
        self.head = start
        """The highest number known to be in the stream; kept up to date while behind."""
        self.live = False
        self.missed = False
        """Whether something was published while behind, since this was last reset."""
        self.last_visible: int | None = None
        """The ``event_seq`` above which the reader may see nothing (I8)."""
        self.is_closed = False
        """Whether that is so for every reader, the workspace being there no more."""
        self.ended: DalsegnoError | None = None
        """Why the hub has ended it; None while it has not."""
        self.view: View | None = None
        self.frame_view: FrameView | None = None
        """How it sees what runs say; None: it does not."""
        self.presence_view: PresenceView | None = None
        """How it sees who is present in its workspace, likewise."""

    def __repr__(self) -> str:
        state = "live" if self.live else "behind"
        return f"<Subscription {self.stream_id} {state} at {self.sent}>"

    def begin(self, start: int, head: int) -> None:
        """Set the number to begin after, and the head of the stream."""
        self.start = self.sent = start
        self.head = max(self.head, head)

    def check_not_ended(self) -> None:
        """Raise the error that the hub ended it with, if it did."""
        if self.ended is not None:
            raise self.ended.with_traceback(None)  # one error for many readers

    def offer(self, item: Publication) -> Sequence[Event] | None:
        """Take a published item: return the events of it that are due, None if none are.

        The result is ``item.events`` itself if all of it is due.
        """
        if not self.live:
            self.missed = True
            self.head = max(self.head, item.last)
            return None
        if item.first > self.sent + 1:
            self.head = max(self.head, item.last)
            self.fall_behind(self.sent)
            return None
        due = item.events[self.sent + 1 - item.first :] if item.first <= self.sent else item.events
        if self.last_visible is not None:
            due = self.visible(due)
        if not due:
            return None
        self.sent = seq_of(due[-1], is_workspace_stream=self.is_workspace_stream)
        return due

    def reaches(self, published: int) -> bool:
        """Return whether everything due was given, the workspace being published up to a number."""
        if not self.is_workspace_stream:
            return self.sent >= self.head
        last = self.last_visible
        return self.sent >= (published if last is None else min(published, last))

    def take(self, page: Publication) -> Sequence[Event]:
        """Take the next page, while behind: return what is due of it, empty if it is all hidden.

        The result is ``page.events`` itself if all of it is due.
        """
        assert page.first == self.sent + 1, "the page that follows"
        due = self.visible(page.events)
        if due:
            self.sent = seq_of(due[-1], is_workspace_stream=self.is_workspace_stream)
        return due

    @property
    def is_level(self) -> bool:
        """Whether it is given all that is published, as it is published, and goes on being so."""
        return self.live and self.last_visible is None and self.ended is None

    def visible(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return the events that the reader may see."""
        last = self.last_visible
        if last is None or not events or events[-1].event_seq <= last:
            return events
        return [event for event in events if event.event_seq <= last]

    def fall_behind(self, sent: int) -> None:
        """Go back to what was certainly given; the rest is read again."""
        self.live = False
        self.missed = True
        self.head = max(self.head, self.sent)
        self.sent = min(self.sent, sent)

    def revoke(self, last_visible: int, *, from_all: bool = False) -> None:
        """Hide everything above an event; the barrier, once set, only moves down.

        ``from_all`` says that the workspace ended there, and not this reader's membership.
        """
        self.is_closed = self.is_closed or from_all
        old = self.last_visible
        self.last_visible = last_visible if old is None else min(old, last_visible)

    def farewell(self) -> DalsegnoError:
        """Return what a reader whose barrier was reached is told."""
        return not_found("workspace") if self.is_closed else membership_ended()
