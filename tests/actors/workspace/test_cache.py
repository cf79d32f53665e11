"""Entities in memory: the last ones used of a workspace, and a bound for the whole node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.actors.domains.notes import CreateNote, notes
from dalsegno.actors.workspace import CacheBound
from dalsegno.actors.workspace._cache import EntityCache
from dalsegno.actors.workspace._entity import Entity
from dalsegno.protocol import Limits
from tests.actors._boxes import Put, boxes
from tests.actors._world import FaultyStore, eventually, running

if TYPE_CHECKING:
    from dalsegno.actors import World


def entity(size: int, version: int = 1) -> Entity:
    return Entity(boxes, version, None, 0, 0, size)


def kept(cache: EntityCache) -> list[str]:
    return [stream_id for stream_id, _ in cache.items()]


def test_the_longest_unused_goes_first() -> None:
    cache = EntityCache(CacheBound(10**9), count_max=3)
    for name in "abc":
        cache.put(name, entity(1))
    assert cache.get("a") is not None
    cache.put("d", entity(1))
    assert kept(cache) == ["c", "a", "d"]
    assert cache.get("b") is None
    cache.put("c", entity(1, version=2))
    assert kept(cache) == ["a", "d", "c"]


def test_i9_beyond_the_nodes_bound_the_silent_workspace_loses_first() -> None:
    bound = CacheBound(10_000)
    busy, silent = (EntityCache(bound, count_max=100) for _ in range(2))
    for name in "abc":
        silent.put(name, entity(2_000))
    assert bound.bytes == 3 * 2_600
    busy.put("x", entity(2_000))
    assert (kept(silent), kept(busy)) == (["b", "c"], ["x"])
    busy.put("y", entity(5_000))
    assert (kept(silent), kept(busy)) == ([], ["x", "y"])
    busy.put("z", entity(50_000))  # it is needed, however large it is
    assert kept(busy) == ["z"]
    busy.put("z", entity(1_000, version=2))
    assert bound.bytes == 1_600
    busy.clear()
    silent.clear()
    assert repr(bound) == "<CacheBound 0/10000 bytes, 0 caches>"


async def test_what_a_workspace_kept_is_free_once_it_leaves_memory(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world, limits=Limits(passivate_after_s=10)) as actors:
        cached = actors.service.node.cached
        for number in range(5):
            await actors.workspace(f"w{number}").send(CreateNote("T", "x" * 10_000, note_id="n"))
        assert cached.bytes > 50_000
        await eventually(lambda: cached.bytes == 0)
        assert actors.service.directory.statistics() == {}


async def test_what_was_driven_out_is_loaded_again(store: FaultyStore, world: World) -> None:
    limits = Limits(entities_cached_bytes_max=20_000)
    async with running(store, world, limits=limits) as actors:
        for number in range(5):
            workspace = actors.workspace(f"w{number}")
            await workspace.send(CreateNote("T", "x" * 10_000, note_id="n"))
            await workspace.send(Put("a", str(number)))
        assert actors.service.node.cached.bytes <= 20_000
        for number in range(5):
            workspace = actors.workspace(f"w{number}")
            assert (await workspace.send(Put("a", "again"))).version == 2
            note = await workspace.get(notes, "n")
            assert note is not None
            assert note.markdown == "x" * 10_000
