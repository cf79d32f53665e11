"""Entities that a request names by their id alone: whose they are, for whom they exist.

To the caller, an entity that may not be seen does not exist (C22).  Ids that the runtime generates
are unique; a program may choose its own, and then ``?workspace_id=`` selects the workspace.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quart import request

from dalsegno.protocol import SYSTEM_WORKSPACE, Reject, check_id, not_found

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

    from dalsegno.protocol import Domain
    from dalsegno.runtime import Runtime, Workspace

    from ._identity import Identity


async def workspace_of(
    rt: Runtime,
    domain: Domain[Any, Any, Any],
    entity_id: str,
    identity: Identity,
    is_known: Callable[[Workspace], Awaitable[bool]] | None = None,
    *,
    in_system: Collection[str] = (),
) -> tuple[Workspace, str | None]:
    """Return the workspace of an entity, as the caller, who must be a member, or known there.

    With it comes the caller's role, None for one who is no member any more.  Whoever has one of the
    global roles ``in_system`` finds those of the reserved workspace too.

    Raises:
        Reject: ``…_NOT_FOUND``; ``BAD_REQUEST`` if several workspaces match.

    """
    check_id(entity_id, chars_max=rt.limits.id_chars_max, what=domain.id_field)
    asked = request.args.get("workspace_id")
    stream_id = domain.stream_id(entity_id)
    if asked is not None:
        among = [identity.acting(rt.workspace(asked))]
    else:  # of three, one may be the reserved one
        among = [
            identity.acting(workspace_in(rt, each))
            for each in await rt.store.locate(stream_id, limit=3)
            if each != SYSTEM_WORKSPACE or in_system
        ]
    roles = [(each, await each.role_of(identity.user_id)) for each in among]
    own: list[tuple[Workspace, str | None]] = [
        (each, role)
        for each, role in roles
        if role is not None and (each.id != SYSTEM_WORKSPACE or role in in_system)
    ]
    if not own and is_known is not None:
        own = [each for each in roles if await is_known(each[0])]
    if not own:
        raise not_found(stream_id)
    if len(own) > 1:
        message = f"several workspaces have this {domain.name}: add ?workspace_id="
        raise Reject("BAD_REQUEST", message)
    return own[0]


def workspace_in(rt: Runtime, workspace_id: str) -> Workspace:
    """Return the workspace of something that the log has, which may be the reserved one."""
    return rt.system if workspace_id == SYSTEM_WORKSPACE else rt.workspace(workspace_id)


@contextmanager
def hidden_from_strangers(domain: Domain[Any, Any, Any], entity_id: str) -> Iterator[None]:
    """Refuse whoever is removed while an entity is read as if there were none.

    Raises:
        Reject: ``…_NOT_FOUND`` for ``ROLE_FORBIDDEN``.

    """
    try:
        yield
    except Reject as error:
        if error.code != "ROLE_FORBIDDEN":
            raise
        raise not_found(domain.stream_id(entity_id)) from None
