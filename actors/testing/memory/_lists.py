"""Lists of the store in memory: entities by id and by key, what is due, what is on record."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.ports import (
    BEGINNING,
    AuditFilter,
    AuditPlace,
    AuditRecord,
    EntityItem,
    EntityPage,
    Place,
    StoredEntity,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from ._log import EntityRow, MemoryLog


def list_entities(
    log: MemoryLog,
    domain: str,
    *,
    key: str | None,
    after: Place,
    limit: int,
    domain_version: int,
    bytes_max: int | None,
    newest_first: bool = False,
) -> EntityPage:
    """Return a page of a domain's entities; see `Store.list_entities`."""
    if key is None:
        found = [Place("", s) for s, row in rows_of(log, domain) if row.exists]
    else:
        found = [
            Place(sort or "", stream_id)
            for stream_id, (keys, sort) in log.listed.items()
            if stream_id.startswith(f"{domain}:")
            and (key in keys or (key == "" and sort is not None))
        ]
    places = sorted(found, key=_by_place, reverse=newest_first)
    if not newest_first:
        left = [place for place in places if _by_place(place) > _by_place(after)]
    elif after == BEGINNING:
        left = places
    else:
        left = [place for place in places if _by_place(place) < _by_place(after)]
    items: list[EntityItem] = []
    size = 0
    for place in left[:limit]:
        stored = None
        if bytes_max is not None:
            stored = log.load(place.stream_id, domain_version)
            assert stored is not None, "it exists"
            size += _size(stored)
            if items and size > bytes_max:
                break
        items.append(_item(place.stream_id, log.entities[place.stream_id], stored))
    return EntityPage(
        head_seq=log.head.head_seq,
        items=items,
        is_last=len(items) == len(left),
        is_stale=bool(list_stale(log, domain, domain_version, limit=1)),
    )


def list_keys(log: MemoryLog, domain: str, prefix: str, after: str) -> list[str]:
    """Return the keys that entities are listed under; see `Store.list_keys`."""
    listed = [each for s, each in log.listed.items() if s.startswith(f"{domain}:")]
    keys = {key for under, _ in listed for key in under}
    if any(sort is not None for _, sort in listed):
        keys.add("")
    found = (key for key in keys if key.startswith(prefix) and key.encode() > after.encode())
    return sorted(found, key=str.encode)


def list_versions(log: MemoryLog, domain: str, at_seq: int, after: str) -> list[tuple[str, int]]:
    """Return a domain's entities as they were at an event; see `Store.list_versions`."""
    found = []
    for stream_id, events in log.streams.items():
        version = bisect_right(events, at_seq, key=lambda event: event.event_seq)
        is_wanted = stream_id.partition(":")[0] == domain and stream_id.encode() > after.encode()
        if is_wanted and version > 0:
            found.append((stream_id, events[version - 1].stream_seq))
    return sorted(found, key=lambda each: each[0].encode())


def list_stale(log: MemoryLog, domain: str, domain_version: int, *, limit: int) -> list[str]:
    """Return what another version listed; see `Store.list_stale`."""
    rows = rows_of(log, domain)
    return sorted(s for s, row in rows if row.index_version != domain_version)[:limit]


def rows_of(log: MemoryLog, domain: str) -> Iterator[tuple[str, EntityRow]]:
    """Yield the rows of a domain's entities."""
    return ((s, row) for s, row in log.entities.items() if s.startswith(f"{domain}:"))


def read_records(
    log: MemoryLog, which: AuditFilter, below: AuditPlace, limit: int
) -> list[AuditRecord]:
    """Return what is on record; see `Store.read_records`."""
    records = [
        AuditRecord(
            recorded_at=each.recorded_at,
            event_seq=each.event_seq,
            n=each.n,
            actor_id=each.actor_id,
            action=each.action,
            resource_type=each.resource_type,
            resource_id=each.resource_id,
            old_value=each.old_value,
            new_value=each.new_value,
            request_id=each.request_id,
            address=each.address,
        )
        for each in log.records
        if (each.event_seq, each.n) < (below.event_seq, below.n)
    ]
    records += [
        AuditRecord(
            recorded_at=each.recorded_at,
            event_seq=None,
            n=number,
            actor_id=each.actor,
            action=each.action,
            resource_type="workspace",
            resource_id=each.workspace_id,
            old_value=None,
            new_value=_json(each.detail),
            request_id=None,
            address=None,
        )
        for number, each in enumerate(log.audit, 1)
        if number < below.intervention
    ]
    found = [each for each in records if _fits(each, which)]
    return sorted(found, key=_newest_first, reverse=True)[:limit]


def _by_place(place: Place) -> tuple[bytes, bytes]:
    return place.sort.encode(), place.stream_id.encode()


def _size(stored: StoredEntity) -> int:
    state = 0 if stored.state is None else len(stored.state.encode())
    return state + sum(len(event.payload.encode()) for event in stored.events)


def _item(stream_id: str, row: EntityRow, stored: StoredEntity | None) -> EntityItem:
    return EntityItem(
        stream_id=stream_id,
        version=row.version,
        keys=row.keys,
        sort=row.sort,
        title=row.title,
        updated_at=row.updated_at,
        stored=stored,
    )


def _fits(record: AuditRecord, which: AuditFilter) -> bool:
    pairs = (
        (which.actor_id, record.actor_id),
        (which.action, record.action),
        (which.resource_type, record.resource_type),
        (which.resource_id, record.resource_id),
    )
    return (
        all(asked is None or asked == found for asked, found in pairs)
        and (which.since is None or record.recorded_at >= which.since)
        and (which.until is None or record.recorded_at < which.until)
    )


def _newest_first(record: AuditRecord) -> tuple[datetime, float, int]:
    return record.recorded_at, record.event_seq or float("inf"), record.n


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()
