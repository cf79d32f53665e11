"""How much each user may have written: so many bytes a minute, saved up for a minute (I10).

What a command makes the database write can be a thousand times its own length: a rollback writes a
whole text again, a keystroke from time to time a whole state.  So it is counted where it is known,
when a command has been decided, and whoever has spent more than is left waits for the rest.  The
program itself has no budget.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
from cachetools import LRUCache

from dalsegno.protocol import RateLimitedError

if TYPE_CHECKING:
    from dalsegno.protocol import Principal

_MINUTE_S = 60.0


class WriteBudgets:
    """The budgets of those users who wrote something lately; the longest silent are forgotten."""

    def __init__(self, *, bytes_per_minute: int, users_max: int) -> None:
        self._bytes_per_minute = bytes_per_minute
        self._spent: LRUCache[str, tuple[float, float]] = LRUCache(users_max)
        """What each has spent and not earned again, and when that was so."""

    def __repr__(self) -> str:
        return f"<WriteBudgets of {len(self._spent)} users>"

    def refusal(self, principal: Principal) -> RateLimitedError | None:
        """Return why a user may have nothing written now, and when again; None if it may."""
        if principal.user_id is None:
            return None
        over = self._owed(principal.user_id) - self._bytes_per_minute
        if over < 0:
            return None
        return RateLimitedError(
            "this user has had too much written in the last minute",
            retry_after_s=1 + math.floor(over / self._bytes_per_minute * _MINUTE_S),
        )

    def spend(self, principal: Principal, size: int) -> None:
        """Count bytes that are written for a user; the last command may spend more than is left."""
        if principal.user_id is not None:
            owed = self._owed(principal.user_id) + size
            self._spent[principal.user_id] = (owed, trio.current_time())

    def _owed(self, user_id: str) -> float:
        spent, since = self._spent.get(user_id, (0.0, 0.0))
        earned = (trio.current_time() - since) * self._bytes_per_minute / _MINUTE_S
        return max(spent - earned, 0.0)
