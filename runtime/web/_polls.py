"""Long polls: requests that wait for what happens next.

Each holds a place among the requests of a server for as long as it waits, so there is a bound of
their own below that, and one for each user, who has sockets instead.  A server that shuts down
answers them at once.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.protocol import Limits

_RETRY_AFTER_S = 2.0


class Polls:
    """The long polls of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: set[trio.CancelScope] = set()
        self._by_user: Counter[str] = Counter()
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Polls: {len(self._waiting)} wait>"

    @contextmanager
    def waiting(self, user_id: str, wait_s: float) -> Iterator[trio.CancelScope]:
        """Wait in a block, which is left once the time is over or the server shuts down.

        Yields the scope that leaves it.

        Raises:
            OverloadedError: too many wait, of this user or in all.

        """
        bound, of_user = self._limits.sockets_per_user_max, self._by_user[user_id]
        if len(self._waiting) >= self._limits.polls_max or 0 < bound <= of_user:
            raise OverloadedError("too many requests wait here", retry_after_s=_RETRY_AFTER_S)
        with trio.move_on_after(0 if self._is_over else wait_s) as scope:
            self._waiting.add(scope)
            self._by_user[user_id] += 1
            try:
                yield scope
            finally:
                self._waiting.discard(scope)
                self._by_user[user_id] -= 1
                if not self._by_user[user_id]:
                    del self._by_user[user_id]

    def end(self) -> None:
        """Answer those that wait, and those that come, at once."""
        self._is_over = True
        for scope in self._waiting:
            scope.cancel(reason="the server shuts down")
