"""Who gets in: how many sockets there may be, and how many handshakes at the same time.

A storm of reconnects must cost little for each that cannot be served yet.  Three bounds do that,
the cheapest first:

    a socket      above connections_max + handshakes_max: 503, unread; where handshakes_max are
                  being told that already, it is closed without a word
    a WebSocket   above connections_max: 503 as soon as its head was read
    a handshake   above handshakes_max: waits its turn within head_deadline_s, then 503

So WebSockets alone never take the last places: a probe of a full server still gets its answer.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dalsegno.protocol import Limits

_RETRY_LEAST_S = 1.0
"""Sooner nothing will have changed."""
_RETRY_SPREAD_S = 4.0
"""Those who were refused together should not come back together."""


class Place(Enum):
    """What becomes of a new socket."""

    SERVED = auto()
    REFUSED = auto()
    """It hears 503."""
    CLOSED = auto()
    """It hears nothing."""


class Admission:
    """The bounds of one port, and how full it is."""

    def __init__(self, limits: Limits, random: Callable[[], float]) -> None:
        self.refused = 0
        """Sockets so far for which there was no room."""
        self._limits = limits
        self._random = random
        self._sockets = {Place.SERVED: 0, Place.REFUSED: 0}
        self._handshakes = trio.Semaphore(limits.handshakes_max)

    def __repr__(self) -> str:
        served, refused = self._sockets[Place.SERVED], self._sockets[Place.REFUSED]
        return f"<Admission {served} sockets, {refused} being refused>"

    def enter(self) -> Place:
        """Find a place for a new socket; it is the socket's until `leave`."""
        place = self._place()
        if place is not Place.CLOSED:
            self._sockets[place] += 1
        self.refused += place is not Place.SERVED
        return place

    def leave(self, place: Place) -> None:
        """Give a place back."""
        self._sockets[place] -= 1

    def check_websockets(self, count: int) -> None:
        """Pass where so many WebSockets may be, those in their handshake included.

        Raises:
            OverloadedError: they may not.

        """
        if count > self._limits.connections_max:
            self.refused += 1
            raise self.overloaded()

    @asynccontextmanager
    async def handshake(self) -> AsyncIterator[None]:
        """Wait for one's turn, in order, and have it for the length of a block.

        Raises:
            OverloadedError: it did not come within ``head_deadline_s``.

        """
        with trio.move_on_after(self._limits.head_deadline_s) as waiting:
            await self._handshakes.acquire()
        if waiting.cancelled_caught:
            self.refused += 1
            raise self.overloaded()
        try:
            yield
        finally:
            self._handshakes.release()

    def overloaded(self) -> OverloadedError:
        """Say that there is no room, and when there may be."""
        wait_s = _RETRY_LEAST_S + _RETRY_SPREAD_S * self._random()
        return OverloadedError("too many connections", retry_after_s=round(wait_s, 3))

    def _place(self) -> Place:
        limits = self._limits
        if self._sockets[Place.SERVED] < limits.connections_max + limits.handshakes_max:
            return Place.SERVED
        if self._sockets[Place.REFUSED] < limits.handshakes_max:
            return Place.REFUSED
        return Place.CLOSED
