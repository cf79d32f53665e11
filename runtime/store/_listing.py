"""A page of a list of entities, with or without their states, all as it was at one moment."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import trio

from dalsegno.actors import EntityItem, EntityPage, Place, StoredEntity

from ._loading import AT_ONCE, TAIL, completed
from ._rows import events_of
from ._statements import fetch

if TYPE_CHECKING:
    from ._driver import Pool
    from ._rows import Row


async def list_entities(
    pool: Pool,
    workspace_id: str,
    domain: str,
    *,
    key: str | None,
    after: Place,
    limit: int,
    domain_version: int,
    bytes_max: int | None,
    newest_first: bool,
) -> EntityPage:
    """List entities; see `Store.list_entities`."""
    rows = await fetch(
        pool,
        "list_entities",
        *(workspace_id, domain, key, after.sort, after.stream_id, str(limit), str(domain_version)),
        None if bytes_max is None else str(bytes_max),
        str(TAIL),
        str(newest_first),
    )
    if not rows:
        return EntityPage(head_seq=0, items=[], is_last=True)
    head_seq, is_last, is_stale, *_ = rows[0]
    items: list[EntityItem] = []
    for count, (place, of_one) in enumerate(groupby(rows, key=itemgetter(3)), 1):
        if place is None:
            break  # the page is empty
        if count % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        own = list(of_one)
        stored = None
        if bytes_max is not None:
            stored = await completed(pool, workspace_id, _stored(workspace_id, own), domain_version)
        items.append(_item(own[0], stored))
    return EntityPage(head_seq=head_seq, items=items, is_last=is_last, is_stale=is_stale)


def _item(row: Row, stored: StoredEntity | None) -> EntityItem:
    _, _, _, _, stream_id, version, keys, sort, title, updated_at, *_ = row
    return EntityItem(
        stream_id=stream_id,
        version=version,
        keys=tuple(keys),
        sort=sort,
        title=title,
        updated_at=updated_at,
        stored=stored,
    )


def _stored(workspace_id: str, rows: list[Row]) -> StoredEntity:
    _, _, _, _, stream_id, version, _, _, _, _, state, state_version, event_seq, *_ = rows[0]
    return StoredEntity(
        stream_id=stream_id,
        version=version,
        state=state,
        state_version=state_version,
        events=tuple(events_of(workspace_id, [row[12:] for row in rows])) if event_seq else (),
    )
