"""Idempotency keys and the answers that are kept for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ._writing import acquired, head_of, result, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store

    from ._harness import StoreHarness

DAY_S = 24 * 3600


class ResultContract:
    """Idempotency keys and the answers that are kept for them."""

    async def test_a_live_key_refuses_and_is_explained(self, store: Store) -> None:
        w = await writer(store, "w")
        assert await store.append([w.batch(w.event("note:1"), results=(result("k", 1),))])
        again = w.batch(w.event("note:1"), results=(result("new", 2), result("k", 2)))
        assert not await store.append([again])
        refusal = await store.explain(again)
        assert refusal.head == await head_of(store, "w")
        ((key, found),) = refusal.live_keys.items()
        assert key == ("u1|note:1", "k")
        assert (found.event_seq, found.answer) == (1, '{"event_seq":1}')
        assert found.payload_hash == b"\x00\xffk"

    async def test_explaining_tells_a_moved_epoch_and_an_absent_workspace(
        self, store: Store
    ) -> None:
        w = await writer(store, "w")
        batch = w.batch(w.event("note:1"))
        await acquired(store, "w", "elsewhere")
        refusal = await store.explain(batch)
        assert refusal.head is not None
        assert (refusal.head.epoch, refusal.head.owner) == (2, "elsewhere")
        assert refusal.live_keys == {}
        lost = msgspec.structs.replace(batch, workspace_id="nowhere")
        assert (await store.explain(lost)).head is None

    async def test_x_idem_4_a_key_counts_in_its_workspace_and_scope_only(
        self, store: Store
    ) -> None:
        w, v = await writer(store, "w"), await writer(store, "v")
        assert await store.append([w.batch(w.event("note:1"), results=(result("k", 1),))])
        elsewhere = v.batch(v.event("note:1"), results=(result("k", 1),))
        otherwise = w.batch(w.event("note:2"), results=(result("k", 2, "u1|note:2"),))
        assert len(await store.append([elsewhere, otherwise])) == 2

    async def test_i5_a_result_without_events_is_kept_and_moves_nothing(self, store: Store) -> None:
        w, v = await writer(store, "w"), await writer(store, "v")
        assert await store.append([w.batch(w.event("note:1"))])
        before = await head_of(store, "w")
        alone = w.batch(results=(result("k", 1),))
        assert len(await store.append([alone, v.batch(v.event("note:1"))])) == 2
        assert await head_of(store, "w") == before
        assert ("u1|note:1", "k") in await store.find_results("w", [("u1|note:1", "k")])
        stale = msgspec.structs.replace(w.batch(results=(result("l", 1),)), epoch=0)
        assert not await store.append([stale])
        assert await store.append([w.batch(w.event("note:1"))])

    async def test_x_idem_6_an_expired_key_is_not_honoured_and_overwritten(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        w = await writer(store, "w")
        key = ("u1|note:1", "k")
        assert await store.append([w.batch(w.event("note:1"), results=(result("k", 1),))])
        await harness.age(DAY_S - 60)
        assert key in await store.find_results("w", [key])
        await harness.age(120)
        assert await store.find_results("w", [key]) == {}
        again = w.batch(w.event("note:1"), results=(result("k", 2),))
        assert (await store.explain(again)).live_keys == {}
        assert await store.append([again])
        assert (await store.find_results("w", [key]))[key].event_seq == 2

    async def test_keys_are_looked_up_many_at_a_time(self, store: Store) -> None:
        w = await writer(store, "w")
        results = tuple(result(f"k{n}", 1, scope='odd "scope" {}\\') for n in range(20))
        assert await store.append([w.batch(w.event("note:1"), results=results)])
        wanted = [(r.scope, r.key) for r in results[::2]] + [
            ("u1", "k0"),
            ('odd "scope" {}\\', "k99"),
        ]
        found = await store.find_results("w", wanted)
        assert found.keys() == {(r.scope, r.key) for r in results[::2]}
        assert await store.find_results("w", []) == {}
        assert await store.find_results("nowhere", wanted) == {}

    async def test_expired_keys_are_swept_in_small_portions(self, harness: StoreHarness) -> None:
        store = harness.store
        w = await writer(store, "w")
        old = tuple(result(f"old{n}", 1) for n in range(5))
        assert await store.append([w.batch(w.event("note:1"), results=old)])
        assert await store.sweep_results(limit=10) == 0
        await harness.age(DAY_S + 1)
        assert await store.append([w.batch(w.event("note:1"), results=(result("new", 2),))])
        assert [await store.sweep_results(limit=3) for _ in range(3)] == [3, 2, 0]
        assert await store.find_results("w", [("u1|note:1", "new")])
