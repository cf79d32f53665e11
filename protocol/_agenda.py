"""What is due when: items by the time at which somebody has to look at them.

A timer that looks at everything there is costs the same whether anything is due or not.  This one
is asked for what is due.  Its items are in slots of a fixed length, so that putting one in, taking
it out and moving it cost the same however many there are.

Times are numbers of seconds of any clock that does not step back.
"""

from __future__ import annotations

from math import ceil
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Agenda(Generic[ItemT]):
    """Items, each with a time; never taken before it, and at most a slot after it."""

    def __init__(self, slot_s: float, now: float) -> None:
        """Make it.

        Args:
            slot_s: the length of a slot: how much later than its time an item may come.
            now: the time.

        """
        self._slot_s = slot_s
        self._taken = int(now // slot_s)
        """The last slot that was taken."""
        self._slots: dict[int, dict[ItemT, None]] = {}
        self._slot_of: dict[ItemT, int] = {}

    def __repr__(self) -> str:
        return f"<Agenda of {len(self)}>"

    def __len__(self) -> int:
        return len(self._slot_of)

    def put(self, item: ItemT, due: float) -> None:
        """Put an item in, or move it to another time; one in the past comes with the next slot."""
        self.discard(item)
        slot = max(ceil(due / self._slot_s), self._taken + 1)
        self._slot_of[item] = slot
        self._slots.setdefault(slot, {})[item] = None

    def discard(self, item: ItemT) -> None:
        """Take an item out, if it is there."""
        slot = self._slot_of.pop(item, None)
        if slot is not None:
            items = self._slots[slot]
            del items[item]
            if not items:
                del self._slots[slot]

    def take(self, now: float) -> list[ItemT]:
        """Take out what is due, the earliest first."""
        reached, due = int(now // self._slot_s), list[ItemT]()
        if reached - self._taken > len(self._slots):  # after a long pause
            slots = sorted(slot for slot in self._slots if slot <= reached)
        else:
            slots = list(range(self._taken + 1, reached + 1))
        self._taken = max(reached, self._taken)
        for slot in slots:
            due += self._slots.pop(slot, ())
        for item in due:
            del self._slot_of[item]
        return due
