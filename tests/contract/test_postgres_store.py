"""What only a database can do to a store: locks, lost backends, plans, other servers."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import msgspec
import psycopg
import pytest
import trio
from hypothesis import example, given, strategies as st

from dalsegno.actors import (
    AckedCursor,
    Batch,
    BatchRejectedError,
    CursorKey,
    PageBounds,
    ReactorStart,
    SnapshotWrite,
    Store,
    Turn,
)
from dalsegno.actors.testing.contract.store._writing import (
    Writer,
    acquired,
    entity,
    head_of,
    log_of,
    new_id,
    result,
    writer,
)
from dalsegno.protocol import (
    InternalError,
    Limits,
    OutcomeUnknownError,
    StoreUnavailableError,
    UnavailableError,
)
from dalsegno.runtime.store import PostgresStore, SchemaTooOldError, _postgres, _statements
from dalsegno.runtime.store._sql import (
    _quoted_long,
    numbers,
    queries,
    quoted,
    quoted_in_turns,
    texts,
)
from tests._patience import fail_after
from tests.contract._locks import terminate_the_blocked, wait_until, wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from dalsegno.runtime.store import Connect, Connection


@pytest.fixture
def migrated(copied: str) -> str:
    """A database of its own: there are tests here that change its settings, or count its pages."""
    return copied


@pytest.fixture
async def store(migrated: str, connect: Connect) -> AsyncIterator[PostgresStore]:
    async with PostgresStore.open(migrated, connect=connect) as store:
        yield store


# Locks


async def test_i10_a_locked_head_delays_no_neighbour(
    store: PostgresStore, other: Connection
) -> None:
    held, free = await writer(store, "held"), await writer(store, "free")
    batch = held.batch(held.event("note:1"))
    async with other.transaction():
        await other.execute(
            "select from dalsegno.workspace_head where workspace_id = 'held' for update"
        )
        with fail_after(2):
            won = await store.append([batch, free.batch(free.event("note:1"))])
        assert won == {"free"}
        refusal = await store.explain(batch)
    assert refusal.head is not None
    assert (refusal.head.epoch, refusal.head.head_seq) == (batch.epoch, batch.old_head)
    assert refusal.live_keys == {}
    assert await store.append([batch]) == {"held"}


async def test_i4_acquiring_waits_for_an_append_that_was_abandoned(
    store: PostgresStore, other: Connection
) -> None:
    """The caller gave up, the server did not: what acquire returns shows the outcome."""
    w = await writer(store, "w")
    event = w.event("note:1")
    acquired_at: list[int] = []

    async def acquire() -> None:
        acquired_at.append((await acquired(store, "w")).head_seq)

    await other.execute("begin")
    await other.execute(
        "insert into dalsegno.event (workspace_id, event_seq, stream_id, stream_seq, event_id,"
        " type, type_version, schema_version, payload, command_id, recorded_at, chain)"
        " values ('w', 1, 'note:2', 1, gen_random_uuid(), 't', 1, 2, '{}', 'c', now(), 0)"
    )
    async with trio.open_nursery() as nursery:
        await abandon(store, w.batch(event), other)
        nursery.start_soon(acquire)
        await wait_until_blocked(other, 2)
        await other.execute("rollback")
    assert acquired_at == [1]
    assert (await head_of(store, "w")).epoch == 2
    found = await store.find_commands("w", [event.command_id], after_seq=0)
    assert found == {event.command_id: [event]}


async def test_i4_after_acquiring_nothing_comes_of_an_append_that_was_abandoned(
    store: PostgresStore, other: Connection
) -> None:
    w = await writer(store, "w")
    async with other.transaction():
        await other.execute("lock table dalsegno.event in share mode")
        await abandon(store, w.batch(w.event("note:1")), other)
        assert (await acquired(store, "w")).head_seq == 0

    async def ended() -> bool:
        return not await other.fetch(
            "select pid from pg_stat_activity where query like '-- The group commit%'"
            " and state = 'active'"
        )

    await wait_until(ended)
    assert (await head_of(store, "w")).head_seq == 0
    assert await log_of(store, "w") == []


async def abandon(store: PostgresStore, batch: Batch, other: Connection) -> None:
    """Cancel an append that waits at the server."""
    with trio.CancelScope() as giving_up:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_when_blocked, giving_up, other)
            await store.append([batch])
    assert giving_up.cancelled_caught


async def cancel_when_blocked(scope: trio.CancelScope, other: Connection) -> None:
    await wait_until_blocked(other)
    scope.cancel()


# Cursors


async def test_two_servers_that_write_the_same_cursors_do_not_lock_each_other_out(
    migrated: str, store: PostgresStore, connect: Connect
) -> None:
    keys = [CursorKey("u", f"c{n % 7}", "w", f"s{n}") for n in range(300)]

    async def push(store: Store, keys: list[CursorKey]) -> None:
        for n in range(10):
            await store.write_cursors(dict.fromkeys(keys, AckedCursor(n)))

    async with (
        PostgresStore.open(migrated, connect=connect) as second,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(push, store, keys)
        nursery.start_soon(push, second, keys[::-1])
    assert await store.read_cursors(keys) == dict.fromkeys(keys, 9)


# Lost connections


async def test_i4_an_append_whose_backend_dies_has_an_unknown_outcome(
    store: PostgresStore, other: Connection
) -> None:
    w = await writer(store, "w")
    batch = w.batch(w.event("note:1"))
    async with other.transaction(), trio.open_nursery() as nursery:
        await other.execute("lock table dalsegno.event in share mode")

        async def fail() -> None:
            with pytest.raises(OutcomeUnknownError):
                await store.append([batch])

        nursery.start_soon(fail)
        await wait_until_blocked(other)
        await terminate_the_blocked(other)
    assert (await head_of(store, "w")).head_seq == 0
    assert await store.append([batch]) == {"w"}, "the next append connects again"


async def test_an_append_begins_in_the_step_in_which_it_is_asked_for(
    store: PostgresStore, other: Connection
) -> None:
    w = await writer(store, "w")
    first, second, third = (w.batch(w.event("note:1")) for _ in range(3))
    assert store.append_nowait([first]) is None, "no connection is open"
    assert await store.append([first]) == {"w"}
    sent = store.append_nowait([second])
    assert sent is not None

    async def is_there() -> bool:
        return (await head_of(store, "w")).head_seq == 2

    await wait_until(is_there)
    assert await sent.outcome() == {"w"}, "though it was there before anybody waited"
    kind = w.event("note:1", type="note_unheard_of")
    assert store.append_nowait([w.batch(kind)]) is None, "its kind has to be recorded first"
    async with other.transaction():
        await other.execute("lock table dalsegno.event in share mode")
        lost = store.append_nowait([third])
        assert lost is not None, "the connection was given back, twice"
        assert store.append_nowait([third]) is None, "the only open connection is busy"
        await wait_until_blocked(other)
        await terminate_the_blocked(other)
    with pytest.raises(OutcomeUnknownError):
        await lost.outcome()
    assert store.append_nowait([third]) is None, "the connection is gone"
    assert await store.append([third]) == {"w"}


async def test_an_append_that_cannot_be_sent_raises_where_its_outcome_is_waited_for(
    store: PostgresStore,
) -> None:
    w = await writer(store, "w")
    assert await store.append([w.batch(w.event("note:1"))]) == {"w"}
    bad = w.batch(w.event("note:1"))
    write = msgspec.structs.replace(bad.entities[0], title="\0")
    sent = store.append_nowait([msgspec.structs.replace(bad, entities=(write,))])
    assert sent is not None
    with pytest.raises(BatchRejectedError):
        await sent.outcome()
    assert await store.append([bad]) == {"w"}


async def test_reads_and_repeatable_writes_never_end_unknown(
    store: PostgresStore, other: Connection
) -> None:
    key = CursorKey("u", "c", "w", "s")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.read_cursors([key]),
        lambda: store.write_cursors({key: AckedCursor(1)}),
    ]
    for call in calls:
        async with other.transaction(), trio.open_nursery() as nursery:
            await other.execute("lock table dalsegno.ack_cursor in access exclusive mode")

            async def fail(call: Callable[[], Awaitable[object]] = call) -> None:
                with pytest.raises(StoreUnavailableError):
                    await call()

            nursery.start_soon(fail)
            await wait_until_blocked(other)
            await terminate_the_blocked(other)
        await call()


async def test_connections_that_died_idle_are_replaced_unnoticed(
    store: PostgresStore, other: Connection
) -> None:
    w = await writer(store, "w")
    assert await store.append([w.batch(w.event("note:1"))])
    await other.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and application_name = 'dalsegno'"
    )
    assert await store.append([w.batch(w.event("note:1"))])
    assert (await head_of(store, "w")).head_seq == 2


async def test_kinds_of_events_are_recorded_again_after_a_restore(
    store: PostgresStore, other: Connection
) -> None:
    """A backup is restored under a running server: what it knew of the database is no longer so."""
    w = await writer(store, "w")
    assert await store.append([w.batch(w.event("note:1"))])
    known = await store.event_types()
    await other.execute("delete from dalsegno.event_type")
    assert await store.append([w.batch(w.event("note:1"))])
    assert await store.event_types() == set(), "one session asks once"
    await other.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and application_name = 'dalsegno'"
    )
    assert await store.append([w.batch(w.event("note:1"))])
    assert await store.event_types() == known
    assert await store.append([w.batch(entities=())]), "and a batch without events goes through"


async def test_where_no_server_is_nothing_was_sent(store: PostgresStore, connect: Connect) -> None:
    w = await writer(store, "w")
    nowhere = PostgresStore("postgresql:///x?host=/nonexistent", Limits(), connect)
    with pytest.raises(StoreUnavailableError):
        await nowhere.append([w.batch(w.event("note:1"))])
    with pytest.raises(StoreUnavailableError):
        await nowhere.acquire("w", "here", create=True)
    with pytest.raises(StoreUnavailableError):
        async with PostgresStore.open("postgresql:///x?host=/nonexistent", connect=connect):
            pass
    await nowhere.aclose()


async def test_after_closing_nothing_is_sent(migrated: str, connect: Connect) -> None:
    async with PostgresStore.open(migrated, connect=connect) as store:
        w = await writer(store, "w")
    assert "closed" in repr(store)
    with pytest.raises(StoreUnavailableError):
        await store.append([w.batch(w.event("note:1"))])


async def test_an_unmigrated_database_is_not_opened(database: str, connect: Connect) -> None:
    with pytest.raises(SchemaTooOldError):
        async with PostgresStore.open(database, connect=connect):
            pass


# What the server says


async def test_a_server_that_refuses_to_write_is_unavailable_and_asked_anew(
    store: PostgresStore, other: Connection
) -> None:
    """A failover leaves sessions with a server that only reads."""
    w = await writer(store, "w")
    batch = w.batch(w.event("note:1"))
    await store.append([w.batch(w.event("note:2"))])  # refused; it opens the connection
    async with store._pools.appending.connection() as connection:
        await connection.execute("set default_transaction_read_only = on")
    with pytest.raises(StoreUnavailableError, match="25006"):
        await store.append([batch])
    assert await store.append([batch]) == {"w"}


async def test_a_payload_that_is_no_json_is_bad_data(store: PostgresStore) -> None:
    w = await writer(store, "w")
    with pytest.raises(BatchRejectedError, match="22P02"):
        await store.append([w.batch(w.event("note:1", "{]"))])


async def test_a_time_that_python_cannot_hold_is_no_guess(
    store: PostgresStore, other: Connection
) -> None:
    w = await writer(store, "w")
    await store.append([w.batch(w.event("note:1"))])
    await other.execute("update dalsegno.event set recorded_at = 'infinity'")
    with pytest.raises(InternalError, match="no datetime can hold 'infinity'"):
        await log_of(store, "w")


async def test_appends_are_not_timed_out_and_commits_are_on_disk(
    migrated: str, other: Connection, connect: Connect
) -> None:
    """Whatever the settings of a host's database."""
    await other.execute("""
        do $$ begin
          execute format('alter database %I set synchronous_commit = off', current_database());
          execute format('alter database %I set statement_timeout = 77', current_database());
          execute format('alter database %I set default_transaction_isolation = serializable',
                         current_database());
        end $$
    """)
    async with PostgresStore.open(migrated, connect=connect) as store:
        for pool, timeout in ((store._pools.appending, "0"), (store._pools.reading, "15s")):
            async with pool.connection() as connection:
                rows = await connection.fetch(
                    "select current_setting('synchronous_commit'),"
                    " current_setting('statement_timeout'),"
                    " current_setting('default_transaction_isolation')"
                )
                assert rows == [("on", timeout, "read committed")]


