"""Acknowledged cursors, and how many are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.actors.ports import AckedCursor, CursorKey
from dalsegno.protocol import CHAIN_START, SEQ_MAX

from ._writing import writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store

    from ._harness import StoreHarness

DAY_S = 24 * 3600


def cursor(stream: str = "s", client: str = "c", user: str = "u") -> CursorKey:
    return CursorKey(user, client, "w", stream)


async def write(store: Store, cursors: dict[CursorKey, int]) -> None:
    """Write cursors that are of every history."""
    await store.write_cursors({key: AckedCursor(seq) for key, seq in cursors.items()})


class CursorContract:
    """Acknowledged cursors, and how many are kept."""

    async def test_cursors_only_go_up(self, store: Store) -> None:
        await write(store, {cursor(): 5})
        await write(store, {cursor(): 3})
        assert await store.read_cursors([cursor()]) == {cursor(): 5}
        await write(store, {cursor(): SEQ_MAX})
        assert await store.read_cursors([cursor()]) == {cursor(): SEQ_MAX}

    async def test_a_cursor_of_another_history_is_not_written(self, store: Store) -> None:
        log = await writer(store, "w")
        events = [log.event("note:1") for _ in range(3)]
        await store.append([log.batch(*events)])
        keys = [cursor(f"s{n}") for n in range(9)]
        places = [(event.event_seq, event.chain) for event in events]
        (first, one), (second, two), (third, three) = places
        own = [(first, one), (second, two), (third, three), (0, CHAIN_START)]
        others = [(first, two), (third, one), (third + 1, three), (0, one), (SEQ_MAX, three)]
        moved = [AckedCursor(7, *place) for place in [*own, *others]]
        await store.write_cursors(dict(zip(keys, moved, strict=True)))
        written = await store.read_cursors(keys)
        assert written == dict.fromkeys([*keys[:4], keys[7]], 7), "zero is before every history"
        elsewhere = CursorKey("u", "c", "v", "s")
        await store.write_cursors({elsewhere: AckedCursor(7, first, one)})
        assert await store.read_cursors([elsewhere]) == {}, "another workspace's history"

    async def test_x_ack_4_cursors_are_independent(self, store: Store) -> None:
        keys = [
            CursorKey(user, client, workspace, stream)
            for user in ("u", 'u"\\')
            for client in ("c", "d")
            for workspace in ("w", "v")
            for stream in ("workspace:w", "note:1")
        ]
        await write(store, {key: n for n, key in enumerate(keys)})
        await write(store, {keys[3]: 100})
        found = await store.read_cursors([*keys, cursor("other")])
        assert found == {key: n for n, key in enumerate(keys)} | {keys[3]: 100}
        assert await store.read_cursors([]) == {}
        await write(store, {})

    async def test_of_a_clients_cursors_the_oldest_go(self, store: Store) -> None:
        for n in range(5):
            await write(store, {cursor(f"s{n}"): 1, cursor("s0", "other"): n})
        await write(store, {cursor("s0"): 2})
        await write(store, {cursor("s5"): 1, cursor("s6"): 1})
        kept = await store.read_cursors([cursor(f"s{n}") for n in range(7)])
        assert sorted(key.stream_id for key in kept) == ["s0", "s3", "s4", "s5", "s6"]
        assert len(await store.read_cursors([cursor("s0", "other")])) == 1
        await write(store, {cursor(f"t{n}"): 1 for n in range(9)})
        kept = await store.read_cursors([cursor(f"t{n}") for n in range(9)])
        assert sorted(key.stream_id for key in kept) == ["t0", "t1", "t2", "t3", "t4"]

    async def test_of_a_users_clients_the_oldest_go(self, store: Store) -> None:
        for n in range(3):
            await write(store, {cursor("s", f"c{n}"): 1, cursor("t", f"c{n}"): 1})
        await write(store, {cursor("s", "c0"): 2})
        await write(store, {cursor("s", "c3"): 1, cursor("s", "c3", "somebody else"): 1})
        keys = [cursor(s, f"c{n}") for n in range(4) for s in ("s", "t")]
        kept = await store.read_cursors(keys)
        assert {key.client_id for key in kept} == {"c0", "c2", "c3"}
        assert len(kept) == 5

    async def test_cursors_that_nobody_writes_any_more_are_swept(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        keys = [
            CursorKey(user, client, workspace, stream)
            for user in ("B", "a", "ä")
            for client in ("c", "d")
            for workspace in ("v", "w")
            for stream in ("note:1", "workspace:w")
        ]
        assert keys == sorted(keys)

        async def sweep() -> list[CursorKey | None]:
            """Visit all of them; return where each portion ended."""
            ends: list[CursorKey | None] = []
            while not ends or ends[-1] is not None:
                after = ends[-1] if ends else None
                ends.append(await store.sweep_cursors(after, limit=10, unused_s=90 * DAY_S))
            return ends

        assert await store.sweep_cursors(None, limit=10, unused_s=1) is None
        for key in keys[::-1]:
            await write(store, {key: 1})
        await harness.age(80 * DAY_S)
        await write(store, dict.fromkeys(keys[::2], 1))
        await write(store, {keys[1]: 2})
        assert await sweep() == [keys[9], keys[19], None]
        assert len(await store.read_cursors(keys)) == 24
        await harness.age(11 * DAY_S)
        assert await sweep() == [keys[9], keys[19], None]
        kept = [key for key in keys if key in keys[::2] or key == keys[1]]
        assert sorted(await store.read_cursors(keys)) == kept
        assert await sweep() == [kept[9], None]
        await harness.age(90 * DAY_S)
        await sweep()
        assert await store.read_cursors(keys) == {}
        await write(store, {keys[0]: 1})
        assert await store.read_cursors(keys) == {keys[0]: 1}, "a swept cursor may begin again"
