"""The schema: applied once, by the first process, and refused if it is not ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import trio

from dalsegno.actors import Batch, CursorKey, EntityWrite, PageBounds
from dalsegno.protocol import AUDIT_WORKSPACE, StoreUnavailableError
from dalsegno.protocol.audit import audit_event_of
from dalsegno.runtime import Runtime
from dalsegno.runtime.store import (
    DatabaseError,
    PostgresStore,
    SchemaTooNewError,
    SchemaTooOldError,
    ServerUnsuitableError,
    check,
    connect,
    migrate,
)
from dalsegno.runtime.store._migrations import _LOCK_KEY, Migration, migrations
from dalsegno.runtime.store._sql import queries
from tests._patience import fail_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.runtime.store import Connection
    from dalsegno.runtime.store._embedded import EmbeddedPostgres

NAMES = [migration.name for migration in migrations()]


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    connection = await connect(database)
    yield connection
    await connection.aclose()


def with_one_more(sql: str) -> tuple[Migration, ...]:
    """What a later release knows."""
    return (*migrations(), Migration(len(NAMES) + 1, "9999_more", sql))


async def applied(connection: Connection) -> list[str]:
    rows = await connection.fetch("select name from dalsegno.migration order by version")
    return [name for (name,) in rows]


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(NAMES) + 1))
    assert all(re.fullmatch(r"\d{4}_\w+", name) for name in NAMES)


async def test_a_new_database_gets_all_once(connection: Connection) -> None:
    assert await migrate(connection) == NAMES
    assert await applied(connection) == NAMES
    assert await migrate(connection) == []
    assert await applied(connection) == NAMES
    await check(connection)


async def test_a_hosts_own_tables_are_left_alone(connection: Connection) -> None:
    await connection.execute("create table session (mine int); insert into session values (1)")
    await migrate(connection)
    assert await connection.fetch("select * from public.session") == [(1,)]


async def test_many_at_once_apply_each_once(database: str, connection: Connection) -> None:
    done: list[str] = []

    async def start() -> None:
        own = await connect(database)
        done.extend(await migrate(own))
        await own.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(start)
    assert sorted(done) == NAMES
    await check(connection)


async def test_a_populated_older_schema_is_brought_up(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute(
        "insert into dalsegno.workspace_head (workspace_id, epoch) values ('w', 1)"
    )
    later = with_one_more(
        "alter table dalsegno.workspace_head add column colour text not null default 'red'"
    )
    with pytest.raises(SchemaTooOldError, match="dalsegno migrate"):
        await check(connection, known=later)
    assert await migrate(connection, known=later) == ["9999_more"]
    await check(connection, known=later)
    assert await connection.fetch("select colour from dalsegno.workspace_head") == [("red",)]
    with pytest.raises(SchemaTooNewError):
        await check(connection)


# A workspace, as the release with the first migration alone would have left it.
FIRST = """
    insert into dalsegno.workspace_head
      (workspace_id, epoch, owner, head_seq, chain, recorded_at, halted_reason)
    values ('w', 3, 'node', 1, 5, '2030-01-02 03:04:05Z', null),
           ('halted', 1, 'node', 0, 0, null, 'found wanting');
    insert into dalsegno.event
      (workspace_id, event_seq, stream_id, stream_seq, event_id, type, type_version,
       schema_version, payload, actor_id, command_id, recorded_at, chain)
    values ('w', 1, 'note:1', 1, '00000000-0000-7000-8000-000000000001', 'note_created', 1, 2,
            '{ "text":"x" }', 'u', 'c', '2030-01-02 03:04:05Z', 5);
    insert into dalsegno.entity
    values ('w', 'note:1', 1, true, '{}', 'x', null, 0, 1, '2030-01-02 03:04:05Z');
    insert into dalsegno.ack_cursor values ('u', 'c', 'w', 'note:1', 1, '2000-01-01 00:00:00Z');
    insert into dalsegno.session
    values ('old', 'u', 't', '2000-01-01Z', '2000-01-02Z', '2000-01-01Z', null),
           ('new', 'u', 't', '2000-01-01Z', '2100-01-02Z', '2000-01-01Z', null);