# Plans


LONG = 100_000
SHORT = 100


async def lengthen(other: Connection, workspace_id: str, length: int) -> None:
    """Write a log of so many events with a result each, never analysed."""
    fill = [
        """insert into dalsegno.workspace_head (workspace_id, epoch, head_seq)
           values ($1::text, 1, $2::bigint)""",
        """insert into dalsegno.event
             (workspace_id, event_seq, stream_id, stream_seq, event_id, type, type_version,
              schema_version, payload, command_id, recorded_at, chain)
           select $1::text, n, 'note:' || n % 10, (n - 1) / 10 + 1, gen_random_uuid(), 't', 1, 2,
                  '{"text":"some words"}', 'c' || n, now(), 0
             from generate_series(1, $2::bigint) n""",
        """insert into dalsegno.command_result
             (workspace_id, scope, key, payload_hash, answer, event_seq, expires_at)
           select $1::text, 'u', 'k' || n, 'x', '{}', n, now() + interval '1 day'
             from generate_series(1, $2::bigint) n""",
        """insert into dalsegno.entity
             (workspace_id, stream_id, version, live, keys, state, state_version, domain_version,
              updated_at)
           select $1::text, 'note:' || n, $2::bigint / 10, true, '{}', '{}', $2::bigint / 10 - 3,
                  1, now()
             from generate_series(0, 9) n""",
        """insert into dalsegno.audit (workspace_id, actor, action, detail)
           select $1::text, 'x', 'halted', 'why' from generate_series(1, $2::bigint)""",
        """insert into dalsegno.ack_cursor
             (user_id, client_id, workspace_id, stream_id, seq, updated_at)
           select 'u', $1::text, 'w' || n, 's', n, now() from generate_series(1, $2::bigint) n""",
        """insert into dalsegno.snapshot
             (workspace_id, stream_id, version, domain_version, state)
           select $1::text, 'note:' || n % 10, n / 10, 1, '{}'
             from generate_series(10, $2::bigint) n""",
    ]
    for sql in fill:
        await other.execute(sql, (workspace_id, length))


