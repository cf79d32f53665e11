"""How often something may happen."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import msgspec

from ._errors import DomainError

_SECOND = 1.0
_ROUNDING_S = 1e-6
"""Sums of intervals differ by less from what they stand for."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RateBudget:
    """A number of times a second, counted from the first.  Small, since each connection has some.

    Seconds are not sliding ones: at the seam of two of them twice as many may come together.
    """

    __slots__ = ("_begun", "_left", "_max")

    def __init__(self, per_s: int) -> None:
        self._max = per_s
        self._left = 0
        self._begun = -_SECOND

    def __repr__(self) -> str:
        return f"<RateBudget {self._left} of {self._max} left>"

    def spend(self, now: float) -> bool:
        """Count once more at ``now`` (seconds); return whether the budget of this second had it."""
        if now - self._begun >= _SECOND:
            self._begun = now
            self._left = self._max
        self._left -= 1
        return self._left >= 0


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How often something may happen, for each who is counted (KJ-RATE-1)."""

    name: str
    """What is counted together: two rates of one name share their buckets.  1 to 64 letters,
    digits, and ``-_.``, since answers tell it."""
    times: int = 60
    """So often at once after a rest, and on average in …"""
    window_s: float = 60.0
    """… so many seconds."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DomainError(f"{self.name!r} is no name of a rate")
        if self.times < 1 or self.window_s <= 0:
            raise DomainError(f"{self.name}: a rate is at least once in some time")

    def spend(self, until: float | None, now: float) -> tuple[float, float]:
        """Count once more, by the generic cell rate algorithm (ITU-T I.371, A.1).

        Args:
            until: when the bucket is full again, in seconds, as was returned; None: it is.
            now: the time, in seconds of the same clock.

        Returns:
            When the bucket is full again now, and how long it has to wait in seconds: 0 where it
            may happen; otherwise nothing was counted.

        """
        interval_s = self.window_s / self.times
        until = now if until is None else min(max(until, now), now + self.window_s)  # clocks step
        wait_s = until + interval_s - now - self.window_s
        if wait_s > _ROUNDING_S:
            return until, wait_s
        return until + interval_s, 0.0


class Spent(NamedTuple):
    """What counting once more has come to."""

    wait_s: float
    """How long it has to wait, in seconds, and was not counted; 0: it may happen."""
    left: int
    """How often it may happen at once after that."""
    full_in_s: float
    """When all of it is there again, in seconds, if nothing happens until then."""


class Buckets:
    """Rates of many, each counted by a key.

    At most so many are kept: above, the one that was counted longest ago is forgotten, and begins
    full.  A full one is never missed.
    """

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._until: dict[tuple[str, str], float] = {}
        """In the order in which they were counted last."""

    def __repr__(self) -> str:
        return f"<Buckets, {len(self._until)} of them>"

    def spend(self, rate: Rate, key: str, now: float) -> Spent:
        """Count once more for a key at ``now``, in seconds."""
        named = rate.name, key
        until, wait_s = rate.spend(self._until.pop(named, None), now)
        self._until[named] = until
        if len(self._until) > self._kept_max:
            del self._until[next(iter(self._until))]
        full_in_s = until - now
        left = math.floor((rate.window_s - full_in_s) * rate.times / rate.window_s + _ROUNDING_S)
        return Spent(wait_s, left, full_in_s)
