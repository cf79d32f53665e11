"""A database before it is used: waited for, told apart from one that refuses us, and judged."""

from __future__ import annotations

import logging
import re
from urllib.parse import quote

import psycopg
import pytest
import trio
import trio.testing
from psycopg.conninfo import conninfo_to_dict

from dalsegno.protocol import StoreUnavailableError
from dalsegno.runtime.store import (
    Connect,
    ConnectionBrokenError,
    RightsMissingError,
    ServerUnsuitableError,
    SessionRefusedError,
    bring_up_to_date,
    check,
    connect,
    migrate,
)
from dalsegno.runtime.store._refusals import advice_on
from dalsegno.runtime.store._suitability import check_sessions
from tests._patience import fail_after


def as_role(dsn: str, role: str, password: str) -> str:
    """The address of the same database for another role."""
    parts = conninfo_to_dict(dsn)
    place = f"host={quote(str(parts['host']), safe='')}&port={parts['port']}"
    return f"postgresql://{role}:{quote(password)}@/{parts['dbname']}?{place}"


@pytest.mark.parametrize(
    "words",
    [
        'FATAL:  password authentication failed for user "x"',
        "fe_sendauth: no password supplied",
        'FATAL:  role "x" does not exist',
        'FATAL:  database "x" does not exist',
        'FATAL:  permission denied for database "x"',
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "x", database "x", no encryption',
        'FATAL:  database "x" is not currently accepting connections',
        "server does not support SSL, but SSL was required",
        "local user with ID 12345 does not exist",
        'invalid sslmode value: "sometimes"',
        "FATAL:  no such database: x",
    ],
)
def test_what_only_a_person_can_mend(words: str) -> None:
    assert advice_on(words)


@pytest.mark.parametrize(
    "words",
    [
        "Connection refused",
        "No such file or directory",
        "server closed the connection unexpectedly",
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is shutting down",
        "FATAL:  the database system is not yet accepting connections",
        "FATAL:  sorry, too many clients already",
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "FATAL:  Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen",
    ],
)
def test_what_may_pass_by_itself(words: str) -> None:
    assert advice_on(words) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dsn: dsn.replace("/test_", "/no_such_"), "does not exist: create the database"),
        (lambda dsn: as_role(dsn, "postgres", "guessed"), "check the user's password"),
        # asyncpg sends an empty one, where libpq says that there is none.
        (lambda dsn: as_role(dsn, "postgres", ""), "put the password into|check the user's pass"),
        (lambda _: "postgresql://me:hun/ter2@localhost/x", "must be percent-encoded"),
        (lambda dsn: f"{dsn}&sslmode=sometimes", "correct the address"),
    ],
)
async def test_what_does_not_mend_itself_is_not_waited_for(
    database: str, connect: Connect, change: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(change)
    with fail_after(5), pytest.raises(StoreUnavailableError, match="refuses us") as refused:
        await bring_up_to_date(change(database), wait_s=600.0, connect=connect)
    assert re.search(said, refused.value.message)
    assert isinstance(refused.value.__cause__, SessionRefusedError)
    assert not caplog.records


async def test_a_database_that_does_not_answer_is_waited_for_and_the_log_says_so(
    autojump_clock: trio.testing.MockClock, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    started = trio.current_time()
    with (
        caplog.at_level(logging.WARNING, "dalsegno.store"),
        pytest.raises(StoreUnavailableError, match=r"cannot be reached: .*refused .*waited 30 s"),
    ):
        await bring_up_to_date("postgresql://127.0.0.1:1/x", wait_s=30.0, connect=connect)
    assert trio.current_time() - started == pytest.approx(30.0)
    (said,) = caplog.messages
    assert said.startswith("waiting for the database, at most 30 s: ")


async def test_a_host_that_has_no_address_yet_is_waited_for() -> None:
    with pytest.raises(StoreUnavailableError, match=r"nobody\.invalid has no address.*waited"):
        await bring_up_to_date("postgresql://nobody.invalid/x", wait_s=0.2)


async def test_of_several_hosts_one_may_come(database: str, connect: Connect) -> None:
    """The first refuses us for good, which says nothing of the second."""
    parts = conninfo_to_dict(database)
    hosts = f"host={parts['host']},127.0.0.1 port={parts['port']},1 user=postgres password=guessed"
    with pytest.raises(ConnectionBrokenError) as broken:
        await connect(f"{hosts} dbname={parts['dbname']}")
    assert not isinstance(broken.value, SessionRefusedError)


# ------------------------------------------------------------------------------ rights, encodings


async def test_a_role_that_owns_the_schema_needs_no_other_right(
    database: str, connect: Connect
) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("create role few login password 'few'")
        admin.execute("revoke create on schema public from public")
    dsn = as_role(database, "few", "few")
    try:
        with pytest.raises(RightsMissingError, match="create schema dalsegno authorization few"):
            await bring_up_to_date(dsn, wait_s=0.0, connect=connect)
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("create schema dalsegno")
        with pytest.raises(RightsMissingError, match="alter schema dalsegno owner to few"):
            await bring_up_to_date(dsn, wait_s=0.0, connect=connect)
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("alter schema dalsegno owner to few")
        assert await bring_up_to_date(dsn, wait_s=0.0, connect=connect)
        assert await bring_up_to_date(dsn, wait_s=0.0, connect=connect) == []
    finally:
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("drop owned by few cascade")
            admin.execute("drop role few")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_an_encoding_that_cannot_hold_every_text_is_refused(
    database: str, encoding: str
) -> None:
    name = f"of_{encoding.lower()}"
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(
            f"create database {name} encoding '{encoding}' locale_provider libc lc_collate 'C'"
            " lc_ctype 'C' template template0".encode()
        )
        dsn = database.replace(f"/{conninfo_to_dict(database)['dbname']}?", f"/{name}?")
        for prepare in (migrate, check):
            connection = await connect(dsn)
            with pytest.raises(ServerUnsuitableError, match=f"encoding is {encoding}"):
                await prepare(connection)
            await connection.aclose()
        admin.execute(f"drop database {name} with (force)".encode())


async def test_what_a_host_has_set_otherwise_is_set_back(database: str) -> None:
    hostile = {
        "array_nulls": "off",
        "standard_conforming_strings": "off",
        "client_min_messages": "error",
        "timezone": "Asia/Kathmandu",
        "datestyle": "German",
        "bytea_output": "escape",
    }
    with psycopg.connect(database, autocommit=True) as admin:
        name = conninfo_to_dict(database)["dbname"]
        for setting, value in hostile.items():
            admin.execute(f"alter database {name} set {setting} = '{value}'".encode())
    connection = await connect(database)
    ((found,),) = await connection.fetch("select $1::text::text[]", ('{NULL,"NULL"}',))
    assert found == [None, "NULL"]
    for setting, value in hostile.items():
        ((shown,),) = await connection.fetch(f"select current_setting('{setting}')")
        assert shown != value, setting
    await connection.aclose()


# ----------------------------------------------------------------------------------- the sessions


async def test_two_sessions_are_told_from_one(database: str) -> None:
    one, other = await connect(database), await connect(database)
    await check_sessions(one, other)
    with pytest.raises(ServerUnsuitableError, match="pool_mode=session"):
        await check_sessions(one, one)
    await one.aclose()
    await other.aclose()
