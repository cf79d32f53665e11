"""Who owns a workspace when several ask for it at the same time: the races of a real database."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio

from dalsegno.actors import AckedCursor, CursorKey, Store
from dalsegno.actors.testing.contract.store._writing import (
    Writer,
    acquired,
    entity,
    head_of,
    writer,
)
from dalsegno.protocol import Limits, StoreUnavailableError
from dalsegno.runtime.store import PostgresStore
from dalsegno.runtime.store._sql import queries
from tests._patience import fail_after
from tests.contract._locks import wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dalsegno.runtime.store import Connect, Connection

HOLD = "select from dalsegno.workspace_head where workspace_id = 'w' for update"


@pytest.fixture
async def store(migrated: str, connect: Connect) -> AsyncIterator[PostgresStore]:
    async with PostgresStore.open(migrated, connect=connect) as store:
        yield store


async def live(store: Store, *nodes: str) -> None:
    for node in nodes:
        assert await store.beat(node, "1", address=None, lease_s=60.0, first=True) is not None


async def die(store: Store, *nodes: str) -> None:
    for node in nodes:
        await store.forget(node, "1")


async def test_of_two_takeovers_at_once_one_succeeds(
    migrated: str, store: PostgresStore, other: Connection
) -> None:
    await live(store, "a", "b", "c")
    await acquired(store, "w", "a")
    await die(store, "a")
    heads = []

    async def take_over(node: str) -> None:
        heads.append(await acquired(store, "w", node))

    async with trio.open_nursery() as nursery, other.transaction():
        await other.execute(HOLD)
        for node in "bc":
            nursery.start_soon(take_over, node)
        await wait_until_blocked(other, 2)
    assert heads[0] == heads[1], "who came too late is told by whom"
    assert heads[0].epoch == 2
    assert heads[0].owner in {"b", "c"}
    assert await head_of(store, "w") == heads[0]


async def test_a_beat_while_a_takeover_waits_keeps_the_workspace(
    store: PostgresStore, other: Connection
) -> None:
    """The snapshot of the takeover still shows the lease that had run out."""
    await live(store, "a", "b")
    before = await acquired(store, "w", "a")
    await die(store, "a")
    heads = []

    async def take_over() -> None:
        heads.append(await acquired(store, "w", "b"))

    async with trio.open_nursery() as nursery, other.transaction():
        await other.execute(HOLD)
        nursery.start_soon(take_over)
        await wait_until_blocked(other)
        left_s = await store.beat("a", "1", address=None, lease_s=60.0, first=False)
        assert left_s is not None
        assert left_s <= 0
    assert heads == [before]
    assert await head_of(store, "w") == before


async def test_a_beat_returns_after_the_takeovers_that_it_came_too_late_for(
    store: PostgresStore, other: Connection
) -> None:
    """So the node's comparison afterwards covers them all."""
    await live(store, "a", "b")
    await acquired(store, "w", "a")
    await die(store, "a")
    returned = False

    async def beat() -> None:
        nonlocal returned
        await store.beat("a", "1", address=None, lease_s=60.0, first=False)
        returned = True
        assert (await head_of(store, "w")).owner == "b"

    async with trio.open_nursery() as nursery, other.transaction():
        (row,) = await other.fetch(queries()["acquire"], ("w", "b", "true", None, "0"))
        assert row[1:3] == (2, "b")
        nursery.start_soon(beat)
        await wait_until_blocked(other)
        assert not returned


@pytest.mark.parametrize(
    ("owner", "taken"), [("'new'", False), ("null", True), ("'b'", True), ("'a'", True)]
)
async def test_an_owner_that_came_while_a_takeover_waited_is_respected(
    store: PostgresStore, other: Connection, owner: str, taken: bool
) -> None:
    """The snapshot of the takeover shows neither it nor its lease."""
    await live(store, "a", "b")
    await acquired(store, "w", "a")
    await die(store, "a")
    heads = []

    async def take_over() -> None:
        heads.append(await acquired(store, "w", "b"))

    async with trio.open_nursery() as nursery, other.transaction():
        await other.execute(
            f"update dalsegno.workspace_head set epoch = 7, owner = {owner}"
            " where workspace_id = 'w'"
        )
        await other.execute(
            "insert into dalsegno.node (node_id, incarnation, expires_at, started_at)"
            " values ('new', '1', now() + interval '1 minute', now())"
        )
        nursery.start_soon(take_over)
        await wait_until_blocked(other)
    assert [(head.epoch, head.owner) for head in heads] == [(8, "b") if taken else (7, "new")]
    assert await head_of(store, "w") == heads[0]


@pytest.mark.parametrize("there", [True, False])
async def test_a_workspace_that_two_begin_at_once_has_one_owner(
    store: PostgresStore, other: Connection, there: bool
) -> None:
    await live(store, "a", "b")
    heads = []

    async def begin() -> None:
        heads.append(await acquired(store, "w", "b"))

    async with trio.open_nursery() as nursery:
        await other.execute("begin")
        await other.execute(
            "insert into dalsegno.workspace_head (workspace_id, epoch, owner) values ('w', 5, 'a')"
        )
        assert await store.acquire("w", "b", create=False) is None
        nursery.start_soon(begin)
        await wait_until_blocked(other)
        await other.execute("commit" if there else "rollback")
    assert [(head.epoch, head.owner) for head in heads] == [(5, "a") if there else (1, "b")]
    assert await head_of(store, "w") == heads[0]


