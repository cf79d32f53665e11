"""Entities: states, the events that they lag, snapshots, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dalsegno.actors.ports import Place, SnapshotWrite
from dalsegno.protocol import SEQ_MAX, CorruptLogError

from ._writing import acquired, entity, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store
    from dalsegno.protocol import Event


class EntityContract:
    """Entities: states, the events that they lag, snapshots, lists."""

    async def test_a_state_is_kept_until_the_next_and_the_tail_comes_with_it(
        self, store: Store
    ) -> None:
        w = await writer(store, "w")
        events: list[Event] = []
        for state in ('{"v":1}', None, None, '{"v":4}', None):
            events.append(w.event("note:1"))
            write = entity("note:1", events[-1].stream_seq, state)
            assert await store.append([w.batch(events[-1], entities=(write,))])
            if len(events) == 3:
                loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
                assert (loaded.version, loaded.state, loaded.state_version) == (3, '{"v":1}', 1)
                assert loaded.events == tuple(events[1:3])
        loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
        assert (loaded.stream_id, loaded.version) == ("note:1", 5)
        assert (loaded.state, loaded.state_version) == ('{"v":4}', 4)
        assert loaded.events == tuple(events[4:])

    async def test_entities_of_many_workspaces_come_as_they_do_one_by_one(
        self, store: Store
    ) -> None:
        wanted: dict[tuple[str, str], int | None] = {("nowhere", "note:1"): 1}
        for name in ("b", "a", 'odd "\\,{}'):
            w = await writer(store, name)
            lagging = [w.event("note:1", f'{{"n":{n}}}') for n in range(3)]
            bare, gone, stored = w.event("note:2"), w.event("note:3"), w.event("note:4")
            writes = (
                entity("note:1", 1, '{"v":1}'),
                entity("note:2", 1),
                entity("note:3", 1, "null", exists=False),
                entity("note:4", 1, '{"v":1}', domain_version=2),
            )
            first = w.batch(lagging[0], entities=writes[:1])
            assert await store.append([first])
            rest = (*lagging[1:], bare, gone, stored)
            writes = (entity("note:1", 3), *writes[1:])
            assert await store.append([w.batch(*rest, entities=writes)])
            for n in range(1, 6):  # the fifth never was
                wanted[name, f"note:{n}"] = 1 if n != 2 else None
        loaded = await store.load_many(wanted)
        assert len(loaded) == 12
        for (workspace_id, stream_id), found in loaded.items():
            version = wanted[workspace_id, stream_id]
            versions = {} if version is None else {stream_id: version}
            alone = await store.load_entities(workspace_id, [stream_id], versions)
            assert alone == {stream_id: found}
        assert await store.load_many({}) == {}

    async def test_one_of_many_that_lags_far_is_as_it_was_at_that_moment(
        self, store: Store
    ) -> None:
        w, beside = await writer(store, "w"), await writer(store, "beside")
        for _ in range(3):
            assert await store.append([w.batch(*(w.event("note:1") for _ in range(256)))])
        assert await store.append([beside.batch(beside.event("note:1"))])
        loaded = await store.load_many({("w", "note:1"): 1, ("beside", "note:1"): 1})
        far = loaded["w", "note:1"]
        assert (far.version, far.state_version, len(far.events)) == (768, 0, 768)
        assert [event.stream_seq for event in far.events] == list(range(1, 769))
        assert loaded["beside", "note:1"].version == 1

    async def test_one_of_many_that_lacks_an_event_is_corrupt(self, store: Store) -> None:
        w = await writer(store, "w")
        write = entity("note:1", 2)
        assert await store.append([w.batch(w.event("note:1"), entities=(write,))])
        with pytest.raises(CorruptLogError):
            await store.load_many({("w", "note:1"): 1})

    async def test_an_entity_that_became_nothing_has_a_state_that_says_so(
        self, store: Store
    ) -> None:
        w = await writer(store, "w")
        events = (w.event("note:1"), w.event("note:1"))
        write = entity("note:1", 2, "null", exists=False)
        assert await store.append([w.batch(*events, entities=(write,))])
        loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
        assert (loaded.state, loaded.state_version, loaded.events) == ("null", 2, ())

    async def test_an_entity_without_a_state_is_all_events(self, store: Store) -> None:
        w = await writer(store, "w")
        events = (w.event("note:1"), w.event("note:1"))
        assert await store.append([w.batch(*events)])
        loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
        assert (loaded.state, loaded.state_version, loaded.events) == (None, 0, events)

    @pytest.mark.parametrize("wanted", [{"note:1": 2}, {}])
    async def test_a_state_of_another_domain_version_is_not_used(
        self, store: Store, wanted: dict[str, int]
    ) -> None:
        w = await writer(store, "w")
        events = tuple(w.event("note:1") for _ in range(4))
        snapshots = (SnapshotWrite(stream_id="note:1", version=2, domain_version=1, state="2"),)
        writes = (entity("note:1", 4, "4", domain_version=1),)
        assert await store.append([w.batch(*events, entities=writes, snapshots=snapshots)])
        loaded = (await store.load_entities("w", ["note:1"], wanted))["note:1"]
        assert (loaded.version, loaded.state, loaded.state_version) == (4, None, 0)
        assert loaded.events == events

    async def test_a_state_keeps_the_domain_version_that_folded_it(self, store: Store) -> None:
        w = await writer(store, "w")
        first, second = w.event("note:1"), w.event("note:1")
        writes = [
            (entity("note:1", 1, "1", domain_version=1),),
            (entity("note:1", 2, domain_version=2),),
        ]
        assert await store.append([w.batch(first, entities=writes[0])])
        assert await store.append([w.batch(second, entities=writes[1])])
        loaded = await store.load_entities("w", ["note:1"], {"note:1": 2})
        assert loaded["note:1"].events == (first, second)
        loaded = await store.load_entities("w", ["note:1"], {"note:1": 1})
        assert (loaded["note:1"].state, loaded["note:1"].events) == ("1", (second,))

    async def test_states_are_stored_later_and_nothing_else_of_the_entity(
        self, store: Store
    ) -> None:
        w = await writer(store, "w")
        events = [w.event(f"note:{n % 3}") for n in range(6)]
        writes = tuple(
            entity(f"note:{n}", 2, '"old"' if n else None, title=f"title {n}", keys=("k",))
            for n in range(3)
        )
        assert await store.append([w.batch(*events, entities=writes)])
        listed = await store.list_entities("w", "note", limit=9)
        odd = r'{"b":1,"a":"\u0000 \"x\" \\"}'
        later = [
            entity("note:0", 2, odd, title="other", keys=("l",), exists=False, domain_version=3),
            entity("note:1", 1, '"stale"'),
            entity("note:2", 3, '"early"'),
            entity("note:9", 1, '"absent"'),
        ]
        assert await store.write_states("w", w.epoch, later)
        assert await store.list_entities("w", "note", limit=9) == listed
        versions = {"note:0": 3, "note:1": 1, "note:2": 1}
        loaded = await store.load_entities("w", [f"note:{n}" for n in range(10)], versions)
        assert [(e.version, e.state, e.state_version, e.events) for e in loaded.values()] == [
            (2, odd, 2, ()),
            (2, '"old"', 2, ()),
            (2, '"old"', 2, ()),
        ]
        assert await store.write_states("w", w.epoch, [])
        assert await store.write_states("w", w.epoch, [entity("note:1", 2)])
        assert (await store.load_entities("w", ["note:1"], versions))["note:1"].state == '"old"'

    async def test_i3_who_was_fenced_stores_no_state(self, store: Store) -> None:
        w = await writer(store, "w")
        event = w.event("note:1")
        assert await store.append([w.batch(event)])
        await acquired(store, "w", "b")
        write = [entity("note:1", 1, '"mine"')]
        assert not await store.write_states("w", w.epoch, write)
        assert not await store.write_states("nowhere", 1, write)
        loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
        assert (loaded.state, loaded.events) == (None, (event,))
        assert await store.write_states("w", w.epoch + 1, write)
        loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
        assert (loaded.state, loaded.events) == ('"mine"', ())

    async def test_a_snapshot_that_is_nearer_than_the_state_is_used(self, store: Store) -> None:
        w = await writer(store, "w")
        events = tuple(w.event("note:1") for _ in range(5))
        snapshots = tuple(
            SnapshotWrite(stream_id="note:1", version=v, domain_version=d, state=f'"{v}"')
            for v, d in ((1, 2), (3, 2), (4, 1))
        )
        writes = (entity("note:1", 5),)
        assert await store.append([w.batch(*events, entities=writes, snapshots=snapshots)])
        loaded = (await store.load_entities("w", ["note:1"], {"note:1": 2}))["note:1"]
        assert (loaded.state, loaded.state_version, loaded.events) == ('"3"', 3, events[3:])

    async def test_many_entities_are_loaded_at_once(self, store: Store) -> None:
        w = await writer(store, "w")
        events = [w.event(f"note:{n}") for n in range(30)]
        writes = tuple(entity(f"note:{n}", 1, "1" if n % 2 else None) for n in range(30))
        assert await store.append([w.batch(*events, entities=writes)])
        streams = [f"note:{n}" for n in range(40)]
        assert await store.read_versions("w", streams) == {f"note:{n}": 1 for n in range(30)}
        loaded = await store.load_entities("w", streams, dict.fromkeys(streams, 1))
        assert loaded.keys() == {f"note:{n}" for n in range(30)}
        assert loaded["note:7"].events == ()
        assert loaded["note:8"].events == (events[8],)
        assert await store.load_entities("w", [], {}) == {}

    async def test_a_long_life_is_loaded_whole(self, store: Store) -> None:
        w = await writer(store, "w")
        events = tuple(w.event(f"note:{n % 2}") for n in range(1_300))
        assert await store.append([w.batch(*events)])
        loaded = await store.load_entities("w", ["note:0", "note:1"], {})
        assert loaded["note:0"].events == events[0::2]
        assert loaded["note:1"].events == events[1::2]

    async def test_an_entity_is_loaded_as_it_was(self, store: Store) -> None:
        w = await writer(store, "w")
        events = tuple(w.event("note:1") for _ in range(9))
        snapshots = tuple(
            SnapshotWrite(stream_id="note:1", version=v, domain_version=1, state=f'"{v}"')
            for v in (3, 6)
        )
        writes = (entity("note:1", 9, '"9"'),)
        assert await store.append([w.batch(*events, entities=writes, snapshots=snapshots)])

        async def at(
            version: int, domain_version: int = 1
        ) -> tuple[str | None, int, tuple[int, ...]]:
            loaded = await store.load_entity_at("w", "note:1", version, domain_version)
            assert loaded is not None
            assert loaded.version == version
            return loaded.state, loaded.state_version, tuple(e.stream_seq for e in loaded.events)

        assert await at(2) == (None, 0, (1, 2))
        assert await at(3) == ('"3"', 3, ())
        assert await at(5) == ('"3"', 3, (4, 5))
        assert await at(8) == ('"6"', 6, (7, 8))
        assert await at(9) == ('"9"', 9, ())
        assert await at(4, domain_version=2) == (None, 0, (1, 2, 3, 4))
        for absent in (0, -1, 10, SEQ_MAX):
            assert await store.load_entity_at("w", "note:1", absent, 1) is None
        assert await store.load_entity_at("w", "note:2", 1, 1) is None

    # Lists

    async def test_lists_are_by_stream_id_and_page(self, store: Store) -> None:
        w = await writer(store, "w")
        names = ["a", "B", "ä", "b", "b-1", "b1", "\U0001f600", "\ufffd"]
        events = [w.event(f"note:{name}") for name in names]
        others = [w.event(stream) for stream in ("not:1", "note", "notes:1", "note;1")]
        assert await store.append([w.batch(*events, *others)])
        expected = sorted(f"note:{name}" for name in names)
        listed: list[str] = []
        page = await store.list_entities("w", "note", limit=3)
        while True:
            assert len(page.items) <= 3
            listed += [item.stream_id for item in page.items]
            if page.is_last:
                break
            page = await store.list_entities("w", "note", after=Place("", listed[-1]), limit=3)
        assert listed == expected

    async def test_lists_show_the_index_columns_of_what_lives(self, store: Store) -> None:
        w = await writer(store, "w")
        first, gone = w.event("note:1"), w.event("note:2")
        odd = ('tag:"quoted"', "back\\slash", "NULL", "", "com,ma", "{brace}")
        writes = (
            entity("note:1", 1, title='NULL "x" \\', keys=odd),
            entity("note:2", 1, exists=False),
        )
        assert await store.append([w.batch(first, gone, entities=writes)])
        (item,) = (await store.list_entities("w", "note", limit=10)).items
        assert (item.stream_id, item.version, item.title) == ("note:1", 1, 'NULL "x" \\')
        assert item.keys == odd
        assert item.updated_at == first.recorded_at
        for key in odd:
            assert (await store.list_entities("w", "note", limit=10, key=key)).items == [item]
        assert (await store.list_entities("w", "note", limit=10, key="tag")).items == []

    async def test_a_later_row_of_an_entity_replaces_the_earlier(self, store: Store) -> None:
        w = await writer(store, "w")
        rows = [
            entity("note:1", 1, title="first", keys=("a",)),
            entity("note:1", 2, title="second", keys=("b",)),
            entity("note:1", 3, title=None, exists=False),
            entity("note:1", 4, title="back"),
        ]
        shown = []
        for row in rows:
            assert await store.append([w.batch(w.event("note:1"), entities=(row,))])
            shown.append(
                [
                    (i.version, i.title, i.keys)
                    for i in (await store.list_entities("w", "note", limit=1)).items
                ]
            )
        assert shown == [[(1, "first", ("a",))], [(2, "second", ("b",))], [], [(4, "back", ())]]

    async def test_a_stream_is_located_in_at_most_two_workspaces(self, store: Store) -> None:
        assert await store.locate("note:1") == []
        for name in ("c", "a", "b"):
            w = await writer(store, name)
            await store.append([w.batch(w.event("note:1"), w.event(f"note:{name}"))])
        assert await store.locate("note:1") == ["a", "b"]
        assert await store.locate("note:c") == ["c"]

    async def test_a_stream_is_located_page_by_page_where_it_lives(self, store: Store) -> None:
        for name in ("d", "c", "b", "a"):
            w = await writer(store, name)
            write = entity("member:u", 1, exists=name != "b")
            await store.append([w.batch(w.event("member:u"), entities=(write,))])
        assert await store.locate("member:u", limit=9) == ["a", "b", "c", "d"]
        assert await store.locate("member:u", limit=2, existing_only=True) == ["a", "c"]
        assert await store.locate("member:u", limit=2, existing_only=True, after="c") == ["d"]
        assert await store.locate("member:u", existing_only=True, after="d") == []
