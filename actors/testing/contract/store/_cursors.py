"""Acknowledged cursors, and how many are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.actors.ports import CursorKey
from dalsegno.protocol import SEQ_MAX

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store

    from ._harness import StoreHarness

DAY_S = 24 * 3600


def cursor(stream: str = "s", client: str = "c", user: str = "u") -> CursorKey:
    return CursorKey(user, client, "w", stream)


class CursorContract:
    """Acknowledged cursors, and how many are kept."""

    async def test_cursors_only_go_up(self, store: Store) -> None:
        await store.write_cursors({cursor(): 5})
        await store.write_cursors({cursor(): 3})
        assert await store.read_cursors([cursor()]) == {cursor(): 5}
        await store.write_cursors({cursor(): SEQ_MAX})
        assert await store.read_cursors([cursor()]) == {cursor(): SEQ_MAX}

    async def test_x_ack_4_cursors_are_independent(self, store: Store) -> None:
        keys = [
            CursorKey(user, client, workspace, stream)
            for user in ("u", 'u"\\')
            for client in ("c", "d")
            for workspace in ("w", "v")
            for stream in ("workspace:w", "note:1")
        ]
        await store.write_cursors({key: n for n, key in enumerate(keys)})
        await store.write_cursors({keys[3]: 100})
        found = await store.read_cursors([*keys, cursor("other")])
        assert found == {key: n for n, key in enumerate(keys)} | {keys[3]: 100}
        assert await store.read_cursors([]) == {}
        await store.write_cursors({})

    async def test_of_a_clients_cursors_the_oldest_go(self, store: Store) -> None:
        for n in range(5):
            await store.write_cursors({cursor(f"s{n}"): 1, cursor("s0", "other"): n})
        await store.write_cursors({cursor("s0"): 2})
        await store.write_cursors({cursor("s5"): 1, cursor("s6"): 1})
        kept = await store.read_cursors([cursor(f"s{n}") for n in range(7)])
        assert sorted(key.stream_id for key in kept) == ["s0", "s3", "s4", "s5", "s6"]
        assert len(await store.read_cursors([cursor("s0", "other")])) == 1
        await store.write_cursors({cursor(f"t{n}"): 1 for n in range(9)})
        kept = await store.read_cursors([cursor(f"t{n}") for n in range(9)])
        assert sorted(key.stream_id for key in kept) == ["t0", "t1", "t2", "t3", "t4"]

    async def test_of_a_users_clients_the_oldest_go(self, store: Store) -> None:
        for n in range(3):
            await store.write_cursors({cursor("s", f"c{n}"): 1, cursor("t", f"c{n}"): 1})
        await store.write_cursors({cursor("s", "c0"): 2})
        await store.write_cursors({cursor("s", "c3"): 1, cursor("s", "c3", "somebody else"): 1})
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
            await store.write_cursors({key: 1})
        await harness.age(80 * DAY_S)
        await store.write_cursors(dict.fromkeys(keys[::2], 1))
        await store.write_cursors({keys[1]: 2})
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
        await store.write_cursors({keys[0]: 1})
        assert await store.read_cursors(keys) == {keys[0]: 1}, "a swept cursor may begin again"
