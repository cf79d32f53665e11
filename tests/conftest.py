"""What all tests share: the database, and how a run is put together (README.md)."""

import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
import trio
from psycopg.sql import SQL, Identifier

from dalsegno.runtime import store
from dalsegno.runtime.store import Connect, DriverName, migrate, open_driver
from dalsegno.runtime.store._embedded import EmbeddedPostgres, embedded
from tests import _documented
from tests._budgets import Budgets
from tests._drivers import EACH_DRIVER
from tests._patience import slowness
from tests._workers import Units

# Wall-clock limits on an example would make a busy machine look like a bug.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=5_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="fifty times the examples")
    parser.addoption("--soak-minutes", default="10", help="length of the soak of the whole system")
    parser.addoption("--soak-seed", help="decides what breaks there, and when")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("soak" if config.getoption("--soak") else "default")
    sys.addaudithook(_forbid_processes)
    _documented.watch()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell has it in the background; the processes that are sent one would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    slowness()  # before anything else runs, workers included


def pytest_report_header() -> str:
    return f"machine: deadlines and budgets times {slowness():.1f}"


# -------------------------------------------------------------------------- kinds and workers


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by what they need, leave out the soak, and begin with the longest files."""
    for item in items:
        fixtures = {*getattr(item, "fixturenames", ())}
        if "postgres" in fixtures:
            item.add_marker("postgres")
        if fixtures & {"prepared", "processes"}:
            item.add_marker("processes")
    if not config.getoption("--soak"):
        config.hook.pytest_deselected(items=[item for item in items if _is(item, "soak")])
        items[:] = [item for item in items if not _is(item, "soak")]
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist
        budgets = Budgets.read()
        items.sort(key=lambda item: -budgets.of_unit(item.nodeid))


def _is(item: pytest.Item, kind: str) -> bool:
    return item.get_closest_marker(kind) is not None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Units:
    return Units(config, log)


_running: pytest.Item | None = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    global _running
    _running = item
    _documented.problems.clear()
    try:
        result = yield
        assert not _documented.problems, "\n".join(_documented.problems)
        return result
    finally:
        _running = None


def _forbid_processes(event: str, _arguments: object) -> None:
    """Raise unless the test is marked as one that starts processes: `make check` needs it."""
    if event != "subprocess.Popen" or _running is None:
        return
    if not (_is(_running, "processes") or _is(_running, "postgres")):
        raise RuntimeError("a test that starts processes is marked with `processes`")


# ----------------------------------------------------------------------- what is said of a run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skip where everything has to run."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "DALSEGNO_TEST_ALL" in os.environ:
        report.outcome = "failed"
        assert call.excinfo is not None
        report.longrepr = f"skipped, and DALSEGNO_TEST_ALL is set: {call.excinfo.value}"
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--soak"):
        return
    late = Budgets.read().exceeded(
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    )
    if late:
        terminalreporter.section("over budget (tests/README.md)")
        for line in late:
            terminalreporter.line(line)


# --------------------------------------------------------------------------------- the drivers


@pytest.fixture(params=EACH_DRIVER)
def driver(request: pytest.FixtureRequest) -> DriverName:
    """The name of each driver in turn."""
    name: DriverName = request.param
    return name


@pytest.fixture
async def connect(driver: DriverName) -> AsyncIterator[Connect]:
    """What opens a session with it."""
    async with open_driver(driver) as connect:
        yield connect


# -------------------------------------------------------------------------------- the database

_numbers = itertools.count(1)


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for data directories; below `tmp_path`, a socket's address would be too long."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One real server for the session, with the settings that users get."""
    with embedded(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a fresh, empty database; dropped after the test, even if connections remain."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(SQL("create database {}").format(Identifier(name)))
        yield postgres.dsn_of(name)
        admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))


@pytest.fixture(scope="session")
def _template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated, empty database, from which others are copied."""

    async def fill() -> None:
        connection = await store.connect(postgres.dsn_of(name))
        await migrate(connection)
        await connection.aclose()

    name = "template_migrated"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(SQL("create database {}").format(Identifier(name)))
    trio.run(fill)
    return name


@pytest.fixture
def copied(postgres: EmbeddedPostgres, _template: str) -> Iterator[str]:
    """The DSN of a fresh database with our schema; dropped after the test."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(
            SQL("create database {} template {}").format(Identifier(name), Identifier(_template))
        )
        yield postgres.dsn_of(name)
        admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))


@pytest.fixture(scope="session")
def _shared(postgres: EmbeddedPostgres, _template: str) -> str:
    """The name of the database with our schema that tests have one after the other."""
    name = "shared"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(
            SQL("create database {} template {}").format(Identifier(name), Identifier(_template))
        )
    return name


_EMPTY = """
do $$ declare
    tables text[];
    name text;
    bytes bigint;
begin
    perform pg_terminate_backend(pid, 10000) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid();
    select array_agg(oid::regclass::text), max(pg_relation_size(oid)) into tables, bytes
        from pg_class
        where relnamespace = 'dalsegno'::regnamespace and relkind = 'r' and relname <> 'migration';
    if bytes > 1048576 then
        execute 'truncate ' || array_to_string(tables, ', ');
        return;
    end if;
    -- Files are made anew by a truncation, which takes ten times as long where there are few rows.
    set local session_replication_role = replica;
    foreach name in array tables loop
        execute 'delete from ' || name;
    end loop;
end $$
"""


@pytest.fixture
def migrated(postgres: EmbeddedPostgres, _shared: str) -> str:
    """The DSN of a database with our schema, without a row and without another connection.

    Emptied and not copied, since a copy takes ten times as long.  A test that changes the schema or
    the database's settings uses `copied`.
    """
    dsn = postgres.dsn_of(_shared)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_EMPTY)
    return dsn
