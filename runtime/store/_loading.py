"""Loading entities: the stored state of each, and the events since, a page at a time."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import trio

from dalsegno.actors import StoredEntity
from dalsegno.protocol import CorruptLogError, Event

from ._rows import events_of, version_elements
from ._sql import array, columns, quoted, texts
from ._statements import fetch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._driver import Pool
    from ._rows import Row

TAIL = 256
"""Events of one stream that are fetched at a time."""

AT_ONCE = 64
"""Entities that are made of their rows before others have a turn."""


async def load(
    pool: Pool, workspace_id: str, wanted: Sequence[tuple[str, int | None, int | None]]
) -> dict[str, StoredEntity]:
    """Load those that exist of (stream, usable domain version, version or None for the latest)."""
    if not wanted:
        return {}
    stream_ids, domain_versions, versions = zip(*wanted, strict=True)
    rows = await fetch(
        pool,
        "find_states",
        workspace_id,
        texts(stream_ids),
        array(version_elements(domain_versions)),
        array(version_elements(versions)),
    )
    tails = await _read_tails(pool, workspace_id, rows)
    return {
        stream_id: StoredEntity(
            stream_id=stream_id,
            version=version,
            state=state,
            state_version=state_version,
            events=tuple(tails[stream_id]),
        )
        for stream_id, version, state, state_version in rows
    }


async def load_many(
    pool: Pool, wanted: Mapping[tuple[str, str], int | None]
) -> dict[tuple[str, str], StoredEntity]:
    """Load those that exist of (workspace, stream): usable domain version, as of one moment."""
    if not wanted:
        return {}
    keys = list(wanted)
    workspace_ids, stream_ids = zip(*keys, strict=True)
    rows = await fetch(
        pool,
        "load_many",
        texts(workspace_ids),
        texts(stream_ids),
        array(version_elements(wanted.values())),
        str(TAIL),
    )
    loaded: dict[tuple[str, str], StoredEntity] = {}
    for count, (place, of_one) in enumerate(groupby(rows, key=itemgetter(0)), 1):
        if count % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        key = workspace_id, stream_id = keys[place - 1]
        entity = _entity(workspace_id, stream_id, list(of_one))
        loaded[key] = await completed(pool, workspace_id, entity, wanted[key])
    return loaded


async def completed(
    pool: Pool, workspace_id: str, entity: StoredEntity, domain_version: int | None
) -> StoredEntity:
    """Return an entity with all events that its state lags, not only the first `TAIL`."""
    reached = entity.state_version + len(entity.events)
    if reached == entity.version:
        return entity
    if len(entity.events) < TAIL:
        raise _gap(entity.stream_id, reached + 1)
    # Far behind, as after a change of its domain: the version is still of that moment.
    behind = [(entity.stream_id, domain_version, entity.version)]
    return (await load(pool, workspace_id, behind))[entity.stream_id]


def _entity(workspace_id: str, stream_id: str, rows: list[Row]) -> StoredEntity:
    """Return the entity in its rows of ``load_many``."""
    _, version, state, state_version, event_seq, *_ = rows[0]
    return StoredEntity(
        stream_id=stream_id,
        version=version,
        state=state,
        state_version=state_version,
        events=tuple(events_of(workspace_id, [row[4:] for row in rows])) if event_seq else (),
    )


async def _read_tails(pool: Pool, workspace_id: str, states: list[Row]) -> dict[str, list[Event]]:
    """Read the events after each state, at most a page of each stream at a time."""
    tails: dict[str, list[Event]] = {stream_id: [] for stream_id, *_ in states}
    missing = {
        stream_id: (state_version + 1, version)
        for stream_id, version, _, state_version in states
        if state_version < version
    }
    while missing:
        parameters = columns(
            [(quoted(s), str(first), str(last)) for s, (first, last) in missing.items()], 3
        )
        rows = await fetch(pool, "read_tails", workspace_id, *parameters, str(TAIL))
        missing = _extend(tails, missing, events_of(workspace_id, rows))
    return tails


def _extend(
    tails: dict[str, list[Event]], missing: dict[str, tuple[int, int]], events: list[Event]
) -> dict[str, tuple[int, int]]:
    """Add events to their tails and return what is still missing; refuse a gap (I11)."""
    left = dict(missing)
    for event in events:
        first, last = left[event.stream_id]
        if event.stream_seq != first:
            raise _gap(event.stream_id, first)
        tails[event.stream_id].append(event)
        left[event.stream_id] = (first + 1, last)
    for stream_id, (first, _) in left.items():
        if first == missing[stream_id][0]:
            raise _gap(stream_id, first)
    return {stream_id: bounds for stream_id, bounds in left.items() if bounds[0] <= bounds[1]}


def _gap(stream_id: str, version: int) -> CorruptLogError:
    return CorruptLogError(f"{stream_id} lacks the event of version {version}")
