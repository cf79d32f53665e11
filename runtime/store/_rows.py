"""Conversion between records and rows: the parameters of statements, and their results.

The columns of rows are in the order of the statements in ``queries.sql``; each function here names
the statement that it belongs to.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dalsegno.actors import (
    AuditEntry,
    AuditRecord,
    Batch,
    CursorKey,
    DueEntity,
    DuePage,
    EntityWrite,
    Head,
    Node,
    PageBounds,
    RecordKey,
    StoredResult,
    Uncollected,
)
from dalsegno.protocol import (
    SCHEMA_VERSION,
    Event,
    InternalError,
    SchemaVersionError,
    instant,
)

from ._sql import NULL, array, columns, numbers, quoted, signed, texts, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dalsegno.actors import CollectedRecord, RefusedWrite, ResultWrite, SnapshotWrite

    from ._sql import Quote

Row = tuple[Any, ...]

_UNCHANGED = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for the time of an entity that has no event in its batch: its row has one already."""


def append_statement(
    batches: Sequence[Batch], result_ttl_s: float, quote: Quote = quoted
) -> tuple[str, Sequence[str | None]]:
    """Return the name of the statement that appends these batches, and its parameters."""
    if len(batches) == 1 and _is_one(batches[0]):
        return "append_one", _one_parameters(batches[0], result_ttl_s)
    parameters = _append_parameters(batches, result_ttl_s, quote)
    more = _more_parameters(batches)
    if more is None:
        return "append", parameters
    collected = [(b.workspace_id, each) for b in batches for each in b.collected]
    if collected:
        return "append_collecting", [*parameters, *more, *_collected_columns(collected)]
    return "append_more", parameters + more


def documents_of(batches: Sequence[Batch]) -> Iterator[str | None]:
    """Yield what `append_statement` has to quote that may be long."""
    if len(batches) == 1 and _is_one(batches[0]):
        return
    for batch in batches:
        yield from (event.payload for event in batch.events)
        yield from (entity.state for entity in batch.entities)
        yield from (snapshot.state for snapshot in batch.snapshots)


def _is_one(batch: Batch) -> bool:
    """Return whether it is one event, its entity and at most the result of its command's key.

    An entity without an event is one that is only listed anew.
    """
    return (
        len(batch.events) == 1
        and not batch.audits
        and not batch.collected
        and [(e.stream_id, e.stream_seq, False) for e in batch.events]
        == [(e.stream_id, e.version, e.index_changed) for e in batch.entities]
        and not batch.snapshots
        and (not batch.results or [r.event_seq for r in batch.results] == [batch.new_head])
    )


def _one_parameters(batch: Batch, result_ttl_s: float) -> list[str | None]:
    """Return the parameters of ``append_one``."""
    (event,), (entity,) = batch.events, batch.entities
    assert event.event_seq == batch.old_head + 1
    parameters = [
        batch.workspace_id, str(batch.epoch), str(batch.old_head), str(batch.new_head),
        str(signed(event.chain)), instant(event.recorded_at),
        event.stream_id, str(event.stream_seq), event.event_id, event.type,
        str(event.type_version), str(event.schema_version), event.payload, event.actor_id,
        event.command_id, event.source, event.causation, event.correlation_id,
        "t" if entity.exists else "f", texts(entity.keys), entity.title, entity.state,
        str(entity.domain_version),
    ]  # fmt: skip
    last = (_hex(event.salt), entity.sort, _instant(entity.due_at))
    if not batch.results:
        return [*parameters, None, None, None, None, None, *last]
    (result,) = batch.results
    answered = (result.scope, result.key, result.payload_hash.hex(), result.answer)
    return [*parameters, *answered, repr(result_ttl_s), *last]


def bound_of(at: datetime | None) -> str | None:
    """Return a time that somebody asks for: PostgreSQL knows no zone of 16 hours, RFC 3339 does."""
    if at is None:
        return None
    try:
        return instant(at.astimezone(UTC))
    except OverflowError:  # less than a day from the first year's begin, or the last one's end
        return instant(at.replace(tzinfo=UTC))


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)


def _hex(salt: bytes | None) -> str | None:
    return None if salt is None else salt.hex()


