"""Pages of a workspace's entities with their states, in one shape for all lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from quart import request

from dalsegno.actors import Place
from dalsegno.protocol import Reject

from ._envelope import query_after, query_int
from ._membership import check_role

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.protocol import Domain
    from dalsegno.runtime import Listed, Runtime

StateT = TypeVar("StateT", bound=msgspec.Struct)
ShownT = TypeVar("ShownT")


@dataclass(frozen=True, slots=True)
class Page(Generic[ShownT]):
    """A page of a list."""

    items: list[ShownT]
    next: str | None
    """The ``after`` of the next page; None: this is the last."""


async def page_of(
    rt: Runtime,
    workspace_id: str,
    domain: Domain[StateT, Any, Any],
    reader_id: str,
    show: Callable[[Listed[StateT]], ShownT | None],
    *,
    key: str | None = None,
) -> Page[ShownT]:
    """Return the page of a workspace's entities that the request asks for, by their ids.

    All of it is of one moment.  A page has fewer items than were asked for where their states are
    more than `Limits.list_bytes_max`, or where some are left out.

    Args:
        rt: the runtime.
        workspace_id: the workspace.
        domain: the entities' domain, whose index has no sort.
        reader_id: the user who reads, who has to be a member also when all was read (I8).
        show: returns an item for an entity, or None to leave it out.
        key: list only entities with this key.

    Raises:
        Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``; ``BAD_REQUEST`` for what is no page.

    """
    after, limit = query_after(), query_limit(rt)
    await check_role(rt, workspace_id, reader_id)
    workspace = rt.workspace(workspace_id).acting(user_id=reader_id)
    place = Place("", domain.stream_id(after))
    listed = await workspace.snapshot(domain, key=key, after=place, limit=limit)
    shown = (show(item) for item in listed.items)
    last = None if listed.next is None else listed.items[-1].entity_id
    return Page([item for item in shown if item is not None], last)


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
