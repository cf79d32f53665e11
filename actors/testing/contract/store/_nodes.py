"""Leases: which node owns a workspace, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ._writing import acquired, head_of, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store

    from ._harness import StoreHarness

DAY_S = 24 * 3600


async def beat(store: Store, node: str, incarnation: str = "1", *, first: bool = False) -> float:
    left_s = await store.beat(node, incarnation, address=None, lease_s=10.0, first=first)
    assert left_s is not None
    return left_s


class NodeContract:
    """Leases: which node owns a workspace, and for how long."""

    @pytest.mark.parametrize("create", [True, False])
    async def test_what_a_live_node_owns_stays_as_it_is(
        self, harness: StoreHarness, create: bool
    ) -> None:
        store = harness.store
        await beat(store, "a", first=True)
        await beat(store, "b", first=True)
        w = await writer(store, "w", "a")
        before = await head_of(store, "w")
        assert await store.acquire("w", "b", create=create) == before
        assert await head_of(store, "w") == before
        assert await store.append([w.batch(w.event("note:1"))]), "it was not fenced"
        again = await store.acquire("w", "a", create=create)
        assert again is not None
        assert (again.epoch, again.owner) == (2, "a"), "its own node always gets it"

    async def test_what_a_dead_node_owns_is_for_the_first_who_asks(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        for node in "abc":
            await beat(store, node, first=True)
        await acquired(store, "w", "a")
        await harness.age(9)
        await beat(store, "b")
        assert (await acquired(store, "w", "b")).owner == "a"
        await harness.age(1.1)
        head = await acquired(store, "w", "b")
        assert (head.epoch, head.owner) == (2, "b")
        assert await acquired(store, "w", "c") == head
        assert await acquired(store, "w", "a") == head, "a node that lost it has no claim"

    async def test_a_lapse_that_nobody_used_is_mended_by_a_beat(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        await beat(store, "a", first=True)
        head = await acquired(store, "w", "a")
        await harness.age(11)
        assert -2 < await beat(store, "a") <= -1
        assert await acquired(store, "w", "b") == head

    async def test_a_node_that_never_beat_owns_nothing_for_long(self, store: Store) -> None:
        """For example a node of an older release, which has no lease."""
        await acquired(store, "w", "a")
        head = await acquired(store, "w", "b")
        assert (head.epoch, head.owner) == (2, "b")

    async def test_what_was_released_is_anybodys_at_once(self, store: Store) -> None:
        await beat(store, "a", first=True)
        head = await acquired(store, "w", "a")
        assert not await store.release("w", head.epoch - 1)
        assert not await store.release("absent", 1)
        assert (await head_of(store, "w")).owner == "a"
        assert await store.release("w", head.epoch)
        released = await head_of(store, "w")
        assert (released.epoch, released.owner) == (head.epoch, None)
        taken = await acquired(store, "w", "b")
        assert (taken.epoch, taken.owner) == (head.epoch + 1, "b")
        assert not await store.release("w", head.epoch), "an owner that was fenced has no say"
        assert await head_of(store, "w") == taken

    async def test_when_the_next_lease_of_another_node_ends(self, harness: StoreHarness) -> None:
        store = harness.store
        for node in ("next 1", "next 2"):
            await beat(store, node, first=True)
            await harness.age(3)
        left_s = await store.next_end_s("next 2")
        assert left_s is not None
        assert 3 < left_s <= 4
        await harness.age(5)
        left_s = await store.next_end_s("anybody else")
        assert left_s is not None
        assert 1 < left_s <= 2
        assert await store.next_end_s("next 2") is None
        await harness.age(5)
        assert await store.next_end_s("anybody else") is None

    async def test_a_beat_tells_what_was_left(self, harness: StoreHarness) -> None:
        store = harness.store
        assert await beat(store, "a", first=True) == 0
        await harness.age(4)
        assert 5 < await beat(store, "a") <= 6
        await harness.age(7)
        assert 2 < await beat(store, "a", first=True) <= 3
        node = await store.find_node("a")
        assert node is not None
        assert 9 < node.expires_in_s <= 10
        assert await store.find_node("b") is None

    async def test_its_time_is_the_one_that_leases_and_events_go_by(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        first = await store.read_time()
        assert first.utcoffset() == timedelta(0)
        second = await store.read_time()
        assert timedelta(0) <= second - first < timedelta(minutes=1)

    async def test_a_beat_says_where_the_node_is(self, store: Store) -> None:
        for address in ("http://10.0.0.1:8080", None, "http://10.0.0.2:8080"):
            await store.beat("a", "1", address=address, lease_s=10.0, first=address is not None)
            node = await store.find_node("a")
            assert node is not None
            assert (node.node_id, node.address) == ("a", address)

    async def test_the_newest_process_is_the_node(self, store: Store) -> None:
        await beat(store, "a", "1", first=True)
        head = await acquired(store, "w", "a")
        await store.beat("a", "2", address="new", lease_s=100.0, first=True)
        before = await store.find_node("a")
        assert await store.beat("a", "1", address="old", lease_s=10.0, first=False) is None
        await store.forget("a", "1")
        after = await store.find_node("a")
        assert before is not None
        assert after is not None
        assert after.address == "new"
        assert before.expires_in_s >= after.expires_in_s > 90
        assert await acquired(store, "w", "b") == head, "its workspaces came with it"

    async def test_a_node_that_forgets_itself_leaves_everything_at_once(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        await beat(store, "a", first=True)
        await beat(store, "b", first=True)
        for name in ("v", "w"):
            await acquired(store, name, "a")
        await store.forget("a", "1")
        await store.forget("absent", "1")
        node = await store.find_node("a")
        assert node is not None
        assert node.expires_in_s <= 0
        for name in ("v", "w"):
            assert (await acquired(store, name, "b")).owner == "b"
        await harness.age(20)
        before = await store.find_node("a")
        await store.forget("a", "1")
        after = await store.find_node("a")
        assert before is not None
        assert after is not None
        assert after.expires_in_s <= before.expires_in_s, "it does not end again"

    async def test_nodes_dead_for_a_day_are_forgotten_at_the_next_start(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        for node in ("old", "back"):
            await beat(store, node, first=True)
        await harness.age(DAY_S - 60)
        await beat(store, "a", first=True)
        await harness.age(120)
        assert await store.find_node("old"), "a day begins where the lease ends"
        await beat(store, "a")
        assert await store.find_node("old")
        await beat(store, "a", first=True)
        assert await store.find_node("old") is None
        assert await store.find_node("a")
        assert await beat(store, "back") == 0, "its row is made again"
        assert await store.find_node("back")

    async def test_a_process_that_another_one_replaced_acquires_nothing(self, store: Store) -> None:
        first, second = (
            "00000000-0000-7000-8000-000000000001",
            "00000000-0000-7000-8000-000000000002",
        )
        assert await store.beat("n", first, address=None, lease_s=60.0, first=True) is not None
        head = await store.acquire("w", "n", create=True, incarnation=first)
        assert head is not None
        assert head.owner == "n"
        assert await store.beat("n", second, address=None, lease_s=60.0, first=True) is not None
        refused = await store.acquire("w", "n", create=False, incarnation=first)
        assert refused is not None
        assert (refused.owner, refused.epoch) == (None, head.epoch)
        assert await store.acquire("new", "n", create=True, incarnation=first) is None
        taken = await store.acquire("w", "n", create=False, incarnation=second)
        assert taken is not None
        assert (taken.owner, taken.epoch) == ("n", head.epoch + 1)
        unknown = await store.acquire("w", "m", create=False, incarnation=first)
        assert unknown is not None
        assert unknown.owner == "n"
