"""Migrations: ordered SQL files, each applied once, in one transaction.

A process that migrates takes an advisory lock for each file, and then reads again what has been
applied; so any number of servers may start at once.  Files only expand the schema; what they
replace is dropped a release later, since servers of the previous release may still be running.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from dalsegno.protocol import StoreUnavailableError

from ._driver import DatabaseError
from ._suitability import (
    RightsMissingError,
    SchemaTooNewError,
    SchemaTooOldError,
    check_server,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._driver import Connection

_LOCK_KEY = int.from_bytes(b"dalsegmi")
_LOCK_NOT_AVAILABLE = "55P03"
_RIGHTS_MISSING = "42501"
_FILE = re.compile(r"(\d{4})_(\w+)\.sql", re.ASCII)


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file."""

    version: int
    """1, 2, 3 … without a gap."""
    name: str
    """The file's name without ``.sql``."""
    sql: str
    """The file's statements."""


@cache
def migrations() -> tuple[Migration, ...]:
    """Read every migration that this release knows, in order."""
    found = []
    for file in (files(__package__) / "sql" / "migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            name = file.name.removesuffix(".sql")
            found.append(Migration(int(match[1]), name, file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    return tuple(found)


async def migrate(
    connection: Connection,
    *,
    known: Sequence[Migration] | None = None,
    lock_timeout_s: float = 30.0,
) -> list[str]:
    """Apply the ``known`` migrations that are missing, and return the names of those applied.

    Cancelled, it keeps the migrations that were completed.

    Raises:
        DatabaseRefusedError: a newer release has migrated the database, the role lacks a right, or
            the server is unsuitable.
        StoreUnavailableError: a lock that is needed was held elsewhere for too long.
    """
    known = known or migrations()
    await check_server(connection)
    applied = []
    for migration in known:
        try:
            if await _apply(connection, migration, known[-1].version, lock_timeout_s):
                applied.append(migration.name)
        except DatabaseError as error:
            if error.sqlstate == _RIGHTS_MISSING:
                raise await _rights_missing(connection, migration, error) from error
            if error.sqlstate != _LOCK_NOT_AVAILABLE:
                raise
            raise StoreUnavailableError(
                f"migration {migration.name} waited {lock_timeout_s:g} s for a lock; another "
                "server is migrating, or a long transaction is in the way"
            ) from error
    return applied


async def check(connection: Connection, *, known: Sequence[Migration] | None = None) -> None:
    """Raise unless this release can run on the database.

    Raises:
        DatabaseRefusedError: it cannot; the subclass says why.
    """
    await check_server(connection)
    latest = (known or migrations())[-1].version
    version = await _schema_version(connection)
    _refuse_newer(version, latest)
    if version < latest:
        raise SchemaTooOldError(
            f"the database has schema version {version} and this release needs {latest}; "
            "run `dalsegno migrate`"
        )


async def _apply(
    connection: Connection, migration: Migration, latest: int, lock_timeout_s: float
) -> bool:
    async with connection.transaction():
        await connection.execute(f"set local lock_timeout = '{lock_timeout_s * 1000:.0f}ms'")
        await connection.execute("select pg_advisory_xact_lock($1::bigint)", (_LOCK_KEY,))
        version = await _schema_version(connection)
        _refuse_newer(version, latest)
        if version >= migration.version:
            return False
        if version == 0:
            await _create_schema(connection)
        await connection.execute(migration.sql)
        await connection.execute(
            "insert into dalsegno.migration (version, name) values ($1::integer, $2::text)",
            (migration.version, migration.name),
        )
        return True


async def _create_schema(connection: Connection) -> None:
    # "if not exists" wants the right to create a schema also where it exists: a role may have been
    # given this one, and nothing else in the database.
    (exists,) = await connection.fetch("select to_regnamespace('dalsegno') is not null")
    if not exists[0]:
        await connection.execute("create schema dalsegno")
    await connection.execute("""
        create table if not exists dalsegno.migration (
          version integer primary key,
          name text not null,
          applied_at timestamptz not null default now()
        );
    """)


async def _rights_missing(
    connection: Connection, migration: Migration, error: DatabaseError
) -> RightsMissingError:
    ((role, exists),) = await connection.fetch(
        "select quote_ident(current_user), to_regnamespace('dalsegno') is not null"
    )
    command = "alter schema dalsegno owner to" if exists else "create schema dalsegno authorization"
    return RightsMissingError(
        f"migration {migration.name} is not allowed: {error.message}; let an administrator run "
        f"`{command} {role}` in this database"
    )


async def _schema_version(connection: Connection) -> int:
    (exists,) = await connection.fetch("select to_regclass('dalsegno.migration') is not null")
    if not exists[0]:
        return 0
    (row,) = await connection.fetch("select coalesce(max(version), 0) from dalsegno.migration")
    return int(row[0])


def _refuse_newer(version: int, latest: int) -> None:
    if version > latest:
        raise SchemaTooNewError(
            f"the database has schema version {version} and this release knows {latest}; "
            "run a newer release"
        )
