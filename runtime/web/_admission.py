"""Admission: how many sockets there may be, and how many handshakes at the same time.

In a storm of reconnects, a connection that cannot be served yet must cost little.  There are three
bounds, the cheapest first:

    a socket      above connections_max + handshakes_max: answered 503 without being read; above
                  another handshakes_max of those, closed without an answer
    a WebSocket   above connections_max: answered 503 as soon as its head was read
    a handshake   above handshakes_max: waits its turn for head_deadline_s, then 503

So WebSockets alone never fill a server: a probe of a full one still gets its answer.  Each socket
is a descriptor: where the process may have fewer than the bounds add up to, they shrink, so that
``descriptors_reserved`` are left for the database, for files, and for whatever starts a program.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import OverloadedError
from dalsegno.runtime.resources import descriptors_max

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dalsegno.actors import World
    from dalsegno.protocol import Limits

_RETRY_LEAST_S = 1.0
"""Earlier, nothing will have changed."""
_RETRY_SPREAD_S = 4.0
"""Clients that were refused together should not return together."""

_SOCKETS_LEAST = 8
"""With fewer a server is of no use; it then runs out of descriptors, and says so."""
_OTHERS_SHARE = 8
"""One in so many sockets is for others than WebSockets, where descriptors are short."""


def overloaded(message: str, random: Callable[[], float]) -> OverloadedError:
    """Return the error of a full server, with a time after which to try again."""
    wait_s = _RETRY_LEAST_S + _RETRY_SPREAD_S * random()
    return OverloadedError(message, retry_after_s=round(wait_s, 3))


def create_admission(limits: Limits, world: World) -> Admission:
    """Return what counts the sockets that come one way, with the descriptors there are."""
    return Admission(limits, world.random, descriptors_max())


class Decision(Enum):
    """What to do with a new socket."""

    SERVED = auto()
    REFUSED = auto()
    """It is answered 503."""
    CLOSED = auto()
    """It gets no answer."""


class Admission:
    """Counts the sockets and handshakes of one port, and enforces its bounds."""

    def __init__(
        self, limits: Limits, random: Callable[[], float], descriptors_max: int | None
    ) -> None:
        self.refused = 0
        """Sockets that were refused or closed so far."""
        self._websockets_max = limits.connections_max
        self._others_max = limits.handshakes_max
        if descriptors_max is not None:
            sockets_max = max(descriptors_max - limits.descriptors_reserved, _SOCKETS_LEAST)
            self._others_max = min(self._others_max, sockets_max // _OTHERS_SHARE)
            # Beside the others there are as many that are being refused.
            self._websockets_max = min(self._websockets_max, sockets_max - 2 * self._others_max)
        self._limits = limits
        self._random = random
        self._sockets = {Decision.SERVED: 0, Decision.REFUSED: 0}
        self._handshakes = trio.Semaphore(limits.handshakes_max)

    @property
    def websockets_max(self) -> int:
        """How many WebSockets there may be, with the descriptors there are."""
        return self._websockets_max

    def __repr__(self) -> str:
        served, refused = self._sockets[Decision.SERVED], self._sockets[Decision.REFUSED]
        return f"<Admission {served} sockets, {refused} being refused>"

    def enter(self) -> Decision:
        """Decide about a new socket, and count it until `leave` unless it is to be closed."""
        decision = self._decide()
        if decision is not Decision.CLOSED:
            self._sockets[decision] += 1
        self.refused += decision is not Decision.SERVED
        return decision

    def refuse(self) -> Decision:
        """Count a new socket that is refused, whatever there is room for, until `leave`."""
        self._sockets[Decision.REFUSED] += 1
        self.refused += 1
        return Decision.REFUSED

    def leave(self, decision: Decision) -> None:
        """Stop counting a socket that has ended."""
        self._sockets[decision] -= 1

    def check_websockets(self, count: int) -> None:
        """Raise unless there may be so many WebSockets, those in their handshakes included.

        Raises:
            OverloadedError: there may not.

        """
        if count > self._websockets_max:
            self.refused += 1
            raise self.overloaded()

    @asynccontextmanager
    async def handshake(self) -> AsyncIterator[None]:
        """Wait in order for one of the ``handshakes_max``, and hold it for the length of a block.

        Raises:
            OverloadedError: none was free within ``head_deadline_s``.

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
        """Return the error of a full server, with the time after which to try again."""
        return overloaded("too many connections", self._random)

    def _decide(self) -> Decision:
        if self._sockets[Decision.SERVED] < self._websockets_max + self._others_max:
            return Decision.SERVED
        if self._sockets[Decision.REFUSED] < self._others_max:
            return Decision.REFUSED
        return Decision.CLOSED
