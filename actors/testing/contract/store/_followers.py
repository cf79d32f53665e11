"""How far reactors have come: where they begin, and who is behind with nobody to tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.actors.ports import ReactorPlace, ReactorStart
from dalsegno.protocol import CHAIN_START, Cursor

from ._writing import Writer, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store

    from ._harness import StoreHarness


async def write(store: Store, w: Writer, count: int = 1) -> Cursor:
    """Append so many events; return the place behind them."""
    for _ in range(count):
        assert await store.append([w.batch(w.event("note:1"))])
    return Cursor(w.head_seq, w.chain)


async def behind(store: Store, *names: str, node: str = "here", limit: int = 100) -> list[str]:
    """Find where reactors are behind, page by page."""
    found: list[str] = []
    after: tuple[str, str] | None = ("", "")
    while after is not None:
        page = await store.find_behind(node, names, after=after, limit=limit)
        found += page.workspace_ids
        after = page.last
    return sorted(each for each in found if len(each) == 1)  # not a harness's own


class FollowerContract:
    """How far reactors have come: where they begin, and who is behind."""

    async def test_a_new_reactor_begins_at_the_head_of_what_there_is(self, store: Store) -> None:
        a, b = await writer(store, "a"), await writer(store, "b")
        places = {"a": await write(store, a, 3), "b": await write(store, b)}
        for _ in range(2):  # the second time it is there already
            await store.register_reactors([ReactorStart(name="r")])
            assert {id_: (await store.read_places(id_))["r"] for id_ in places} == places
            await write(store, a)
        await write(store, await writer(store, "c"), 2)
        assert await store.read_places("c") == {}, "newer than the reactor"
        assert await store.read_places("nowhere") == {}

    async def test_one_may_begin_at_the_beginning(self, store: Store) -> None:
        at = await write(store, await writer(store, "a"), 3)
        began = [ReactorStart(name="new"), ReactorStart(name="all", since="beginning")]
        await store.register_reactors(began)
        assert await store.read_places("a") == {"new": at, "all": Cursor(0, CHAIN_START)}

    async def test_a_renamed_one_goes_on(self, store: Store) -> None:
        a, b = await writer(store, "a"), await writer(store, "b")
        at, _ = await write(store, a), await write(store, b)
        await store.register_reactors([ReactorStart(name="old"), ReactorStart(name="other")])
        await write(store, a)
        await write(store, await writer(store, "c"))
        await store.register_reactors([ReactorStart(name="new", was="old")])
        assert await store.read_places("a") == {"new": at, "other": at}
        assert await store.read_places("c") == {}
        unknown = ReactorStart(name="newest", was="nobody")
        await store.register_reactors([unknown, ReactorStart(name="new", was="old")])
        assert (await store.read_places("a"))["newest"].seq == 2, "as a new one"
        await store.register_reactors([ReactorStart(name="old", was="new")])
        assert (await store.read_places("a"))["old"] == at, "and back"
        assert "new" not in await store.read_places("a")

    async def test_places_are_kept_by_name(self, store: Store) -> None:
        w = await writer(store, "a")
        first, second = await write(store, w), await write(store, w)
        await store.write_places({"a": ReactorPlace(("one", "two"), first)})
        start = Cursor(0, CHAIN_START)
        await store.write_places(
            {"a": ReactorPlace(("one",), second), "b": ReactorPlace(("one",), start)}
        )
        assert await store.read_places("a") == {"one": second, "two": first}
        assert await store.read_places("b") == {"one": start}
        await store.write_places({})

    async def test_a_place_of_another_history_is_not_written(self, store: Store) -> None:
        at = await write(store, await writer(store, "a"), 2)
        await store.write_places({"a": ReactorPlace(("one",), at)})
        for wrong in (Cursor(at.seq, 2**64 - 1), Cursor(at.seq + 1, at.chain), Cursor(1, at.chain)):
            await store.write_places({"a": ReactorPlace(("one",), wrong)})
        assert await store.read_places("a") == {"one": at}

    async def test_who_is_behind_is_found_where_nobody_serves(
        self, store: Store, harness: StoreHarness
    ) -> None:
        for node in ("here", "there"):
            await store.beat(node, "1", address=None, lease_s=10.0, first=True)
        heads = {}
        for workspace_id, owner in (
            ("a", "there"), ("b", "here"), ("c", "here"), ("d", "here"), ("e", "here"),
        ):  # fmt: skip
            w = await writer(store, workspace_id, owner)
            heads[workspace_id] = await write(store, w, 2)
            if workspace_id == "c":
                assert await store.halt("c", w.epoch, "why", code="x", actor="x")
            if workspace_id == "d":
                assert await store.release("d", w.epoch)
        await store.write_places({"e": ReactorPlace(("r",), heads["e"])})
        assert await behind(store, "r") == ["b"], "released is at its head"
        assert await behind(store, "r", node="there") == ["a"]
        assert await behind(store, "r", "s") == ["b", "e"], "s is at 0 there"
        await store.write_places({"b": ReactorPlace(("r",), heads["b"])})
        assert await behind(store, "r") == []
        await harness.age(11)
        for limit in (1, 2, 3, 9):
            assert await behind(store, "r", limit=limit) == ["a"]
            assert await behind(store, "s", limit=limit) == ["a", "b", "e"]

    async def test_who_begins_at_the_beginning_is_found_unowned(self, store: Store) -> None:
        for workspace_id in ("a", "b"):
            w = await writer(store, workspace_id)
            await write(store, w)
            assert await store.release(workspace_id, w.epoch)
        await store.register_reactors([ReactorStart(name="r", since="beginning")])
        assert await behind(store, "r", limit=1) == ["a", "b"]
        await store.write_places({"a": ReactorPlace(("r",), Cursor(0, CHAIN_START))})
        assert await behind(store, "r") == ["b"]
        await store.beat("there", "1", address=None, lease_s=10.0, first=True)
        assert await store.acquire("b", "there", create=False) is not None
        assert await behind(store, "r") == []
