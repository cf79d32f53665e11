"""What happens to the whole server: a restart, and missing standbys."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio

from dalsegno.actors import AckedCursor, CursorKey
from dalsegno.actors.testing.contract.store._writing import acquired, head_of, log_of, writer
from dalsegno.protocol import Limits, OutcomeUnknownError, StoreUnavailableError
from dalsegno.runtime import store as stores
from dalsegno.runtime.store import CommitUncertainError, PostgresStore, migrate
from dalsegno.runtime.store._cluster import find_binaries
from dalsegno.runtime.store._embedded import EmbeddedPostgres, embedded
from tests._patience import fail_after
from tests.contract._locks import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from dalsegno.actors.testing.contract.store._writing import Writer
    from dalsegno.runtime.store import Connect

pytestmark = pytest.mark.processes
KEY = CursorKey("u", "c", "w", "s")
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of these tests' own, since they restart and reconfigure it."""
    with embedded(tmp_path_factory.mktemp("server")) as server:

        async def fill() -> None:
            connection = await stores.connect(server.dsn)
            await migrate(connection)
            await connection.aclose()

        trio.run(fill)
        yield server


@pytest.fixture
async def store(server: EmbeddedPostgres, connect: Connect) -> AsyncIterator[PostgresStore]:
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute("truncate dalsegno.workspace_head, dalsegno.event, dalsegno.ack_cursor")
    async with PostgresStore.open(
        server.dsn, limits=Limits(lease_s=60.0), connect=connect
    ) as store:
        yield store


def calls_on(store: PostgresStore, w: Writer) -> dict[str, Callable[[], Awaitable[object]]]:
    """A call on each kind of connection."""
    return {
        "appending": lambda: store.append([w.batch(w.event("note:1"))]),
        "reading": lambda: store.acquire("w", "here", create=True),
        "writing": lambda: store.write_cursors({KEY: AckedCursor(1)}),
        "keeping": lambda: store.write_states("w", w.epoch, []),
        "beating": lambda: store.beat("a", "1", address=None, lease_s=60.0, first=True),
    }


async def test_after_a_restart_no_call_finds_an_old_connection(
    server: EmbeddedPostgres, store: PostgresStore
) -> None:
    """Those died while idle, and that is seen before anything is sent."""
    w = await writer(store, "w")
    calls = calls_on(store, w)
    for call in calls.values():
        await call()
    async with trio.open_nursery() as nursery:  # every reader
        for _ in range(8):
            nursery.start_soon(head_of, store, "w")
    assert repr(store).count("4 of 4 open, 4 idle") == 1

    await trio.to_thread.run_sync(restart, server)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(head_of, store, "w")
    w.epoch, w.head_seq = (await head_of(store, "w")).epoch, 1
    for call in calls.values():
        await call()
    assert len(await log_of(store, "w")) == 2


def restart(server: EmbeddedPostgres) -> None:
    assert server._account is not None
    cluster = server.directory / "postgres"
    program, log = find_binaries() / "pg_ctl", server.directory / "postgres.log"
    ended = server._account.run(
        [program, "restart", "-m", "immediate", "-w", "-s", "-l", log, "-D", cluster],
        timeout_s=60,
    )
    assert ended.ok, ended.said


# Standbys


@asynccontextmanager
async def without_standby(server: EmbeddedPostgres) -> AsyncIterator[psycopg.Connection]:
    """A server whose commits wait for a standby that does not exist."""

    def configure(sql: str) -> None:
        admin.execute(sql)
        admin.execute("select pg_reload_conf()")

    # Its own statements write nothing, and so wait for no standby.
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        configure("alter system set synchronous_standby_names = 'nobody'")
        try:
            yield admin
        finally:
            configure("alter system reset synchronous_standby_names")


def cancel_waiting(admin: psycopg.Connection) -> int:
    """Cancel every wait for a standby, as an operator might, or a pooler whose client left."""
    cancelled = admin.execute(
        "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
    )
    return cancelled.rowcount


