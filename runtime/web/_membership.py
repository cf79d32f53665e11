"""Committed memberships: what a route checks before it sends a command.

The role is checked again, in order, when the command is decided (KJ-RBAC-1), so it does no harm if
what is read here is out of date by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from dalsegno.actors import Entity, Place
from dalsegno.actors.domains.accounts import Space, User, owner_key, spaces, users
from dalsegno.actors.domains.members import Member, members
from dalsegno.actors.domains.standing import MAIN, Standing, standings
from dalsegno.protocol import SYSTEM_WORKSPACE, Reject, check_workspace_id, not_a_member

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from dalsegno.protocol import Domain
    from dalsegno.runtime import Runtime, Workspace

Found: TypeAlias = Mapping[tuple[str, str], Entity]
"""What was read at one moment, by workspace and stream; see `Catalog.look_many`."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A user's membership in a workspace."""

    workspace_id: str
    role: str
    space: Space | None
    """None for a workspace that the embedding program never recorded."""
    standing: Standing
    since: datetime

    @property
    def name(self) -> str:
        """The workspace's name now."""
        first = self.workspace_id if self.space is None else self.space.name
        return first if self.standing.name is None else self.standing.name


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
        raise not_a_member()
    if allow is not None and role not in allow:
        raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
    return role


async def check_sender(
    rt: Runtime,
    workspace: Workspace,
    command: msgspec.Struct,
    key: str | None,
    *,
    allow: Collection[str],
) -> None:
    """Raise unless the acting user may send a command now, or did with this key (I5).

    Raises:
        Reject: ``WORKSPACE_NOT_FOUND``; ``ROLE_FORBIDDEN`` (C22).

    """
    user_id = workspace.principal.user_id
    assert user_id is not None, "a route acts for a user"
    try:
        await check_role(rt, workspace.id, user_id, allow=allow)
    except Reject:
        if key is None or not await workspace.has_answered(command, key=key):
            raise


async def memberships(
    rt: Runtime, user_id: str, *, after: str = "", limit: int
) -> tuple[list[Membership], str | None]:
    """Return a page of a user's workspaces, by id, and the id after which the next page begins.

    Two lists are merged, each read as far as the page may need: the workspaces that the user
    created, where that may be the only ground of the membership, and those whose logs have the user
    as a member.  Whether each is one is decided by what is then read of all of them at once.
    """
    created = await rt.system.entities(
        spaces, after=Place("", spaces.stream_id(after)), limit=limit, key=owner_key(user_id)
    )
    joined = await rt.store.locate(
        members.stream_id(user_id), after=after, limit=limit, existing_only=True
    )
    ids = sorted({item.stream_id.partition(":")[2] for item in created} | set(joined))
    catalog = rt.service.catalog
    found = await catalog.look_many(
        wanted
        for workspace_id in ids[:limit]
        for wanted in (
            *catalog.what_decides(workspace_id, user_id),
            (workspace_id, members, user_id),
            (workspace_id, standings, MAIN),
            (SYSTEM_WORKSPACE, spaces, workspace_id),
        )
    )
    page = [_membership(rt, found, workspace_id, user_id) for workspace_id in ids[:limit]]
    last = ids[limit - 1] if len(ids) >= limit else None
    return [membership for membership in page if membership is not None], last


async def membership_of(rt: Runtime, workspace_id: str, user_id: str) -> Membership:
    """Return a user's membership in one workspace, as of one moment.

    Raises:
        Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``.

    """
    catalog = rt.service.catalog
    found = await catalog.look_many(
        [
            *catalog.what_decides(workspace_id, user_id),
            (workspace_id, members, user_id),
            (workspace_id, standings, MAIN),
            (SYSTEM_WORKSPACE, spaces, workspace_id),
        ]
    )
    membership = _membership(rt, found, workspace_id, user_id)
    if membership is None:
        await catalog.check_exists(workspace_id)
        raise not_a_member()
    return membership


def _membership(rt: Runtime, found: Found, workspace_id: str, user_id: str) -> Membership | None:
    role = rt.service.catalog.role_among(found, workspace_id, user_id)
    if role is None:
        return None
    space: Space | None = state_among(found, SYSTEM_WORKSPACE, spaces, workspace_id)
    member: Member | None = state_among(found, workspace_id, members, user_id)
    if member is not None:
        since = member.since
    elif space is not None:
        since = space.created_at
    else:
        return None
    standing: Standing | None = state_among(found, workspace_id, standings, MAIN)
    return Membership(
        workspace_id=workspace_id,
        role=role,
        space=space,
        standing=standing or Standing(),
        since=since,
    )


async def members_of(
    rt: Runtime, workspace_id: str, *, reader_id: str, after: str, limit: int
) -> tuple[list[tuple[str, str, User | None]], str | None, str]:
    """Return a page of a workspace's members, by id, and the id after which the next page begins.

    Those of the log, and the first owner even if not in the log: each with the role and, if there
    is one here, the account.  Behind these the reader's role, of the same moment.

    Raises:
        Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``: the reader is not a member, also if no
            longer so at the moment that the page shows (I8).

    """
    await check_role(rt, workspace_id, reader_id)
    catalog = rt.service.catalog
    listed = await rt.workspace(workspace_id).entities(
        members, after=Place("", members.stream_id(after)), limit=limit
    )
    candidates = {item.stream_id.partition(":")[2] for item in listed}
    founder_id = await catalog.founder_of(workspace_id)
    if founder_id is not None and founder_id > after:
        candidates.add(founder_id)
    ids = sorted(candidates)[:limit]
    found = await catalog.look_many(
        [
            *catalog.what_decides(workspace_id, reader_id),
            *(w for user_id in ids for w in catalog.what_decides(workspace_id, user_id)),
            *((SYSTEM_WORKSPACE, users, user_id) for user_id in ids),
        ]
    )
    reader_role = catalog.role_among(found, workspace_id, reader_id)
    if reader_role is None:
        raise not_a_member()
    roles = ((user_id, catalog.role_among(found, workspace_id, user_id)) for user_id in ids)
    page = [
        (user_id, role, state_among(found, SYSTEM_WORKSPACE, users, user_id))
        for user_id, role in roles
        if role is not None
    ]
    return page, ids[-1] if len(ids) == limit else None, reader_role


def state_among(
    found: Found, workspace_id: str, domain: Domain[Any, Any, Any], entity_id: str
) -> Any:  # noqa: ANN401 - the domain's
    """Return the state of an entity among those that were read; None where it does not exist."""
    entity = found.get((workspace_id, domain.stream_id(entity_id)))
    return None if entity is None else entity.state
