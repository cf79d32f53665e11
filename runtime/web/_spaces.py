"""What ``$system`` records of workspaces, beside their own logs.

A workspace is deleted by an event of its own log, and only then ``$system`` hears of it: that its
slug is free, and that its creator may have another.  Nothing is atomic across two logs, so a server
that dies in between leaves the second part undone, until the creator is in want of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from dalsegno.actors.domains.accounts import (
    CreateSpace,
    RetireSpace,
    Space,
    holdings,
    owner_key,
    spaces,
)
from dalsegno.actors.domains.standing import MAIN, Standing, standings
from dalsegno.protocol import OutcomeUnknownError, Reject, UnavailableError

from ._envelope import request_id
from ._membership import state_among

if TYPE_CHECKING:
    from dalsegno.runtime import Runtime

_log = structlog.get_logger("dalsegno.web")

_WANTING = frozenset({"QUOTA_EXCEEDED", "STATE_CONFLICT"})


async def create_space(rt: Runtime, command: CreateSpace, *, address: str) -> None:
    """Create a workspace, for its owner, whose request came from ``address``.

    Raises:
        Reject: ``QUOTA_EXCEEDED`` if the owner has created too many; ``STATE_CONFLICT`` if the slug
            is taken.

    """
    owner_id = command.owner_id
    held = await rt.system.get(holdings, owner_id)
    command = msgspec.structs.replace(
        command,
        held_max=rt.limits.workspaces_per_user_max,
        held_before=0 if held is not None else len(await _recorded(rt, owner_id)),
    )
    system = rt.system.acting(user_id=owner_id, address=address)
    try:
        await system.send(command, correlation_id=request_id())
    except Reject as error:
        if error.code not in _WANTING or not await _retire_deleted(rt, owner_id):
            raise
        await system.send(command, correlation_id=request_id())


async def retire(rt: Runtime, workspace_id: str) -> None:
    """Record that a workspace was deleted; where that cannot be done now it is done later."""
    space = await rt.system.get(spaces, workspace_id)
    if space is None:
        return  # the embedding program never recorded it
    try:
        await _send_retirement(rt, workspace_id, space)
    except (UnavailableError, OutcomeUnknownError) as error:
        _log.info("not_retired_yet", workspace_id=workspace_id, error=str(error))


async def _retire_deleted(rt: Runtime, owner_id: str) -> int:
    """Record what was deleted of a user's workspaces without being recorded; return how many."""
    ids = await _recorded(rt, owner_id)
    found = await rt.service.catalog.look_many((id_, standings, MAIN) for id_ in ids)
    retired = 0
    for workspace_id in ids:
        standing: Standing | None = state_among(found, workspace_id, standings, MAIN)
        if standing is not None and standing.state == "deleted":
            space = await rt.system.get(spaces, workspace_id)
            assert space is not None, "listed"
            await _send_retirement(rt, workspace_id, space)
            retired += 1
    return retired


async def _recorded(rt: Runtime, owner_id: str) -> list[str]:
    """Return the workspaces that a user created, as ``$system`` knows them."""
    limit = rt.limits.list_limit_max
    items = await rt.system.entities(spaces, limit=limit, key=owner_key(owner_id))
    return [item.stream_id.partition(":")[2] for item in items]


async def _send_retirement(rt: Runtime, workspace_id: str, space: Space) -> None:
    command = RetireSpace(workspace_id=workspace_id, slug=space.slug, owner_id=space.owner_id)
    await rt.system.send(command, correlation_id=request_id())
