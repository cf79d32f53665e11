"""Loading entities: the stored state of each, and the events since, a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.actors import StoredEntity
from dalsegno.protocol import CorruptLogError, Event

from ._rows import events_of, version_elements
from ._sql import array, columns, quoted, texts
from ._statements import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._driver import Pool
    from ._rows import Row

_PAGE = 256
"""Events of one stream that are fetched at a time."""


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
        rows = await fetch(pool, "read_tails", workspace_id, *parameters, str(_PAGE))
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
