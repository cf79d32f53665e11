"""Pages of a workspace's entities with their states, in one shape for all lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from quart import request

from dalsegno.protocol import Reject

from ._envelope import query_after, query_int
from ._membership import check_role

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from dalsegno.actors import Entity
    from dalsegno.protocol import Domain
    from dalsegno.runtime import Runtime

ShownT = TypeVar("ShownT")

_STATES_AT_A_TIME = 32
"""States that a page has in memory at the same time: a note's may be 1 MiB (I9)."""


@dataclass(frozen=True, slots=True)
class Page(Generic[ShownT]):
    """A page of a list."""

    items: list[ShownT]
    next: str | None
    """The ``after`` of the next page; None: this is the last."""


async def page_of(
    rt: Runtime,
    workspace_id: str,
    domain: Domain[Any, Any, Any],
    reader_id: str,
    show: Callable[[str, Entity, datetime], ShownT | None],
    *,
    key: str | None = None,
) -> Page[ShownT]:
    """Return the page of a workspace's entities that the request asks for, by their ids.

    The listed ones are read a few at a time; what has changed since it was listed, so that it has
    no place in the list any more, is left out.  So a page may have fewer items than were asked for.

    Args:
        rt: the runtime.
        workspace_id: the workspace.
        domain: the entities' domain.
        reader_id: the user who reads, who has to be a member also when all was read (I8).
        show: returns an item for an entity's id, version with state, and time of its last event,
            or None to leave it out.
        key: list only entities with this key.

    Raises:
        Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``; ``BAD_REQUEST`` for what is no page.

    """
    after, limit = query_after(), query_limit(rt)
    await check_role(rt, workspace_id, reader_id)
    workspace = rt.workspace(workspace_id).acting(user_id=reader_id)
    listed = await workspace.entities(domain, after=domain.stream_id(after), limit=limit, key=key)
    ids = [item.stream_id.partition(":")[2] for item in listed]
    items: list[ShownT] = []
    catalog = rt.service.catalog
    for first in range(0, len(ids), _STATES_AT_A_TIME):
        some = range(first, min(first + _STATES_AT_A_TIME, len(ids)))
        found = await catalog.look_many((workspace_id, domain, ids[n]) for n in some)
        for n in some:
            entity = found.get((workspace_id, listed[n].stream_id))
            if entity is None or entity.state is None:
                continue
            if key is not None and key not in domain.indexed(entity.state).keys:
                continue
            shown = show(ids[n], entity, listed[n].updated_at)
            if shown is not None:
                items.append(shown)
    await catalog.check_behind(workspace_id, workspace.principal)
    return Page(items, ids[-1] if len(ids) == limit else None)


def query_limit(rt: Runtime) -> int:
    """Return how many items a page has at most, the query's ``limit``.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    return query_int("limit", 100, least=1, most=rt.limits.list_limit_max)


def query_workspace() -> str:
    """Return the workspace that a list is of, the query's ``workspace_id``.

    Raises:
        Reject: ``BAD_REQUEST`` if it is missing.

    """
    workspace_id = request.args.get("workspace_id")
    if workspace_id is None:
        raise Reject("BAD_REQUEST", "?workspace_id= is missing", field="workspace_id")
    return workspace_id


def query_flag(name: str) -> bool:
    """Return a flag of the query, ``true`` or ``false``, which it is if it is missing.

    Raises:
        Reject: ``BAD_REQUEST`` for anything else.

    """
    text = request.args.get(name, "false")
    if text not in {"true", "false"}:
        raise Reject("BAD_REQUEST", f"{name} is true or false", field=name)
    return text == "true"
