"""Ack frontiers: monotonic, shared by a client's connections, durable soon, never lower (I7)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from dalsegno.actors import AckedCursor, CursorKey, World
from dalsegno.actors.delivery import Delivery, Hub
from dalsegno.actors.delivery._acks import AckFrontiers
from dalsegno.actors.ports import Roles
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits, Reject, StaleCursorError, StoreUnavailableError
from tests.actors._boxes import Put
from tests.actors._nodes import node
from tests.actors._wire import wired
from tests.actors._world import (
    FaultyStore,
    Wall,
    check_log,
    eventually,
    roll_back,
    running,
    send_all,
)

KEY = CursorKey("u", "phone", "w", "workspace:w")
LIMITS = Limits()
HUB = Hub("w", delivery=Delivery(MemoryStore(Wall().world()), roles=Roles(()), limits=LIMITS))
"""At the beginning, which is in every history."""


@pytest.fixture
async def acks(store: FaultyStore) -> AsyncIterator[AckFrontiers]:
    acks = AckFrontiers(store, limits=LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acks.run)
        yield acks
        nursery.cancel_scope.cancel()


async def stored(store: FaultyStore, key: CursorKey = KEY) -> int | None:
    return (await store.read_cursors([key])).get(key)


async def test_a_frontier_begins_where_the_store_has_it(
    acks: AckFrontiers, store: FaultyStore
) -> None:
    await store.write_cursors({KEY: AckedCursor(5)})
    frontier = await acks.open(KEY, HUB)
    assert repr(frontier) == "<Frontier workspace:w of phone at 5>"
    with pytest.raises(StaleCursorError) as caught:
        acks.ack(frontier, 4, sent=9)
    assert caught.value.details["current_cursor"] == 5
    acks.ack(frontier, 5, sent=9)
    with pytest.raises(Reject) as ahead:
        acks.ack(frontier, 10, sent=9)
    assert ahead.value.code == "CURSOR_AHEAD"
    assert frontier.acked == 5


async def test_stale_beats_ahead(acks: AckFrontiers, store: FaultyStore) -> None:
    await store.write_cursors({KEY: AckedCursor(5)})
    with pytest.raises(StaleCursorError):
        acks.ack(await acks.open(KEY, HUB), 4, sent=2)


async def test_acks_are_durable_soon_and_coalesced(acks: AckFrontiers, store: FaultyStore) -> None:
    writes = 0

    async def count() -> None:
        nonlocal writes
        await trio.lowlevel.checkpoint()
        writes += 1

    store.before["write_cursors"] = count
    frontier = await acks.open(KEY, HUB)
    for seq in range(1, 51):
        acks.ack(frontier, seq, sent=99)
    await trio.sleep(LIMITS.ack_flush_s * 2)
    assert (await stored(store), writes) == (50, 1)
    await trio.sleep(1)
    assert writes == 1, "nothing moved, nothing is written"


async def test_what_could_not_be_written_is_written_later_and_the_newest_wins(
    acks: AckFrontiers, store: FaultyStore
) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    store.before["write_cursors"] = fail
    other = CursorKey("u", "phone", "w", "note:n")
    frontier, further = await acks.open(KEY, HUB), await acks.open(other, HUB)
    acks.ack(frontier, 3, sent=99)
    acks.ack(further, 1, sent=99)
    await trio.sleep(1)
    acks.ack(frontier, 4, sent=99)
    with pytest.raises(StoreUnavailableError):
        await acks.flush()
    assert "2 to write" in repr(acks)
    store.before.clear()
    await eventually(lambda: "0 to write" in repr(acks))
    assert (await stored(store), await stored(store, other)) == (4, 1)


async def test_a_cancelled_write_is_still_to_be_written(
    acks: AckFrontiers, store: FaultyStore
) -> None:
    frontier = await acks.open(KEY, HUB)
    acks.ack(frontier, 3, sent=9)
    store.before["write_cursors"] = trio.sleep_forever
    with trio.move_on_after(1):
        await acks.flush()
    store.before.clear()
    await acks.flush()
    assert await stored(store) == 3


async def test_two_connections_of_a_client_move_one_frontier(acks: AckFrontiers) -> None:
    one, two = await acks.open(KEY, HUB), await acks.open(KEY, HUB)
    acks.ack(one, 7, sent=9)
    with pytest.raises(StaleCursorError):
        acks.ack(two, 6, sent=9)
    acks.close(one)
    acks.ack(two, 8, sent=9)
    acks.close(two)
    assert repr(acks).startswith("<AckFrontiers 0 in use")


async def test_whoever_opens_sees_what_is_not_written_yet(
    acks: AckFrontiers, store: FaultyStore
) -> None:
    write = trio.Event()
    frontier = await acks.open(KEY, HUB)
    acks.ack(frontier, 7, sent=9)
    acks.close(frontier)
    again = await acks.open(KEY, HUB)
    assert again.acked == 7
    acks.close(again)
    store.before["write_cursors"] = write.wait
    await trio.sleep(1)  # it is being written now
    assert (await acks.open(KEY, HUB)).acked == 7
    write.set()


async def test_an_opening_that_takes_long_never_brings_a_frontier_back(
    acks: AckFrontiers, store: FaultyStore
) -> None:
    first = await acks.open(KEY, HUB)
    acks.ack(first, 3, sent=99)
    acks.close(first)
    read = trio.Event()
    store.before["read_cursors"] = read.wait  # what it read is outdated by now
    async with trio.open_nursery() as nursery:
        opened: list[int] = []

        async def open_slowly() -> None:
            opened.append((await acks.open(KEY, HUB)).acked)

        nursery.start_soon(open_slowly)
        await trio.testing.wait_all_tasks_blocked()
        await acks.flush()
        store.before.clear()
        quick = await acks.open(KEY, HUB)
        acks.ack(quick, 9, sent=99)
        acks.close(quick)
        await acks.flush()
        read.set()
    assert opened == [9]


@pytest.mark.parametrize("kept", [0, 2, 3, 4])
@pytest.mark.parametrize("is_open", [True, False])
async def test_i6_an_ack_of_a_history_that_was_lost_skips_nothing_of_another(
    store: FaultyStore, world: World, kept: int, is_open: bool
) -> None:
    """It waits while the database is away, which comes back from an older backup and grows."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    stream = {"stream_id": "workspace:w", "client_id": "c"}
    async with running(store, world) as actors:
        await send_all(actors.workspace(), [Put("a", str(n)) for n in range(4)])
        store.before["write_cursors"] = fail
        async with wired(actors, role="viewer") as wire:
            await wire.say("subscribe", cursor=0, **stream)
            await wire.hear_many(5)
            await wire.say("ack", stream_id="workspace:w", event_seq=4)
            await wire.silence()
            if not is_open:
                wire.client.vanish()
                await wire.ended.wait()
            roll_back(store, kept)
            async with node(store, "another", world=world) as elsewhere:
                await send_all(elsewhere.workspace(), [Put("b")] * 3)
                await elsewhere.service.drain()
            store.before.clear()
            if is_open:
                await eventually(lambda: not actors.service.acks.has_unwritten)
        await trio.sleep(2 * LIMITS.lease_beat_s)  # by then this node has found out
        async with wired(actors, role="viewer") as wire:
            begun = await wire.ask("subscribe", **stream)
            assert begun["cursor"] == (4 if kept == 4 else 0), begun
            assert begun["head"] == kept + 3
    await check_log(store)


async def test_a_frontier_is_of_one_history(acks: AckFrontiers, store: FaultyStore) -> None:
    hub = Hub("w", delivery=Delivery(store, roles=Roles(()), limits=LIMITS))
    before = await acks.open(KEY, hub)
    acks.ack(before, 7, sent=9)
    hub.end(Reject("CURSOR_DIVERGED"))
    await store.write_cursors({KEY: AckedCursor(3)})
    hub.open(0, 0)
    acks._moved.clear()
    after = await acks.open(KEY, hub)
    assert (before.acked, after.acked) == (7, 3)
    acks.close(before)
    acks.close(after)
    assert repr(acks).startswith("<AckFrontiers 0 in use")


async def test_an_opening_that_fails_leaves_nothing(acks: AckFrontiers, store: FaultyStore) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("away")

    store.before["read_cursors"] = fail
    with pytest.raises(StoreUnavailableError):
        await acks.open(KEY, HUB)
    store.before["read_cursors"] = trio.sleep_forever
    with trio.move_on_after(1):
        await acks.open(KEY, HUB)
    assert repr(acks).startswith("<AckFrontiers 0 in use")
