"""One workspace in memory: the rows that PostgreSQL would keep of it, and their queries.

Everything here is synchronous and takes the time as an argument; `MemoryStore` adds the rest.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.ports import (
    AuditEntry,
    AuditWrite,
    Batch,
    BatchRejectedError,
    EntityWrite,
    Head,
    PageBounds,
    RecordKey,
    SnapshotWrite,
    StoredEntity,
    StoredResult,
    Uncollected,
)
from dalsegno.protocol import (
    SCHEMA_VERSION,
    SEQ_MAX,
    CorruptLogError,
    Event,
    SchemaVersionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
    from datetime import datetime


class EntityRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row: the index columns as of ``version``, the state as of ``state_version``."""

    version: int
    exists: bool
    keys: tuple[str, ...]
    sort: str | None
    title: str | None
    due_at: datetime | None
    index_version: int
    updated_at: datetime
    state: str | None
    state_version: int
    domain_version: int


class _Result(msgspec.Struct, frozen=True):
    stored: StoredResult
    expires_at: datetime


class MemoryLog:
    """A workspace's head, events, entities, snapshots, command results and audit."""

    def __init__(self, workspace_id: str) -> None:
        self.head = Head(workspace_id=workspace_id, epoch=0, owner=None)
        self.events: list[Event] = []
        self.streams: dict[str, list[Event]] = {}
        self.entities: dict[str, EntityRow] = {}
        self.snapshots: dict[str, list[SnapshotWrite]] = {}
        self.results: dict[tuple[str, str], _Result] = {}
        self.audit: list[AuditEntry] = []
        self.records: list[AuditWrite] = []
        self.uncollected: dict[RecordKey, Uncollected] = {}
        """Of these two, what is not on the log of ``$audit`` …"""
        self.collected: dict[RecordKey, int] = {}
        """… and what is, by which event."""
        self.listed: dict[str, tuple[tuple[str, ...], str | None]] = {}
        """Keys and sort under which those that exist are listed: written only where a batch says
        that they changed, as the rows of keys are."""

    def acquire(self, owner: str, app_version: int) -> Head:
        """Raise the epoch."""
        self.head = msgspec.structs.replace(
            self.head, epoch=self.head.epoch + 1, owner=owner, app_version=app_version
        )
        return self.head

    def lower_app_version(self, version: int, *, actor: str, now: datetime) -> bool:
        """Allow programs of this version to own it; return whether that changed anything."""
        if self.head.app_version <= version:
            return False
        self.head = msgspec.structs.replace(self.head, app_version=version)
        self._note(actor, "app_version", f"programs of version {version} may own it", now)
        return True

    def release(self) -> None:
        """Clear the owner."""
        self.head = msgspec.structs.replace(self.head, owner=None)

    def halt(self, reason: str, *, code: str, actor: str, now: datetime) -> None:
        """Set the halt marker, if it is not set."""
        if self.head.halted_reason is None:
            reason = storable(reason)
            self.head = msgspec.structs.replace(self.head, halted_reason=reason, halted_code=code)
            self._note(actor, "halted", reason, now)

    def resume(self, *, actor: str, detail: str, now: datetime) -> None:
        """Clear the halt marker, if it is set."""
        if self.head.halted_reason is not None:
            self.head = msgspec.structs.replace(self.head, halted_reason=None, halted_code=None)
            self._note(actor, "resumed", storable(detail), now)

    def _note(self, actor: str, action: str, detail: str, now: datetime) -> None:
        entry = AuditEntry(
            recorded_at=now,
            workspace_id=self.head.workspace_id,
            actor=actor,
            action=action,
            detail=detail,
        )
        self.audit.append(entry)
        key = RecordKey("intervention", entry.workspace_id, len(self.audit))
        self.uncollected[key] = of_entry(key, entry)

    def mark(self, key: RecordKey, event_seq: int) -> None:
        """Mark that something on record is on the log of ``$audit``."""
        if self.uncollected.pop(key, None) is not None:
            self.collected[key] = event_seq

    def admits(self, batch: Batch, now: datetime) -> bool:
        """Return whether the fence and the live keys admit a batch."""
        assert not batch.events or batch.events[0].event_seq == batch.old_head + 1
        return (
            (self.head.epoch, self.head.head_seq) == (batch.epoch, batch.old_head)
            and self.head.halted_reason is None
            and not self.find_results([(r.scope, r.key) for r in batch.results], now)
        )

    def refuse_bad_rows(self, batch: Batch) -> None:
        """Raise `BatchRejectedError` if a unique key or a number's range would be violated."""
        if batch.new_head > SEQ_MAX:
            raise BatchRejectedError("event_seq is out of range")
        for event in batch.events:
            if _has(self.streams.get(event.stream_id, []), event.stream_seq):
                raise BatchRejectedError("an event of this stream_seq exists")
        _refuse_repeats("stream_seq", ((e.stream_id, e.stream_seq) for e in batch.events))
        _refuse_repeats("entity", (entity.stream_id for entity in batch.entities))
        _refuse_repeats("record", ((a.event_seq, a.n) for a in batch.audits))
        _refuse_repeats("key", ((result.scope, result.key) for result in batch.results))
        _refuse_repeats("snapshot", ((s.stream_id, s.version) for s in batch.snapshots))

    def has(self, event_seq: int, chain: int) -> bool:
        """Return whether the log has, or ends with, this event."""
        if (self.head.head_seq, self.head.chain) == (event_seq, chain):
            return True
        place = bisect_left(self.events, event_seq, key=lambda event: event.event_seq)
        return self.events[place : place + 1] != [] and self.events[place].chain == chain

    def commit(self, batch: Batch, expires_at: datetime) -> None:
        """Write all of a batch."""
        if batch.events:
            last = batch.events[-1]
            self.head = msgspec.structs.replace(
                self.head, head_seq=last.event_seq, chain=last.chain, recorded_at=last.recorded_at
            )
        changed_at = {event.stream_id: event.recorded_at for event in batch.events}
        self.events += batch.events
        for event in batch.events:
            self.streams.setdefault(event.stream_id, []).append(event)
        for write in batch.entities:
            self._write_entity(write, changed_at.get(write.stream_id))
        self.records += batch.audits
        for audit in batch.audits:
            key = RecordKey("event", batch.workspace_id, audit.event_seq, audit.n)
            self.uncollected[key] = of_audit(key, audit)
        for snapshot in batch.snapshots:
            self.snapshots.setdefault(snapshot.stream_id, []).append(snapshot)
        for result in batch.results:
            stored = StoredResult(
                payload_hash=result.payload_hash,
                answer=result.answer,
                event_seq=result.event_seq,
                expires_in_s=0.0,
            )
            self.results[result.scope, result.key] = _Result(stored, expires_at)

    def _write_entity(self, write: EntityWrite, changed_at: datetime | None) -> None:
        old = self.entities.get(write.stream_id)
        updated_at = changed_at or (old.updated_at if old is not None else None)
        assert updated_at is not None, "one that is new has an event"
        kept: tuple[str | None, int, int]
        if write.state is not None:
            kept = (write.state, write.version, write.domain_version)
        elif old is not None:
            kept = (old.state, old.state_version, old.domain_version)
        else:
            kept = (None, 0, write.domain_version)
        if write.index_changed:
            self.listed.pop(write.stream_id, None)
            if write.exists:
                self.listed[write.stream_id] = write.keys, write.sort
        state, state_version, domain_version = kept
        self.entities[write.stream_id] = EntityRow(
            version=write.version,
            exists=write.exists,
            keys=write.keys,
            sort=write.sort,
            title=write.title,
            due_at=write.due_at,
            index_version=write.domain_version,
            updated_at=updated_at,
            state=state,
            state_version=state_version,
            domain_version=domain_version,
        )

    def write_state(self, write: EntityWrite) -> None:
        """Store an entity's state, if its version is still the one given, and nothing else."""
        old = self.entities.get(write.stream_id)
        if old is not None and old.version == write.version and write.state is not None:
            self.entities[write.stream_id] = msgspec.structs.replace(
                old,
                state=write.state,
                state_version=write.version,
                domain_version=write.domain_version,
            )

    def read(self, bounds: PageBounds) -> list[Event]:
        """Read a page of the log."""
        events = _between(self.events, _event_seq, bounds.from_seq, bounds.to_event_seq)
        return _page(events, bounds)

    def read_stream(self, stream_id: str, bounds: PageBounds) -> list[Event]:
        """Read a page of a stream."""
        stream = _between(self.streams.get(stream_id, []), _stream_seq, bounds.from_seq, SEQ_MAX)
        return _page((e for e in stream if e.event_seq <= bounds.to_event_seq), bounds)

    def find_commands(self, command_ids: Collection[str], after_seq: int) -> dict[str, list[Event]]:
        """Find the events of commands."""
        found: dict[str, list[Event]] = {}
        for event in _between(self.events, _event_seq, after_seq + 1, SEQ_MAX):
            if event.command_id in command_ids:
                found.setdefault(event.command_id, []).append(_checked(event))
        return found

    def read_versions(self, stream_ids: Collection[str]) -> dict[str, int]:
        """Read the versions of the entities that exist."""
        rows = ((stream_id, self.entities.get(stream_id)) for stream_id in stream_ids)
        return {stream_id: row.version for stream_id, row in rows if row is not None}

    def load(
        self, stream_id: str, domain_version: int | None, version: int | None = None
    ) -> StoredEntity | None:
        """Load an entity, as it is or as it was at ``version``."""
        entity = self.entities.get(stream_id)
        if entity is None:
            return None
        if version is None:
            version = entity.version
        if not 1 <= version <= entity.version:
            return None
        state, state_version = self._newest_state(stream_id, domain_version, version)
        stream = self.streams.get(stream_id, [])
        tail = _between(stream, _stream_seq, state_version + 1, version)
        events = tuple(map(_checked, tail))
        if len(events) != version - state_version:
            raise CorruptLogError(f"{stream_id} lacks an event below version {version}")
        return StoredEntity(
            stream_id=stream_id,
            version=version,
            state=state,
            state_version=state_version,
            events=events,
        )

    def _newest_state(
        self, stream_id: str, domain_version: int | None, version: int
    ) -> tuple[str | None, int]:
        entity = self.entities[stream_id]
        usable: list[tuple[str | None, int]] = [
            (snapshot.state, snapshot.version)
            for snapshot in self.snapshots.get(stream_id, [])
            if snapshot.domain_version == domain_version and snapshot.version <= version
        ]
        if entity.domain_version == domain_version and entity.state_version <= version:
            usable.append((entity.state, entity.state_version))
        return max(usable, key=lambda candidate: candidate[1], default=(None, 0))

    def find_results(
        self, keys: Collection[tuple[str, str]], now: datetime
    ) -> dict[tuple[str, str], StoredResult]:
        """Look up the keys that have not expired."""
        rows = ((key, self.results.get(key)) for key in keys)
        return {
            key: msgspec.structs.replace(
                row.stored, expires_in_s=(row.expires_at - now).total_seconds()
            )
            for key, row in rows
            if row is not None and row.expires_at > now
        }


