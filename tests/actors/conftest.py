from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dalsegno.actors import World
from tests.actors._world import Actors, FaultyStore, Wall, running

HERE = Path(__file__).parent


def run_jumping(fn: Callable[[], Awaitable[Any]], **how: Any) -> Any:
    return trio.run(fn, **(how | {"clock": trio.testing.MockClock(autojump_threshold=0)}))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make every test of actors wait in virtual time."""
    for item in items:
        if HERE in item.path.parents:
            marker = item.get_closest_marker("trio")
            if marker is not None:
                item.add_marker(pytest.mark.trio(run=run_jumping), append=False)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def world(wall: Wall) -> World:
    return wall.world()


@pytest.fixture
def store(world: World) -> FaultyStore:
    return FaultyStore(world)


@pytest.fixture
async def actors(store: FaultyStore, world: World) -> AsyncIterator[Actors]:
    async with running(store, world) as actors:
        yield actors