@asynccontextmanager
async def waits_cancelled(admin: psycopg.Connection) -> AsyncIterator[None]:
    async def keep_cancelling() -> None:
        while True:
            cancel_waiting(admin)
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_cancelling)
        with fail_after(PATIENCE_S):
            yield
        nursery.cancel_scope.cancel()


async def until_it_fails(call: Callable[[], Awaitable[object]]) -> None:
    """Call until the server has read its new configuration, and then let the error out."""
    while True:
        await call()


async def test_i4_a_commit_that_no_standby_has_is_unknown(
    server: EmbeddedPostgres, store: PostgresStore
) -> None:
    """The server says that it succeeded, and a failover would lose it."""
    w = await writer(store, "w")
    # A store writes an event's kind once, before the first one and apart from it.
    assert await store.append([w.batch(w.event("note:1"))]) == {"w"}
    async with without_standby(server) as admin, waits_cancelled(admin):
        with pytest.raises(OutcomeUnknownError, match="standbys"):
            await until_it_fails(lambda: store.append([w.batch(w.event("note:1"))]))
        with pytest.raises(OutcomeUnknownError, match="standbys"):
            await store.acquire("w", "here", create=True)
        with pytest.raises(OutcomeUnknownError, match="standbys"):
            await store.acquire("new", "here", create=True)
    assert (await head_of(store, "w")).head_seq == w.head_seq, "here it is committed"
    assert (await head_of(store, "w")).epoch == w.epoch + 1
    w.epoch = (await acquired(store, "w")).epoch
    assert await store.append([w.batch(w.event("note:1"))]) == {"w"}
    assert [event.event_seq for event in await log_of(store, "w")] == [*range(1, w.head_seq + 1)]


async def test_what_can_be_repeated_is_unavailable_where_no_standby_has_it(
    server: EmbeddedPostgres, store: PostgresStore
) -> None:
    w = await writer(store, "w")
    calls = calls_on(store, w)
    async with without_standby(server) as admin, waits_cancelled(admin):
        with pytest.raises(StoreUnavailableError, match="standbys"):
            await until_it_fails(calls["writing"])
        for call in (
            calls["beating"],
            lambda: store.halt("w", w.epoch, "why", code="1", actor="x"),
            lambda: store.release("w", w.epoch),
        ):
            with pytest.raises(StoreUnavailableError, match="standbys"):
                await call()
        assert (await head_of(store, "w")).owner is None, "reads wait for nobody"
    assert await calls["writing"]() is None


async def test_a_transaction_whose_commit_no_standby_has_does_not_pretend(
    server: EmbeddedPostgres, store: PostgresStore, connect: Connect
) -> None:
    connection = await connect(server.dsn)

    async def write() -> None:
        async with connection.transaction():
            await connection.execute("insert into dalsegno.event_type values ('d', 't', 1)")
            await connection.execute("delete from dalsegno.event_type")

    async with without_standby(server) as admin:
        async with waits_cancelled(admin):
            with pytest.raises(CommitUncertainError):
                await until_it_fails(write)
        assert await connection.fetch("select 1") == [(1,)], "the connection is fine"
    await connection.aclose()


async def test_a_commit_waits_for_its_standby_until_somebody_ends_that(
    server: EmbeddedPostgres, store: PostgresStore
) -> None:
    """With the standby back, or no longer asked for, it succeeds."""
    w = await writer(store, "w")
    committed = 0

    async def append() -> None:
        nonlocal committed
        while not finished:
            committed += len(await store.append([w.batch(w.event("note:1"))]))

    finished = False
    async with trio.open_nursery() as nursery, without_standby(server) as admin:
        nursery.start_soon(append)

        async def waiting() -> bool:
            sql = "select from pg_stat_activity where wait_event = 'SyncRep'"
            return admin.execute(sql).rowcount == 1

        await wait_until(waiting)
        finished = True
    assert (await head_of(store, "w")).head_seq == committed
