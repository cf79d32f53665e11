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
_NOTHING = (0.0, 0.0)


class WriteBudgets:
    """The budgets of those users who wrote something lately; the longest silent are forgotten."""

    def __init__(self, *, bytes_per_minute: int, users_max: int) -> None:
        self._bytes_per_minute = bytes_per_minute
        self._users_max = users_max
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What each has spent and not earned again, and when that was so; the silent first."""

    def __repr__(self) -> str:
        return f"<WriteBudgets of {len(self._spent)} users>"

    def refusal(self, principal: Principal) -> RateLimitedError | None:
        """Return why a user may have nothing written now, and when again; None if it may."""
        if principal.user_id is None:
            return None
        if principal.user_id not in self._spent:
            return None
        over = self._owed(principal.user_id, trio.current_time()) - self._bytes_per_minute
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
            self._spent[user_id] = (self._owed(user_id, now) + size, now)
            self._spent.move_to_end(user_id)
            if len(self._spent) > self._users_max:
                self._spent.popitem(last=False)

    def _owed(self, user_id: str, now: float) -> float:
        spent, since = self._spent.get(user_id, _NOTHING)
        return max(spent - (now - since) * self._bytes_per_minute / _MINUTE_S, 0.0)
