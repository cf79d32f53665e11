"""Whether a database is one that a log can be kept in, found out before anything is written.

    DatabaseRefusedError
    ├── SchemaTooNewError        migrated by a newer release
    ├── SchemaTooOldError        not migrated yet
    ├── RightsMissingError       the role may not create or change the schema
    └── ServerUnsuitableError    the server is too old, may lose commits, has another encoding, or
                                 is behind a pooler that gives a session to one client after another

Prepared statements, `SET` and advisory locks belong to a session.  A pooler in transaction or
statement mode gives each transaction to whatever session is free, so that others would run under
our settings and we under theirs.  It is recognised by what it does, whatever it is called: two
connections that are open at the same time have one backend, or one connection has two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import DalsegnoError

from ._driver import DatabaseError, DriverError

if TYPE_CHECKING:
    from ._driver import Connection

SERVER_VERSION_MIN = 150000
"""PostgreSQL 15, as ``server_version_num`` has it; the oldest that is tested."""

_ROUNDS = 3
"""Other clients of a pooler may by chance take what would have told; not three times."""
_ANSWER_S = 10.0
"""A pooler without a free session lets a client wait; the next round has more luck."""

_BACKEND = "select pg_backend_pid()"

# Appendix A of PostgreSQL's manual.  A new session has prepared nothing, so there is nothing that
# it could prepare twice.
_DUPLICATE_PREPARED = "42P05"
_NOT_PREPARED = "26000"


class DatabaseRefusedError(DalsegnoError):
    """This release cannot run on the database; the message says what to do."""

    code = "MIGRATION_UNAVAILABLE"


class SchemaTooNewError(DatabaseRefusedError):
    """A newer release has migrated the database to a schema that this one does not know."""


class SchemaTooOldError(DatabaseRefusedError):
    """The database lacks migrations that this release needs."""


class RightsMissingError(DatabaseRefusedError):
    """The role may not create the schema, or not change it."""


class ServerUnsuitableError(DatabaseRefusedError):
    """The server is too old, or set up so that it cannot keep what a log promises."""


async def check_server(connection: Connection) -> None:
    """Raise `ServerUnsuitableError` if the server cannot keep a log."""
    ((version, shown, fsync, encoding),) = await connection.fetch(
        "select current_setting('server_version_num')::bigint, current_setting('server_version'),"
        " current_setting('fsync'), current_setting('server_encoding')"
    )
    if version < SERVER_VERSION_MIN:
        raise ServerUnsuitableError(
            f"PostgreSQL {shown} is too old; {SERVER_VERSION_MIN // 10000} or newer is needed"
        )
    if fsync == "off":
        raise ServerUnsuitableError(
            "the server runs with fsync=off and would lose commits in a power failure; turn it on"
        )
    if encoding != "UTF8":
        raise ServerUnsuitableError(
            f"the database's encoding is {encoding}, which cannot hold every text; create one with "
            "createdb --encoding=UTF8 --template=template0"
        )


async def check_sessions(one: Connection, other: Connection) -> None:
    """Raise `ServerUnsuitableError` if these connections, both open, have no session each.

    They are used by nobody else meanwhile.
    """
    for _ in range(_ROUNDS):
        with trio.move_on_after(_ANSWER_S):
            if await _share(one, other):
                raise sessions_are_shared()
    if one.broken or other.broken:  # abandoned in the middle of a wait
        raise sessions_are_shared()


async def _share(one: Connection, other: Connection) -> bool:
    """Compare backends while the other connection holds one in a transaction, and while not."""
    try:
        first = await one.fetch(_BACKEND)
        if await other.fetch(_BACKEND) == first:
            return True
        async with other.transaction():
            held = await other.fetch(_BACKEND)
            return held == first or await one.fetch(_BACKEND) != first
    except DatabaseError as error:
        if error.sqlstate in {_DUPLICATE_PREPARED, _NOT_PREPARED}:
            return True
        raise
    except DriverError as error:
        # In statement mode a pooler ends a connection that begins a transaction.
        if "pooling mode" in error.message:
            return True
        raise


def sessions_are_shared() -> ServerUnsuitableError:
    """Return the refusal of a pooler that gives a session to one client after another."""
    return ServerUnsuitableError(
        "a pooler in transaction or statement mode is in front of the database, and a server needs "
        "sessions of its own: set pool_mode=session for it (in PgBouncer for the database or the "
        "user), or name the address of PostgreSQL itself"
    )
