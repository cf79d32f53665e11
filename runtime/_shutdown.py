"""How a server's connections end when it shuts down: each client is told when to reconnect.

Clients that are disconnected together reconnect together, and each begins with a query.  So each
gets a slot of its own: `reconnects_per_s` of them a second, or as many as it takes for all to be
back within `reconnect_window_s`.  The moment within a slot is random, so that the clients of two
servers that shut down together do not arrive in step.

The slot is announced at once, so that a client can tell a shutdown from a crash.  The connection
stays open until the client's commands are settled, and the slot counts from when it closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Close

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors import Connection, Service
    from dalsegno.protocol import Limits


def slots_ms(count: int, limits: Limits, random: Callable[[], float]) -> list[int]:
    """Spread clients over the time after their disconnection; a single one may return at once."""
    window_s = min(count / limits.reconnects_per_s, limits.reconnect_window_s)
    return [int((index + random()) * window_s / count * 1000) for index in range(count)]


class Shutdown:
    """Ends the connections of a server."""

    def __init__(self, service: Service, connections: Callable[[], list[Connection]]) -> None:
        self._service = service
        self._connections = connections
        self._slots: dict[Connection, int] = {}

    async def announce(self) -> None:
        """Send every client its slot; the connections stay open."""
        await self._tell(self._connections())

    async def close(self) -> None:
        """Close every connection, having told those that came after `announce` their slots too."""
        connections = self._connections()
        await self._tell([each for each in connections if each not in self._slots])
        for count, each in enumerate(connections, 1):
            each.close(Close.GOING_AWAY, f"reconnect after {self._slots[each]} ms")
            await self._pause(count)

    async def _tell(self, connections: list[Connection]) -> None:
        service = self._service
        slots = slots_ms(len(connections), service.limits, service.world.random)
        self._slots.update(zip(connections, slots, strict=True))
        for count, (each, after_ms) in enumerate(zip(connections, slots, strict=True), 1):
            each.tell_reconnect(after_ms)
            await self._pause(count)

    async def _pause(self, count: int) -> None:
        """Yield to other tasks once every ``offers_per_yield`` connections."""
        if count % self._service.limits.offers_per_yield == 0:
            await trio.lowlevel.checkpoint()
