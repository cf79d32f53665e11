"""Heads: the end of a log, epochs, and the halt marker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from ._writing import acquired, head_of, log_of, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store


class HeadContract:
    """Heads: the end of a log, epochs, and the halt marker."""

    async def test_a_workspace_begins_when_it_is_acquired_to_be_created(self, store: Store) -> None:
        assert await store.read_head("w") is None
        assert await store.acquire("w", "a", create=False) is None
        assert await store.read_head("w") is None
        head = await acquired(store, "w", "a")
        assert (head.workspace_id, head.epoch, head.owner, head.head_seq) == ("w", 1, "a", 0)
        assert (head.first_seq, head.chain, head.recorded_at, head.halted_reason) == (
            1,
            0,
            None,
            None,
        )
        assert await store.read_head("w") == head

    @pytest.mark.parametrize("create", [True, False])
    async def test_acquiring_again_raises_the_epoch_by_one(
        self, store: Store, create: bool
    ) -> None:
        await acquired(store, "w", "a")
        head = await store.acquire("w", "b", create=create)
        assert head is not None
        assert (head.epoch, head.owner) == (2, "b")
        assert await store.read_head("w") == head

    async def test_the_head_follows_the_last_event(self, store: Store) -> None:
        w = await writer(store, "w")
        last = w.batch(w.event("note:1"), w.event("note:1")).events[-1]
        w.head_seq, w.versions, w.chain = 0, {}, 0
        events = (w.event("note:1"), w.event("note:1", chain=2**64 - 1))
        big = msgspec.structs.replace(events[-1], chain=2**64 - 1)
        assert await store.append([w.batch(events[0], big)])
        head = await head_of(store, "w")
        assert (head.head_seq, head.recorded_at) == (2, last.recorded_at)
        assert head.chain == 2**64 - 1, "a chain is unsigned"
        assert (await log_of(store, "w"))[-1].chain == 2**64 - 1

    async def test_acquiring_keeps_the_log(self, store: Store) -> None:
        w = await writer(store, "w")
        await store.append([w.batch(w.event("note:1"))])
        head = await acquired(store, "w", "b")
        assert (head.epoch, head.head_seq, head.chain) == (2, 1, w.chain)

    async def test_many_heads_are_read_at_once(self, store: Store) -> None:
        heads = {name: await acquired(store, name) for name in ('odd "name"', "v", "w")}
        assert await store.read_heads(["w", "absent", 'odd "name"', "v"]) == heads
        assert await store.read_heads(["absent"]) == {}
        assert await store.read_heads([]) == {}

    # Halting

    async def test_x_per_9_a_halted_workspace_takes_nothing_until_it_is_cleared(
        self, store: Store
    ) -> None:
        w = await writer(store, "w")
        assert await store.halt("w", w.epoch, "found wanting", code="1.2", actor="node a")
        head = await head_of(store, "w")
        assert (head.halted_reason, head.halted_code) == ("found wanting", "1.2")
        batch = w.batch(w.event("note:1"))
        assert not await store.append([batch])
        assert (await store.read_heads(["w"]))["w"] == head
        head = await acquired(store, "w", "b")
        assert (head.halted_reason, head.halted_code) == ("found wanting", "1.2")
        old, new = w.epoch, w.epoch + 1
        resumed = {"actor": "admin", "detail": "checked"}
        assert not await store.resume("w", old, **resumed), "an owner that was fenced has no say"
        assert await head_of(store, "w") == head
        assert await store.resume("w", new, **resumed)
        head = await head_of(store, "w")
        assert (head.epoch, head.halted_reason, head.halted_code) == (new, None, None)
        assert not await store.halt("w", old, "late", code="1", actor="node a")
        assert await store.append([msgspec.structs.replace(batch, epoch=new)])
        assert not await store.halt("nowhere", 1, "absent", code="1", actor="node a")
        assert not await store.resume("nowhere", 1, **resumed)

    async def test_x_per_9_halts_and_their_ends_are_audited_once(self, store: Store) -> None:
        w, v = await writer(store, "w"), await writer(store, "v")
        assert await store.read_audit("w", limit=9) == []
        assert await store.halt("v", v.epoch, "another's", code="1", actor="node a")
        for n in range(3):
            for reason in (f"reason {n}", "again"):
                assert await store.halt("w", w.epoch, reason, code=f"{reason}'s", actor="node a")
            head = await head_of(store, "w")
            assert (head.halted_reason, head.halted_code) == (f"reason {n}", f"reason {n}'s")
            for detail in (f"repair {n}", "again"):
                assert await store.resume("w", w.epoch, actor="admin", detail=detail)
        assert not await store.halt("w", w.epoch - 1, "fenced", code="1", actor="node a")
        audit = await store.read_audit("w", limit=9)
        assert [(e.actor, e.action, e.detail) for e in audit] == [
            entry
            for n in (2, 1, 0)
            for entry in (("admin", "resumed", f"repair {n}"), ("node a", "halted", f"reason {n}"))
        ]
        assert {entry.workspace_id for entry in audit} == {"w"}
        times = [entry.recorded_at for entry in audit]
        assert times == sorted(times, reverse=True)
        assert await store.read_audit("w", limit=2) == audit[:2]

    async def test_x_per_9_whatever_the_reason_says_it_can_be_stored(self, store: Store) -> None:
        """A reason may quote what could not be read."""
        w = await writer(store, "w")
        assert await store.halt("w", w.epoch, "found \0 and \ud800 in ö", code="1", actor="node a")
        assert (await head_of(store, "w")).halted_reason == "found ? and ? in ö"
        assert await store.resume("w", w.epoch, actor="admin", detail="removed \0")
        (resumed, halted) = await store.read_audit("w", limit=9)
        assert (halted.detail, resumed.detail) == ("found ? and ? in ö", "removed ?")
