"""Pages of the log and of an entity's stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dalsegno.protocol import SchemaVersionError

from ._writing import between, log_of, new_id, writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.actors.ports import Store


class ReadContract:
    """Pages of the log and of an entity's stream."""

    async def test_x_seq_10_reading_is_inclusive_and_in_order(self, store: Store) -> None:
        w = await writer(store, "w")
        events = [w.event("note:1") for _ in range(3)]
        await store.append([w.batch(*events)])
        assert await store.read_events("w", between(2, 3)) == events[1:]
        assert await store.read_events("w", between(1, 2)) == events[:2]
        assert await store.read_events("w", between(4, 9)) == []
        assert await store.read_events("w", between(1, 3, limit=2)) == events[:2]

    async def test_x_seq_10_of_an_unknown_stream_there_is_nothing(self, store: Store) -> None:
        await writer(store, "w")
        for workspace_id in ("w", "nowhere"):
            assert await log_of(store, workspace_id) == []
            assert await store.read_stream(workspace_id, "note:1", between(1, 9)) == []
            assert await store.read_versions(workspace_id, ["note:1"]) == {}
            assert await store.load_entities(workspace_id, ["note:1"], {"note:1": 1}) == {}
            assert await store.load_entity_at(workspace_id, "note:1", 1, 1) is None
            assert (await store.list_entities(workspace_id, "note", limit=9)).items == []
            assert await store.find_commands(workspace_id, ["c"], after_seq=0) == {}

    async def test_a_page_ends_at_its_bytes_but_has_one_event(self, store: Store) -> None:
        w = await writer(store, "w")
        sizes = (100, 100, 101, 5_000, 2, 100)
        events = [
            w.event("note:1", '"' + "é" * ((n - 2) // 2) + "x" * (n % 2) + '"') for n in sizes
        ]
        assert [len(e.payload.encode()) for e in events] == list(sizes)
        await store.append([w.batch(*events)])

        async def page(from_seq: int, bytes_max: int) -> list[int]:
            bounds = between(from_seq, 6, limit=10, bytes_max=bytes_max)
            by_log = await store.read_events("w", bounds)
            by_stream = await store.read_stream("w", "note:1", bounds)
            assert by_log == by_stream
            return [e.event_seq for e in by_log]

        assert await page(1, 200) == [1, 2]
        assert await page(1, 300) == [1, 2]
        assert await page(1, 301) == [1, 2, 3]
        assert await page(4, 10) == [4]
        assert await page(4, 5_002) == [4, 5]
        assert await page(1, 10_000) == [1, 2, 3, 4, 5, 6]

    async def test_a_stream_is_read_up_to_a_number_of_the_workspace(self, store: Store) -> None:
        w = await writer(store, "w")
        events = [w.event(f"note:{n % 2}") for n in range(8)]
        await store.append([w.batch(*events)])
        read = await store.read_stream("w", "note:1", between(2, 6))
        assert [(e.stream_seq, e.event_seq) for e in read] == [(2, 4), (3, 6)]
        assert await store.read_stream("w", "note:1", between(5, 99)) == []

    @pytest.mark.parametrize("version", [1, 3])
    async def test_x_per_5_another_envelope_fails_closed(self, store: Store, version: int) -> None:
        w, v = await writer(store, "w"), await writer(store, "v")
        bad = w.event("note:1", schema_version=version, command_id="c")
        fine = v.event("note:1")
        await store.append([w.batch(bad), v.batch(fine)])
        reads: list[Callable[[], Awaitable[object]]] = [
            lambda: log_of(store, "w"),
            lambda: store.read_stream("w", "note:1", between(1, 1)),
            lambda: store.load_entities("w", ["note:1"], {"note:1": 1}),
            lambda: store.load_entity_at("w", "note:1", 1, 1),
            lambda: store.find_commands("w", ["c"], after_seq=0),
        ]
        for read in reads:
            with pytest.raises(SchemaVersionError) as caught:
                await read()
            assert (caught.value.expected, caught.value.found) == (2, version)
        assert await log_of(store, "v") == [fine]

    async def test_the_events_of_commands_are_found_above_a_head(self, store: Store) -> None:
        w = await writer(store, "w")
        ids = [new_id() for _ in range(3)]
        events = [w.event("note:1", command_id=ids[n // 2]) for n in range(6)]
        await store.append([w.batch(*events)])
        assert await store.find_commands("w", [ids[0], ids[2], "other"], after_seq=0) == {
            ids[0]: events[0:2],
            ids[2]: events[4:6],
        }
        assert await store.find_commands("w", ids, after_seq=3) == {
            ids[1]: events[3:4],
            ids[2]: events[4:6],
        }
        assert await store.find_commands("w", [], after_seq=0) == {}