"""


async def test_a_database_of_the_first_release_is_brought_up(
    database: str, connection: Connection
) -> None:
    await migrate(connection, known=migrations()[:1])
    await connection.execute(FIRST)
    assert await migrate(connection) == NAMES[1:]

    async with PostgresStore.open(database) as store:
        head = await store.read_head("w")
        assert head is not None
        assert (head.epoch, head.owner, head.head_seq, head.chain) == (3, "node", 1, 5)
        (event,) = await store.read_events("w", PageBounds(from_seq=1, limit=9, bytes_max=99))
        assert event.payload == '{ "text":"x" }'
        halted = await store.read_head("halted")
        assert halted is not None
        assert (halted.halted_reason, halted.halted_code) == ("found wanting", None)
        assert await store.read_audit("halted", limit=9) == []

        # The owner is of the release before and has no known lease.
        head = await store.acquire("w", "here", create=False)
        assert head is not None
        assert (head.epoch, head.owner) == (4, "here")
        assert await store.beat("here", "1", address=None, lease_s=10.0, first=True) == 0
        state = EntityWrite(stream_id="note:1", version=1, exists=True, state="{}")
        assert await store.write_states("w", 4, [state])
        assert await store.halt("w", 4, "why", code="2", actor="here")
        assert await store.resume("halted", 1, actor="here", detail="checked")

        key = CursorKey("u", "c", "w", "note:1")
        assert await store.read_cursors([key]) == {key: 1}
        assert await store.sweep_cursors(None, limit=9, unused_s=60.0) is None
        assert await store.read_cursors([key]) == {}
        assert await store.accounts.sweep_sessions(limit=9) == 1
        assert await store.accounts.find_session(b"new")


async def test_the_release_before_ends_with_the_migration(
    database: str, connection: Connection
) -> None:
    """It would leave new columns as they are: it is told so by its next beat, and takes nothing."""
    await migrate(connection, known=migrations()[:2])
    await connection.execute(FIRST)
    first = ("old", "process", None, "10", "true")
    assert await connection.fetch(queries()["beat"], first) == [(0.0,)]
    assert await migrate(connection) == NAMES[2:]

    again = ("old", "process", None, "10", "false")
    assert await connection.fetch(queries()["beat"], again) == []
    (taken,) = await connection.fetch(queries()["acquire"], ("w", "old", "false", "process", "0"))
    assert taken[2] is None, "another process is that node"

    async with PostgresStore.open(database) as store:
        assert 8 < await store.fenced_s("new") <= 10, "the rest of its lease"
        assert await store.fenced_s("old") == 0, "whoever is this node now is the one after it"
        assert await store.beat("old", "next", address=None, lease_s=10.0, first=True) is not None
        assert await store.fenced_s("new") == 0
        head = await store.acquire("w", "old", create=False, incarnation="next")
        assert head is not None
        assert (head.epoch, head.owner) == (4, "old")
        (event,) = await store.read_events("w", PageBounds(from_seq=1, limit=9, bytes_max=99))
        assert (event.salt, event.chain) == (None, 5)


async def test_what_was_listed_before_is_listed_by_key_and_so_is_what_an_old_server_adds(
    database: str, connection: Connection
) -> None:
    await migrate(connection, known=migrations()[:2])
    await connection.execute(FIRST)
    row = "('w', $1, 1, true, $2, null, null, 0, 2, '2030-01-02Z')"
    put = f"insert into dalsegno.entity values {row}"
    await connection.fetch(put, ("card:1", '{"a","b"}'))
    await connection.fetch(put, ("card:2", "{}"))
    await migrate(connection)
    put = f"""insert into dalsegno.entity (workspace_id, stream_id, version, live, keys, title,
        state, state_version, domain_version, updated_at) values {row}"""
    await connection.fetch(put, ("card:3", '{"a"}'))  # as a server of the release before does
    await connection.execute(
        "update dalsegno.entity set keys = '{a,c}' where stream_id in ('card:2', 'card:1')"
    )
    await connection.execute("update dalsegno.entity set live = false where stream_id = 'card:3'")

    async with PostgresStore.open(database) as store:

        async def names(key: str, *, is_stale: bool = False) -> list[str]:
            page = await store.list_entities("w", "card", key=key, limit=9, domain_version=2)
            assert page.is_stale is is_stale
            return [item.stream_id for item in page.items]

        assert await names("a") == ["card:1", "card:2"]
        assert await names("b") == []
        assert await names("c") == ["card:1", "card:2"]
        assert await store.list_stale("w", "card", 3, limit=9) == ["card:1", "card:2", "card:3"]
        head = await store.acquire("w", "here", create=False)
        assert head is not None
        state = EntityWrite(
            stream_id="card:2", version=1, exists=True, state="{}", domain_version=3
        )
        assert await store.write_states("w", head.epoch, [state])
        assert "card:2" in await store.list_stale("w", "card", 3, limit=9), "listed by version 2"
        moved = EntityWrite(
            stream_id="card:1", version=1, exists=True, keys=("d",), sort="1", domain_version=3
        )
        batch = Batch(workspace_id="w", epoch=head.epoch, old_head=1, events=(), entities=(moved,))
        assert await store.append([batch])
        assert await names("a", is_stale=True) == ["card:2"]
        assert await names("d", is_stale=True) == ["card:1"]
        assert await names("", is_stale=True) == ["card:1"]


async def test_a_migration_that_fails_leaves_nothing(connection: Connection) -> None:
    broken = with_one_more("create table dalsegno.x (); select 1 / 0")
    with pytest.raises(DatabaseError, match="division by zero"):
        await migrate(connection, known=broken)
    assert await applied(connection) == NAMES
    assert await connection.fetch("select to_regclass('dalsegno.x') is null") == [(True,)]


async def test_a_lock_that_is_not_given_up_is_an_error(
    database: str, connection: Connection
) -> None:
    other = await connect(database)
    async with other.transaction():
        await other.execute("select pg_advisory_xact_lock($1::bigint)", (_LOCK_KEY,))
        with pytest.raises(StoreUnavailableError, match="waited"):
            await migrate(connection, lock_timeout_s=0.05)
    assert await migrate(connection) == NAMES
    await other.aclose()


async def test_an_unmigrated_database_is_refused(connection: Connection) -> None:
    with pytest.raises(SchemaTooOldError):
        await check(connection)


async def test_a_newer_schema_is_refused_and_left_alone(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("insert into dalsegno.migration (version, name) values (9999, 'x')")
    with pytest.raises(SchemaTooNewError, match="9999"):
        await check(connection)
    with pytest.raises(SchemaTooNewError):
        await migrate(connection)


async def test_a_server_that_is_too_old_is_refused(connection: Connection) -> None:
    await migrate(connection)
    # What PostgreSQL 14 would say: a function of the same name that is found first.
    await connection.execute("""
        create function public.current_setting(text) returns text language sql as $$
          select case when $1 = 'server_version_num' then '140011'
                      else pg_catalog.current_setting($1) end $$;
        set search_path = public, pg_catalog;
    """)
    with pytest.raises(ServerUnsuitableError, match="15 or newer"):
        await check(connection)


async def test_a_server_without_fsync_is_refused(
    connection: Connection, postgres: EmbeddedPostgres
) -> None:
    await migrate(connection)
    admin = await connect(postgres.dsn)

    async def reload(value: str) -> None:
        await admin.execute("select pg_reload_conf()")
        with fail_after(5):
            while True:
                if await connection.fetch("show fsync") == [(value,)]:
                    return
                await trio.sleep(0.01)

    try:
        await admin.execute("alter system set fsync = off")
        await reload("off")
        with pytest.raises(ServerUnsuitableError, match="fsync"):
            await check(connection)
    finally:
        await admin.execute("alter system reset fsync")
        await reload("on")
        await admin.aclose()


async def test_what_an_earlier_release_put_on_record_is_taken_in(
    database: str, connection: Connection
) -> None:
    """Also what one that still runs writes, which knows nothing of the mark."""
    put = """insert into dalsegno.command_audit
        (workspace_id, event_seq, n, recorded_at, action, resource_type, resource_id)
        values ('w', {seq}, 0, '2030-01-01 00:00:0{seq}+00', 'DONE', 'note', 'n')"""
    await migrate(connection, known=migrations()[:7])
    await connection.execute(put.format(seq=1))
    await connection.execute(
        "insert into dalsegno.audit (workspace_id, actor, action, detail)"
        " values ('w', 'node', 'halted', 'why')"
    )
    await migrate(connection)
    await connection.execute(put.format(seq=2))
    async with Runtime.open(database) as rt:
        with fail_after(20):
            while await rt.store.read_uncollected(limit=1, bytes_max=1):
                await trio.sleep(0.01)
        everything = PageBounds(from_seq=1, limit=10, bytes_max=10_000)
        taken = [
            record.id
            for event in await rt.store.read_events(AUDIT_WORKSPACE, everything)
            if (record := audit_event_of(event)) is not None
        ]
    assert sorted(taken) == ["w/1-0", "w/2-0", "w/x-1"]
    assert taken.index("w/1-0") < taken.index("w/2-0")
