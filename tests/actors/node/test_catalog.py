"""What is looked up is what is committed, also when memory and the log move meanwhile."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio

from dalsegno.actors import StoredEntity, World
from dalsegno.protocol import Limits
from tests.actors._boxes import Put, boxes
from tests.actors._world import FaultyStore, running


class SlowReads(FaultyStore):
    """Holds what one read of an entity found, while the log goes on."""

    held: trio.Event | None = None

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        found = await super().load_entities(workspace_id, stream_ids, domain_versions)
        held, self.held = self.held, None
        if held is not None:
            await held.wait()
        return found


async def test_a_stale_read_is_not_remembered_when_its_entity_was_evicted_meanwhile(
    world: World,
) -> None:
    """The commit that made the read stale put the entity into memory, and it left again."""
    store = SlowReads(world)
    async with running(store, world, limits=Limits(entities_cached_max=1)) as actors:
        workspace = actors.workspace()
        await workspace.send(Put("a", "first"))
        await workspace.send(Put("b"))  # the only place in memory is b's
        read: list[object] = []
        held = store.held = trio.Event()

        async def look() -> None:
            read.append(await workspace.get(boxes, "a"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            await workspace.send(Put("a", "second"))
            await workspace.send(Put("b"))
            held.set()
        assert getattr(read[0], "text", None) == "first", "as it was when the read began"
        assert getattr(await workspace.get(boxes, "a"), "text", None) == "second"
        assert (await workspace.send(Put("a", "third"))).version == 3


async def test_a_read_of_a_quiet_workspace_is_remembered(world: World) -> None:
    store = SlowReads(world)
    async with running(store, world) as actors:
        workspace = actors.workspace()
        await workspace.send(Put("a", "first"))
        supervisor = actors.service.directory.activate("w")
        assert supervisor.incarnation is not None
        supervisor.incarnation._speculation.entities._entities.clear()  # type: ignore[union-attr]
        assert getattr(await workspace.get(boxes, "a"), "text", None) == "first"

        async def unreachable() -> None:
            pytest.fail("the second look-up is served from memory")

        store.before["load_entities"] = unreachable
        assert getattr(await workspace.get(boxes, "a"), "text", None) == "first"