async def touched(store: PostgresStore, other: Connection, call: Awaitable[object]) -> int:
    """Count the pages of our tables and indexes that a call looks at."""

    async def total() -> int:
        pools = store._pools
        for pool in (pools.appending, pools.reading, pools.maintenance, pools.heartbeat):
            async with pool.connection() as connection:
                await connection.execute("select pg_stat_force_next_flush()")
        # Otherwise the filling is reported up to a second later, amid what is counted.
        await other.execute("select pg_stat_force_next_flush()")
        ((pages,),) = await other.fetch(
            "select sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)"
            " + coalesce(toast_blks_hit + toast_blks_read, 0))::bigint"
            " from pg_statio_user_tables where schemaname = 'dalsegno'"
        )
        return int(pages)

    before = await total()
    await call
    return await total() - before


async def test_x_per_8_what_is_touched_does_not_grow_with_the_log(
    store: PostgresStore, other: Connection
) -> None:
    """Pages, not time, in a database that was never analysed."""
    rows = await other.fetch("select tablename from pg_tables where schemaname = 'dalsegno'")
    for (table,) in rows:
        await other.execute(f"alter table dalsegno.{table} set (autovacuum_enabled = off)")
    await lengthen(other, "short", SHORT)
    await lengthen(other, "long", LONG)
    await store.append([])

    def calls(workspace_id: str, length: int) -> dict[str, Awaitable[object]]:
        version = length // 10
        w = Writer(workspace_id, 1, length, 0, {"note:0": version})
        event = w.event("note:0")
        snapshots = (
            SnapshotWrite(stream_id="note:0", version=version + 1, domain_version=1, state="{}"),
        )
        batch = w.batch(event, results=(result("new", length + 1),), snapshots=snapshots)
        alone = w.batch(w.event("note:0"), results=(result("alone", length + 2),))
        page = {"limit": 10, "bytes_max": 10_000}
        middle = length // 2
        return {
            "read_head": store.read_head(workspace_id),
            "read_heads": store.read_heads([workspace_id, "absent"]),
            "append": store.append([batch]),
            "append_one": store.append([alone]),
            "acquire": store.acquire(workspace_id, "x", create=True),
            "write_states": store.write_states(workspace_id, 2, [entity("note:3", version, "{}")]),
            "halt": store.halt(workspace_id, 2, "why", code="1", actor="x"),
            "read_audit": store.read_audit(workspace_id, limit=5),
            "sweep_cursors": store.sweep_cursors(
                CursorKey("u", workspace_id, "w5", "s"), limit=5, unused_s=60
            ),
            "beat": store.beat(workspace_id, "1", address=None, lease_s=10.0, first=False),
            "read_events": store.read_events(
                workspace_id, PageBounds(from_seq=middle, to_event_seq=length, **page)
            ),
            "read_stream": store.read_stream(
                workspace_id,
                "note:1",
                PageBounds(from_seq=version - 9, to_event_seq=length, **page),
            ),
            "load_entities": store.load_entities(
                workspace_id, ["note:1", "note:2"], {"note:1": 1, "note:2": 1}
            ),
            "load_entity_at": store.load_entity_at(workspace_id, "note:3", version // 2, 1),
            "find_results": store.find_results(workspace_id, [("u", "k7"), ("u", "k8")]),
            "find_commands": store.find_commands(workspace_id, ["c1"], after_seq=length - 3),
            "list_entities": store.list_entities(workspace_id, "note", limit=5),
            "locate": store.locate(f"note:{workspace_id}"),
        }

    short, long = calls("short", SHORT), calls("long", LONG)
    pages = {
        name: (await touched(store, other, short[name]), await touched(store, other, long[name]))
        for name in short
    }
    assert all(few > 0 for few, _ in pages.values()), pages
    # Higher trees and fuller pages are a few more; the 100,000 are some 5,000 pages.
    assert {name: p for name, p in pages.items() if p[1] > 2 * p[0] + 8} == {}


# Everything at once


STRESS_S = 4.0


async def test_x_seq_4_owners_that_fight_and_backends_that_die_leave_dense_logs(
    migrated: str, other: Connection, connect: Connect
) -> None:
    """Three owners take workspaces from each other while their backends are killed."""
    workspaces = [f"w{n}" for n in range(8)]
    acked: list[tuple[str, int, str]] = []
    counts: Counter[str] = Counter()
    deadline = trio.current_time() + STRESS_S

    async def own(name: str) -> None:
        draw = random.Random(name)
        writers: dict[str, Writer] = {}
        store = PostgresStore(migrated, Limits(), connect)
        while trio.current_time() < deadline:
            try:
                await turn(store, name, draw, writers)
            except (UnavailableError, OutcomeUnknownError) as error:
                counts[error.code] += 1
                writers.clear()
        await store.aclose()

    async def turn(
        store: Store, name: str, draw: random.Random, writers: dict[str, Writer]
    ) -> None:
        for workspace_id in workspaces:
            if workspace_id not in writers or draw.random() < 0.02:
                head = await acquired(store, workspace_id, name)
                versions = {"note:1": head.head_seq}
                writers[workspace_id] = Writer(
                    workspace_id, head.epoch, head.head_seq, head.chain, versions
                )
                counts["acquired"] += 1
        mine = draw.sample(workspaces, draw.randint(1, len(workspaces)))
        batches = [batch_of(writers[workspace_id], draw.randint(1, 4)) for workspace_id in mine]
        won = await store.append(batches)
        for batch in batches:
            if batch.workspace_id in won:
                counts["committed"] += 1
                acked.extend((batch.workspace_id, e.event_seq, e.event_id) for e in batch.events)
            else:
                counts["refused"] += 1
                del writers[batch.workspace_id]

    def batch_of(w: Writer, count: int) -> Batch:
        events = [w.event("note:1") for _ in range(count)]
        return w.batch(
            *events,
            entities=(entity("note:1", events[-1].stream_seq, "{}"),),
            results=tuple(result(new_id(), e.event_seq) for e in events),
        )

    async def kill() -> None:
        while trio.current_time() < deadline:
            await other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'dalsegno'"
                " order by random() limit 1"
            )
            counts["killed"] += 1
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(own, name)
        nursery.start_soon(kill)

    async with PostgresStore.open(migrated, connect=connect) as store:
        for workspace_id in workspaces:
            log = await log_of(store, workspace_id)
            head = await head_of(store, workspace_id)
            assert [e.event_seq for e in log] == list(range(1, head.head_seq + 1))
            assert [e.stream_seq for e in log] == list(range(1, head.head_seq + 1))
            assert head.chain == (log[-1].chain if log else 0)
            ids = {(workspace_id, e.event_seq, e.event_id) for e in log}
            assert [a for a in acked if a[0] == workspace_id and a not in ids] == []
            loaded = await store.load_entity_at(workspace_id, "note:1", head.head_seq, 1)
            assert loaded is not None
            assert (loaded.version, loaded.state_version) == (head.head_seq, head.head_seq)
    ((results,),) = await other.fetch("select count(*) from dalsegno.command_result")
    ((events,),) = await other.fetch("select count(*) from dalsegno.event")
    assert results == events
    assert min(counts[what] for what in ("committed", "refused", "killed")) > 0, counts


