"""Harnesses: what the suite needs of a store beside its methods."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import msgspec
import trio

from dalsegno.actors.ports import Store, World
from dalsegno.actors.testing.memory import MemoryStore
from dalsegno.protocol import Limits

from ._writing import START, new_id

STORE_LIMITS = Limits(clients_per_user_max=3, cursors_per_client_max=5)
"""The limits of stores under test: so small that the tests reach them."""


class StoreHarness(Protocol):
    """A store, with operations that bypass its interface."""

    store: Store

    async def age(self, seconds: float) -> None:
        """Make command results, leases and cursors this much older."""

    async def put_head(self, workspace_id: str, head_seq: int) -> None:
        """Set the head of a workspace's log, without its events."""


class MemoryHarness:
    """A `MemoryStore` whose clock stands still but for `age`; also for stores that wrap one."""

    def __init__(self) -> None:
        self._now = START
        self.world = World(
            now=lambda: self._now, random=lambda: 0.5, new_id=new_id, new_salt=lambda: bytes(16)
        )
        self._memory = _Store(self.world, limits=STORE_LIMITS)
        self.store: Store = self._memory

    async def age(self, seconds: float) -> None:
        """Make command results, leases and cursors this much older."""
        self._now += timedelta(seconds=seconds)
        await trio.lowlevel.checkpoint()

    async def put_head(self, workspace_id: str, head_seq: int) -> None:
        """Set the head of a workspace's log, without its events."""
        self._memory.put_head(workspace_id, head_seq)
        await trio.lowlevel.checkpoint()


class _Store(MemoryStore):
    """A store whose logs can be made long without writing them."""

    def put_head(self, workspace_id: str, head_seq: int) -> None:
        log = self._logs[workspace_id]
        log.head = msgspec.structs.replace(log.head, head_seq=head_seq)