async def test_i10_what_another_node_serves_is_looked_at_without_a_lock(
    store: PostgresStore, other: Connection
) -> None:
    """A lock would refuse the owner's appends; and nothing waits for one."""
    await live(store, "a", "b")
    before = await acquired(store, "w", "a")
    async with other.transaction():
        await other.execute(HOLD)
        with fail_after(2):
            assert await acquired(store, "w", "b") == before
    async with other.transaction():
        (row,) = await other.fetch(queries()["acquire"], ("w", "b", "true", None, "0"))
        assert row[1:3] == (1, "a")
        w = Writer("w", before.epoch)
        assert await store.append([w.batch(w.event("note:1"))]) == {"w"}


async def test_many_takeovers_and_beats_at_once_make_one_owner_each(
    migrated: str, other: Connection, connect: Connect
) -> None:
    """A takeover from a live node would show as one epoch too many."""
    workspaces = [f"w{n}" for n in range(20)]
    async with PostgresStore.open(migrated, connect=connect) as store:
        await live(store, "dead", *"abcd")
        for workspace_id in workspaces:
            await acquired(store, workspace_id, "dead")
        await die(store, "dead")
        owners: dict[str, set[str | None]] = {workspace_id: set() for workspace_id in workspaces}

        async def take_over(node: str) -> None:
            async with PostgresStore.open(migrated, connect=connect) as own:
                for workspace_id in random.Random(node).sample(workspaces, 20):
                    head = await acquired(own, workspace_id, node)
                    owners[workspace_id].add(head.owner)
                    left_s = await own.beat(node, "1", address=None, lease_s=60.0, first=False)
                    assert left_s is not None
                    assert left_s > 0

        async with trio.open_nursery() as nursery:
            for node in "abcd":
                nursery.start_soon(take_over, node)
        heads = await store.read_heads(workspaces)
    assert {head.epoch for head in heads.values()} == {2}
    assert owners == {workspace_id: {heads[workspace_id].owner} for workspace_id in workspaces}


@pytest.mark.parametrize("what", ["halt", "resume", "write_states", "release"])
async def test_i3_who_is_fenced_while_it_waits_changes_nothing(
    store: PostgresStore, other: Connection, what: str
) -> None:
    w = await writer(store, "w")
    assert await store.append([w.batch(w.event("note:1"))])
    if what == "resume":
        assert await store.halt("w", w.epoch, "why", code="1", actor="x")
    before = await store.read_audit("w", limit=9)
    calls: dict[str, Callable[[], Awaitable[bool]]] = {
        "halt": lambda: store.halt("w", w.epoch, "why", code="1", actor="x"),
        "resume": lambda: store.resume("w", w.epoch, actor="x", detail="why"),
        "write_states": lambda: store.write_states("w", w.epoch, [entity("note:1", 1, '"mine"')]),
        "release": lambda: store.release("w", w.epoch),
    }
    stood: list[bool] = []

    async def call() -> None:
        stood.append(await calls[what]())

    async with trio.open_nursery() as nursery, other.transaction():
        (row,) = await other.fetch(queries()["acquire"], ("w", "b", "false", None, "0"))
        nursery.start_soon(call)
        await wait_until_blocked(other)
    assert stood == [False]
    head = await head_of(store, "w")
    assert (head.epoch, head.owner, head.halted_reason) == (row[1], "b", row[7])
    assert await store.read_audit("w", limit=9) == before
    loaded = await store.load_entities("w", ["note:1"], {"note:1": 1})
    assert loaded["note:1"].state is None


async def test_i9_a_beat_waits_for_nothing_else(store: PostgresStore, other: Connection) -> None:
    """However busy the store is, no lease is lost over it."""
    await live(store, "a")
    w = await writer(store, "w")
    key = CursorKey("u", "c", "w", "s")
    batch = w.batch(w.event("note:1"))
    busy: list[Callable[[], Awaitable[object]]] = [
        lambda: store.append([batch]),
        lambda: store.write_cursors({key: AckedCursor(1)}),
        lambda: store.sweep_cursors(None, limit=10, unused_s=1.0),
        *[lambda: store.read_cursors([key])] * 4,
    ]
    async with trio.open_nursery() as nursery, other.transaction():
        await other.execute(
            "lock table dalsegno.event, dalsegno.ack_cursor in access exclusive mode"
        )
        for call in busy:
            nursery.start_soon(call)
        await wait_until_blocked(other, len(busy))
        with fail_after(2):
            left_s = await store.beat("a", "1", address=None, lease_s=60.0, first=False)
        assert left_s is not None
        assert left_s > 50


async def test_i9_a_beat_that_gets_no_answer_leaves_time_for_another(
    migrated: str, connect: Connect
) -> None:
    limits = Limits(lease_s=3.0)
    async with PostgresStore.open(migrated, limits=limits, connect=connect) as store:
        beat = partial(store.beat, "a", "1", address=None, lease_s=3.0)
        assert await beat(first=True) is not None
        with psycopg.connect(migrated, autocommit=True) as other:
            (pid,) = other.execute(
                "select pid from pg_stat_activity where query like '%dalsegno.node%'"
                " and datname = current_database() and pid <> pg_backend_pid()"
            ).fetchone() or (0,)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailableError):
                await beat(first=False)
            left_s = await beat(first=False)
            assert left_s is not None
            assert left_s > 0
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_i9_a_beat_does_not_wait_long_for_a_lock(
    migrated: str, other: Connection, connect: Connect
) -> None:
    async with PostgresStore.open(migrated, limits=Limits(lease_s=1.0), connect=connect) as store:
        await store.beat("a", "1", address=None, lease_s=60.0, first=True)
        async with other.transaction():
            await other.execute("select from dalsegno.node where node_id = 'a' for update")
            with fail_after(1), pytest.raises(StoreUnavailableError):
                await store.beat("a", "1", address=None, lease_s=60.0, first=False)
