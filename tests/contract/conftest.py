"""The stores that the contract suite runs on, and what it takes to write to them by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import timedelta
from typing import Protocol

import msgspec
import pytest
import trio

from dalsegno.actors import Batch, Store, World
from dalsegno.actors.testing import Link, LinkState, MemoryStore, Noise, SimStore, Weather
from dalsegno.protocol import Limits
from dalsegno.runtime._account_store import AccountStore
from dalsegno.runtime.store import Connection, PostgresStore, connect
from dalsegno.runtime.store._memory_accounts import MemoryAccounts
from tests.contract._writing import START, new_id, writer

LIMITS = Limits(clients_per_user_max=3, cursors_per_client_max=5)


class Harness(Protocol):
    """A store, and ways behind its back."""

    store: Store
    accounts: AccountStore

    async def age(self, seconds: float) -> None:
        """Let command results, sessions, leases and cursors grow older."""

    async def put_head(self, workspace_id: str, head_seq: int) -> None:
        """Pretend that a log is this long."""


class MemoryHarness:
    def __init__(self) -> None:
        self._now = START
        world = World(now=lambda: self._now, random=lambda: 0.5, new_id=new_id)
        self._store = MemoryStore(world, limits=LIMITS)
        self.store: Store = self._store
        self.accounts: AccountStore = MemoryAccounts(world)

    async def age(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        await trio.lowlevel.checkpoint()

    async def put_head(self, workspace_id: str, head_seq: int) -> None:
        log = self._store._logs[workspace_id]
        log.head = msgspec.structs.replace(log.head, head_seq=head_seq)
        await trio.lowlevel.checkpoint()


class PostgresHarness:
    def __init__(self, store: PostgresStore, dsn: str) -> None:
        self.store: Store = store
        self.accounts: AccountStore = store.accounts
        self._dsn = dsn

    async def age(self, seconds: float) -> None:
        step = "make_interval(secs => $1::text::double precision)"
        for table, column in (
            ("command_result", "expires_at"),
            ("session", "expires_at"),
            ("node", "expires_at"),
            ("ack_cursor", "updated_at"),
        ):
            sql = f"update dalsegno.{table} set {column} = {column} - {step}"
            await self._run(sql, str(seconds))

    async def put_head(self, workspace_id: str, head_seq: int) -> None:
        await self._run(
            "update dalsegno.workspace_head set head_seq = $2::text::bigint"
            " where workspace_id = $1::text",
            workspace_id,
            str(head_seq),
        )

    async def _run(self, sql: str, *params: str) -> None:
        connection = await connect(self._dsn)
        await connection.execute(sql, params)
        await connection.aclose()


class Accompanied(PostgresStore):
    """Appends nothing alone: a batch of one event has a statement of its own."""

    _neighbours = 0

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        if len(batches) != 1:
            return await super().append(batches)
        self._neighbours += 1
        beside = await writer(self, f"neighbour-{self._neighbours}")
        batch = beside.batch(beside.event("note:neighbours"))
        won = set(await super().append([*batches, batch]))
        assert beside.workspace_id in won
        return won - {beside.workspace_id}


class SimulatedHarness(MemoryHarness):
    """The memory store as a simulated process sees it, while nothing goes wrong."""

    def __init__(self, wire: trio.Nursery) -> None:
        super().__init__()
        link = Link(wire, Noise(0))
        link.set(LinkState.UP, Weather())  # not `CALM` itself: every statement goes over the wire
        self.store = SimStore(self._store, link)


@pytest.fixture(params=["memory", "simulated", "postgres", "postgres, several"])
def harness_dsn(request: pytest.FixtureRequest) -> str:
    """Where the store is: a database's DSN, or the name of one in memory."""
    in_memory: str = request.param
    if not in_memory.startswith("postgres"):
        return in_memory
    dsn: str = request.getfixturevalue("migrated")
    return dsn


@pytest.fixture
async def harness(request: pytest.FixtureRequest, harness_dsn: str) -> AsyncIterator[Harness]:
    if harness_dsn == "memory":
        yield MemoryHarness()
        return
    if harness_dsn == "simulated":
        async with trio.open_nursery() as wire:
            yield SimulatedHarness(wire)
        return
    kind = Accompanied if "several" in request.node.callspec.id else PostgresStore
    async with kind.open(harness_dsn, limits=LIMITS) as store:
        yield PostgresHarness(store, harness_dsn)


@pytest.fixture
def store(harness: Harness) -> Store:
    return harness.store


@pytest.fixture
def accounts(harness: Harness) -> AccountStore:
    return harness.accounts


@pytest.fixture
async def other(migrated: str) -> AsyncIterator[Connection]:
    """Somebody else's connection."""
    connection = await connect(migrated, settings={"application_name": "other"})
    yield connection
    await connection.aclose()
