"""What timers have done lately: which of them are tried again, and when."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from dalsegno.actors.ports import DueEntity
    from dalsegno.protocol import Limits

_RESTLESS = 1_000
"""Firings of one entity in a row, each of which asks for the next at once, before it is slowed: as
many portions as a quarter of a million entities are changed in."""


@dataclass(slots=True)
class _Attempts:
    """Of one entity."""

    due_at: datetime
    failed: int
    """How often its timer fired and was due as before."""
    in_a_row: int
    """How often it fired and asked for the next at once."""
    again_at: float
    """Trio's clock: not before."""


class Attempts:
    """The attempts at the timers that have fired here, the latest of them."""

    def __init__(self, *, limits: Limits) -> None:
        self._first_s = 2 * limits.timer_tick_s
        self._last_s = limits.timer_backoff_max_s
        self._count_max = limits.timers_stuck_max
        self._known: OrderedDict[tuple[str, str], _Attempts] = OrderedDict()
        self._seen: set[tuple[str, str]] = set()
        """Those of them that are due, as far as this look has come, or fired since it began."""

    def __len__(self) -> int:
        return len(self._known)

    @property
    def stuck(self) -> int:
        """How many fired twice and are due as before."""
        return sum(each.failed > 1 for each in self._known.values())

    def may_fire(self, due: DueEntity, now: float) -> bool:
        """Return whether it is time for a timer, the first time or again."""
        known = self._known.get(due.ids)
        if known is None:
            return True
        self._seen.add(due.ids)
        if known.due_at != due.due_at:
            known.due_at, known.failed, known.in_a_row = due.due_at, 0, known.in_a_row + 1
            slowed = known.in_a_row - _RESTLESS
            known.again_at = now + (self._delay_s(slowed) if slowed > 0 else 0)
        return now >= known.again_at

    def fired(self, due: DueEntity, now: float) -> bool:
        """Note that a timer has fired; return whether it is the first time that it is stuck.

        Whether anything moved is seen at the next look: who is due as before is slowed then.
        """
        known = self._of(due, now)
        known.failed += 1
        known.again_at = max(known.again_at, now + self._delay_s(known.failed))
        return known.failed == 2 or known.in_a_row == _RESTLESS

    def postpone(self, due: DueEntity, now: float) -> None:
        """Note that a timer could not fire now, which says nothing of it."""
        known = self._of(due, now)
        known.again_at = now + self._first_s

    def looked_at_everything(self) -> None:
        """Forget those that are not due any more."""
        for ids in self._known.keys() - self._seen:
            del self._known[ids]
        self._seen.clear()

    def _of(self, due: DueEntity, now: float) -> _Attempts:
        """Return what is known of an entity, from now on if nothing was."""
        known = self._known.get(due.ids)
        if known is None:
            known = self._known[due.ids] = _Attempts(due.due_at, 0, 0, now)
            if len(self._known) > self._count_max:
                oldest, _ = self._known.popitem(last=False)
                self._seen.discard(oldest)
        self._seen.add(due.ids)
        return known

    def _delay_s(self, failed: int) -> float:
        return min(self._first_s * 2.0 ** min(failed - 1, 30), self._last_s)
