"""How often something may happen."""

from __future__ import annotations

_SECOND = 1.0


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
