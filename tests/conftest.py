import itertools
from collections.abc import Iterator

import hypothesis
import psycopg
import pytest
import trio
from psycopg.sql import SQL, Identifier

from dalsegno.runtime.store import connect, migrate
from dalsegno.runtime.store._embedded import EmbeddedPostgres, embedded

# Wall-clock limits on an example would make a busy machine look like a bug.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=5_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="fifty times the examples")
    parser.addoption("--soak-minutes", default="10", help="length of the soak of the whole system")
    parser.addoption("--soak-seed", help="decides what breaks there, and when")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("soak" if config.getoption("--soak") else "default")


_numbers = itertools.count(1)


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
        connection = await connect(postgres.dsn_of(name))
        await migrate(connection)
        await connection.aclose()

    name = "template_migrated"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(SQL("create database {}").format(Identifier(name)))
    trio.run(fill)
    return name


@pytest.fixture
def migrated(postgres: EmbeddedPostgres, _template: str) -> Iterator[str]:
    """The DSN of a fresh database with our schema; dropped after the test."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(
            SQL("create database {} template {}").format(Identifier(name), Identifier(_template))
        )
        yield postgres.dsn_of(name)
        admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))