def _append_parameters(
    batches: Sequence[Batch], result_ttl_s: float, quote: Quote
) -> list[str | None]:
    """Return the parameters of ``append``."""
    assert all(b.events[0].event_seq == b.old_head + 1 for b in batches if b.events)
    entities = [
        (batch.workspace_id, entity, changed_at)
        for batch in batches
        for entity, changed_at in _changed(batch)
    ]
    return [
        *_head_columns(batches),
        repr(result_ttl_s),
        *_result_columns([(b.workspace_id, result) for b in batches for result in b.results]),
        *_event_columns([event for batch in batches for event in batch.events], quote),
        *_entity_columns(entities, quote),
        *_snapshot_columns(
            [(b.workspace_id, each) for b in batches for each in b.snapshots], quote
        ),
    ]


def _more_parameters(batches: Sequence[Batch]) -> list[str | None] | None:
    """Return the further parameters of ``append_more``; None where `append` does."""
    listed = [(b.workspace_id, each) for b in batches for each in b.entities if each.index_changed]
    audits = [(b.workspace_id, each) for b in batches for each in b.audits]
    if not (listed or audits or any(batch.collected for batch in batches)):
        return None
    return [
        texts([workspace_id for workspace_id, _ in listed]),
        texts([entity.stream_id for _, entity in listed]),
        array(["t" if entity.exists else "f" for _, entity in listed]),
        texts([texts(entity.keys) for _, entity in listed]),
        texts([entity.sort for _, entity in listed]),
        texts([workspace_id for workspace_id, _ in audits]),
        numbers([audit.event_seq for _, audit in audits]),
        numbers([audit.n for _, audit in audits]),
        texts([instant(audit.recorded_at) for _, audit in audits]),
        texts([audit.actor_id for _, audit in audits]),
        texts([audit.action for _, audit in audits]),
        texts([audit.resource_type for _, audit in audits]),
        texts([audit.resource_id for _, audit in audits]),
        texts([audit.old_value for _, audit in audits]),
        texts([audit.new_value for _, audit in audits]),
        texts([audit.request_id for _, audit in audits]),
        texts([audit.address for _, audit in audits]),
    ]


def _collected_columns(collected: Sequence[tuple[str, CollectedRecord]]) -> list[str]:
    """Return the further parameters of ``append_collecting``."""
    keys = [each.key for _, each in collected]
    return [
        texts([workspace_id for workspace_id, _ in collected]),
        texts([key.kind for key in keys]),
        texts([key.scope for key in keys]),
        numbers([key.number for key in keys]),
        numbers([key.n for key in keys]),
        numbers([each.event_seq for _, each in collected]),
    ]


def refusal_columns(refusals: Sequence[RefusedWrite]) -> list[str]:
    """Return the parameters of ``add_refusals``."""
    return [
        texts([each.refusal_id for each in refusals]),
        texts([instant(each.recorded_at) for each in refusals]),
        texts([each.workspace_id for each in refusals]),
        texts([each.user_id for each in refusals]),
        texts([each.action for each in refusals]),
        texts([each.resource_type for each in refusals]),
        texts([each.resource_id for each in refusals]),
        texts([each.new_value for each in refusals]),
        texts([each.request_id for each in refusals]),
        texts([each.address for each in refusals]),
    ]


def uncollected_of(row: Row) -> Uncollected:
    """Return what is in a row of ``read_uncollected``."""
    (
        kind, scope, number, n, recorded_at, workspace_id, actor_id, action, resource_type,
        resource_id, old_value, new_value, request_id, address,
    ) = row  # fmt: skip
    return Uncollected(
        key=RecordKey(kind, scope, number, n),
        recorded_at=recorded_at,
        workspace_id=workspace_id,
        actor_id=actor_id,
        action=action,
        resource_type=resource_type,
        resource_id=resource_id,
        old_value=old_value,
        new_value=new_value,
        request_id=request_id,
        address=address,
    )


def _head_columns(batches: Sequence[Batch]) -> list[str]:
    last = [batch.events[-1] if batch.events else None for batch in batches]
    return [
        texts([batch.workspace_id for batch in batches]),
        numbers([batch.epoch for batch in batches]),
        numbers([batch.old_head for batch in batches]),
        numbers([batch.new_head for batch in batches]),
        numbers([None if event is None else signed(event.chain) for event in last]),
        texts([None if event is None else instant(event.recorded_at) for event in last]),
    ]


