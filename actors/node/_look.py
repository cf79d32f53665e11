"""Reading from within this program, as somebody who may lose access at any moment (I8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.actors.workspace import Turn, entity_from
from dalsegno.protocol import SEQ_MAX, Reject

if TYPE_CHECKING:
    from dalsegno.actors.workspace import Entity
    from dalsegno.protocol import Domain, Principal

    from ._catalog import Catalog
    from ._directory import Directory


async def look(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    domain: Domain[Any, Any, Any],
    entity_id: str,
    *,
    principal: Principal,
    min_seq: int | None = None,
) -> Entity | None:
    """Return an entity as it is committed; None where it never existed.

    Access is judged first, so that a stranger neither waits nor opens a workspace, and again
    together with what is read: who was removed during the wait does not get what came later.

    Args:
        directory: where the workspace is active, or will be.
        catalog: looks it up.
        workspace_id: the workspace.
        domain: the entity's domain.
        entity_id: the entity's id.
        principal: who reads.
        min_seq: wait, bounded, until the answer reflects this ``event_seq``.

    Raises:
        Reject: ``ROLE_FORBIDDEN`` if the principal is not a member.
        UnavailableError: the store is away, or ``min_seq`` was not reached in time.

    """
    if min_seq is not None:
        await catalog.check_member(workspace_id, principal)
        with directory.using(workspace_id) as active:
            await active.wait_open(min_seq)
    return await catalog.look(workspace_id, domain, entity_id, principal)


async def look_at(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    domain: Domain[Any, Any, Any],
    entity_id: str,
    version: int,
    *,
    principal: Principal,
) -> Entity:
    """Return an entity as it was at one of its versions.

    Access is judged before, and again behind what was read.

    Raises:
        Reject: ``VERSION_NOT_FOUND`` for one that it has not had; ``ROLE_FORBIDDEN``.
        UnavailableError: the store is away.
        CorruptLogError: it cannot be folded.

    """
    node, stream_id = directory.node, domain.stream_id(entity_id)
    await catalog.check_member(workspace_id, principal)
    stored = None
    if 1 <= version <= SEQ_MAX:
        stored = await node.store.load_entity_at(workspace_id, stream_id, version, domain.version)
    await catalog.check_behind(workspace_id, principal)
    if stored is None or stored.version != version:
        raise Reject("VERSION_NOT_FOUND", "no such version", stream_id=stream_id)
    return await entity_from(domain, stored, Turn(node.limits.turn_s))


async def read_head(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    *,
    principal: Principal,
    cursor: int = 0,
) -> int:
    """Return a workspace's published head; whoever gets it may see all up to there.

    Args:
        directory: where the workspace is active, or will be.
        catalog: knows who may read it.
        workspace_id: the workspace.
        principal: who reads.
        cursor: a number that the caller has, perhaps from the log: if it is there and not yet
            published, it is waited for.

    Raises:
        Reject: ``ROLE_FORBIDDEN`` if the principal is not a member.
        UnavailableError: the workspace could not be opened, or ``cursor`` was not reached in time.

    """
    await catalog.check_member(workspace_id, principal)
    with directory.using(workspace_id) as active:
        await active.wait_open()
        if cursor > active.hub.head:
            log = await directory.node.store.read_head(workspace_id)
            if log is not None and cursor <= log.head_seq:
                await active.wait_open(cursor)
        head = active.hub.head
    # What is looked up of a role is at least as new as what is published.
    await catalog.check_member(workspace_id, principal)
    return head
