"""What is due: found in order, and not what another node serves."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dalsegno.actors.ports import DueEntity

from ._writing import START, Writer, entity, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import DuePage, Store

    from ._harness import StoreHarness


async def ask(store: Store, w: Writer, stream_id: str, seconds: float | None) -> None:
    """Append an event of an entity that asks for something so many seconds after `START`."""
    event = w.event(stream_id)
    at = None if seconds is None else START + timedelta(seconds=seconds)
    row = entity(stream_id, event.stream_seq, due_at=at, index_changed=False)
    assert await store.append([w.batch(event, entities=(row,))])


async def due(
    store: Store, seconds: float, *, node: str = "here", after: DueEntity | None = None,
    limit: int = 100,
) -> DuePage:  # fmt: skip
    """Find what is due by then."""
    until = START + timedelta(seconds=seconds)
    return await store.find_due(node, ["note", "task"], until=until, after=after, limit=limit)


def ids_of(page: DuePage) -> list[str]:
    """Return workspace and stream of each."""
    return [f"{each.workspace_id} {each.stream_id}" for each in page.entities]


class DueContract:
    """What is due: found in order, and not what another node serves."""

    async def test_what_is_due_is_found_in_order(self, store: Store) -> None:
        a, b = await writer(store, "a"), await writer(store, "b")
        for w, stream_id, seconds in (
            (b, "note:1", 1),
            (a, "note:2", 1),
            (a, "note:1", 1),
            (a, "task:0", 0.5),
            (a, "note:3", 2),
            (a, "box:1", 0),
            (a, "note:4", None),
        ):
            await ask(store, w, stream_id, seconds)
        first = ["a task:0", "a note:1", "a note:2", "b note:1"]
        assert ids_of(await due(store, 0.4)) == []
        assert ids_of(await due(store, 1)) == first
        found = await due(store, 9)
        assert ids_of(found) == [*first, "a note:3"]
        assert found.entities[0].due_at == START + timedelta(seconds=0.5)
        assert found.last is None

    async def test_what_is_renewed_or_withdrawn_is_not(self, store: Store) -> None:
        w = await writer(store, "w")
        for stream_id in ("note:1", "note:2", "note:3"):
            await ask(store, w, stream_id, 1)
        await ask(store, w, "note:1", 5)
        await ask(store, w, "note:2", None)
        assert ids_of(await due(store, 4)) == ["w note:3"]
        assert ids_of(await due(store, 5)) == ["w note:3", "w note:1"]

    async def test_pages_are_everything(self, store: Store) -> None:
        w = await writer(store, "w")
        for number in range(5):
            await ask(store, w, f"note:{number}", number // 2)
        found: list[str] = []
        page = await due(store, 9, limit=2)
        while True:
            found += ids_of(page)
            if page.last is None:
                break
            page = await due(store, 9, after=page.last, limit=2)
        assert found == [f"w note:{number}" for number in range(5)]

    async def test_what_others_serve_or_is_halted_is_left_out_and_passed_over(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        for node in ("here", "there"):
            await store.beat(node, "1", address=None, lease_s=10.0, first=True)
        for workspace_id, owner in (("a", "there"), ("b", "here"), ("c", "here"), ("d", "here")):
            w = await writer(store, workspace_id, owner)
            await ask(store, w, "note:1", 1)
            if workspace_id == "c":
                assert await store.halt("c", w.epoch, "why", code="x", actor="x")
            if workspace_id == "d":
                assert await store.release("d", w.epoch)
        assert ids_of(await due(store, 9)) == ["b note:1", "d note:1"]
        assert ids_of(await due(store, 9, node="there")) == ["a note:1", "d note:1"]
        page = await due(store, 9, limit=1)
        assert ids_of(page) == []
        assert page.last is not None
        assert ids_of(await due(store, 9, after=page.last, limit=1)) == ["b note:1"]
        await harness.age(11)
        assert ids_of(await due(store, 9)) == ["a note:1", "b note:1", "d note:1"]

    async def test_workspaces_with_open_runs_are_found_one_by_one(self, store: Store) -> None:
        """Whatever number of runs each has; what is over, halted or another's is passed over."""
        for workspace_id, dues in (("a", (1, 2, 3)), ("b", (1,)), ("c", (None,)), ("d", (None, 9))):
            w = await writer(store, workspace_id)
            await ask(store, w, "note:1", 1)
            for number, seconds in enumerate(dues):
                await ask(store, w, f"run:{number}", seconds)
            if workspace_id == "b":
                assert await store.halt("b", w.epoch, "why", code="x", actor="x")
        for limit in (1, 2, 3, 9):
            found: list[str] = []
            page = await store.find_runs("here", after="", limit=limit)
            while page.last is not None:
                found += page.workspace_ids
                page = await store.find_runs("here", after=page.last, limit=limit)
            assert found + page.workspace_ids == ["a", "d"]
        await store.beat("there", "i", address=None, lease_s=60, first=True)
        assert await store.acquire("d", "there", create=False) is not None
        assert (await store.find_runs("here", after="", limit=9)).workspace_ids == ["a"]
        assert (await store.find_runs("there", after="a", limit=9)).workspace_ids == ["d"]
