"""One server a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from dalsegno.protocol import StoreUnavailableError
from dalsegno.runtime.store import DatabaseInUseError, connect, hold_exclusively
from dalsegno.runtime.store._exclusive import _LOCK_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.runtime.store import Connection

SOON = {"patience_s": 0.2, "check_interval_s": 0.02}


@pytest.fixture
async def other(database: str) -> AsyncIterator[Connection]:
    connection = await connect(database)
    yield connection
    await connection.aclose()


async def holders(other: Connection) -> list[int]:
    rows = await other.fetch(
        "select pid from pg_locks where locktype = 'advisory' and granted"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    return [pid for (pid,) in rows]


async def test_a_second_server_is_refused_until_the_first_is_gone(database: str) -> None:
    async with hold_exclusively(database):
        with pytest.raises(DatabaseInUseError, match="another dalsegno server"):
            async with hold_exclusively(database, patience_s=0.0):
                pytest.fail("both hold it")
    async with hold_exclusively(database, patience_s=0.0):
        pass


async def test_a_successor_waits_for_its_predecessor_to_end(database: str) -> None:
    async with trio.open_nursery() as nursery, hold_exclusively(database):
        started = trio.Event()

        async def succeed() -> None:
            started.set()
            async with hold_exclusively(database, patience_s=10):
                pass

        nursery.start_soon(succeed)
        await started.wait()


async def test_another_database_has_a_lock_of_its_own(database: str, migrated: str) -> None:
    async with hold_exclusively(database), hold_exclusively(migrated, patience_s=0.0):
        pass


async def test_no_database_no_lock() -> None:
    with pytest.raises(StoreUnavailableError):
        async with hold_exclusively("postgresql:///x?host=/nonexistent"):
            pytest.fail("held nothing")


async def test_a_lock_whose_connection_was_lost_is_taken_again(
    database: str, other: Connection
) -> None:
    async with hold_exclusively(database, **SOON):
        (first,) = await holders(other)
        await other.execute("select pg_terminate_backend($1::integer, 5000)", (first,))
        with trio.fail_after(10):
            while True:
                now = await holders(other)
                if now and now != [first]:
                    return
                await trio.sleep(0.005)


async def test_who_was_overtaken_while_away_stops(database: str, other: Connection) -> None:
    """Who waits in the queue for the lock has it before the owner is back."""
    rival = await connect(database)

    async def wait_for_the_lock() -> None:
        await rival.execute("select pg_advisory_lock($1::bigint)", (_LOCK_KEY,))

    async def cut_off() -> None:
        while True:
            if await other.fetch("select pid from pg_locks where not granted"):
                break
            await trio.sleep(0.005)
        (owner,) = await holders(other)
        await other.execute("select pg_terminate_backend($1::integer, 5000)", (owner,))

    async def serve() -> None:
        async with hold_exclusively(database, **SOON), trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_the_lock)
            nursery.start_soon(cut_off)
            await trio.sleep_forever()

    with trio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        await serve()
    assert caught.group_contains(DatabaseInUseError)
    await rival.aclose()
