"""What one attempt at a run says, on its way to those who follow the run while it is said.

Frames are not events: nobody stores them, they have no number in a stream, and nothing waits for
them.  A reader that has the frame before one is given that one.  Whoever missed a frame, or has
come since, is given the *tail* instead, which is all that is not durable yet, and that at most
every `TAIL_S`.  A reader that takes its time misses frames, and loses nothing else.

What is committed and what is said must not get in each other's way, so a frame goes only to those
that were given everything published: they are live, nothing of theirs waits to be written, and no
commit is being published.  So nobody gets a frame before the event with which the attempt began,
none after the one with which it ended, and none after the one that ended a membership (I8).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from dalsegno.protocol import Frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dalsegno.actors.ports import Subscriber
    from dalsegno.protocol import Frame, FrameView, Subscription, TailFrame

    from ._hub import Hub

OneT = TypeVar("OneT")

_log = logging.getLogger("dalsegno.runs")

TAIL_S = 0.25
"""A reader is given a run's tail at most that often, in seconds."""


class Spoken(Protocol):
    """What was said, as far as it is not durable."""

    @property
    def committed_to(self) -> int:
        """The last frame that is known to be durable."""

    def tails(self) -> Sequence[TailFrame]:
        """Return what is not, one behind the other."""


class Live:
    """The frames of one attempt, to their readers."""

    def __init__(
        self,
        hub: Hub,
        stream_id: str,
        spoken: Spoken,
        *,
        offers_per_yield: int,
        may_say: Callable[[], bool],
    ) -> None:
        """Make it.

        Args:
            hub: the workspace's.
            stream_id: the run's stream.
            spoken: what was said.
            offers_per_yield: readers that are written to before others have a turn.
            may_say: whether this node serves the workspace, as far as can be known here.

        """
        self.is_over = False
        """Whether the attempt has said what it had to say."""
        self._hub = hub
        self._stream_ids = (stream_id, hub.stream_id)
        self._spoken = spoken
        self._offers_per_yield = offers_per_yield
        self._may_say = may_say
        self._level: set[Subscription] = set()
        """Those that have the last frame."""
        self._tailed: dict[Subscription, float] = {}
        """When a tail was last given to whom, within `TAIL_S`, the longest ago first."""
        self._is_writing = False
        self._turn = trio.lowlevel.ParkingLot()
        """Those that wait until what is being written is."""

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"{len(self._level)} readers have all"
        return f"<Live {self._stream_ids[0]}, {state}>"

    async def say(self, frame: Frame) -> None:
        """Give a frame to those that follow, or the tail; without a checkpoint if few do.

        Cancelled, some of them lack it.
        """
        await self._write(frame)

    async def catch_up(self) -> None:
        """Give the tail to those that lack some of it."""
        await self._write(None)

    async def _write(self, frame: Frame | None) -> None:
        """Write to each reader what it is due, once everybody has what was written before."""
        while self._is_writing:
            await self._turn.park()
        self._is_writing = True
        try:
            before = self._level
            if frame is not None:
                self._level = set()
            await self._write_to_all(frame, before)
        finally:
            self._is_writing = False
            self._turn.unpark()

    async def _write_to_all(self, frame: Frame | None, before: set[Subscription]) -> None:
        hub, chunk = self._hub, self._offers_per_yield
        await hub.wait_published()
        shown, now = _Shown(frame, self._spoken), trio.current_time()
        self._forget(now - TAIL_S)
        readers = hub.hearing(self._stream_ids)
        for first in range(0, len(readers), chunk):
            if first > 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
                await hub.wait_published()
            if self.is_over or not self._may_say():
                return
            for subscription, subscriber in readers[first : first + chunk]:
                view = subscription.frame_view
                if view is not None and subscription.is_level:
                    self._give(subscription, subscriber, view, shown, before, now)

    def _give(
        self,
        subscription: Subscription,
        subscriber: Subscriber,
        view: FrameView,
        shown: _Shown,
        before: set[Subscription],
        now: float,
    ) -> None:
        """Write to one reader what it is due, if it takes something now."""
        has_last = subscription in before
        is_tail = False
        if shown.is_first or (has_last and shown.has_frame):
            frames = shown.frame(view)
        elif has_last:
            return
        elif subscription not in self._tailed:
            # Also where the frame alone would do: who began behind what is durable, and so does not
            # know where it is, has its place by it.
            frames, is_tail = shown.tail(view), True
        elif shown.follows_rollup:
            frames = shown.frame(view)
        else:
            return
        if frames is not None and subscriber.say(subscription, frames):
            self._level.add(subscription)
            if is_tail:
                self._tailed[subscription] = now

    def _forget(self, before: float) -> None:
        """Forget the tails that were given so long ago that another one may be."""
        while self._tailed:
            subscription = next(iter(self._tailed))
            if self._tailed[subscription] > before:
                return
            del self._tailed[subscription]


class _Shown:
    """A frame and the tail, encoded once for all readers that see them the same way."""

    def __init__(self, frame: Frame | None, spoken: Spoken) -> None:
        self.has_frame = frame is not None
        self.is_first = frame is not None and frame.frame_no == 1
        self.follows_rollup = frame is not None and frame.frame_no == spoken.committed_to + 1
        """Whether it needs no tail: who has what is durable can take it."""
        self._frame = frame
        self._spoken = spoken
        self._frames: dict[FrameView, Frames | None] = {}
        self._tails: dict[FrameView, Frames | None] = {}
        self._to_tell: Sequence[TailFrame] | None = None

    def frame(self, view: FrameView) -> Frames | None:
        """Return the frame as readers with a view see it; None: they do not."""
        if view not in self._frames:
            assert self._frame is not None, "there is one to be shown"
            self._frames[view] = _encoded(view.frame, [self._frame])
        return self._frames[view]

    def tail(self, view: FrameView) -> Frames | None:
        """Return the tail likewise; None also where everything is durable."""
        if view not in self._tails:
            if self._to_tell is None:  # as it is now, whatever is written while others take turns
                self._to_tell = self._spoken.tails()
            self._tails[view] = _encoded(view.tail, self._to_tell)
        return self._tails[view]


def _encoded(encode: Callable[[OneT], bytes | None], said: Sequence[OneT]) -> Frames | None:
    """Return what is said in a dialect; None where it has no word for it, or fails (I10)."""
    try:
        texts = [text for each in said if (text := encode(each)) is not None]
    except Exception:  # noqa: BLE001 - a dialect's fault must not end the run
        _log.exception("what a run says cannot be shown")
        return None
    return Frames(texts) if texts else None