def of_audit(key: RecordKey, audit: AuditWrite) -> Uncollected:
    """Return what a domain put on record as it is to be collected."""
    return Uncollected(
        key=key,
        recorded_at=audit.recorded_at,
        workspace_id=key.scope,
        actor_id=audit.actor_id,
        action=audit.action,
        resource_type=audit.resource_type,
        resource_id=audit.resource_id,
        old_value=audit.old_value,
        new_value=audit.new_value,
        request_id=audit.request_id,
        address=audit.address,
    )


def of_entry(key: RecordKey, entry: AuditEntry) -> Uncollected:
    """Return an intervention as it is to be collected."""
    return Uncollected(
        key=key,
        recorded_at=entry.recorded_at,
        workspace_id=entry.workspace_id,
        actor_id=entry.actor,
        action=entry.action,
        resource_type="workspace",
        resource_id=entry.workspace_id,
        old_value=None,
        new_value=msgspec.json.encode(entry.detail).decode(),
        request_id=None,
        address=None,
    )


def refuse_bad_text(batch: Batch) -> None:
    """Raise `BatchRejectedError` for what PostgreSQL refuses in a text: a NUL, a lone surrogate."""
    for text in _texts(batch):
        if text is not None and ("\0" in text or not _encodable(text)):
            raise BatchRejectedError("a text holds a NUL or a lone surrogate")