def _result_columns(results: Sequence[tuple[str, ResultWrite]]) -> list[str]:
    return [
        texts([workspace_id for workspace_id, _ in results]),
        texts([result.scope for _, result in results]),
        texts([result.key for _, result in results]),
        texts([result.payload_hash.hex() for _, result in results]),
        texts([result.answer for _, result in results]),
        numbers([result.event_seq for _, result in results]),
    ]


def _event_columns(events: Sequence[Event], quote: Quote) -> list[str | None]:
    """Return the events column by column: most of what an append costs in this process."""
    return [
        *_shared([event.workspace_id for event in events]),
        numbers([event.event_seq for event in events]),
        *_shared([event.stream_id for event in events]),
        numbers([event.stream_seq for event in events]),
        texts([event.event_id for event in events]),
        *_shared([event.type for event in events]),
        *_shared([str(event.type_version) for event in events]),
        *_shared([str(event.schema_version) for event in events]),
        array([quote(event.payload) for event in events]),
        *_shared([event.actor_id for event in events]),
        *_shared([event.command_id for event in events]),
        *_shared([event.source for event in events]),
        *_shared([event.causation for event in events]),
        *_shared([event.correlation_id for event in events]),
        *_shared([instant(event.recorded_at) for event in events]),
        numbers([signed(event.chain) for event in events]),
        texts([_hex(event.salt) for event in events]),
    ]


def _shared(values: Sequence[str | None]) -> tuple[str, str | None]:
    """Return a column, or its one value if all are the same, which is then parsed once."""
    if values and values.count(values[0]) == len(values):
        return "{}", values[0]
    return texts(values), None


def _changed(batch: Batch) -> Iterator[tuple[EntityWrite, datetime]]:
    """Yield the entities of a batch, each with the time of its last event."""
    changed_at = {event.stream_id: event.recorded_at for event in batch.events}
    for entity in batch.entities:
        yield entity, changed_at.get(entity.stream_id, _UNCHANGED)


def _entity_columns(
    entities: Sequence[tuple[str, EntityWrite, datetime]], quote: Quote
) -> list[str]:
    return [
        texts([workspace_id for workspace_id, _, _ in entities]),
        texts([entity.stream_id for _, entity, _ in entities]),
        numbers([entity.version for _, entity, _ in entities]),
        array(["t" if entity.exists else "f" for _, entity, _ in entities]),
        texts([texts(entity.keys) for _, entity, _ in entities]),
        texts([entity.title for _, entity, _ in entities]),
        array([quote(entity.state) for _, entity, _ in entities]),
        numbers([entity.domain_version for _, entity, _ in entities]),
        texts([instant(changed_at) for _, _, changed_at in entities]),
        texts([entity.sort for _, entity, _ in entities]),
        texts([_instant(entity.due_at) for _, entity, _ in entities]),
    ]


def _snapshot_columns(snapshots: Sequence[tuple[str, SnapshotWrite]], quote: Quote) -> list[str]:
    return [
        texts([workspace_id for workspace_id, _ in snapshots]),
        texts([snapshot.stream_id for _, snapshot in snapshots]),
        numbers([snapshot.version for _, snapshot in snapshots]),
        numbers([snapshot.domain_version for _, snapshot in snapshots]),
        array([quote(snapshot.state) for _, snapshot in snapshots]),
    ]


def event_types_of(batches: Iterable[Batch]) -> set[tuple[str, str, int]]:
    """Return the (domain, type, type_version) of every event."""
    kinds = {(e.stream_id, e.type, e.type_version) for batch in batches for e in batch.events}
    return {(stream_id.partition(":")[0], type_, version) for stream_id, type_, version in kinds}


def state_columns(entities: Iterable[EntityWrite], quote: Quote = quoted) -> list[str]:
    """Return the parameters of ``write_states`` after workspace and epoch."""
    rows = [
        (quoted(write.stream_id), str(write.version), quote(write.state),
         str(write.domain_version))
        for write in entities
        if write.state is not None
    ]  # fmt: skip
    return columns(rows, 4)


def page_parameters(bounds: PageBounds) -> tuple[str, str, str, str]:
    """Return a page's bounds as parameters of ``read_events`` and ``read_stream``."""
    numbers = (bounds.from_seq, bounds.to_event_seq, bounds.limit, bounds.bytes_max)
    first, last, limit, bytes_max = map(str, numbers)
    return first, last, limit, bytes_max


