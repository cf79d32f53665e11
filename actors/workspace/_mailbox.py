"""A bounded first-in, first-out queue of commands, with room for those that come back.

It outlives the incarnations of its workspace: what an incarnation took and could not settle goes
back to the front, in order, and may exceed the bound, since it was admitted once already.

Whoever frees space admits the waiting senders in the same step, the longest waiting first.  So no
small item overtakes a large one, and once a mailbox is drained for good, no sender is left that
could still put something where nobody takes it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Sized(Protocol):
    """An item of a mailbox."""

    @property
    def size(self) -> int:
        """The bytes that it counts for."""


ItemT = TypeVar("ItemT", bound=Sized)


def _nothing(_item: object) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """A mailbox at one moment."""

    waiting: int
    """Items in it."""
    waiting_bytes: int
    senders: int
    """Tasks that wait for space."""


class Mailbox(Generic[ItemT]):
    """Bounded by count and by bytes; an item larger than the byte bound fits when it is alone."""

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self._items: deque[ItemT] = deque()
        self._bytes = 0
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._filled = trio.lowlevel.ParkingLot()
        self._senders: OrderedDict[trio.Event, ItemT] = OrderedDict()
        """The senders that wait for space, in order, each with its item."""

    def __repr__(self) -> str:
        return f"<Mailbox {len(self._items)}/{self._count_max}, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._items)

    def statistics(self) -> MailboxStatistics:
        """Return what waits."""
        return MailboxStatistics(len(self._items), self._bytes, len(self._senders))

    def send_nowait(self, item: ItemT) -> None:
        """Put an item at the end.

        Raises:
            trio.WouldBlock: there is no space, or others wait for it already.

        """
        if self._senders or self._is_full(item):
            raise trio.WouldBlock
        self._put(item)

    async def send(self, item: ItemT) -> None:
        """Put an item at the end once there is space; cancelled, it was not put."""
        try:
            self.send_nowait(item)
        except trio.WouldBlock:
            pass
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        admitted = trio.Event()
        self._senders[admitted] = item
        try:
            await admitted.wait()
        except trio.Cancelled:
            if admitted.is_set():
                return  # admitted meanwhile; the cancellation is raised at the next checkpoint
            del self._senders[admitted]
            self._admit_waiting()
            raise

    def give_back(self, items: Iterable[ItemT]) -> None:
        """Put items in front, in order; they were admitted before."""
        for item in reversed(list(items)):
            self._items.appendleft(item)
            self._bytes += item.size
        if self._items:
            self._filled.unpark_all()

    async def wait_filled(self) -> None:
        """Wait until there is something to take."""
        if self._items:
            await trio.lowlevel.checkpoint()
        while not self._items:
            await self._filled.park()

    def take(self, *, count_max: int, bytes_max: int) -> list[ItemT]:
        """Take from the front as much as there is and fits; a first item always fits."""
        items, taken = self._items, list[ItemT]()
        size = fitting = 0
        while items and len(taken) < count_max:
            size += items[0].size
            if taken and size > bytes_max:
                break
            fitting = size
            taken.append(items.popleft())
        self._bytes -= fitting
        if self._senders:
            self._admit_waiting()
        return taken

    def drain(self, keep: Callable[[ItemT], bool] = _nothing) -> list[ItemT]:
        """Take from the front up to the first item to keep."""
        drained: list[ItemT] = []
        while self._items and not keep(self._items[0]):
            drained += self.take(count_max=1, bytes_max=0)
        return drained

    def _is_full(self, item: ItemT) -> bool:
        count = len(self._items)
        return count >= self._count_max or (count > 0 and self._bytes + item.size > self._bytes_max)

    def _put(self, item: ItemT) -> None:
        self._items.append(item)
        self._bytes += item.size
        if self._filled:
            self._filled.unpark_all()

    def _admit_waiting(self) -> None:
        while self._senders:
            admitted, item = next(iter(self._senders.items()))
            if self._is_full(item):
                return
            del self._senders[admitted]
            self._put(item)
            admitted.set()
