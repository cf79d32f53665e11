"""The connections of this node by their ids: which there are, and who is to hear of an end.

A run may end with the connection that asked for it.  Who carries runs out knows that connection by
its id alone, and whoever holds it says here from when to when it is there.  An id is given once, so
one that is not here is gone, or was another process's, and is gone with that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LEFT_MAX = 10_000
"""Requests that were answered before their runs had ended and whose ids are kept.  Above it the
oldest counts as gone."""


class ConnectionIds:
    """The ids of the connections that are there; see the module."""

    def __init__(self) -> None:
        self._open: dict[str, dict[Callable[[], None], None]] = {}
        """… with what is to be called at the end of each."""
        self._left: dict[str, None] = {}
        """Those of requests that were answered, the oldest first."""

    def __repr__(self) -> str:
        return f"<ConnectionIds: {len(self)} there, {len(self._left)} of them answered>"

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, connection_id: object) -> bool:
        return connection_id in self._open

    def add(self, connection_id: str) -> None:
        """Note a connection that is there from now on."""
        self._open[connection_id] = {}

    def discard(self, connection_id: str) -> None:
        """Note that a connection has ended, and tell those that wait for it."""
        self._left.pop(connection_id, None)
        for tell in self._open.pop(connection_id, ()):
            tell()

    def leave(self, connection_id: str) -> None:
        """Keep the id of a request that was answered: its run goes on, though nobody waits."""
        if connection_id in self._open:
            self._left[connection_id] = None
        if len(self._left) > _LEFT_MAX:
            self.discard(next(iter(self._left)))

    def release(self, connection_id: str) -> None:
        """Forget the id of a request that was answered, once its run has ended; no other."""
        if connection_id in self._left:
            del self._left[connection_id]
            del self._open[connection_id]

    def watch(self, connection_id: str, tell: Callable[[], None]) -> None:
        """Call a function at the end of a connection, unless it has ended; it may not raise."""
        if connection_id in self._open:
            self._open[connection_id][tell] = None

    def unwatch(self, connection_id: str, tell: Callable[[], None]) -> None:
        """Call it no longer."""
        if connection_id in self._open:
            self._open[connection_id].pop(tell, None)