def cursor_elements(key: CursorKey) -> tuple[str, str, str, str]:
    """Return a cursor's key as elements of array literals."""
    return (
        quoted(key.user_id),
        quoted(key.client_id),
        quoted(key.workspace_id),
        quoted(key.stream_id),
    )


def head_of(row: Row) -> Head:
    """Return the head in a row of ``read_head``, ``read_heads`` or ``acquire``."""
    (
        workspace_id, epoch, owner, head_seq, first_seq, chain, recorded_at, halted_reason,
        halted_code, app_version,
    ) = row  # fmt: skip
    return Head(
        workspace_id=workspace_id,
        epoch=epoch,
        owner=owner,
        head_seq=head_seq,
        first_seq=first_seq,
        chain=unsigned(chain),
        recorded_at=recorded_at,
        halted_reason=halted_reason,
        halted_code=halted_code,
        app_version=app_version,
    )


def audit_entry_of(row: Row) -> AuditEntry:
    """Return the entry in a row of ``read_audit``."""
    recorded_at, workspace_id, actor, action, detail = row
    return AuditEntry(
        recorded_at=recorded_at,
        workspace_id=workspace_id,
        actor=actor,
        action=action,
        detail=detail,
    )


def node_of(row: Row) -> Node:
    """Return the node in a row of ``find_node``."""
    node_id, address, expires_in_s = row
    return Node(node_id=node_id, address=address, expires_in_s=expires_in_s)


def events_of(workspace_id: str, rows: Iterable[Row]) -> list[Event]:
    """Return the events in rows of ``read_events``; refuse other envelopes (X-PER-5).

    Times come as text, in PostgreSQL's ISO style and in UTC: a loader of the driver's that is
    written in Python costs as much as all other columns together.
    """
    fromisoformat = datetime.fromisoformat
    events = []
    for (
        event_seq, stream_id, stream_seq, event_id, type_, type_version, schema_version, payload,
        actor_id, command_id, source, causation, correlation_id, recorded_at, chain, salt,
    ) in rows:  # fmt: skip
        if schema_version != SCHEMA_VERSION:
            raise SchemaVersionError(SCHEMA_VERSION, schema_version)
        try:
            at = fromisoformat(recorded_at)
        except ValueError:
            raise InternalError(f"no datetime can hold {recorded_at!r}") from None
        events.append(
            Event(
                workspace_id=workspace_id,
                event_seq=event_seq,
                stream_id=stream_id,
                stream_seq=stream_seq,
                event_id=event_id,
                type=type_,
                type_version=type_version,
                payload=payload,
                actor_id=actor_id,
                command_id=command_id,
                recorded_at=at,
                chain=unsigned(chain),
                salt=None if salt is None else bytes.fromhex(salt),
                source=source,
                causation=causation,
                correlation_id=correlation_id,
            )
        )
    return events


def results_of(rows: Iterable[Row]) -> dict[tuple[str, str], StoredResult]:
    """Return the results in rows of ``find_results``, by scope and key."""
    return {
        (scope, key): StoredResult(
            payload_hash=payload_hash,
            answer=answer,
            event_seq=event_seq,
            expires_in_s=expires_in_s,
        )
        for scope, key, payload_hash, answer, event_seq, expires_in_s in rows
    }


def record_of(row: Row) -> AuditRecord:
    """Return the record in a row of ``read_records``."""
    (
        recorded_at, event_seq, n, actor_id, action, resource_type, resource_id, old_value,
        new_value, request_id, address,
    ) = row  # fmt: skip
    return AuditRecord(
        recorded_at=recorded_at,
        event_seq=event_seq,
        n=n,
        actor_id=actor_id,
        action=action,
        resource_type=resource_type,
        resource_id=resource_id,
        old_value=old_value,
        new_value=new_value,
        request_id=request_id,
        address=address,
    )


def due_page_of(rows: Sequence[Row], limit: int) -> DuePage:
    """Return the page in rows of ``find_due``."""
    ours = [DueEntity(*row[:3]) for row in rows if row[3]]
    return DuePage(entities=ours, last=DueEntity(*rows[-1][:3]) if len(rows) == limit else None)


def version_elements(versions: Iterable[int | None]) -> Iterable[str]:
    """Return versions as elements of an array literal."""
    return (NULL if version is None else str(version) for version in versions)
