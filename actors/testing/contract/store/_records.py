"""What is on record, read newest first; which programs may own a workspace."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.ports import AuditFilter, AuditPlace, AuditWrite

from ._writing import START, Writer, acquired, head_of, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import AuditRecord, Store
    from dalsegno.protocol import Event

EVERYTHING = AuditFilter()
FAR, EAST = (timezone(timedelta(hours=h, minutes=m)) for h, m in ((-23, -59), (5, 30)))


def record(event: Event, n: int = 0, **more: Any) -> AuditWrite:  # noqa: ANN401 - its fields
    """Return what is put on record of an event."""
    fields: dict[str, Any] = {
        "event_seq": event.event_seq,
        "n": n,
        "recorded_at": event.recorded_at,
        "actor_id": event.actor_id,
        "action": "DONE",
        "resource_type": "note",
        "resource_id": "1",
        "old_value": None,
        "new_value": '{"é":"\\\\"}',
        "request_id": "r1",
        "address": "192.0.2.1",
    }
    return AuditWrite(**(fields | more))


async def put(store: Store, w: Writer, **more: Any) -> Event:  # noqa: ANN401 - its fields
    """Append an event with its record."""
    event = w.event("note:1")
    batch = msgspec.structs.replace(w.batch(event), audits=(record(event, **more),))
    assert await store.append([batch])
    return event


async def read(store: Store, which: AuditFilter = EVERYTHING) -> list[AuditRecord]:
    """Read all of it."""
    return await store.read_records("w", which, below=AuditPlace(), limit=100)


class RecordContract:
    """What is on record: committed with its event, read newest first, filtered."""

    async def test_a_record_is_read_as_it_was_written(self, store: Store) -> None:
        w = await writer(store, "w")
        event = await put(store, w, old_value="[1]")
        (found,) = await read(store)
        assert msgspec.structs.asdict(found) == msgspec.structs.asdict(
            record(event, old_value="[1]")
        )
        await put(store, w, actor_id=None, request_id=None, address=None, new_value=None)
        found, _ = await read(store)
        assert (found.actor_id, found.new_value, found.request_id, found.address) == (None,) * 4

    async def test_what_was_not_appended_left_no_record(self, store: Store) -> None:
        w = await writer(store, "w")
        await put(store, w)
        event = w.event("note:1")
        batch = msgspec.structs.replace(w.batch(event), audits=(record(event),))
        await store.acquire("w", "another", create=False)
        assert not await store.append([batch])
        assert len(await read(store)) == 1

    async def test_records_are_newest_first_with_interventions_among_them(
        self, store: Store
    ) -> None:
        w = await writer(store, "w")
        first = w.event("note:1")
        both = (record(first, 0, action="A"), record(first, 1, action="B"))
        assert await store.append([msgspec.structs.replace(w.batch(first), audits=both)])
        await put(store, w, action="C")
        assert await store.halt("w", w.epoch, 'a "reason"', code="x", actor="node")
        found = await read(store)
        of_events = [(r.event_seq, r.n, r.action) for r in found if r.event_seq is not None]
        assert of_events == [(2, 0, "C"), (1, 1, "B"), (1, 0, "A")]
        (halt,) = [r for r in found if r.event_seq is None]
        assert (halt.actor_id, halt.action, halt.resource_type, halt.resource_id) == (
            "node",
            "halted",
            "workspace",
            "w",
        )
        assert halt.new_value == '"a \\"reason\\""'

    async def test_pages_are_all_of_it(self, store: Store) -> None:
        w = await writer(store, "w")
        for _ in range(5):
            await put(store, w)
        for _ in range(2):
            assert await store.halt("w", w.epoch, "why", code="x", actor="node")
            assert await store.resume("w", w.epoch, actor="node", detail="well")
        below = AuditPlace()
        found: list[AuditRecord] = []
        while page := await store.read_records("w", EVERYTHING, below=below, limit=2):
            found += page
            for each in page:
                below = below.behind(each)
        assert found == await read(store)
        assert len(found) == 9

    async def test_records_are_found_by_who_what_and_when(self, store: Store) -> None:
        w = await writer(store, "w")
        for number, more in enumerate(
            (
                {"actor_id": "u2"},
                {"action": "ELSE"},
                {"resource_type": "task"},
                {"resource_id": "2"},
                {},
            ),
            1,
        ):
            event = await put(store, w, **more)
            assert event.event_seq == number
        assert await store.halt("w", w.epoch, "why", code="x", actor="node")
        for which, numbers in (
            (AuditFilter(actor_id="u2"), [1]),
            (AuditFilter(action="ELSE"), [2]),
            (AuditFilter(resource_type="task"), [3]),
            (AuditFilter(resource_id="2"), [4]),
            (AuditFilter(actor_id="u1", action="DONE"), [5, 4, 3]),
            (AuditFilter(since=START + timedelta(seconds=4), action="DONE"), [5, 4]),
            (AuditFilter(until=START + timedelta(seconds=3), action="DONE"), [1]),
            (AuditFilter(since=START.astimezone(FAR), action="DONE"), [5, 4, 3, 1]),
            (AuditFilter(until=START.astimezone(FAR), action="DONE"), []),
            (AuditFilter(since=datetime.min.replace(tzinfo=EAST), actor_id="u2"), [1]),
            (AuditFilter(until=datetime.max.replace(tzinfo=FAR), actor_id="u2"), [1]),
            (AuditFilter(resource_type="workspace"), [None]),
            (AuditFilter(action="halted", resource_id="w"), [None]),
            (AuditFilter(action="none"), []),
        ):
            assert [r.event_seq for r in await read(store, which)] == numbers, which
        assert await store.read_records("absent", EVERYTHING, below=AuditPlace(), limit=9) == []

    async def test_what_a_later_program_has_owned_stays_as_it_is(self, store: Store) -> None:
        first = await acquired(store, "w", "a")
        assert first.app_version == 0
        later = await store.acquire("w", "b", create=True, app_version=2)
        assert later is not None
        assert (later.epoch, later.owner, later.app_version) == (2, "b", 2)
        for version in (0, 1):
            for create in (False, True):
                refused = await store.acquire("w", "c", create=create, app_version=version)
                assert refused is not None
                assert refused == await head_of(store, "w") == later
        assert await store.release("w", later.epoch)
        released = await store.acquire("w", "c", create=False, app_version=1)
        assert released is not None
        assert (released.epoch, released.owner, released.app_version) == (2, None, 2)
        again = await store.acquire("w", "c", create=False, app_version=3)
        assert again is not None
        assert (again.epoch, again.owner, again.app_version) == (3, "c", 3)
        made = await store.acquire("new", "c", create=True, app_version=3)
        assert made is not None
        assert made.app_version == 3
        assert (await head_of(store, "new")).app_version == 3

    async def test_going_back_is_allowed_and_on_record(self, store: Store) -> None:
        await store.acquire("w", "a", create=True, app_version=3)
        await store.acquire("old", "a", create=True, app_version=1)
        assert await store.lower_app_version(1, actor="somebody") == 1
        assert await store.lower_app_version(1, actor="somebody") == 0
        taken = await store.acquire("w", "b", create=False, app_version=1)
        assert taken is not None
        assert (taken.owner, taken.app_version) == ("b", 1)
        (entry,) = await store.read_audit("w", limit=9)
        assert (entry.actor, entry.action) == ("somebody", "app_version")
        assert await store.read_audit("old", limit=9) == []
