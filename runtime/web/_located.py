"""Entities that a request names by their id alone: whose they are, for whom they exist.

To the caller, an entity that may not be seen does not exist (C22).  Ids that the runtime generates
are unique; a program may choose its own, and then ``?workspace_id=`` selects the workspace.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from quart import Response, request

from dalsegno.protocol import SEQ_MAX, WRITERS, Reject, check_id, not_found

from ._conditions import tagged
from ._envelope import answer, nothing, query_int, replayed, request_id
from ._route_context import idempotency_key, needed_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from dalsegno.actors import Entity, Receipt
    from dalsegno.protocol import Domain
    from dalsegno.runtime import Runtime, Workspace

    from ._identity import Identity


class ChangedBody(msgspec.Struct, frozen=True, kw_only=True):
    """An entity's version after a change, and the number of its event in the workspace."""

    id: str
    version: int
    event_seq: int
    idempotency_key: str


async def workspace_of(
    rt: Runtime,
    domain: Domain[Any, Any, Any],
    entity_id: str,
    identity: Identity,
    is_known: Callable[[Workspace], Awaitable[bool]] | None = None,
) -> tuple[Workspace, str | None]:
    """Return the workspace of an entity, as the caller, who must be a member, or known there.

    With it comes the caller's role, None for one who is no member any more.

    Raises:
        Reject: ``…_NOT_FOUND``; ``BAD_REQUEST`` if several workspaces match.

    """
    check_id(entity_id, chars_max=rt.limits.id_chars_max, what=domain.id_field)
    asked = request.args.get("workspace_id")
    stream_id = domain.stream_id(entity_id)
    found = [asked] if asked is not None else await rt.store.locate(stream_id)
    among = [identity.acting(rt.workspace(each)) for each in found]
    roles = [(each, await each.role_of(identity.user_id)) for each in among]
    own = [found for found in roles if found[1] is not None]
    if not own and is_known is not None:
        own = [found for found in roles if await is_known(found[0])]
    if not own:
        raise not_found(stream_id)
    if len(own) > 1:
        message = f"several workspaces have this {domain.name}: add ?workspace_id="
        raise Reject("BAD_REQUEST", message)
    return own[0]


async def look_up(
    rt: Runtime, domain: Domain[Any, Any, Any], entity_id: str, identity: Identity
) -> tuple[Workspace, Entity]:
    """Return an entity as it is committed, and its workspace; ``?min_seq=`` waits for an event.

    Raises:
        Reject: as `workspace_of`; ``…_NOT_FOUND`` if there is no such entity, or no longer.

    """
    workspace, _ = await workspace_of(rt, domain, entity_id, identity)
    min_seq = query_int("min_seq", 0, least=0, most=SEQ_MAX)
    with hidden_from_strangers(domain, entity_id):
        entity = await workspace.look(domain, entity_id, min_seq=min_seq or None)
    if entity is None or entity.state is None:
        raise not_found(domain.stream_id(entity_id))
    return workspace, entity


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


async def send_change(
    rt: Runtime,
    domain: Domain[Any, Any, Any],
    identity: Identity,
    entity_id: str,
    command: msgspec.Struct,
    key: str | None,
) -> Receipt:
    """Send a change of an entity: a writer's, or a repeat by whoever has left since.

    Raises:
        Reject: as `workspace_of`; ``ROLE_FORBIDDEN``; what deciding raises.

    """

    async def is_known(workspace: Workspace) -> bool:
        return key is not None and await workspace.has_answered(command, key=key)

    workspace, role = await workspace_of(rt, domain, entity_id, identity, is_known)
    if role not in WRITERS and not await is_known(workspace):
        raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
    return await workspace.send(command, key=key, correlation_id=request_id())


async def change(
    rt: Runtime,
    domain: Domain[Any, Any, Any],
    identity: Identity,
    entity_id: str,
    command: msgspec.Struct,
) -> Response:
    """Send a change of an entity, and answer with its version.

    Raises:
        Reject: as `send_change`.

    """
    key = needed_key(rt)
    receipt = await send_change(rt, domain, identity, entity_id, command, key)
    changed = ChangedBody(
        id=entity_id,
        version=receipt.version,
        event_seq=receipt.event_seq,
        idempotency_key=key,
    )
    return tagged(replayed(answer(changed), receipt), receipt.version)


async def delete(
    rt: Runtime,
    domain: Domain[Any, Any, Any],
    identity: Identity,
    entity_id: str,
    command: msgspec.Struct,
) -> Response:
    """Send what deletes something, and answer with nothing.

    Raises:
        Reject: as `send_change`.

    """
    receipt = await send_change(rt, domain, identity, entity_id, command, idempotency_key())
    return replayed(nothing(), receipt)
