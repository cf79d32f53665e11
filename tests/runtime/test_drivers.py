"""Both drivers against a real server: types, errors, lost connections, and the pool."""

import math
import resource
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from psycopg.abc import ConnDict

from dalsegno.protocol import StoreUnavailableError
from dalsegno.runtime.store._driver import (
    Connect,
    Connection,
    ConnectionBrokenError,
    DatabaseError,
    DriverError,
    Pool,
    SessionRefusedError,
)
from dalsegno.runtime.store._psycopg import PsycopgConnection
from tests._patience import fail_after, patient, until


@pytest.fixture
async def connection(database: str, connect: Connect) -> AsyncIterator[Connection]:
    connection = await connect(database)
    try:
        yield connection
    finally:
        await connection.aclose()


@contextmanager
def admin(dsn: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


async def pid_of(connection: Connection) -> int:
    [(pid,)] = await connection.fetch("select pg_backend_pid()")
    return int(pid)


def is_active(dsn: str, pid: int) -> bool:
    sql = "select true from pg_stat_activity where pid = %s and state = 'active'"
    with admin(dsn) as connection:
        return connection.execute(sql, (pid,)).fetchone() is not None


def terminate(dsn: str, pid: int) -> None:
    with admin(dsn) as connection:
        connection.execute("select pg_terminate_backend(%s, 5000)", (pid,))


# What goes in and what comes out


async def test_values_come_back_as_the_seam_promises(connection: Connection) -> None:
    when = datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=UTC)
    [row] = await connection.fetch(
        "select $1::bigint, $2::text, $3::timestamptz, $4::bytea, $5::boolean,"
        " $6::text::bigint[], $7::text::text[], $8::float8, $9::text",
        (2**63 - 1, "ö\u2028", when, b"\0\xff", True, "{1,2}", '{a,"b,c",NULL}', math.pi, None),
    )
    assert row == (
        *(2**63 - 1, "ö\u2028", when, b"\0\xff", True),
        *([1, 2], ["a", "b,c", None], math.pi, None),
    )
    assert row[2].tzinfo is UTC


async def test_json_comes_back_as_the_text_that_went_in(connection: Connection) -> None:
    text = r'{"b":1,"a":"\u0000 \ud800", "n": 1e400}'
    assert await connection.fetch("select $1::json", (text,)) == [(text,)]


async def test_numbers_of_every_size_share_one_prepared_statement(connection: Connection) -> None:
    for number in (1, 2**20, 2**40, None):
        assert await connection.fetch("select $1::bigint", (number,)) == [(number,)]
    assert await connection.fetch(
        "select count(*) from pg_prepared_statements where statement = 'select $1::bigint'"
    ) == [(1,)]


async def test_a_long_statement_and_a_long_answer(connection: Connection) -> None:
    text = "x" * 4_000_000
    assert await connection.fetch("select $1::text", (text,)) == [(text,)]


async def test_execute_without_parameters_takes_several_statements(connection: Connection) -> None:
    await connection.execute("create table t (n int); insert into t values (1), (2)")
    assert await connection.fetch("select n from t order by n") == [(1,), (2,)]
    assert await connection.fetch("update t set n = n + 1") == []


async def test_session_settings(database: str, connect: Connect) -> None:
    connection = await connect(database, settings={"jit": "off", "statement_timeout": "15s"})
    names = "{TimeZone,client_encoding,jit,statement_timeout}"
    sql = "select current_setting(name) from unnest($1::text::text[]) as t(name)"
    assert await connection.fetch(sql, (names,)) == [("UTC",), ("UTF8",), ("off",), ("15s",)]
    await connection.aclose()


async def test_a_prepared_statement_has_the_plan_that_the_settings_ask_for(
    database: str, connect: Connect
) -> None:
    connection = await connect(database, settings={"plan_cache_mode": "force_generic_plan"})
    sql = "select oid::int from pg_class where relname = $1::text"
    for _ in range(3):
        assert len(await connection.fetch(sql, ("pg_class",))) == 1
    assert await connection.fetch(
        "select generic_plans, custom_plans from pg_prepared_statements where statement = $1::text",
        (sql,),
    ) == [(3, 0)]
    await connection.aclose()


