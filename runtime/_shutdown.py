"""What clients hear when the server leaves: when to come back, and then goodbye.

Clients that are sent away together come back together, and the first thing that each of them wants
is a look at the database.  So each gets a slot of its own: `reconnects_per_s` of them a second, or
as many as it takes for all to be back within `reconnect_window_s`.  Within its slot chance decides,
so that two servers that leave together do not send their clients in step.

It is said at once, so that a client can tell a server that left from one that fell; the connection
carries on until what it asked for is settled, and the slot counts from its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Close, message

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors import Connection, Service
    from dalsegno.protocol import Limits


def slots_ms(count: int, limits: Limits, random: Callable[[], float]) -> list[int]:
    """Spread clients over the time after the goodbye; one alone may come back at once."""
    window_s = min(count / limits.reconnects_per_s, limits.reconnect_window_s)
    return [int((index + random()) * window_s / count * 1000) for index in range(count)]


class Shutdown:
    """The end of a server's connections."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._slots: dict[Connection, int] = {}

    async def announce(self) -> None:
        """Tell every client its slot; the connections carry on."""
        await self._tell(list(self._service.connections))

    async def close(self) -> None:
        """Close every connection; who came after `announce` is told now."""
        there = list(self._service.connections)
        await self._tell([each for each in there if each not in self._slots])
        for count, each in enumerate(there, 1):
            each.close(Close.GOING_AWAY, f"reconnect after {self._slots[each]} ms")
            await self._pause(count)

    async def _tell(self, connections: list[Connection]) -> None:
        service = self._service
        slots = slots_ms(len(connections), service.limits, service.world.random)
        self._slots.update(zip(connections, slots, strict=True))
        for count, (each, after_ms) in enumerate(zip(connections, slots, strict=True), 1):
            each.writer.reply(message("reconnect", after_ms=after_ms))
            await self._pause(count)

    async def _pause(self, count: int) -> None:
        """Let others run, after every so many."""
        if count % self._service.limits.offers_per_yield == 0:
            await trio.lowlevel.checkpoint()
