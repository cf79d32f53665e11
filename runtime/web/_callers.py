"""The workspaces of who asks: as a list, and the one that is meant where a request names none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.protocol import Reject

from ._located import workspace_of
from ._membership import membership_of, memberships

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol import Domain
    from dalsegno.protocol.routes import OfCaller
    from dalsegno.runtime import Runtime, Workspace

    from ._identity import Identity
    from ._membership import Membership

_LOOKED_AT = 10
"""Workspaces a page: two that count are enough, and few are passed over, which were deleted."""


class CallersWorkspaces:
    """The workspaces of which one user is a member: what `Memberships` asks for."""

    def __init__(self, rt: Runtime, identity: Identity) -> None:
        self._rt = rt
        self._identity = identity
        self._user_id = identity.user_id

    async def page(
        self, *, after: str = "", limit: int = 100
    ) -> tuple[list[Membership], str | None]:
        """Return a page of them by their ids, and the id after which the next one begins.

        It has at most `Limits.list_limit_max`.
        """
        limit = min(limit, self._rt.limits.list_limit_max)
        return await memberships(self._rt, self._user_id, after=after, limit=limit)

    async def of(self, workspace_id: str) -> Membership:
        """Return one of them.

        Raises:
            Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``.

        """
        return await membership_of(self._rt, workspace_id, self._user_id)

    async def holding(self, domain: Domain[Any, Any, Any], entity_id: str) -> Workspace:
        """Return the one of them that has an entity, as the user may read it.

        Raises:
            Reject: ``…_NOT_FOUND``; ``BAD_REQUEST`` if several have it.

        """
        workspace, _ = await workspace_of(self._rt, domain, entity_id, self._identity)
        return workspace


async def workspace_meant(
    rt: Runtime,
    at: OfCaller,
    user_id: str,
    *,
    headers: Mapping[str, str],
    query: Mapping[str, str],
) -> str:
    """Return the workspace that a request is about, by its name or as the caller's only one.

    Whether the caller may do there what is asked is for others to check.

    Raises:
        Reject: ``BAD_REQUEST`` where it names two, or none and the caller has not just one.

    """
    named = at.named(headers, query)
    if named is not None:
        return named
    found: list[str] = []
    after: str | None = ""
    limit = min(_LOOKED_AT, rt.limits.list_limit_max)
    while after is not None and len(found) < 2:
        page, after = await memberships(rt, user_id, after=after, limit=limit)
        found += [each.workspace_id for each in page]
    if len(found) != 1:
        how_many = "none" if not found else "several"
        message = f"{at.header} is missing, and who asks is a member of {how_many}"
        raise Reject("BAD_REQUEST", message, field=at.header)
    return found[0]