async def test_texts_are_utf_8_whatever_a_dsn_asks_for(database: str, connect: Connect) -> None:
    connection = await connect(f"{database}&client_encoding=latin1")
    assert await connection.fetch("select $1::text", ("ö\u2028",)) == [("ö\u2028",)]
    await connection.aclose()


async def test_a_setting_that_the_server_refuses(database: str, connect: Connect) -> None:
    with pytest.raises(DatabaseError, match="no_such_thing"):
        await connect(database, settings={"no_such_thing": "1"})


async def test_a_statement_is_sent_in_the_step_in_which_it_is_started(
    connection: Connection, database: str
) -> None:
    await connection.execute("create table t (n int)")
    sql = "insert into t values ($1::text::int) returning n"
    assert await connection.fetch(sql, ("1",)) == [(1,)]
    started = connection.start(sql, ("2",))
    with admin(database) as other:  # it blocks, so that nothing else of ours runs
        deadline = time.monotonic() + patient(10)
        while other.execute("select count(*) from t").fetchone() != (2,):
            assert time.monotonic() < deadline
    assert "[idle]" in repr(connection)
    assert await started.rows() == [(2,)]


async def test_what_cannot_be_started_raises_where_its_end_is_waited_for(
    connection: Connection,
) -> None:
    refused = connection.start("select $1::text", ("\0",))
    with pytest.raises(DatabaseError):
        await refused.rows()
    await connection.aclose()
    lost = connection.start("select $1::text", ("x",))
    with pytest.raises(ConnectionBrokenError) as broken:
        await lost.rows()
    assert not broken.value.sent


async def test_more_statements_than_a_session_prepares(connection: Connection) -> None:
    for _ in range(2):
        for n in range(120):
            assert await connection.fetch(f"select {n}, $1::text", ("x",)) == [(n, "x")]
    ((prepared,),) = await connection.fetch("select count(*) from pg_prepared_statements")
    assert prepared == 100


# Errors that leave the connection usable


@pytest.mark.parametrize(
    ("sql", "params", "sqlstate"),
    [
        ("select 1/$1::int", ("0",), "22012"),
        ("select $1::int", ("x",), "22P02"),
        ("selekt", (), "42601"),
    ],
)
async def test_a_refused_statement(
    connection: Connection, sql: str, params: tuple[object, ...], sqlstate: str
) -> None:
    with pytest.raises(DatabaseError) as refused:
        await connection.fetch(sql, params)
    assert refused.value.sqlstate == sqlstate
    assert refused.value.__cause__ is not None
    assert await connection.fetch("select 1") == [(1,)]


async def test_parameters_that_are_too_many(connection: Connection) -> None:
    with pytest.raises(DatabaseError) as refused:
        await connection.fetch("select $1::int", ("1", "2"))
    assert refused.value.sqlstate in {"42P18", "XX000"}, "the server counts them, or asyncpg does"
    assert await connection.fetch("select 1") == [(1,)]


@pytest.mark.parametrize(
    ("param", "sqlstate"), [("secret\0", "22000"), ("secret\ud800", "22000"), (object(), "XX000")]
)
async def test_a_parameter_that_cannot_be_sent(
    connection: Connection, param: object, sqlstate: str
) -> None:
    for _ in range(2):  # before the statement is prepared, and after
        with pytest.raises(DatabaseError) as refused:
            await connection.fetch("select $1::text", (param,))
        assert refused.value.sqlstate == sqlstate
        assert "secret" not in refused.value.message, "what it holds is not for a log"
        assert await connection.fetch("select 1") == [(1,)]
        assert await connection.fetch("select $1::text", ("x",)) == [("x",)]


