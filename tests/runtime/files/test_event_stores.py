"""What every store of sessions' events promises, in files and in workspaces (§3.1, §7.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.sessions import session_domains
from dalsegno.actors.testing import MemoryStore
from dalsegno.runtime import Runtime
from dalsegno.runtime.files import (
    EventCompactedError,
    EventConflictError,
    EventProjectionHaltedError,
    EventSerializationError,
    EventStore,
    EventStoreStateError,
    EventUnsupportedError,
    FileEventStore,
    Inserted,
    Replayed,
    SessionProjector,
    WorkspaceEventStore,
    transfer,
)
from dalsegno.runtime.seams import WORLD
from tests.actors._reading import CountingStore

from ._sessions import FROM_RUNTIME, S, a_world, envelope


class Stores(ABC):
    """One place for events, and any number of stores over it."""

    @abstractmethod
    def another(self) -> EventStore: ...


class Files(Stores):
    def __init__(self, root: Path) -> None:
        self._root = root

    def another(self) -> EventStore:
        return FileEventStore(self._root, world=a_world())


class Workspaces(Stores):
    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    def another(self) -> EventStore:
        return WorkspaceEventStore(self._rt.workspace("sessions"), world=a_world())


@pytest.fixture(params=["files", "memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest) -> str:
    """Where events are kept: in files, in memory, or the DSN of a database."""
    if request.param != "postgres":
        return str(request.param)
    return str(request.getfixturevalue("migrated"))


@pytest.fixture
async def stores(where: str, tmp_path: Path) -> AsyncIterator[Stores]:
    if where == "files":
        yield Files(tmp_path / "events")
        return
    store = MemoryStore(WORLD) if where == "memory" else None
    dsn = None if where == "memory" else where
    async with Runtime.open(dsn, store=store, domains=session_domains) as rt:
        yield Workspaces(rt)


@pytest.fixture
def store(stores: Stores) -> EventStore:
    return stores.another()


async def seqs(store: EventStore, from_seq: int = 1) -> list[int]:
    return [row.seq for row in await store.read_from(S, from_seq)]


async def test_appends_and_reads_session_log(store: EventStore) -> None:
    assert await store.append(S, [{"turn": 1}, {"text": "durable event"}]) == 2
    assert await store.last_seq(S) == 2
    assert await seqs(store) == [1, 2]
    (second,) = await store.read_from(S, 2)
    assert second.event == {"text": "durable event"}
    assert second.event_id == "event-2"


async def test_round_trips_tool_config_changed_event(store: EventStore) -> None:
    payload = {
        "type": "tool_config_changed",
        "payload": {
            "operation": "add",
            "target": "shell",
            "status_info": {"kind": "boundary_applied", "effective": True, "turn": 7},
            "persisted": True,
            "text": 'ä\n"\\ 𝄋\u2028',
            "numbers": [0, -1, 1.5, 10**15],
        },
    }
    await store.append(S, [{"turn": 1}, payload])
    (_, row) = await store.read_from(S, 1)
    assert msgspec.json.encode(row.event) == msgspec.json.encode(payload)


async def test_x_seq_6_another_store_continues_where_the_first_one_was(stores: Stores) -> None:
    assert await stores.another().append(S, [1, 2]) == 2
    again = stores.another()
    assert await again.append(S, [3]) == 3
    assert await seqs(again) == [1, 2, 3]


async def test_x_per_6_preserves_envelope_identity_round_trip(store: EventStore) -> None:
    assert await store.append_envelopes(S, [FROM_RUNTIME]) == 1
    (row,) = await store.read_from(S, 1)
    assert (row.seq, row.stream_seq, row.mob_id) == (1, 42, "mob-abc")
    assert row.source == FROM_RUNTIME.source
    assert row.to_envelope() == FROM_RUNTIME


async def test_x_seq_9_an_empty_append_writes_nothing(store: EventStore) -> None:
    assert await store.append(S, []) == 0
    await store.append(S, [1])
    assert await store.append_envelopes(S, []) == 1
    assert await seqs(store) == [1]


async def test_x_seq_10_reads_are_inclusive_and_in_order(store: EventStore) -> None:
    assert await store.read_from(S, 1) == []
    assert await store.last_seq(S) == 0
    await store.append(S, [1, 2, 3])
    assert await seqs(store, 2) == [2, 3]
    assert await seqs(store, 0) == [1, 2, 3]
    assert await seqs(store, 4) == []


async def test_without_a_number_a_read_begins_with_the_first_event(store: EventStore) -> None:
    assert (await store.read_page(S)).events == []
    assert await store.min_available(S) == 0
    await store.append(S, [1, 2, 3])
    assert [row.seq for row in (await store.read_page(S)).events] == [1, 2, 3]
    page = await store.read_page(S, limit=2)
    assert ([row.seq for row in page.events], page.has_more) == ([1, 2], True)
    assert await store.min_available(S) == 0


async def test_events_are_removed_or_the_store_says_that_it_keeps_them(
    stores: Stores, store: EventStore, where: str
) -> None:
    await store.append(S, [1, 2, 3, 4])
    if where != "files":
        with pytest.raises(EventUnsupportedError, match="keeps every event") as refused:
            await store.compact(S, 3)
        assert refused.value.code == "SESSION_UNSUPPORTED"
        assert await seqs(store) == [1, 2, 3, 4]
        return
    assert await store.compact(S, 3) == 2
    for each in (store, stores.another()):
        assert await each.min_available(S) == 2
        assert [row.seq for row in (await each.read_page(S)).events] == [3, 4]
        assert await seqs(each, 3) == [3, 4]
        with pytest.raises(EventCompactedError) as stale:
            await each.read_page(S, 2)
        assert stale.value.details["min_available_cursor"] == 2
    assert await store.append(S, [5]) == 5


async def test_what_a_workspace_keeps_no_longer_is_a_stale_cursor(tmp_path: Path) -> None:
    log = CountingStore(WORLD)
    async with Runtime.open(store=log, domains=session_domains) as rt:
        store = WorkspaceEventStore(rt.workspace("w"), world=a_world())
        await store.append(S, [1, 2, 3, 4])
        log.trim(2)
        assert await store.min_available(S) == 2
        assert [row.seq for row in (await store.read_page(S)).events] == [3, 4]
        assert await seqs(store, 3) == [3, 4]
        with pytest.raises(EventCompactedError) as stale:
            await store.read_page(S, 2)
        assert stale.value.details == {
            "requested_cursor": 1,
            "min_available_cursor": 2,
            "recovery": "resubscribe_full",
        }
        target = FileEventStore(tmp_path / "target")
        assert (await transfer(store, target, [S])).refused[S].code == "STALE_CURSOR"


async def test_x_per_10_a_batch_is_all_or_none(store: EventStore) -> None:
    for wrong in (
        [envelope(1), envelope(2, {"x": float("nan")})],
        [envelope(1), envelope(2, {"x": {1, 2}.__class__})],
        [envelope(1), envelope(2, "\ud800")],
        [envelope(1), envelope(2, "x" * 2**20)],
    ):
        with pytest.raises(EventSerializationError):
            await store.append_envelopes(S, wrong)
    with pytest.raises(EventStoreStateError, match="at most 256"):
        await store.append_envelopes(S, [envelope(number) for number in range(257)])
    assert await store.last_seq(S) == 0
    assert await store.append_envelopes(S, [envelope(number) for number in range(256)]) == 256


async def test_pages_are_bounded_and_follow_each_other(stores: Stores, store: EventStore) -> None:
    for first in range(0, 2_500, 250):
        await store.append_envelopes(S, [envelope(first + n) for n in range(250)])
    for reader in (store, stores.another()):
        page = await reader.read_page(S, 1)
        assert ([row.seq for row in page.events], page.has_more) == ([*range(1, 1_001)], True)
        page = await reader.read_page(S, 2_400, limit=50)
        assert ([row.seq for row in page.events], page.has_more) == ([*range(2_400, 2_450)], True)
        page = await reader.read_page(S, 2_450, limit=51)
        assert ([row.seq for row in page.events], page.has_more) == ([*range(2_450, 2_501)], False)
    for n in range(6):
        await store.append_envelopes("wide", [envelope(n, "x" * 900_000)])
    page = await store.read_page("wide", 1)
    assert (len(page.events), page.has_more) == (4, True)
    assert len(await store.read_from("wide", 1)) == 6


async def test_what_is_appended_once_is_replayed_and_another_one_is_refused(
    stores: Stores, store: EventStore
) -> None:
    several = [envelope(1), envelope(2)]
    assert await store.append_once(S, several) == Inserted(2)
    assert await store.append_once(S, [envelope(3)]) == Inserted(3)
    for again in (store, stores.another()):
        assert await again.append_once(S, several) == Replayed(2)
        assert await again.append_once(S, [envelope(3)]) == Replayed(3)
        for wrong in (
            [envelope(1, {"n": "another"})],
            [envelope(2, seq=9)],
            [envelope(2), envelope(4)],
            [envelope(4), envelope(4)],
            [envelope(4, event_id="")],
        ):
            with pytest.raises(EventConflictError):
                await again.append_once(S, wrong)
    assert await store.last_seq(S) == 3
    assert await store.append_once(S, []) == Replayed(3)
    many = [envelope(10 + number) for number in range(101)]
    with pytest.raises(EventStoreStateError, match="at most 100"):
        await store.append_once(S, many)
    assert await store.append_once(S, many[:100]) == Inserted(103)
    assert await store.append_once("other", several) == Inserted(2)


async def test_x_per_9_a_halted_session_is_neither_read_nor_written_until_that_is_cleared(
    stores: Stores, store: EventStore
) -> None:
    await store.append(S, [1])
    await store.append("other", [1])
    await store.record_projection_halt(S, "the projector is lost")
    for halted in (store, stores.another()):
        for asked in (
            halted.append(S, [2]),
            halted.append_once(S, [envelope(2)]),
            halted.read_from(S, 1),
            halted.last_seq(S),
            halted.min_available(S),
            halted.append(S, []),
        ):
            with pytest.raises(EventProjectionHaltedError, match="the projector is lost"):
                await asked
        assert await halted.append("other", [2]) > 1
        marker = await halted.projection_halt(S)
        assert marker is not None
        assert (marker.session_id, marker.reason) == (S, "the projector is lost")
    again = stores.another()
    assert await again.clear_projection_halt(S, by="ada", reason="rebuilt")
    assert not await again.clear_projection_halt(S, by="ada", reason="rebuilt")
    assert await store.append(S, [2]) == 2
    assert await store.projection_halt(S) is None


NO_IDS = ("", ".", "..", "../x", "a/b", "/etc", ".hidden", "-x", "x" * 129, "a\0b", "ä")


async def test_what_is_no_id_names_no_session(store: EventStore) -> None:
    for session_id in NO_IDS:
        for asked in (
            store.append(session_id, [1]),
            store.append(session_id, []),
            store.read_from(session_id, 1),
            store.last_seq(session_id),
            store.min_available(session_id),
            store.projection_halt(session_id),
            store.record_projection_halt(session_id, "x"),
            store.clear_projection_halt(session_id, by="ada", reason="x"),
        ):
            with pytest.raises(EventStoreStateError, match="session's id"):
                await asked


async def test_several_stores_never_give_a_number_twice(stores: Stores) -> None:
    given: list[int] = []

    async def append(store: EventStore) -> None:
        given.extend([await store.append(S, ["x"]) for _ in range(20)])

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(append, stores.another())
    assert sorted(given) == [*range(1, 61)]
    assert await seqs(stores.another()) == [*range(1, 61)]


async def test_what_a_projector_makes_is_the_same_over_every_store(
    stores: Stores, store: EventStore, tmp_path: Path
) -> None:
    def said(content: str) -> dict[str, Any]:
        return {"type": "text_complete", "content": content}

    projector = SessionProjector(tmp_path / ".rkat", store)
    await store.append(S, [{"type": "turn_started", "turn_number": 1}, said("Hello")])
    assert await projector.resume(S) == 2
    await store.append(S, [said("Bye")])
    assert await projector.resume(S) == 3
    fresh = SessionProjector(tmp_path / "fresh", stores.another())
    assert await fresh.replay(S) == 3
    made = {}
    for folder in (".rkat", "fresh"):
        out = tmp_path / folder / "sessions" / S
        made[folder] = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert made[".rkat"] == made["fresh"]
    assert made["fresh"]["summary.txt"] == b"Bye"
    rows = [msgspec.json.decode(line) for line in made["fresh"]["events.jsonl"].splitlines()]
    assert [(row["seq"], row["event_id"]) for row in rows] == [
        (1, "event-1"),
        (2, "event-2"),
        (3, "event-3"),
    ]


async def test_sessions_are_listed_page_by_page(stores: Stores, store: EventStore) -> None:
    assert await store.session_ids() == []
    for session_id in ("b", "a", "c", "A.1"):
        await store.append(session_id, [1])
    await store.record_projection_halt("a", "lost")
    assert await stores.another().session_ids() == ["A.1", "a", "b", "c"]
    assert await store.session_ids(limit=2) == ["A.1", "a"]
    assert await store.session_ids(after="a", limit=2) == ["b", "c"]
    assert await store.session_ids(after="c") == []
