"""How much each user may have written: so many bytes a minute, saved up for a minute (I10).

What a command makes the database write can be a thousand times its own length: a rollback writes a
whole text again, a keystroke from time to time a whole state.  So it is counted where it is known,
when a command has been decided, and whoever has spent more than is left waits for the rest.  The
program itself has no budget.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import RateLimitedError

if TYPE_CHECKING:
    from dalsegno.protocol import Principal

_MINUTE_S = 60.0


class WriteBudgets:
    """The budgets of those users who wrote something lately; the longest silent are forgotten."""

    def __init__(self, *, bytes_per_minute: int, users_max: int) -> None:
        self._bytes_per_minute = bytes_per_minute
        self._users_max = users_max
        self._spent: OrderedDict[str | None, tuple[float, float]] = OrderedDict()
        """What each has spent and not earned again, and when that was so; the silent first."""

    def __repr__(self) -> str:
        return f"<WriteBudgets of {len(self._spent)} users>"

    def refusal(self, principal: Principal) -> RateLimitedError | None:
        """Return why a user may have nothing written now, and when again; None if it may."""
        owed = self._spent.get(principal.user_id)
        if owed is None or owed[0] < self._bytes_per_minute:
            return None  # even if nothing had been earned since
        over = self._left_of(owed, trio.current_time()) - self._bytes_per_minute
        if over < 0:
            return None
        return RateLimitedError(
            "this user has had too much written in the last minute",
            retry_after_s=1 + math.floor(over / self._bytes_per_minute * _MINUTE_S),
        )

    def spend(self, principal: Principal, size: int) -> None:
        """Count bytes that are written for a user; the last command may spend more than is left."""
        user_id = principal.user_id
        if user_id is not None:
            now = trio.current_time()
            owed = self._spent.pop(user_id, None)
            self._spent[user_id] = (size if owed is None else size + self._left_of(owed, now), now)
            if len(self._spent) > self._users_max:
                self._spent.popitem(last=False)

    def _left_of(self, owed: tuple[float, float], now: float) -> float:
        """Return what is left of what was owed at some time."""
        return max(owed[0] - (now - owed[1]) * self._bytes_per_minute / _MINUTE_S, 0.0)