async def test_a_statement_that_times_out_at_the_server_was_refused(
    database: str, connect: Connect
) -> None:
    connection = await connect(database, settings={"statement_timeout": "10ms"})
    with pytest.raises(DatabaseError) as refused:
        await connection.fetch("select pg_sleep(10)")
    assert refused.value.sqlstate == "57014"
    assert not connection.broken
    await connection.aclose()


@pytest.mark.parametrize("sqlstate", ["08006", "57P01", "57P05"])
async def test_some_errors_say_that_the_connection_is_lost(
    connection: Connection, sqlstate: str
) -> None:
    with pytest.raises(ConnectionBrokenError) as broken:
        await connection.execute(
            f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$"
        )
    assert broken.value.sent
    assert connection.broken


async def test_a_warning_of_anybodys_is_no_error(connection: Connection) -> None:
    """Only the one for a commit that was not waited for is; its SQLSTATE is the same."""
    await connection.execute("do $$ begin raise warning 'canceling wait'; end $$")
    assert await connection.fetch("select 1") == [(1,)]


# Transactions


async def test_a_transaction_commits_or_rolls_back(connection: Connection) -> None:
    await connection.execute("create table t (n int)")
    async with connection.transaction():
        await connection.execute("insert into t values ($1::int)", (1,))
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with connection.transaction():
            await connection.execute("insert into t values ($1::int)", (2,))
            raise ZeroDivisionError
    assert await connection.fetch("select n from t") == [(1,)]


async def test_a_transaction_whose_statement_failed_does_not_pretend_to_commit(
    connection: Connection,
) -> None:
    await connection.execute("create table t (n int)")
    with pytest.raises(DatabaseError) as failed:  # noqa: PT012
        async with connection.transaction():
            await connection.execute("insert into t values (1)")
            with pytest.raises(DatabaseError):
                await connection.execute("selekt")
    assert failed.value.sqlstate == "25P02"
    assert await connection.fetch("select n from t") == []


async def test_a_cancelled_transaction_is_rolled_back(connection: Connection) -> None:
    await connection.execute("create table t (n int)")
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("insert into t values (1)")
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not connection.broken
    assert await connection.fetch("select n from t") == []


# Cancelled statements


async def test_a_cancelled_statement_that_ends_in_time_costs_no_connection(
    database: str, connect: Connect
) -> None:
    connection = await connect(database, finish_s=30)
    try:
        ((pid,),) = await connection.fetch("select pg_backend_pid()")
        for sql in ("select 1 from pg_sleep(0.2)", "select 1 / (pg_sleep(0.2) is null)::int"):
            with trio.move_on_after(0.05) as scope:
                await connection.fetch(sql)
            assert scope.cancelled_caught
            assert "[idle]" in repr(connection)
            assert await connection.fetch("select pg_backend_pid()") == [(pid,)]
        with trio.move_on_after(0.05) as scope:
            async with connection.transaction():
                await connection.execute("create table t as select 1 as n from pg_sleep(0.2)")
        assert scope.cancelled_caught
        assert await connection.fetch("select to_regclass('t')::text") == [(None,)]
    finally:
        await connection.aclose()


async def test_a_cancelled_statement_that_does_not_is_given_up(
    database: str, connect: Connect
) -> None:
    connection = await connect(database, finish_s=0.05)
    with fail_after(5):
        with trio.move_on_after(0.05) as scope:
            await connection.fetch("select 1 from pg_sleep(60)")
        assert scope.cancelled_caught
        assert connection.broken


async def test_a_cancelled_listener_has_nothing_to_finish(database: str, connect: Connect) -> None:
    connection = await connect(database, finish_s=60)
    with fail_after(5):
        with trio.move_on_after(0.05) as scope:
            await connection.listen("nothing", print)
        assert scope.cancelled_caught
        assert connection.broken


# Lost connections


async def test_a_cancelled_statement_runs_on_and_its_connection_is_given_up(
    connection: Connection, database: str
) -> None:
    await connection.execute("create table t (n int)")
    with trio.move_on_after(0.05) as scope:
        await connection.execute("insert into t select 1 from pg_sleep(0.2)")
    assert scope.cancelled_caught
    assert connection.broken
    with pytest.raises(ConnectionBrokenError) as broken:
        await connection.fetch("select 1")
    assert not broken.value.sent

    def committed() -> bool:
        with admin(database) as other:
            return other.execute("select n from t").fetchall() == [(1,)]

    await until(committed)


