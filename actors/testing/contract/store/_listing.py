"""Lists by key and sort, with states and the number at which they held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dalsegno.actors.ports import Place
from dalsegno.protocol import SEQ_MAX

from ._writing import Writer, entity, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import EntityPage, Store


async def put(
    store: Store,
    w: Writer,
    stream_id: str,
    state: str | None = None,
    **more: Any,  # noqa: ANN401
) -> None:
    """Append an event of an entity, with its row."""
    event = w.event(stream_id)
    row = entity(stream_id, event.stream_seq, state, **more)
    assert await store.append([w.batch(event, entities=(row,))])


async def names(store: Store, key: str | None, **more: Any) -> list[str]:  # noqa: ANN401 - of the list
    """Return the ids of a list."""
    page = await store.list_entities("w", "note", key=key, limit=100, **more)
    assert page.is_last
    return [item.stream_id.partition(":")[2] for item in page.items]


class ListContract:
    """Lists by key and sort, with states and the number at which they held."""

    async def test_entities_are_listed_as_they_were_at_an_event(self, store: Store) -> None:
        w = await writer(store, "w")
        first = [w.event("note:1"), w.event("note:1"), w.event("noted:1"), w.event("note:2")]
        assert await store.append([w.batch(*first)])
        gone = entity("note:2", 2, "null", exists=False)
        assert await store.append([w.batch(w.event("note:2"), entities=(gone,))])
        assert await store.append([w.batch(*(w.event("note:1") for _ in range(3)))])
        assert await store.append([w.batch(w.event("note:3"), w.event("note:é"))])

        async def listed(at_seq: int, after: str = "", limit: int = 9) -> list[tuple[str, int]]:
            found = await store.list_versions("w", "note", at_seq=at_seq, after=after, limit=limit)
            return [*found]

        assert await listed(0) == []
        assert await listed(1) == [("note:1", 1)]
        assert await listed(4) == [("note:1", 2), ("note:2", 1)]
        assert await listed(5) == [("note:1", 2), ("note:2", 2)], "the one that ended, too"
        everything = [("note:1", 5), ("note:2", 2), ("note:3", 1), ("note:é", 1)]
        assert await listed(SEQ_MAX) == everything
        assert await listed(SEQ_MAX, limit=2) == everything[:2]
        assert await listed(SEQ_MAX, after="note:2") == everything[2:]
        assert await store.list_versions("absent", "note", at_seq=9, after="", limit=9) == []

    async def test_a_key_lists_by_sort_and_then_by_id(self, store: Store) -> None:
        w = await writer(store, "w")
        for name, sort in (("c", "1"), ("a", "2"), ("b", "2"), ("e", "10"), ("d", None)):
            await put(store, w, f"note:{name}", keys=("tag", f"own {name}"), sort=sort)
        await put(store, w, "note:x", keys=("other",), sort="0")
        await put(store, w, "not:c", keys=("tag",), sort="0")
        assert await names(store, "tag") == ["d", "c", "e", "a", "b"], "code points, none first"
        assert await names(store, "own e") == ["e"]
        assert await names(store, "") == ["x", "c", "e", "a", "b"], "those that have a sort"
        assert await names(store, "ta") == []

    async def test_pages_of_a_key_are_the_whole_list(self, store: Store) -> None:
        w = await writer(store, "w")
        for number in range(7):
            await put(store, w, f"note:{number}", keys=("tag",), sort=f"{number // 3}")
        listed: list[str] = []
        after = Place()
        while True:
            page = await store.list_entities("w", "note", key="tag", after=after, limit=2)
            assert len(page.items) <= 2
            listed += [item.stream_id for item in page.items]
            if page.is_last:
                break
            after = Place(page.items[-1].sort or "", page.items[-1].stream_id)
        assert listed == [f"note:{number}" for number in range(7)]

    async def test_the_list_of_a_key_is_also_read_from_its_end(self, store: Store) -> None:
        w = await writer(store, "w")
        for number in range(7):
            await put(store, w, f"note:{number}", keys=("tag",), sort=f"{number // 3}")
        await put(store, w, "note:x", keys=("tag",), sort=None)
        await put(store, w, "note:y", keys=("other",), sort="9")
        listed: list[str] = []
        after = Place()
        while True:
            page = await store.list_entities(
                "w", "note", key="tag", after=after, limit=3, newest_first=True, bytes_max=10**6
            )
            assert len(page.items) <= 3
            listed += [item.stream_id for item in page.items]
            if page.is_last:
                break
            after = page.items[-1].place_in("tag")
        assert listed == [*(f"note:{number}" for number in reversed(range(7))), "note:x"]

    async def test_what_moves_between_keys_is_listed_where_it_is(self, store: Store) -> None:
        w = await writer(store, "w")
        await put(store, w, "note:1", keys=("a", "b", "a"), sort="1")
        await put(store, w, "note:1", keys=("b", "c"), sort="1")
        assert [await names(store, key) for key in ("a", "b", "c", "")] == [[], ["1"], ["1"], ["1"]]
        await put(store, w, "note:2", keys=("b",), sort="0")
        assert await names(store, "b") == ["2", "1"]
        await put(store, w, "note:2", keys=("b",), sort="2")
        assert await names(store, "b") == ["1", "2"]
        await put(store, w, "note:2", keys=("b",), sort=None)
        assert await names(store, "b") == ["2", "1"]
        assert await names(store, "") == ["1"]
        await put(store, w, "note:1", exists=False)
        assert await names(store, "b") == ["2"]
        assert await names(store, "") == []
        await put(store, w, "note:1", keys=("b",))
        assert await names(store, "b") == ["1", "2"]

    async def test_what_is_said_not_to_have_moved_stays(self, store: Store) -> None:
        w = await writer(store, "w")
        await put(store, w, "note:1", keys=("a",), sort="1")
        await put(store, w, "note:1", keys=("a",), sort="1", title="t", index_changed=False)
        page = await store.list_entities("w", "note", key="a", limit=9)
        assert [(i.version, i.title, i.keys, i.sort) for i in page.items] == [(2, "t", ("a",), "1")]

    async def test_one_event_is_appended_beside_what_is_only_listed_anew(
        self, store: Store
    ) -> None:
        """A timer that came too late is corrected in the batch of somebody's patch."""
        w = await writer(store, "w")
        await put(store, w, "note:1", keys=("a",))
        await put(store, w, "note:2", keys=("a",))
        event = w.event("note:1")
        moved = entity("note:1", event.stream_seq, index_changed=False)
        anew = entity("note:2", 1, keys=("b",))
        assert await store.append([w.batch(event, entities=(moved, anew))])
        assert await names(store, "b") == ["2"]
        head = await store.read_head("w")
        assert head is not None
        assert head.head_seq == event.event_seq

    async def test_keys_are_listed_once_each_by_their_beginning(self, store: Store) -> None:
        w = await writer(store, "w")
        for number, keys in enumerate((("t:b", "t:a"), ("t:a", "s"), ("u", "t:é", "t:a~"), ("t",))):
            await put(store, w, f"note:{number}", keys=keys, sort="1")
        await put(store, w, "note:9", keys=("t:gone",))
        await put(store, w, "note:9", exists=False)
        await put(store, w, "task:1", keys=("t:other",))

        async def keys_of(prefix: str, after: str = "", limit: int = 9) -> list[str]:
            return await store.list_keys("w", "note", prefix=prefix, after=after, limit=limit)

        assert await keys_of("t:") == ["t:a", "t:a~", "t:b", "t:é"]
        assert await keys_of("t:", limit=2) == ["t:a", "t:a~"]
        assert await keys_of("t:", "t:a~") == ["t:b", "t:é"]
        assert await keys_of("t:", "t:é") == []
        assert await keys_of("t", "t") == ["t:a", "t:a~", "t:b", "t:é"]
        assert await keys_of("x") == []
        assert (await keys_of(""))[0] in ("", "s")
        assert await store.list_keys("absent", "note", prefix="", after="", limit=9) == []

    async def test_a_refused_batch_lists_nothing(self, store: Store) -> None:
        w = await writer(store, "w")
        await put(store, w, "note:1", keys=("a",))
        other = await writer(store, "w2")
        refused = w.batch(w.event("note:1"), entities=(entity("note:1", 2, keys=("b",)),))
        await store.acquire("w", "another", create=False)
        listed = (entity("note:1", 1, keys=("a",)),)
        assert set(
            await store.append([refused, other.batch(other.event("note:1"), entities=listed)])
        ) == {"w2"}
        assert await names(store, "a") == ["1"]
        assert await names(store, "b") == []
        assert len((await store.list_entities("w2", "note", key="a", limit=9)).items) == 1

    async def test_a_row_alone_is_listed_anew_and_no_event_is_written(self, store: Store) -> None:
        w = await writer(store, "w")
        await put(store, w, "note:1", '{"v":1}', keys=("a",), title="t")
        before = (await store.list_entities("w", "note", limit=9)).items
        row = entity("note:1", 1, keys=("b",), sort="s", title="t", domain_version=2)
        assert list(await store.append([w.batch(entities=(row,))])) == ["w"]
        assert await names(store, "b") == ["1"]
        assert await names(store, "a") == []
        (item,) = (await store.list_entities("w", "note", limit=9)).items
        assert item.updated_at == before[0].updated_at
        assert (item.version, item.keys, item.sort) == (1, ("b",), "s")
        loaded = await store.load_entities("w", ["note:1"], {"note:1": 1})
        assert loaded["note:1"].state == '{"v":1}'

    @pytest.mark.parametrize("key", [None, "tag", ""])
    async def test_a_page_with_states_is_of_one_moment(self, store: Store, key: str | None) -> None:
        w = await writer(store, "w")
        for number in range(3):
            await put(store, w, f"note:{number}", keys=("tag",), sort=f"{number}")
            await put(store, w, f"note:{number}", '{"v":2}', keys=("tag",), sort=f"{number}")
        await put(store, w, "note:1", keys=("tag",), sort="1")
        page = await store.list_entities(
            "w", "note", key=key, limit=9, domain_version=1, bytes_max=1_000
        )
        assert (page.head_seq, page.is_last, page.is_stale) == (7, True, False)
        found = [(i.version, i.stored) for i in page.items]
        assert [version for version, _ in found] == [2, 3, 2]
        for version, stored in found:
            assert stored is not None
            assert (stored.version, stored.state, stored.state_version) == (version, '{"v":2}', 2)
            assert [e.stream_seq for e in stored.events] == [*range(3, version + 1)]

    async def test_states_of_another_version_are_folded_from_the_beginning(
        self, store: Store
    ) -> None:
        w = await writer(store, "w")
        events = [w.event("note:1") for _ in range(300)]  # more than are fetched at a time
        row = entity("note:1", 300, '{"v":300}')
        assert await store.append([w.batch(*events, entities=(row,))])
        page = await store.list_entities("w", "note", limit=9, domain_version=2, bytes_max=10**6)
        assert page.is_stale
        (item,) = page.items
        assert item.stored is not None
        assert item.stored.state is None
        assert [e.stream_seq for e in item.stored.events] == [*range(1, 301)]

    async def test_states_and_tails_are_bounded_by_bytes(self, store: Store) -> None:
        w = await writer(store, "w")
        await put(store, w, "note:0", f'"{"x" * 98}"')
        await put(store, w, "note:1", f'"{"é" * 49}"')
        event = w.event("note:2", f'"{"y" * 98}"')
        assert await store.append([w.batch(event)])
        for bytes_max, count in ((1, 1), (199, 1), (200, 2), (299, 2), (300, 3)):
            page = await store.list_entities(
                "w", "note", limit=9, domain_version=1, bytes_max=bytes_max
            )
            assert len(page.items) == count, bytes_max
            assert page.is_last is (count == 3)

    async def test_an_empty_list_tells_the_number_too(self, store: Store) -> None:
        w = await writer(store, "w")
        await put(store, w, "note:1")
        for page in (
            await store.list_entities("w", "task", limit=9),
            await store.list_entities("w", "note", key="none", limit=9, bytes_max=9),
        ):
            assert self._seen(page) == (1, [], True)
        assert self._seen(await store.list_entities("absent", "note", limit=9)) == (0, [], True)

    @staticmethod
    def _seen(page: EntityPage) -> tuple[int, list[object], bool]:
        return page.head_seq, list(page.items), page.is_last

    async def test_what_another_version_listed_is_stale(self, store: Store) -> None:
        w = await writer(store, "w")
        for number, version in enumerate((1, 3, 2, 1)):
            await put(store, w, f"note:{number}", domain_version=version)
        await put(store, w, "task:1", domain_version=1)
        stale = {
            version: await store.list_stale("w", "note", version, limit=9)
            for version in (1, 2, 3, 4)
        }
        assert {v: sorted(ids) for v, ids in stale.items()} == {
            1: ["note:1", "note:2"],
            2: ["note:0", "note:1", "note:3"],
            3: ["note:0", "note:2", "note:3"],
            4: ["note:0", "note:1", "note:2", "note:3"],
        }
        assert len(await store.list_stale("w", "note", 4, limit=2)) == 2
        for domain, version in (("note", 1), ("note", 4), ("task", 1), ("task", 2)):
            page = await store.list_entities("w", domain, limit=9, domain_version=version)
            assert page.is_stale is ((domain, version) != ("task", 1))
        assert await store.list_stale("absent", "note", 9, limit=9) == []

    async def test_workspaces_with_what_an_earlier_version_listed_are_found_one_by_one(
        self, store: Store
    ) -> None:
        """Whatever number of entities each has; what is halted is passed over."""
        for workspace_id, versions in (("a", (1,) * 5), ("b", (1, 2)), ("c", (3,)), ("d", (2, 1))):
            w = await writer(store, workspace_id)
            for number, version in enumerate(versions):
                await put(store, w, f"lamp:{number}", domain_version=version)
            if workspace_id == "b":
                assert await store.halt("b", w.epoch, "why", code="x", actor="x")

        async def find(version: int, limit: int) -> list[str]:
            found: list[str] = []
            page = await store.find_stale("here", "lamp", version, after=None, limit=limit)
            while True:
                found += page.workspace_ids
                if page.last is None:
                    return found
                page = await store.find_stale("here", "lamp", version, after=page.last, limit=limit)

        for limit in (1, 2, 9):
            assert await find(1, limit) == []
            assert await find(2, limit) == ["a", "d"]
            assert await find(3, limit) == ["a", "d", "d"], "under each of its versions"
            assert await find(4, limit) == ["a", "d", "d", "c"]
        page = await store.find_stale("here", "none", 9, after=None, limit=9)
        assert (page.workspace_ids, page.last) == ([], None)