async def test_i9_a_server_that_says_nothing_is_given_up(migrated: str, connect: Connect) -> None:
    """The backend is frozen in the middle of a read: the caller still gets an error."""
    limits = Limits(answer_deadline_s=1.0)
    async with PostgresStore.open(migrated, limits=limits, connect=connect) as store:
        with psycopg.connect(migrated, autocommit=True) as other:
            await store.read_head("w")
            (pid,) = other.execute(
                "select pid from pg_stat_activity where query like '%workspace_head%' "
                "and datname = current_database() and pid <> pg_backend_pid()"
            ).fetchone() or (0,)
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(StoreUnavailableError):
                    await store.read_head("w")
                assert await store.read_head("w") is None
            finally:
                os.kill(pid, signal.SIGCONT)


# Long documents


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
@example('{"a":"\\"\\\\"}')
@example("a\nb\t\x1f\x7f")
def test_a_long_document_is_quoted_as_a_short_one_is(text: str) -> None:
    document = text + '"\\x' * 8_000
    assert _quoted_long(document) == quoted(document)


@given(st.lists(st.none() | st.text(max_size=8), max_size=4))
@example(["a\nb\t\x1f\x7f", None])
@example(["NULL", "null", "{}", "a,b", ""])
@example(["\ud800"])
def test_a_column_is_quoted_as_each_of_its_texts_is(values: list[str | None]) -> None:
    # A null may be written in small letters: a text is always within quotes.
    either = [["null" if value is None else quoted(value) for value in values]]
    either.append([quoted(value) for value in values])
    assert texts(values) in {"{" + ",".join(each) + "}" for each in either}


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_a_column_of_numbers_is_their_digits(values: list[int | None]) -> None:
    digits = ["null" if value is None else str(value) for value in values]
    assert numbers(values) == "{" + ",".join(digits) + "}"


