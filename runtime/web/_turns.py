"""Turns at a scarce resource: those who wait for it have it by turns, however many each sends.

A queue in order of arrival belongs to whoever fills it.  Here each client waits in a queue of its
own, and when a place becomes free the next client has its turn.  So one that sends seventy requests
at once delays another by one turn, and only itself by seventy.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_RETRY_AFTER_S = 2.0
"""About what the queue of one client takes."""


class _Waiting:
    """One that waits, until it has a place or has to leave."""

    __slots__ = ("called", "has_place")

    def __init__(self) -> None:
        self.called = trio.Event()
        self.has_place = False


class Turns:
    """A number of places, and the clients that wait for one."""

    def __init__(self, places: int, *, each_max: int, waiting_max: int) -> None:
        """Make it.

        Args:
            places: how many may be busy at the same time.
            each_max: how many may wait of one client.
            waiting_max: how many may wait in all.

        """
        self._free = places
        self._each_max = each_max
        self._waiting_max = waiting_max
        self._waiting_count = 0
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        """Those that wait, by client, the client whose turn is next first."""

    def __repr__(self) -> str:
        return f"<Turns: {self._waiting_count} of {len(self._queues)} clients wait>"

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn of ``client``, and hold a place for the length of a block.

        Raises:
            OverloadedError: too many of this client wait already; or too many in all, and no other
                client has more of them, whose newest would otherwise have to leave.

        """
        if self._free:
            self._free -= 1
            await self._settle()
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _settle(self) -> None:
        try:
            await trio.lowlevel.checkpoint()
        except BaseException:
            self._pass_on()
            raise

    async def _wait(self, client: str) -> None:
        queue = self._queues.get(client, ())
        if len(queue) >= self._each_max:
            raise OverloadedError(
                "too many of your requests wait already", retry_after_s=_RETRY_AFTER_S
            )
        if self._waiting_count >= self._waiting_max:
            self._make_room(len(queue))
        waiting = _Waiting()
        self._queues.setdefault(client, deque()).append(waiting)
        self._waiting_count += 1
        try:
            await waiting.called.wait()
        except BaseException:
            if waiting.has_place:
                self._pass_on()  # in the very step in which it was cancelled
            elif not waiting.called.is_set():
                self._remove(client, waiting)
            raise
        if not waiting.has_place:
            raise _overloaded()

    def _make_room(self, count: int) -> None:
        """Send away the newest of the longest queue, for a client that has ``count`` in its own."""
        client, longest = max(self._queues.items(), key=lambda item: len(item[1]))
        if count + 1 >= len(longest):
            raise _overloaded()
        newest = longest[-1]
        self._remove(client, newest)
        newest.called.set()

    def _remove(self, client: str, waiting: _Waiting) -> None:
        queue = self._queues[client]
        queue.remove(waiting)
        self._waiting_count -= 1
        if not queue:
            del self._queues[client]

    def _pass_on(self) -> None:
        """Give a place to the client whose turn it is, and let the others come before its next."""
        if not self._queues:
            self._free += 1
            return
        client, queue = next(iter(self._queues.items()))
        self._queues.move_to_end(client)
        next_ = queue[0]
        self._remove(client, next_)
        next_.has_place = True
        next_.called.set()


def _overloaded() -> OverloadedError:
    return OverloadedError("too many requests wait", retry_after_s=_RETRY_AFTER_S)
