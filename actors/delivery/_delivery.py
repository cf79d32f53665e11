"""What the hubs of one runtime share: who is to be flushed, and what is in memory for readers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from dalsegno.protocol import OverloadedError

from ._pages import Pages, PagesStatistics
from ._tail import Tails, TailsStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from dalsegno.actors.ports import Store, Transport
    from dalsegno.protocol import DalsegnoError, Limits, Published, Subscription

    from ._hub import Hub


class Follower(Protocol):
    """Who holds subscriptions: a connection, or a loop in the host's program."""

    user_id: str | None
    """Whose eyes these are; None for the host's own."""

    def offer(self, subscription: Subscription, item: Published) -> None:
        """Take what is due of an item; never waits, never raises."""

    def revoked(self, subscription: Subscription) -> None:
        """Notice that everything visible was offered; ends it unless it is behind."""

    def ended(self, subscription: Subscription, error: DalsegnoError) -> None:
        """Notice that nothing more comes, and why; never waits, never raises."""


class Writing(Follower, Protocol):
    """A follower that writes; it may be in step with others, and what is due to all is written."""

    transport: Transport

    def flush_nowait(self) -> None:
        """Write what is due, as far as that goes without waiting; never raises."""

    def step_out(self, hub: Hub) -> None:
        """Let its subscriptions at a hub go on by themselves; never raises."""

    def write_on(self) -> None:
        """Have written what the transport did not take at once; never raises."""

    def broke(self, error: Exception) -> None:
        """Notice the error of a write, in its handler; never raises."""


@dataclass(frozen=True, slots=True)
class DeliveryStatistics:
    """What is in memory for readers, and how many wait to subscribe."""

    tails: TailsStatistics
    pages: PagesStatistics
    subscribing: int
    """Those that ask the store …"""
    waiting: int
    """… and those that wait for their turn."""


class Delivery:
    """What the hubs of one runtime share; see the module."""

    def __init__(self, store: Store, *, limits: Limits) -> None:
        self.store = store
        self.limits = limits
        self.tails = Tails(bytes_max=limits.tail_bytes_max)
        self.pages = Pages(bytes_max=limits.pages_bytes_max)
        self._looking_up = trio.CapacityLimiter(limits.subscribing_max)
        self._dirty: dict[Writing, None] | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.tails!r}, {self.pages!r}>"

    def statistics(self) -> DeliveryStatistics:
        """Tell what is kept, and who waits."""
        return DeliveryStatistics(
            tails=self.tails.statistics(),
            pages=self.pages.statistics(),
            subscribing=self._looking_up.borrowed_tokens,
            waiting=self._looking_up.statistics().tasks_waiting,
        )

    @asynccontextmanager
    async def looking_up(self) -> AsyncIterator[None]:
        """Be one of those who ask the store in order to subscribe; in order of arrival.

        Raises:
            OverloadedError: it was not this one's turn for too long.

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

    def touch(self, writing: Writing) -> None:
        """Note that somebody has something to write, or write it at once."""
        if self._dirty is None:
            writing.flush_nowait()
        else:
            self._dirty[writing] = None

    def end(self) -> Iterable[Writing]:
        """Stop collecting; tell who is to be flushed."""
        dirty, self._dirty = self._dirty, None
        assert dirty is not None, "begun before"
        return dirty

    def part(self, hub: Hub) -> None:
        """Let those who have something to write go on by themselves at a hub, to write it all."""
        for writing in self._dirty or ():
            writing.step_out(hub)

    async def flush(self, dirty: Iterable[Writing]) -> None:
        """Flush everybody once, and let others run in between."""
        for count, writing in enumerate(dirty, 1):
            writing.flush_nowait()
            if count % self.limits.offers_per_yield == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
