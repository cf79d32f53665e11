"""What is asyncpg's alone: its loop, what it is told of an address, and that it is not imported."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote_plus

import psycopg
import pytest
import structlog
import trio
import trio.testing

from dalsegno.protocol import Reject
from dalsegno.runtime import Runtime, _config
from dalsegno.runtime.store import (
    DRIVERS,
    ConnectionBrokenError,
    DatabaseError,
    DriverMissingError,
    SessionRefusedError,
    open_driver,
)
from dalsegno.runtime.store._asyncpg_address import arguments_of, keep_alive
from dalsegno.runtime.store._drivers import check_python
from tests._drivers import marks_of
from tests._patience import fail_after, patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.runtime.store import Connect

pytestmark = marks_of("asyncpg")


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with open_driver("asyncpg") as connect:
        yield connect


# ------------------------------------------------------------------------------------ importing

PROGRAM = """
import sys
import trio
from dalsegno.runtime import Runtime

async def main():
    async with Runtime.open(sys.argv[1], driver=sys.argv[2]):
        print(*sorted({"asyncpg", "trio_asyncio"} & sys.modules.keys()))

trio.run(main)
"""


def run_python(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(30),
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize(
    ("driver", "imported"), [("psycopg", ""), ("asyncpg", "asyncpg trio_asyncio")]
)
def test_what_is_not_used_is_not_imported(migrated: str, driver: str, imported: str) -> None:
    """It would change asyncio for the whole process."""
    ran = run_python("-c", PROGRAM, migrated, driver)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{imported}\n", "")


@pytest.mark.processes
@pytest.mark.parametrize("missing", ["asyncpg", "trio_asyncio"])
def test_what_is_not_installed_is_said_in_a_line(tmp_path: Path, missing: str) -> None:
    (tmp_path / f"{missing}.py").write_text("raise ImportError('there is none')")
    serve = ("-m", "dalsegno.runtime", "serve", "--bind", "127.0.0.1:0", "--driver", "asyncpg")
    ran = run_python(*serve, "--database", "postgresql://127.0.0.1:1/x", path=str(tmp_path))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        "dalsegno: the driver asyncpg cannot be imported (there is none): "
        "pip install 'dalsegno[asyncpg]'\n"
    )


def test_a_python_that_is_too_new_is_said_to_be_that() -> None:
    for version in ((3, 11), (3, 13)):
        check_python(version)
    with pytest.raises(DriverMissingError, match=r"3\.13 or older, and this is 3\.14.* psycopg"):
        check_python((3, 14))


async def test_a_driver_that_nobody_knows_is_refused() -> None:
    with pytest.raises(Reject, match=r"'psycopg' or 'asyncpg', not 'pg8000'"):
        async with Runtime.open("postgresql:///x", driver="pg8000"):  # type: ignore[arg-type]
            pass


def test_the_settings_know_every_driver() -> None:
    assert get_args(_config.Driver) == DRIVERS


async def test_asyncio_elsewhere_in_the_process_is_what_it_was(connect: Connect) -> None:
    """trio-asyncio alone would give every later `asyncio.run` a loop on a Trio of its own."""

    async def loop() -> type[asyncio.AbstractEventLoop]:
        await asyncio.sleep(0)
        return type(asyncio.get_running_loop())

    used = await trio.to_thread.run_sync(lambda: asyncio.run(loop()))
    assert used.__module__.startswith("asyncio.")
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.mark.processes
@pytest.mark.parametrize(("imported", "left"), [("sys", "False"), ("trio_asyncio", "True")])
def test_a_program_that_uses_trio_asyncio_itself_keeps_what_it_does(
    imported: str, left: str
) -> None:
    ran = run_python(
        *("-W", "ignore", "-c"),
        f"import {imported}, dalsegno.runtime.store._asyncpg, trio_asyncio._loop as its\n"
        "print(its._FakedPolicy.policy is None)",
    )
    assert (ran.stdout, ran.stderr) == (f"{left}\n", "")


async def test_a_session_that_the_server_ends_as_it_opens_is_a_lost_one(
    connect: Connect, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trio goes on a step later than the loop; the socket may be closed by then."""
    from dalsegno.runtime.store import _asyncpg

    opened = _asyncpg._open_session

    async def ended(*given: Any) -> Any:
        session = await opened(*given)
        session.terminate()
        while given[0].socket.fileno() != -1:
            await asyncio.sleep(0)
        return session

    monkeypatch.setattr(_asyncpg, "_open_session", ended)
    with fail_after(30), pytest.raises(ConnectionBrokenError, match="closed at once") as caught:
        await connect(database)
    assert not caught.value.sent


