"""Checking a workspace's log from its first event to its last, and lifting a halt marker.

The log is the truth: numbers without a gap, a chain that can be computed again, and events that
their domains can fold.  What is stored beside it, an entity's state say, is derived, and is made
again from the log where it differs.  Only a log that passes is opened again, and that is recorded
with who asked for it (X-PER-9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dalsegno.actors.ports import PageBounds
from dalsegno.actors.workspace import Turn, encoded_state, load_entity, state_write
from dalsegno.protocol import (
    CHAIN_START,
    CorruptLogError,
    DalsegnoError,
    Reject,
    UnavailableError,
    chained,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.actors.ports import Head, Store
    from dalsegno.actors.workspace import Entity
    from dalsegno.protocol import Domain, Event, Limits

_NO_STORED_STATE = -1
"""A domain's version that no stored state is of."""
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was checked, and what was done about it."""

    workspace_id: str
    events: int
    entities: int
    """Those of domains that are known here; others are replayed verbatim and never folded."""
    states_rewritten: int
    """Stored states that differed from the log."""
    halted_reason: str | None
    """Of the marker that was lifted; None where there was none."""


async def repair(
    store: Store,
    domains: Mapping[str, Domain[Any, Any, Any]],
    workspace_id: str,
    *,
    actor: str,
    limits: Limits,
) -> RepairReport:
    """Check a workspace's log, and open the workspace again if it was halted.

    Args:
        store: the log.
        domains: what can be folded.
        workspace_id: which one.
        actor: who asks, for the audit.
        limits: the sizes of pages.

    Raises:
        Reject: ``WORKSPACE_NOT_FOUND``.
        CorruptLogError: what is wrong; the workspace stays halted.
        SchemaVersionError: an event of another version; the workspace stays halted.
        UnavailableError: the store is away, or the workspace is being written to.

    """
    head = await store.read_head(workspace_id)
    if head is None:
        raise Reject("WORKSPACE_NOT_FOUND", "no such workspace")
    versions = await _check_events(store, head, limits)
    if await store.read_versions(workspace_id, [*versions]) != versions:
        raise CorruptLogError(f"{workspace_id}: the entities' versions are not those of the log")
    entities, rewritten, turn = 0, 0, Turn(limits.turn_s)
    for stream_id in versions:
        domain = domains.get(stream_id.partition(":")[0])
        if domain is not None:
            entities += 1
            await turn.pause()
            rewritten += await _check_entity(store, head, domain, stream_id, turn)
    if head.halted_reason is not None:
        detail = f"checked {head.head_seq} events, {entities} entities; was: {head.halted_reason}"
        await _lift(store, head, actor, detail)
    return RepairReport(
        workspace_id=workspace_id,
        events=head.head_seq,
        entities=entities,
        states_rewritten=rewritten,
        halted_reason=head.halted_reason,
    )


async def _check_events(store: Store, head: Head, limits: Limits) -> dict[str, int]:
    """Check numbers and chain up to the head; tell each stream's version."""
    versions: dict[str, int] = {}
    seq, link = head.first_seq - 1, CHAIN_START
    while seq < head.head_seq:
        bounds = PageBounds(
            from_seq=seq + 1,
            to_event_seq=head.head_seq,
            limit=limits.page_events,
            bytes_max=limits.page_bytes_max,
        )
        page = await store.read_events(head.workspace_id, bounds)
        if not page:
            raise CorruptLogError(f"{head.workspace_id}: nothing after event {seq}")
        for event in page:
            _check_event(event, seq, link, versions)
            seq, link = event.event_seq, event.chain
    if head.head_seq > 0 and link != head.chain:
        raise CorruptLogError(f"{head.workspace_id}: the head's chain is not the last event's")
    await _check_end(store, head)
    return versions


async def _check_end(store: Store, head: Head) -> None:
    """Check that nothing stands where the next commit will, by whoever wrote into the table."""
    bounds = PageBounds(from_seq=head.head_seq + 1, limit=1, bytes_max=1)
    for event in await store.read_events(head.workspace_id, bounds):
        now = await store.read_head(head.workspace_id)
        if now is None or now.head_seq < event.event_seq:
            place = f"{head.workspace_id}: event {event.event_seq}"
            raise CorruptLogError(f"{place} is behind the head, {head.head_seq}")


def _check_event(event: Event, seq: int, link: int, versions: dict[str, int]) -> None:
    place = f"{event.workspace_id}: event {event.event_seq}"
    if event.event_seq != seq + 1:
        raise CorruptLogError(f"{place} where {seq + 1} is due")
    if seq > 0 and event.chain != chained(link, event):
        raise CorruptLogError(f"{place} does not fit the chain")
    version = versions.get(event.stream_id)
    if version is not None and event.stream_seq != version + 1:
        raise CorruptLogError(f"{place} has version {event.stream_seq} where {version + 1} is due")
    versions[event.stream_id] = event.stream_seq


async def _check_entity(
    store: Store, head: Head, domain: Domain[Any, Any, Any], stream_id: str, turn: Turn
) -> int:
    """Fold an entity from its first event, and make its stored state again where it differs."""
    folded = await _load(store, head, domain, stream_id, _NO_STORED_STATE, turn)
    state = encoded_state(stream_id, folded)
    if state is None:
        return 0  # it was never stored, nor will it be
    try:
        stored = await _load(store, head, domain, stream_id, domain.version, turn)
        if domain.encode_state(stored.state) == state:
            return 0
    except UnavailableError:
        raise
    except DalsegnoError:
        pass  # the log alone counts
    if not await store.write_states(
        head.workspace_id, head.epoch, [state_write(stream_id, folded, state)]
    ):
        raise UnavailableError(f"{head.workspace_id} was opened meanwhile: try again")
    return 1


async def _load(
    store: Store,
    head: Head,
    domain: Domain[Any, Any, Any],
    stream_id: str,
    version: int,
    turn: Turn,
) -> Entity:
    loaded = await store.load_entities(head.workspace_id, [stream_id], {stream_id: version})
    if stream_id not in loaded:
        raise CorruptLogError(f"{head.workspace_id}: {stream_id} has events and is not there")
    return await load_entity(domain, loaded[stream_id], turn)


async def _lift(store: Store, head: Head, actor: str, detail: str) -> None:
    """Clear the marker.  Whoever asks for the workspace meanwhile raises its epoch, no more."""
    for _ in range(_ATTEMPTS):
        now = await store.read_head(head.workspace_id)
        if now is None or now.head_seq != head.head_seq:
            raise UnavailableError(f"{head.workspace_id} was written to meanwhile: try again")
        if now.halted_reason is None or await store.resume(
            head.workspace_id, now.epoch, actor=actor, detail=detail
        ):
            return
    raise UnavailableError(f"{head.workspace_id} is opened all the time: try again")