async def test_nulls_and_texts_arrive_as_they_are(other: Connection) -> None:
    values = ["NULL", None, "null", "{}", "a,b", "", "\\", '"', "\t\x01é"]
    for several in (values, values[:5]):
        rows = await other.fetch("select unnest($1::text::text[])", (texts(several),))
        assert [value for (value,) in rows] == several
    rows = await other.fetch("select unnest($1::text::bigint[])", (numbers([1, None, -(2**63)]),))
    assert [value for (value,) in rows] == [1, None, -(2**63)]


async def test_i10_several_long_documents_are_quoted_in_turns(store: PostgresStore) -> None:
    """Four of a megabyte, full of quotes, held up everybody for 50 ms."""

    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    payload = msgspec.json.encode({"text": '"\n' * 20_000}).decode()
    quote = await quoted_in_turns([], Turn(0.0))
    assert quote is quoted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        documents = [payload, "short", None, *(payload + " " * n for n in range(1, 5))]
        quote = await quoted_in_turns(documents, Turn(0.0))
        nursery.cancel_scope.cancel()
    assert turns >= 2
    assert [quote(text) for text in (payload, 'sho"rt', None)] == [
        quoted(text) for text in (payload, 'sho"rt', None)
    ]
    w, v = await writer(store, "w"), await writer(store, "v")
    batches = [each.batch(each.event("note:1", payload=payload)) for each in (w, v)]
    assert len(await store.append(batches)) == 2
    for workspace_id in "wv":
        assert [event.payload for event in await log_of(store, workspace_id)] == [payload]