async def test_a_server_that_goes_away_during_a_statement(
    connection: Connection, database: str
) -> None:
    pid = await pid_of(connection)

    async def run() -> None:
        with pytest.raises(ConnectionBrokenError) as broken:
            await connection.fetch("select pg_sleep(30)")
        assert broken.value.sent
        assert connection.broken

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: is_active(database, pid))
        terminate(database, pid)


async def test_a_server_that_went_away_between_statements(
    connection: Connection, database: str
) -> None:
    terminate(database, await pid_of(connection))
    await until(lambda: connection.broken)
    with pytest.raises(ConnectionBrokenError) as broken:
        await connection.fetch("select 1")
    assert not broken.value.sent
    assert "[broken]" in repr(connection)


async def test_closing_does_not_wait_for_a_statement(connection: Connection) -> None:
    async def run() -> None:
        with pytest.raises(ConnectionBrokenError) as broken:
            await connection.fetch("select pg_sleep(30)")
        assert broken.value.sent

    with fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            await connection.aclose()
            await connection.aclose()
    assert connection.broken


# Notifications


async def test_listening(connection: Connection, database: str) -> None:
    heard: list[str] = []
    pid = await pid_of(connection)
    async with trio.open_nursery() as nursery:

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(ConnectionBrokenError):
                await connection.listen('a "b"', heard.append, task_status=task_status)

        await nursery.start(listen)
        with admin(database) as other:
            for payload in ("one", "two"):
                other.execute("select pg_notify(%s, %s)", ('a "b"', payload))
        await until(lambda: heard == ["one", "two"])
        terminate(database, pid)


# Connecting


async def test_nobody_there(tmp_path: Path, connect: Connect) -> None:
    with pytest.raises(ConnectionBrokenError, match="No such file") as broken:
        await connect(f"postgresql:///x?host={quote(str(tmp_path), safe='')}")
    assert not broken.value.sent


async def test_without_a_descriptor_nobody_is_reached(database: str, connect: Connect) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # what is open stays
    try:
        with pytest.raises(ConnectionBrokenError) as broken:
            await connect(database)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not broken.value.sent
    await (await connect(database)).aclose()


async def test_a_host_without_address(connect: Connect) -> None:
    with pytest.raises(ConnectionBrokenError, match="no address") as broken:
        await connect("postgresql://nobody.invalid/x")
    assert not broken.value.sent


async def test_an_unknown_database_is_named(database: str, connect: Connect) -> None:
    with pytest.raises(ConnectionBrokenError, match="no_such_database"):
        await connect(database.replace("/test_", "/no_such_database_"))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:hunter/2@localhost/x",
        "postgresql://user:hun@ter@localhost/x",
        "postgresql://user:hun%ter@localhost/x",
        "host=localhost password=hunter 2",
    ],
)
async def test_a_malformed_address_is_not_quoted(dsn: str, connect: Connect) -> None:
    with pytest.raises(ConnectionBrokenError, match="percent-encoded") as broken:
        await connect(dsn)
    assert "ter" not in str(broken.value).replace("characters", "")
    assert broken.value.__cause__ is None


async def test_a_server_that_does_not_answer_leaves_time_for_the_next(
    autojump_clock: trio.testing.MockClock, connect: Connect
) -> None:
    silent = trio.socket.socket()
    await silent.bind(("127.0.0.1", 0))
    silent.listen(1)
    port = silent.getsockname()[1]
    started = trio.current_time()
    with pytest.raises(ConnectionBrokenError, match=r"no answer from 127\.0\.0\.1.*\n.*refused"):
        await connect(f"postgresql://127.0.0.1:{port},127.0.0.1:1/x", connect_timeout_s=4.0)
    assert trio.current_time() - started == pytest.approx(2.0)
    with pytest.raises(ConnectionBrokenError, match="within 4 s"):
        await connect(f"postgresql://127.0.0.1:{port}/x", connect_timeout_s=4.0)
    silent.close()


