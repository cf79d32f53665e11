"""What is on record is taken into the log of ``$audit``, in the append that marks it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.ports import CollectedRecord, RecordKey, RefusedWrite
from dalsegno.protocol import AUDIT_WORKSPACE

from ._records import put, record
from ._writing import START, Writer, acquired, new_id, writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.ports import Batch, Store, Uncollected

    from ._harness import StoreHarness


async def left(store: Store, *, limit: int = 100, bytes_max: int = 10**6) -> list[Uncollected]:
    """Read what is not in the log of the audit."""
    return await store.read_uncollected(limit=limit, bytes_max=bytes_max)


def keys_of(rows: Sequence[Uncollected]) -> list[tuple[str, int, int]]:
    """Return the place of each row."""
    return [(row.key.scope, row.key.number, row.key.n) for row in rows]


def collecting(w: Writer, rows: Sequence[Uncollected]) -> Batch:
    """Return a batch that takes rows into a log, an event each."""
    events = [w.event("audit_trail:main") for _ in rows]
    marks = (CollectedRecord(r.key, e.event_seq) for r, e in zip(rows, events, strict=True))
    return msgspec.structs.replace(w.batch(*events), collected=tuple(marks))


def refused(refusal_id: str = "", **more: Any) -> RefusedWrite:  # noqa: ANN401 - its fields
    """Return something that was refused."""
    fields: dict[str, Any] = {
        "refusal_id": refusal_id or new_id(),
        "recorded_at": START,
        "workspace_id": None,
        "user_id": "u1",
        "action": "LOGIN_FAILED",
        "resource_type": "route",
        "resource_id": "POST /api/auth/login",
        "new_value": '{"code":"é\\\\"}',
        "request_id": None,
        "address": "192.0.2.1",
    }
    return RefusedWrite(**(fields | more))


class TrailContract:
    """What is on record is taken into the log of ``$audit``, each row once."""

    async def test_rows_are_read_until_an_append_has_marked_them(self, store: Store) -> None:
        assert not await store.may_collect("here")
        w = await writer(store, "w")
        for number in range(3):
            await put(store, w, old_value="1" if number else None)
        rows = await left(store)
        assert keys_of(rows) == [("w", 1, 0), ("w", 2, 0), ("w", 3, 0)]
        assert await store.may_collect("here")
        first, second = rows[0], rows[1]
        assert first.key == RecordKey("event", "w", 1, 0)
        assert (first.recorded_at, first.workspace_id) == (START + timedelta(seconds=1), "w")
        assert (first.actor_id, first.action, first.resource_type) == ("u1", "DONE", "note")
        assert (first.resource_id, first.request_id, first.address) == ("1", "r1", "192.0.2.1")
        assert (first.old_value, first.new_value) == (None, '{"é":"\\\\"}')
        assert second.old_value == "1"
        audit = await writer(store, AUDIT_WORKSPACE)
        assert await store.append([collecting(audit, rows[:2])])
        assert await left(store) == rows[2:]
        assert await store.append([collecting(audit, rows[2:])])
        assert await left(store) == []
        assert not await store.may_collect("here")

    async def test_what_is_not_appended_marks_nothing(self, store: Store) -> None:
        """Not under an earlier epoch, nor on another head: whatever is sent late."""
        await put(store, await writer(store, "w"))
        audit = await writer(store, AUDIT_WORKSPACE)
        rows = await left(store)
        late = collecting(audit, rows)
        later = Writer(AUDIT_WORKSPACE, (await acquired(store, AUDIT_WORKSPACE)).epoch)
        assert not await store.append([late])
        assert await left(store) == rows
        assert await store.append([collecting(later, rows)])
        assert not await store.append([late])
        assert await left(store) == []

    async def test_neighbours_are_appended_in_the_same_call(self, store: Store) -> None:
        """What they put on record in it is not marked by it."""
        w, audit = await writer(store, "w"), await writer(store, AUDIT_WORKSPACE)
        await put(store, w)
        rows = await left(store)
        event = w.event("note:1")
        theirs = msgspec.structs.replace(w.batch(event), audits=(record(event),))
        done = await store.append([collecting(audit, rows), theirs])
        assert sorted(done) == [AUDIT_WORKSPACE, "w"]
        assert keys_of(await left(store)) == [("w", 2, 0)]

    async def test_the_oldest_come_first_and_a_page_is_bounded(self, store: Store) -> None:
        a, b = await writer(store, "a"), await writer(store, "b")
        await put(store, b, recorded_at=START)
        await put(store, a, recorded_at=START + timedelta(seconds=2))
        await put(store, b, recorded_at=START + timedelta(seconds=1))
        await put(store, a, recorded_at=START + timedelta(seconds=2))
        order = [("b", 1, 0), ("b", 2, 0), ("a", 1, 0), ("a", 2, 0)]
        assert keys_of(await left(store)) == order
        for limit in (1, 2, 3):
            assert keys_of(await left(store, limit=limit)) == order[:limit]
        size = len('{"é":"\\\\"}'.encode())
        for bytes_max, count in ((0, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2)):
            assert keys_of(await left(store, bytes_max=bytes_max)) == order[:count]

    async def test_halts_and_refusals_are_among_them(self, store: Store) -> None:
        w = await writer(store, "w")
        assert await store.halt("w", w.epoch, "why", code="c", actor="node")
        await store.add_refusals([refused("1"), refused("2", workspace_id="w", new_value=None)])
        await store.add_refusals([refused("2", action="AGAIN"), refused("3", user_id=None)])
        rows = await left(store)
        by_kind = {row.key.kind: row for row in rows}
        halted = by_kind["intervention"]
        assert (halted.action, halted.actor_id, halted.new_value) == ("halted", "node", '"why"')
        assert (halted.resource_type, halted.resource_id) == ("workspace", "w")
        found = [row for row in rows if row.key.kind == "refusal"]
        assert [(r.key.scope, r.action, r.workspace_id, r.actor_id) for r in found] == [
            ("1", "LOGIN_FAILED", None, "u1"),
            ("2", "LOGIN_FAILED", "w", "u1"),
            ("3", "LOGIN_FAILED", None, None),
        ]
        assert [r.new_value for r in found] == ['{"code":"é\\\\"}', None, '{"code":"é\\\\"}']
        audit = await writer(store, AUDIT_WORKSPACE)
        assert await store.append([collecting(audit, rows)])
        assert await left(store) == []
        await store.add_refusals([refused("1")])
        assert await left(store) == [], "the same one, whoever adds it again"

    async def test_refusals_are_forgotten_a_day_after_they_were_taken(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        old = START - timedelta(days=20 * 365)
        await store.add_refusals([refused(str(n), recorded_at=old) for n in range(3)])
        assert await store.sweep_refusals(limit=9) == 0, "they are not in the log yet"
        audit = await writer(store, AUDIT_WORKSPACE)
        assert await store.append([collecting(audit, await left(store))])
        assert [await store.sweep_refusals(limit=2) for _ in range(3)] == [2, 1, 0]

    async def test_only_who_may_own_the_log_may_collect(self, harness: StoreHarness) -> None:
        store = harness.store
        await put(store, await writer(store, "w"))
        for node in ("here", "there"):
            await store.beat(node, "1", address=None, lease_s=10.0, first=True)
        audit = await writer(store, AUDIT_WORKSPACE, "there")
        assert [await store.may_collect(node) for node in ("here", "there")] == [False, True]
        assert not await store.is_collected("w", 1, "here"), "the other one has to"
        assert await store.is_collected("w", 0, "here"), "nothing is on record up to there"
        assert await store.is_collected("w", 1, "there"), "nobody else has to"
        assert await store.is_collected("absent", 9, "here")
        await harness.age(11)
        assert await store.may_collect("here")
        assert await store.is_collected("w", 1, "here"), "the other's lease is over"
        await store.beat("there", "1", address=None, lease_s=10.0, first=False)
        assert await store.append([collecting(audit, await left(store))])
        assert await store.is_collected("w", 1, "here")
        assert await store.halt(AUDIT_WORKSPACE, audit.epoch, "why", code="c", actor="x")
        assert [await store.may_collect(node) for node in ("here", "there")] == [False, False]
        assert await store.is_collected("w", 9, "here"), "nobody gets anything out of it"
