"""When to try again, and when to give up: bookkeeping without a clock and without randomness."""

from __future__ import annotations

from collections import deque

_DOUBLINGS_MAX = 30
"""Far above any ratio of two bounds, and no overflow."""


class Backoff:
    """Delays with full jitter below a bound that doubles with each failure."""

    __slots__ = ("_first_s", "_max_s", "failures")

    def __init__(self, first_s: float, max_s: float) -> None:
        """Begin without failures.

        Args:
            first_s: the bound after the first failure, in seconds.
            max_s: the largest bound, in seconds.

        """
        self._first_s = first_s
        self._max_s = max_s
        self.failures = 0
        """Consecutive failures."""

    def __repr__(self) -> str:
        return f"<Backoff after {self.failures} failures>"

    def reset(self) -> None:
        """Forget the failures, after something that worked."""
        self.failures = 0

    def next_s(self, random: float) -> float:
        """Count a failure and return the delay before the next attempt, in seconds.

        Args:
            random: uniform in [0, 1), drawn by the caller; 1 for the bound itself.

        """
        self.failures += 1
        doubled_s = self._first_s * 2.0 ** min(self.failures - 1, _DOUBLINGS_MAX)
        return random * min(doubled_s, self._max_s)


class FailureWindow:
    """Failures within a sliding window of time."""

    __slots__ = ("_failures", "_max", "window_s")

    def __init__(self, failures_max: int, window_s: float) -> None:
        self.window_s = window_s
        self._max = failures_max
        self._failures: deque[float] = deque(maxlen=failures_max + 1)

    def __len__(self) -> int:
        return len(self._failures)

    def add(self, now: float) -> bool:
        """Count a failure at ``now`` (seconds); return whether there are too many in the window."""
        self._failures.append(now)
        while self._failures[0] < now - self.window_s:
            self._failures.popleft()
        return len(self._failures) > self._max
