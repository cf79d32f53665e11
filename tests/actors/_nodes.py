"""Several nodes on one store, each behind a gate that can be shut, under one moving clock."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import trio

from dalsegno.actors import Batch, Service, Store, World
from dalsegno.protocol import App, Domain, Limits
from tests.actors._world import DOMAINS, Actors

LIMITS = Limits(lease_s=10.0, lease_beat_s=2.0, passivate_after_s=1_000.0)


def moving_world() -> World:
    """A world whose wall clock follows the test's clock, so that leases run out."""
    ids = itertools.count(1)
    began = trio.current_time()
    start = datetime(2030, 1, 2, tzinfo=UTC)
    return World(
        now=lambda: start + timedelta(seconds=trio.current_time() - began),
        random=lambda: 0.5,
        new_id=lambda: f"00000000-0000-7000-8000-{next(ids):012x}",
        new_salt=lambda: bytes(16),
    )


class Gate:
    """One node's way to the store; shut, no call begins and none returns."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open = trio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open = trio.Event()

    def open(self) -> None:
        self._open.set()

    def append_nowait(self, _batches: Sequence[Batch]) -> None:
        """Send nothing past the gate."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._open.wait()
            result = await method(*args, **kwargs)
            await self._open.wait()
            return result

        return call


@dataclass
class Node(Actors):
    """A running service with its gate."""

    gate: Gate


@asynccontextmanager
async def node(
    store: Store,
    node_id: str,
    *,
    world: World,
    limits: Limits = LIMITS,
    address: str | None = None,
    version: str = "",
    domains: Sequence[Domain[Any, Any, Any]] = DOMAINS,
    app_version: int = 0,
    app: App | None = None,
) -> AsyncIterator[Node]:
    """Run a node; it is killed at the end, and its lease has to run out.

    An ``app`` adds its domains, its workers and its reactors.
    """
    app = App() if app is None else app
    gate = Gate(store)
    service = Service(
        cast("Store", gate),
        [*domains, *(each for each in app.domains if each not in domains)],
        node_id=node_id,
        world=world,
        limits=limits,
        address=address,
        version=version,
        app_version=app_version,
        workers=app.workers,
        reactors=app.reactors,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield Node(service, nursery.cancel_scope, gate)
        nursery.cancel_scope.cancel()