# What a page costs


class _Counted:
    """A connection that notes the statements that it is asked for."""

    def __init__(self, inner: Connection, statements: list[str]) -> None:
        self._inner = inner
        self._statements = statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def fetch(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self._statements.append(sql)
        return await self._inner.fetch(sql, params)


class CountingStore(PostgresStore):
    """A store that notes its statements."""

    def __init__(self, dsn: str, limits: Limits, connect: Connect) -> None:
        self.statements: list[str] = []

        async def connect_counted(dsn: str, **session: Any) -> Connection:
            connection = await connect(dsn, **session)
            return cast("Connection", _Counted(connection, self.statements))

        super().__init__(dsn, limits, connect_counted)


async def test_entities_of_many_workspaces_are_read_by_one_statement(
    migrated: str, connect: Connect
) -> None:
    async with CountingStore.open(migrated, connect=connect) as store:
        wanted: dict[tuple[str, str], int | None] = {}
        for n in range(20):
            w = await writer(store, f"w{n}")
            await store.append([w.batch(w.event("note:1"), w.event("note:1"), w.event("note:2"))])
            wanted |= {(f"w{n}", "note:1"): 1, (f"w{n}", "note:2"): 1}
        store.statements.clear()
        assert len(await store.load_many(wanted)) == 40
        assert store.statements == [queries()["load_many"]]


async def test_places_of_new_reactors_are_written_a_portion_at_a_time(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in between, as where a server is killed, the next one goes on."""
    monkeypatch.setattr(_postgres, "_PLACED_AT_ONCE", 2)
    writers = [await writer(store, f"w{number}") for number in range(5)]
    for one in writers:
        assert await store.append([one.batch(one.event("note:1"))])
    portions = 0

    async def fetch(pool: Any, name: str, *params: Any) -> Any:
        nonlocal portions
        portions += name == "place_reactors"
        if name == "place_reactors" and portions == 2:
            raise StoreUnavailableError("cut off")
        return await _statements.fetch(pool, name, *params)

    monkeypatch.setattr(_postgres, "fetch", fetch)
    start = ReactorStart(name="r")
    with pytest.raises(StoreUnavailableError):
        await store.register_reactors([start])
    assert [len(await store.read_places(one.workspace_id)) for one in writers] == [1, 1, 0, 0, 0]
    for one in writers:
        assert await store.append([one.batch(one.event("note:1"))])
    await store.register_reactors([start])
    assert portions == 2 + 3
    places = [(await store.read_places(one.workspace_id))["r"].seq for one in writers]
    assert places == [1, 1, 2, 2, 2], "what is there stays"
    await store.register_reactors([start])
    assert portions == 5, "it is done"
