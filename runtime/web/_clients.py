"""The clients of a port that stay: sockets and event streams, counted together by user."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._admission import overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.actors import Connection, World
    from dalsegno.protocol import Limits


class Clients:
    """Those of one port; a runtime may have several."""

    def __init__(self, limits: Limits, world: World) -> None:
        self.is_ending = False
        """Whether no more are taken."""
        self._limits = limits
        self._random = world.random
        self._taken: Counter[str] = Counter()
        self._connections: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<Clients of {len(self._taken)} users>"

    def take(self, user_id: str) -> None:
        """Count a user's client, from before it is answered.

        Raises:
            OverloadedError: the user has as many as may be.

        """
        bound = self._limits.sockets_per_user_max
        if 0 < bound <= self._taken[user_id]:
            raise overloaded("too many sockets of this user", self._random)
        self._taken[user_id] += 1

    def leave(self, user_id: str) -> None:
        """Count a client no more: it has ended, or never began."""
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]

    @contextmanager
    def serving(self, connection: Connection) -> Iterator[None]:
        """Know a connection as one of this port's for the length of a block."""
        self._connections.add(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections
