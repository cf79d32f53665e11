from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dalsegno.actors import World
from tests.actors._world import Actors, FaultyStore, Wall, running


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