def storable(text: str) -> str:
    """Return a text of any origin with "?" for every character that PostgreSQL refuses."""
    return text.replace("\0", "?").encode(errors="replace").decode()


def _texts(batch: Batch) -> Iterator[str | None]:
    yield batch.workspace_id
    for e in batch.events:
        yield from (e.stream_id, e.type, e.payload, e.actor_id, e.command_id, e.source)
        yield from (e.causation, e.correlation_id)
    for entity in batch.entities:
        yield from (entity.stream_id, entity.title, entity.state, entity.sort, *entity.keys)
    for result in batch.results:
        yield from (result.scope, result.key, result.answer)
    for snapshot in batch.snapshots:
        yield from (snapshot.stream_id, snapshot.state)
    for a in batch.audits:
        yield from (a.actor_id, a.action, a.resource_type, a.resource_id, a.old_value, a.new_value)
        yield from (a.request_id, a.address)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_repeats(what: str, keys: Iterable[Hashable]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise BatchRejectedError(f"the same {what} twice in a batch")
        seen.add(key)


def _event_seq(event: Event) -> int:
    return event.event_seq


def _stream_seq(event: Event) -> int:
    return event.stream_seq


def _has(stream: list[Event], stream_seq: int) -> bool:
    return next(_between(stream, _stream_seq, stream_seq, stream_seq), None) is not None


def _between(
    events: list[Event], number: Callable[[Event], int], first: int, last: int
) -> Iterator[Event]:
    start = bisect_left(events, first, key=number)
    stop = bisect_left(events, last + 1, key=number)
    return islice(events, start, stop)


def _page(events: Iterable[Event], bounds: PageBounds) -> list[Event]:
    page: list[Event] = []
    size = 0
    for event in islice(events, bounds.limit):
        size += len(event.payload.encode())
        if page and size > bounds.bytes_max:
            break
        page.append(_checked(event))
    return page


def _checked(event: Event) -> Event:
    if event.schema_version != SCHEMA_VERSION:
        raise SchemaVersionError(SCHEMA_VERSION, event.schema_version)
    return event