Accept = Callable[[trio.SocketStream], Awaitable[trio.abc.Stream]]


@asynccontextmanager
async def relayed(database: str, accept: Accept | None = None) -> AsyncIterator[int]:
    """A port that leads to a database's server, which itself listens on none."""
    parameters = psycopg.conninfo.conninfo_to_dict(database)
    path = f"{parameters['host']}/.s.PGSQL.{parameters['port']}"

    async def relay(client: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            inside = client if accept is None else await accept(client)
            async with inside, await trio.open_unix_socket(path) as server:

                async def pump(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        while chunk := await source.receive_some():
                            await target.send_all(chunk)
                    nursery.cancel_scope.cancel()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pump, inside, server)
                    nursery.start_soon(pump, server, inside)

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_over_tcp_by_name(database: str, connect: Connect) -> None:
    async with relayed(database) as port:
        dsn = psycopg.conninfo.make_conninfo(database, host="localhost", port=port)
        connection = await connect(dsn)
        assert await connection.fetch("select $1::int", (7,)) == [(7,)]
        await connection.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of a host named ``localhost``, with its key behind it in the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    file.write_bytes(
        made.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return file


@pytest.mark.parametrize("sslmode", ["require", "verify-full"])
async def test_over_tls_the_server_is_told_the_name_and_its_certificate_is_checked(
    database: str, connect: Connect, certificate: Path, sslmode: str
) -> None:
    """Though the address is what is connected to."""
    asked: list[str] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: asked.append(name)

    async def accept(client: trio.SocketStream) -> trio.abc.Stream:
        assert await client.receive_some(8) == b"\0\0\0\x08\x04\xd2\x16\x2f", "SSLRequest"
        await client.send_all(b"S")
        stream = trio.SSLStream(client, context, server_side=True, https_compatible=True)
        await stream.do_handshake()
        return stream

    async with relayed(database, accept) as port:
        tls: ConnDict = {"port": port, "sslmode": sslmode, "sslrootcert": str(certificate)}
        dsn = psycopg.conninfo.make_conninfo(database, host="localhost", **tls)
        connection = await connect(dsn)
        assert await connection.fetch("select $1::text", ("x" * 100_000,)) == [("x" * 100_000,)]
        started = connection.start("select $1::text", ("y",))
        assert await started.rows() == [("y",)]
        await connection.aclose()
        assert connection.broken
        assert asked == ["localhost"]
        stranger = psycopg.conninfo.make_conninfo(database, host="127.0.0.1", **tls)
        if sslmode == "verify-full":
            with pytest.raises(ConnectionBrokenError, match=r"127\.0\.0\.1"):
                await connect(stranger)


async def test_a_server_without_tls_is_refused_where_that_is_asked_for(
    database: str, connect: Connect
) -> None:
    async def accept(client: trio.SocketStream) -> trio.abc.Stream:
        await client.receive_some(8)
        await client.send_all(b"N")
        return client

    async with relayed(database, accept) as port:
        dsn = psycopg.conninfo.make_conninfo(
            database, host="localhost", port=port, sslmode="require"
        )
        with pytest.raises(SessionRefusedError, match="turn on TLS at the server"):
            await connect(dsn)


# The pool


class FakeConnection(PsycopgConnection):
    """Never asked anything; broken when told so."""

    def __init__(self) -> None:
        self.is_broken = False
        self.closed = False

    @property
    def broken(self) -> bool:
        return self.is_broken

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


async def open_fake() -> FakeConnection:
    await trio.lowlevel.checkpoint()
    return FakeConnection()


def opener(connect: Connect, dsn: str) -> Callable[[], Awaitable[Connection]]:
    async def open_connection() -> Connection:
        return await connect(dsn)

    return open_connection


async def test_a_pool_reuses_what_it_has_opened(database: str, connect: Connect) -> None:
    pool = Pool(opener(connect, database), 2)
    assert repr(pool) == "<Pool [0 of 2 open, 0 idle, 0 waiting]>"
    async with pool.connection() as connection:
        pid = await pid_of(connection)
        assert repr(pool) == "<Pool [1 of 2 open, 0 idle, 0 waiting]>"
    async with pool.connection() as connection:
        assert await pid_of(connection) == pid
    assert repr(pool) == "<Pool [1 of 2 open, 1 idle, 0 waiting]>"
    await pool.aclose()
    assert repr(pool) == "<Pool [closed, 0 of 2 open, 0 idle, 0 waiting]>"
    with pytest.raises(StoreUnavailableError, match="closed"):
        async with pool.connection():
            pass


async def test_a_pool_forgets_connections_that_broke_in_use_or_idle(
    database: str, connect: Connect
) -> None:
    pool = Pool(opener(connect, database), 1)
    async with pool.connection() as connection:
        first = await pid_of(connection)
    terminate(database, first)
    await until(lambda: connection.broken)
    async with pool.connection() as connection:
        second = await pid_of(connection)
        terminate(database, second)
        with pytest.raises(DriverError):
            await connection.fetch("select 1")
    assert repr(pool) == "<Pool [0 of 1 open, 0 idle, 0 waiting]>"
    async with pool.connection() as connection:
        assert await pid_of(connection) not in {first, second}
    await pool.aclose()


async def test_waiting_for_a_pool_has_an_end(autojump_clock: trio.testing.MockClock) -> None:
    pool = Pool(open_fake, 1, wait_deadline_s=3)
    async with pool.connection():
        started = trio.current_time()
        with pytest.raises(StoreUnavailableError, match="3 s"):
            async with pool.connection():
                pass
        assert trio.current_time() - started == pytest.approx(3)
    async with pool.connection(), trio.open_nursery() as nursery:

        async def borrow() -> None:
            async with pool.connection():
                pass

        nursery.start_soon(borrow)
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert pool.statistics().waiting == 1
        nursery.cancel_scope.cancel()
    assert pool.statistics().idle == 1


async def test_a_pool_that_cannot_open_a_connection_keeps_its_room() -> None:
    async def refuse() -> Connection:
        await trio.lowlevel.checkpoint()
        raise ConnectionBrokenError("refused", sent=False)

    pool = Pool(refuse, 1)
    for _ in range(3):
        with pytest.raises(ConnectionBrokenError):
            async with pool.connection():
                pass
    assert repr(pool) == "<Pool [0 of 1 open, 0 idle, 0 waiting]>"


async def test_a_connection_that_is_being_opened_outlives_a_caller_that_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opening_s = 0.5

    async def open_slowly() -> Connection:
        await trio.sleep(opening_s)
        return await open_fake()

    async def leave() -> float:
        began = trio.current_time()
        with trio.move_on_after(0.1) as scope:
            async with pool.connection():
                pytest.fail("it was cancelled")
        assert scope.cancelled_caught
        return trio.current_time() - began

    pool = Pool(open_slowly, 1, finish_s=1)
    assert await leave() == pytest.approx(0.5)
    assert repr(pool) == "<Pool [1 of 1 open, 1 idle, 0 waiting]>"
    opening_s = 5
    pool = Pool(open_slowly, 1, finish_s=1)
    assert await leave() == pytest.approx(1.1)
    assert repr(pool) == "<Pool [0 of 1 open, 0 idle, 0 waiting]>"
    pool = Pool(open_slowly, 1)
    assert await leave() == pytest.approx(0.1)
    assert repr(pool) == "<Pool [0 of 1 open, 0 idle, 0 waiting]>"


async def test_closing_a_pool_closes_what_comes_back_later() -> None:
    pool = Pool(open_fake, 1)
    async with pool.connection() as connection:
        await pool.aclose()
        assert isinstance(connection, FakeConnection)
        assert not connection.closed
    assert connection.closed
    assert pool.statistics().open == 0
