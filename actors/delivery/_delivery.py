"""What the hubs of one runtime share: readers to be flushed, and events in memory for readers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import NobodyWatches
from dalsegno.protocol import OverloadedError

from ._pages import Pages, PagesStatistics
from ._tail import Tails, TailsStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable

    from dalsegno.actors.ports import Roles, SocketSubscriber, Store, Watcher
    from dalsegno.protocol import Limits


@dataclass(frozen=True, slots=True)
class DeliveryStatistics:
    """What is in memory for readers, and how many are subscribing, at one moment."""

    tails: TailsStatistics
    pages: PagesStatistics
    subscribing: int
    """Subscribe requests that are asking the store …"""
    waiting: int
    """… and those that wait for their turn."""


class Delivery:
    """What the hubs of one runtime share; see the module."""

    def __init__(self, store: Store, *, roles: Roles, limits: Limits) -> None:
        self.store = store
        self.roles = roles
        self.limits = limits
        self.watcher: Watcher = NobodyWatches()
        self.tails = Tails(bytes_max=limits.tail_bytes_max)
        self.pages = Pages(bytes_max=limits.pages_bytes_max)
        self._looking_up = trio.CapacityLimiter(limits.subscribing_max)
        self._dirty: dict[SocketSubscriber, None] | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.tails!r}, {self.pages!r}>"

    def statistics(self) -> DeliveryStatistics:
        """Return what is kept, and how many wait."""
        return DeliveryStatistics(
            tails=self.tails.statistics(),
            pages=self.pages.statistics(),
            subscribing=self._looking_up.borrowed_tokens,
            waiting=self._looking_up.statistics().tasks_waiting,
        )

    @asynccontextmanager
    async def looking_up(self) -> AsyncIterator[None]:
        """Take one of the bounded number of turns to ask the store, in order of arrival.

        Raises:
            OverloadedError: the turn did not come in time.

        """
        with trio.move_on_after(self.limits.answer_deadline_s) as scope:
            await self._looking_up.acquire()
        if scope.cancelled_caught:
            raise OverloadedError("too many subscribe at the same time")
        try:
            yield
        finally:
            self._looking_up.release()

    def begin(self) -> None:
        """Begin to collect; until `end`, which follows in the same step, nobody is flushed."""
        assert self._dirty is None, "publishing does not nest"
        self._dirty = {}

    def touch(self, subscriber: SocketSubscriber) -> None:
        """Note that a subscriber has something to write; outside of a collection, write it."""
        if self._dirty is None:
            subscriber.flush_nowait()
        else:
            self._dirty[subscriber] = None

    def end(self) -> Iterable[SocketSubscriber]:
        """Stop collecting; return the subscribers to be flushed."""
        dirty, self._dirty = self._dirty, None
        assert dirty is not None, "begun before"
        return dirty

    def leave_cohorts(self, workspace_id: str, stream_ids: Collection[str]) -> None:
        """Serve those that have something to write individually, so that all goes in one write."""
        for subscriber in self._dirty or ():
            subscriber.leave_cohorts(workspace_id, stream_ids)

    async def flush(self, dirty: Iterable[SocketSubscriber]) -> None:
        """Flush each once, and let others run in between."""
        for count, subscriber in enumerate(dirty, 1):
            subscriber.flush_nowait()
            if count % self.limits.offers_per_yield == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