# ------------------------------------------------------------------------------------- the loop


async def test_at_its_end_every_session_is_closed(database: str) -> None:
    async with trio.open_nursery() as nursery:
        async with open_driver("asyncpg") as connect:
            connection = await connect(database, finish_s=60)

            async def run() -> None:
                with pytest.raises(ConnectionBrokenError) as broken:
                    await connection.fetch("select pg_sleep(60)")
                assert broken.value.sent

            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
        assert connection.broken
        with pytest.raises(ConnectionBrokenError) as broken:
            await connection.fetch("select 1")
        assert not broken.value.sent
        await connection.aclose()
        with pytest.raises(ConnectionBrokenError, match="has ended"):
            await connect(database)


async def test_at_its_end_no_session_is_opened() -> None:
    silent = trio.socket.socket()
    await silent.bind(("127.0.0.1", 0))
    silent.listen(1)
    with fail_after(5), silent:
        async with trio.open_nursery() as nursery, open_driver("asyncpg") as connect:

            async def fail() -> None:
                with pytest.raises(ConnectionBrokenError, match="has ended"):
                    await connect(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x")

            nursery.start_soon(fail)
            await trio.testing.wait_all_tasks_blocked()


async def test_a_program_that_is_cancelled_can_still_finish(database: str) -> None:
    with trio.CancelScope() as scope:
        async with open_driver("asyncpg") as connect:
            connection = await connect(database)
            scope.cancel()
            with trio.move_on_after(patient(5), shield=True):
                assert await connection.fetch("select 1") == [(1,)]
                another = await connect(database)
                assert await another.fetch("select 2") == [(2,)]
                return
    pytest.fail("it took too long")


async def test_a_program_that_is_cancelled_at_once_has_opened_nothing() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_driver("asyncpg"):
            pytest.fail("it was cancelled")
    assert scope.cancelled_caught


async def test_what_fails_in_the_loop_costs_sessions_and_not_the_runtime(
    connect: Connect, database: str
) -> None:
    connection = await connect(database)
    driver = connect.__self__  # type: ignore[attr-defined]  # whose method it is
    with structlog.testing.capture_logs() as logs:
        driver._loop.call_soon(lambda: 1 / 0)
        with pytest.raises(ConnectionBrokenError) as broken:
            await connection.fetch("select pg_sleep(60)")
        assert broken.value.sent
    (said,) = logs
    assert (said["event"], said["log_level"]) == ("asyncpg_failed", "error")
    assert isinstance(said["exc_info"], ZeroDivisionError)
    connection = await connect(database)
    assert await connection.fetch("select 1") == [(1,)]


async def test_a_listener_that_fails_is_told(connect: Connect, database: str) -> None:
    connection, other = await connect(database), await connect(database)

    def fail(payload: str) -> None:
        raise ZeroDivisionError(payload)

    async with trio.open_nursery() as nursery:

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(ZeroDivisionError, match="one"):
                await connection.listen("c", fail, task_status=task_status)

        await nursery.start(listen)
        assert "[running]" in repr(connection)
        await other.execute("select pg_notify('c', 'one')")
    assert connection.broken


@pytest.mark.parametrize("jit", ["on", "off"])
async def test_the_session_keeps_its_settings_while_asyncpg_looks_at_types(
    connect: Connect, database: str, jit: str
) -> None:
    """It asks the server about a type that it has not seen, and turns ``jit`` off for that."""
    settings = {"jit": jit, "plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
    connection = await connect(database, settings=settings)
    assert await connection.fetch("select $1::text::bigint[]", ("{1,2}",)) == [([1, 2],)]
    names = f"{{{','.join(settings)}}}"
    sql = "select current_setting(name) from unnest($1::text::text[]) as t(name)"
    assert await connection.fetch(sql, (names,)) == [(value,) for value in settings.values()]


async def test_a_statement_whose_plan_is_outdated_is_prepared_again(
    connect: Connect, database: str
) -> None:
    """Nothing of it had run: the server refuses it first."""
    connection, other = await connect(database), await connect(database)
    await connection.execute("create table t (n int); insert into t values (1)")
    sql = "select * from t where n = $1::int"
    assert await connection.fetch(sql, ("1",)) == [(1,)]
    await other.execute("alter table t add column more text")
    assert await connection.fetch(sql, ("1",)) == [(1, None)]


async def test_what_the_types_of_a_parameter_do_not_allow_is_said_without_the_value(
    connect: Connect, database: str
) -> None:
    """asyncpg encodes types that statements of ours do not have by itself."""
    connection = await connect(database)
    with pytest.raises(DatabaseError, match="22000: a parameter has not the form of its type"):
        await connection.fetch("select $1::date", ("secret",))
    assert not connection.broken


# ------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("address", "arguments"),
    [
        ({}, {}),
        (
            {"host": "db", "hostaddr": "10.0.0.1", "port": "5433", "dbname": "x", "user": "u"},
            {"host": "db", "port": "5433", "database": "x", "user": "u"},
        ),
        ({"hostaddr": "10.0.0.1"}, {"host": "10.0.0.1"}),
        ({"password": "p", "passfile": "f", "service": "s"}, None),
        (
            {"sslmode": "verify-full", "sslnegotiation": "direct"},
            {
                "ssl": "verify-full",
                "dsn": "postgresql://?sslnegotiation=direct",
            },
        ),
        ({"sslrootcert": __file__}, {"dsn": f"postgresql://?sslrootcert={quote_plus(__file__)}"}),
        (
            {"application_name": "a", "options": "-c jit=off", "fallback_application_name": "b"},
            {"server_settings": {"application_name": "a", "options": "-c jit=off"}},
        ),
        (
            {"fallback_application_name": "b"},
            {"server_settings": {"application_name": "b"}},
        ),
        ({"gssencmode": "disable", "channel_binding": "prefer", "connect_timeout": "3"}, {}),
        ({"keepalives_idle": "15", "tcp_user_timeout": "15000", "client_encoding": "x"}, {}),
    ],
)
def test_what_asyncpg_is_told_of_an_address(
    monkeypatch: pytest.MonkeyPatch,
    address: dict[str, str | int | None],
    arguments: dict[str, Any] | None,
) -> None:
    for name in ("PGHOST", "PGHOSTADDR"):
        monkeypatch.delenv(name, raising=False)
    expected = address if arguments is None else arguments
    assert arguments_of(address) == {"server_settings": {}, **expected}


def test_a_host_of_the_environment_is_the_name_of_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert arguments_of({"hostaddr": "10.0.0.1"})["host"] == "db.example"


@pytest.mark.parametrize(
    "asked",
    [
        {"channel_binding": "require"},
        {"gssencmode": "require"},
        {"load_balance_hosts": "random"},
        {"requirepeer": "postgres"},
        {"sslrootcert": "system"},
        {"host": "@abstract"},
    ],
)
async def test_what_asyncpg_cannot_do_is_refused_by_its_name(
    connect: Connect, asked: dict[str, str]
) -> None:
    ((name, value),) = asked.items()
    with pytest.raises(SessionRefusedError, match=f"{name}.*{value}"):
        await connect(psycopg.conninfo.make_conninfo("dbname=x", **asked))


async def test_a_value_that_asyncpg_cannot_read_is_refused(connect: Connect) -> None:
    with pytest.raises(SessionRefusedError, match=r"sslmode.*: correct the address"):
        await connect("postgresql://127.0.0.1:1/x?sslmode=sometimes")


def test_a_peer_that_vanishes_is_noticed() -> None:
    with socket.socket() as sock:
        keep_alive(sock, {"keepalives_idle": "15", "keepalives_count": "3"})
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    with socket.socket() as sock:
        keep_alive(sock, {"keepalives": "0"})
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    with socket.socket(socket.AF_UNIX) as sock:
        keep_alive(sock, {"keepalives_idle": "15"})
