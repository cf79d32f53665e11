"""The time that a node's deciders and timers get: the store's, by this node's monotonic clock.

The wall clocks of machines are wrong, each in its own way, and jump.  A node's own would let a lock
lapse early on one machine and late on the next.  So each beat asks the store for its time.  The
answer was true at some moment between the question and its return, which is all that is known: the
offset to the monotonic clock moves only as far as that proves it wrong.

Within a workspace time never goes back, whatever clock its owners have; that is the workspace's
matter.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("dalsegno.lease")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFF_S = 1.0
"""By which a machine's clock, or what the store says, is told to be off."""


class StoreClock:
    """The store's time, as far as a node knows it."""

    def __init__(self, machine: Callable[[], datetime]) -> None:
        self._machine = machine
        self._offset_s: float | None = None
        """Of the store's time since 1970 to Trio's clock; None: not asked yet."""
        self.machine_off_s = 0.0
        """By how much the machine's clock is ahead of the store's."""
        self._is_off = False

    def __repr__(self) -> str:
        return f"<StoreClock, the machine's is {self.machine_off_s:+.3f} s>"

    def now(self) -> datetime:
        """Return the time, UTC; the machine's until the store was asked."""
        if self._offset_s is None:
            return self._machine()
        return _EPOCH + timedelta(seconds=trio.current_time() + self._offset_s)

    def measured(self, said: datetime, *, began: float) -> None:
        """Take what the store said between ``began`` and now, in Trio's time, the time is."""
        ended, said_s = trio.current_time(), (said - _EPOCH).total_seconds()
        earliest, latest = said_s - ended, said_s - began
        if self._offset_s is None:
            self._offset_s = (earliest + latest) / 2
        else:
            moved = min(max(self._offset_s, earliest), latest)
            if abs(moved - self._offset_s) > _OFF_S:
                _log.warning("the store's clock has jumped by %+.1f s", moved - self._offset_s)
            self._offset_s = moved
        self.machine_off_s = (self._machine() - self.now()).total_seconds()
        was_off, self._is_off = self._is_off, abs(self.machine_off_s) > _OFF_S
        if self._is_off and not was_off:
            _log.warning(
                "this machine's clock is %+.1f s off the store's, which is used instead",
                self.machine_off_s,
            )
