"""A client that hangs up in the middle of a read costs no connection to the database."""

from __future__ import annotations

from contextlib import AsyncExitStack

import psycopg
import trio
import trio.testing

from tests._patience import until
from tests.wire._site import Site
from tests.wire.conftest import start

AT_ONCE = 3
"""Fewer than there are readers, so that none waits for another."""


def backends(admin: psycopg.Connection) -> set[int]:
    """The server's processes for us, as the database sees them."""
    found = admin.execute(
        "select pid from pg_stat_activity"
        " where datname = current_database() and application_name = 'dalsegno'"
    )
    return {pid for (pid,) in found.fetchall()}


def waiting(admin: psycopg.Connection) -> int:
    """How many of them wait for the lock to read a session."""
    found = admin.execute(
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'"
        " and query like 'select id_hash%'"  # a sweep may wait, too
    ).fetchone()
    return 0 if found is None else int(found[0])


async def hang_up_in_a_read(site: Site, database: str) -> None:
    """Ask several times at once, hang up while the database works on it, and let it end that."""
    host, _, port = site.address.rpartition(":")
    request = (
        f"GET /api/workspaces HTTP/1.1\r\nHost: {site.address}\r\n"
        f"Cookie: dalsegno_session={site.owner.cookie}\r\n\r\n"
    )
    with psycopg.connect(database) as lock, psycopg.connect(database, autocommit=True) as admin:
        lock.execute("lock table dalsegno.session in access exclusive mode")
        async with AsyncExitStack() as streams:
            for _ in range(AT_ONCE):
                stream = await trio.open_tcp_stream(host, int(port))
                await streams.enter_async_context(stream)
                await stream.send_all(request.encode())
            await until(lambda: waiting(admin) == AT_ONCE)
        # The server has noticed; its watchdog looks every 25 ms.
        await trio.testing.wait_all_tasks_blocked(0.01)
        lock.rollback()
        await until(lambda: waiting(admin) == 0)


async def test_a_hang_up_costs_no_connection_to_the_database(migrated: str) -> None:
    async with start(migrated, finish_deadline_s=60) as site:
        owner = await site.set_up()
        with psycopg.connect(migrated, autocommit=True) as admin:
            for _ in range(3):
                before = backends(admin)
                await hang_up_in_a_read(site, migrated)
                assert (await owner.http("GET", "/api/workspaces")).status_code == 200
                assert before <= backends(admin)


async def test_a_read_that_goes_on_too_long_after_a_hang_up_is_given_up(migrated: str) -> None:
    async with start(migrated, finish_deadline_s=0.01) as site:
        owner = await site.set_up()
        with psycopg.connect(migrated, autocommit=True) as admin:
            before = backends(admin)
            await hang_up_in_a_read(site, migrated)
            assert (await owner.http("GET", "/api/workspaces")).status_code == 200
            await until(lambda: not before <= backends(admin))
