"""The stores that the contract suite runs on, and what it needs to write to them by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

import pytest
import trio

from dalsegno.actors import Batch, Store
from dalsegno.actors.testing import Link, LinkState, Noise, SimStore, Weather, contract
from dalsegno.actors.testing.contract import STORE_LIMITS, StoreHarness
from dalsegno.actors.testing.contract.store._writing import writer
from dalsegno.runtime._account_store import AccountStore
from dalsegno.runtime.store import (
    DRIVERS,
    Connection,
    DriverName,
    PostgresStore,
    connect,
    open_driver,
)
from dalsegno.runtime.store._memory_accounts import MemoryAccounts
from tests._drivers import marks_of


class Harness(StoreHarness, Protocol):
    """A store with its accounts, and what the suites do to it behind its back."""

    accounts: AccountStore


class MemoryHarness(contract.MemoryHarness):
    def __init__(self) -> None:
        super().__init__()
        self.accounts: AccountStore = MemoryAccounts(self.world)


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
    """The memory store as a simulated process sees it, without faults."""

    def __init__(self, wire: trio.Nursery) -> None:
        super().__init__()
        link = Link(wire, Noise(0))
        link.set(LinkState.UP, Weather())  # not `CALM` itself: every statement goes over the wire
        self.store = SimStore(self.store, link)


_ON_POSTGRES = [
    pytest.param(
        (driver, kind),
        id=f"postgres by {driver}" if kind is PostgresStore else f"postgres by {driver}, several",
        marks=[*marks_of(driver), pytest.mark.postgres],
    )
    for driver in DRIVERS
    for kind in (PostgresStore, Accompanied)
]


@pytest.fixture(params=["memory", "simulated", *_ON_POSTGRES])
def which(request: pytest.FixtureRequest) -> str | tuple[str, DriverName, type[PostgresStore]]:
    """The name of a store in memory; or a database's DSN, a driver, and the store's class."""
    if isinstance(request.param, str):
        return request.param
    return request.getfixturevalue("migrated"), *request.param


@pytest.fixture
async def harness(
    which: str | tuple[str, DriverName, type[PostgresStore]],
) -> AsyncIterator[Harness]:
    if which == "memory":
        yield MemoryHarness()
        return
    if isinstance(which, str):
        async with trio.open_nursery() as wire:
            yield SimulatedHarness(wire)
        return
    dsn, driver, kind = which
    async with (
        open_driver(driver) as connect,
        kind.open(dsn, limits=STORE_LIMITS, connect=connect) as store,
    ):
        yield PostgresHarness(store, dsn)


@pytest.fixture
def accounts(harness: Harness) -> AccountStore:
    return harness.accounts


@pytest.fixture
async def other(migrated: str) -> AsyncIterator[Connection]:
    """Another client's connection."""
    connection = await connect(migrated, settings={"application_name": "other"})
    yield connection
    await connection.aclose()
