"""The time of a node is the store's, whatever its machine's clock says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest
import trio
import trio.testing

from dalsegno.actors import Service, World
from dalsegno.actors.node import StoreClock
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits
from tests.actors._locks import Lock, TakeLock, locks
from tests.actors._nodes import moving_world
from tests.actors._world import DOMAINS, Actors


def off_by(off: timedelta, world: World) -> datetime:
    return world.now() + off


LIMITS = Limits(lease_s=10.0, lease_beat_s=2.0)


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


async def test_the_store_is_believed_as_far_as_the_question_took(
    clock: trio.testing.MockClock,
) -> None:
    true = moving_world().now
    ours = StoreClock(true)
    assert ours.now() == true(), "it was not asked yet"
    began = trio.current_time()
    await trio.sleep(2)
    ours.measured(true(), began=began)
    off = ours.now() - true()
    assert off == timedelta(seconds=1), "in the middle of what is possible"
    began = trio.current_time()
    await trio.sleep(4)
    ours.measured(true(), began=began)
    assert ours.now() - true() == off, "a slow answer proves nothing wrong"
    ours.measured(true(), began=trio.current_time())
    assert ours.now() == true()
    began, said = trio.current_time(), true()
    await trio.sleep(1)
    ours.measured(said, began=began)
    assert ours.now() == true(), "it was said before it arrived"


async def test_a_jump_of_the_stores_clock_is_followed_and_told(
    clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    true = moving_world().now
    ours = StoreClock(true)
    ours.measured(true(), began=trio.current_time())
    for jump_s in (90.0, -30.0):
        later = true() + timedelta(seconds=jump_s)
        ours.measured(later, began=trio.current_time())
        assert ours.now() == later
    assert [message for message in caplog.messages if "jumped" in message] == [
        "the store's clock has jumped by +90.0 s",
        "the store's clock has jumped by -120.0 s",
    ]


async def test_a_machines_clock_that_is_off_is_told_once(
    clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    true, off = moving_world().now, timedelta(minutes=10)

    def machine() -> datetime:
        return true() + off

    ours = StoreClock(machine)
    for _ in range(3):
        ours.measured(true(), began=trio.current_time())
    assert ours.machine_off_s == 600
    assert len(caplog.messages) == 1
    assert "this machine's clock is +600.0 s off the store's" in caplog.text
    off = timedelta(milliseconds=900)
    ours.measured(true(), began=trio.current_time())
    off = -timedelta(minutes=1)
    ours.measured(true(), began=trio.current_time())
    assert len(caplog.messages) == 2


async def test_two_nodes_whose_machines_disagree_write_the_same_time(
    clock: trio.testing.MockClock,
) -> None:
    """One is ten minutes ahead: its locks lapse when the other's would, and it takes over well."""
    true = moving_world()
    store = MemoryStore(true)
    lapsed = []
    for node_id, off in (("ahead", timedelta(minutes=10)), ("behind", -timedelta(minutes=10))):
        world = replace(true, now=partial(off_by, off, true))
        service = Service(
            store, [*DOMAINS, locks], node_id=node_id, world=world, limits=LIMITS, store_time=True
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            workspace = Actors(service, nursery.cancel_scope).workspace("w")
            before = true.now()
            await workspace.send(TakeLock(node_id, "me", 5))
            lock = await workspace.get(locks, node_id)
            assert isinstance(lock, Lock)
            assert abs(lock.until - before - timedelta(seconds=5)) < timedelta(milliseconds=10)
            await trio.sleep(4.9)
            lock = await workspace.get(locks, node_id)
            assert isinstance(lock, Lock)
            assert lock.holder == "me"
            await trio.sleep(1.1)
            lock = await workspace.get(locks, node_id)
            assert isinstance(lock, Lock)
            lapsed.append((lock.holder, lock.lapses, lock.wrong))
            assert service.statistics().lease.machine_off_s == off.total_seconds()
            assert abs(service.world.now() - true.now()) < timedelta(milliseconds=10)
            await service.lease.end()
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
    assert lapsed == [(None, 1, None)] * 2
