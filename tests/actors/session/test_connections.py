"""The timer of all connections goes by what is due, not by how many there are."""

from __future__ import annotations

import pytest
import trio

from dalsegno.actors.session._connections import Connections
from dalsegno.protocol import Close, Limits


class Fake:
    """A connection that is due so often, and counts how often it is looked at."""

    session_id = b""
    user_id = "u"

    def __init__(self, every_s: float) -> None:
        self.ticks: list[float] = []
        self._every_s = every_s

    def close(self, code: Close, reason: str) -> None:
        raise NotImplementedError

    def tick(self, now: float) -> float:
        self.ticks.append(now)
        return now + self._every_s

    def doubt(self) -> None:
        raise NotImplementedError

    def trust(self) -> None:
        raise NotImplementedError


async def test_a_connection_is_looked_at_when_it_said_so_and_not_in_between() -> None:
    connections: Connections[Fake] = Connections(limits=Limits())
    rarely, often, gone = Fake(30.0), Fake(2.0), Fake(5.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(connections.run)
        for one in (rarely, often, gone):
            connections.add(one)
        await trio.sleep(12)
        connections.discard(gone)
        looked_at = len(gone.ticks)
        await trio.sleep(108)
        nursery.cancel_scope.cancel()
    assert len(gone.ticks) == looked_at
    assert len(rarely.ticks) == 4
    assert all(30 <= b - a <= 31 for a, b in zip(rarely.ticks, rarely.ticks[1:], strict=False))
    assert 40 <= len(often.ticks) <= 61
    assert repr(connections) == "<Connections: 2 open>"


async def test_a_timer_that_is_started_again_has_lost_nobody() -> None:
    class Broken(Fake):
        def tick(self, now: float) -> float:
            super().tick(now)
            if len(self.ticks) == 1:
                raise ZeroDivisionError
            return now + self._every_s

    connections: Connections[Fake] = Connections(limits=Limits())
    first, second = Broken(5.0), Fake(5.0)
    connections.add(first)
    connections.add(second)
    with pytest.raises(ZeroDivisionError):
        await connections.run()
    async with trio.open_nursery() as nursery:
        await nursery.start(connections.run)
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert len(first.ticks) == 2
    assert len(second.ticks) == 1
