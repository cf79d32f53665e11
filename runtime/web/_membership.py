"""Committed memberships: what a route checks before it sends a command.

The role is checked again, in order, when the command is decided (KJ-RBAC-1), so it does no harm if
what is read here is out of date by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.accounts import Space, owner_key, spaces
from dalsegno.actors.domains.members import members
from dalsegno.protocol import Reject, check_workspace_id

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from dalsegno.runtime import Runtime


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A user's membership in a workspace."""

    workspace_id: str
    role: str
    space: Space | None
    """None for a workspace that the embedding program never recorded."""
    since: datetime


async def check_role(
    rt: Runtime, workspace_id: str, user_id: str, *, allow: Collection[str] | None = None
) -> str:
    """Return the role of a member, which must be one of ``allow`` if that is given.

    Raises:
        Reject: ``WORKSPACE_NOT_FOUND``; ``ROLE_FORBIDDEN`` (C22).

    """
    check_workspace_id(workspace_id)
    role = await rt.workspace(workspace_id).role_of(user_id)
    if role is None:
        await rt.service.catalog.check_exists(workspace_id)
        raise Reject("ROLE_FORBIDDEN", "not a member of this workspace")
    if allow is not None and role not in allow:
        raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
    return role


async def memberships(
    rt: Runtime, user_id: str, *, after: str = "", limit: int
) -> tuple[list[Membership], str | None]:
    """Return a page of a user's workspaces, by id, and the id after which the next page begins.

    Two lists are merged, each read as far as the page may need: the workspaces that the user
    created, where that may be the only ground of the membership, and those whose logs have the user
    as a member.  A membership that was removed satisfies neither condition.
    """
    created = await rt.system.entities(
        spaces, after=spaces.stream_id(after), limit=limit, key=owner_key(user_id)
    )
    joined = await rt.store.locate(
        members.stream_id(user_id), after=after, limit=limit, existing_only=True
    )
    ids = sorted({item.stream_id.partition(":")[2] for item in created} | set(joined))
    found = [await _membership(rt, workspace_id, user_id) for workspace_id in ids[:limit]]
    page = [membership for membership in found if membership is not None]
    return page, ids[limit - 1] if len(ids) >= limit else None


async def _membership(rt: Runtime, workspace_id: str, user_id: str) -> Membership | None:
    workspace = rt.workspace(workspace_id)
    role = await workspace.role_of(user_id)
    if role is None:
        return None
    space = await rt.system.get(spaces, workspace_id)
    member = await workspace.get(members, user_id)
    if member is not None:
        since = member.since
    elif space is not None:
        since = space.created_at
    else:
        return None
    return Membership(workspace_id=workspace_id, role=role, space=space, since=since)
