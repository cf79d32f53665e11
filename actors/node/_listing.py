"""Lists of entities, with or without their states, as of one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from dalsegno.actors.ports import BEGINNING, EntityPage, Place
from dalsegno.actors.workspace import KEY_BYTES_MAX, Turn, load_entity
from dalsegno.protocol import Listed, NotReadyError, Snapshot, check_id

from ._send import relist

if TYPE_CHECKING:
    from dalsegno.actors.workspace import Entity
    from dalsegno.protocol import Domain, Principal

    from ._catalog import Catalog
    from ._directory import Directory

StateT = TypeVar("StateT", bound=msgspec.Struct)

_RELISTED_AT_ONCE = 100
"""Entities that are listed anew in one step of their workspace's order."""


async def list_entities(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    domain: Domain[Any, Any, Any],
    *,
    principal: Principal,
    key: str | None = None,
    after: Place = BEGINNING,
    limit: int,
    with_states: bool = False,
    min_seq: int | None = None,
    newest_first: bool = False,
) -> EntityPage:
    """Return a page of a domain's entities; see `Store.list_entities`.

    Access is judged before, and again behind what was read.

    Args:
        directory: where the workspace is active, or will be.
        catalog: knows who may read it.
        workspace_id: the workspace.
        domain: the entities' domain.
        principal: who reads.
        key: only those that carry it; empty: those that have a sort; None: all, by id.
        after: where the page before ended.
        limit: at most so many, and `Limits.list_limit_max`.
        with_states: with their states, at most `Limits.list_bytes_max`.
        min_seq: wait, bounded, until the page reflects this ``event_seq``.
        newest_first: from the end of a key's list to its beginning.

    Raises:
        Reject: ``ROLE_FORBIDDEN`` if the principal is not a member; ``BAD_REQUEST`` for what cannot
            be a key.
        ValueError: ``newest_first`` without a key.
        UnavailableError: the store is away; or they have to be listed anew, since the domain
            changed, and another node owns the workspace, or this took too long.

    """
    if newest_first and key is None:
        raise ValueError("newest_first is for the list of a key")
    if key:
        check_id(key, chars_max=KEY_BYTES_MAX, what="key")
    catalog.check_served(domain)
    limits, store = directory.node.limits, directory.node.store
    await catalog.check_member(workspace_id, principal)
    if min_seq is not None:
        with directory.using(workspace_id) as active:
            await active.wait_open(min_seq)
    with trio.move_on_after(limits.command_deadline_s):
        while True:
            page = await store.list_entities(
                workspace_id,
                domain.name,
                key=key,
                after=after,
                limit=min(limit, limits.list_limit_max),
                domain_version=domain.version,
                bytes_max=limits.list_bytes_max if with_states else None,
                newest_first=newest_first,
            )
            if key is None or not page.is_stale:
                await catalog.check_behind(workspace_id, principal)
                return page
            await list_anew(directory, workspace_id, domain)
    raise NotReadyError("what this domain lists is being listed anew: ask again")


async def snapshot(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    domain: Domain[StateT, Any, Any],
    *,
    principal: Principal,
    key: str | None = None,
    after: Place = BEGINNING,
    limit: int,
    min_seq: int | None = None,
    newest_first: bool = False,
) -> Snapshot[StateT]:
    """Return a page of a domain's entities with their states folded; see `list_entities`.

    Raises:
        Reject: as `list_entities`.
        UnavailableError: as `list_entities`.
        CorruptLogError: as `load_entity`.

    """
    page = await list_entities(
        directory,
        catalog,
        workspace_id,
        domain,
        principal=principal,
        key=key,
        after=after,
        limit=limit,
        with_states=True,
        min_seq=min_seq,
        newest_first=newest_first,
    )
    entities = await entities_of(page, domain, directory.node.limits.turn_s)
    listed = [
        Listed(
            entity_id=item.stream_id.partition(":")[2],
            version=entity.version,
            state=entity.state,
            keys=item.keys,
            sort=item.sort,
            title=item.title,
            updated_at=item.updated_at,
        )
        for item, entity in zip(page.items, entities, strict=True)
    ]
    last = None if page.is_last else page.items[-1].place_in(key)
    return Snapshot(event_seq=page.head_seq, items=listed, next=last)


async def list_keys(
    directory: Directory,
    catalog: Catalog,
    workspace_id: str,
    domain: Domain[Any, Any, Any],
    *,
    principal: Principal,
    prefix: str,
    after: str,
    limit: int,
) -> list[str]:
    """Return a page of the keys that a domain's entities are listed under; see `list_entities`.

    Raises:
        Reject: as `list_entities`.
        UnavailableError: as `list_entities`.

    """
    for text in (prefix, after):
        if text:
            check_id(text, chars_max=KEY_BYTES_MAX, what="key")
    catalog.check_served(domain)
    limits, store = directory.node.limits, directory.node.store
    await catalog.check_member(workspace_id, principal)
    with trio.move_on_after(limits.command_deadline_s) as scope:
        await list_anew(directory, workspace_id, domain)
    if scope.cancelled_caught:
        raise NotReadyError("what this domain lists is being listed anew: ask again")
    found = await store.list_keys(
        workspace_id,
        domain.name,
        prefix=prefix,
        after=after,
        limit=min(limit, limits.list_limit_max),
    )
    await catalog.check_behind(workspace_id, principal)
    return found


async def list_anew(directory: Directory, workspace_id: str, domain: Domain[Any, Any, Any]) -> None:
    """List anew what another version of a domain has listed in a workspace.

    Raises:
        DalsegnoError: as `send`; what was done stays done.
        NotReadyError: it was in vain: a node with another version lists them in turn.

    """
    store, before = directory.node.store, list[str]()
    while stale := await store.list_stale(
        workspace_id, domain.name, domain.version, limit=_RELISTED_AT_ONCE
    ):
        if stale == before:
            raise NotReadyError("two versions of the domain list these in turn: ask again")
        await relist(directory, workspace_id, domain, stale)
        before = stale


async def entities_of(
    page: EntityPage, domain: Domain[Any, Any, Any], turn_s: float
) -> list[Entity]:
    """Fold the entities of a page with states.

    Raises:
        CorruptLogError: as `load_entity`.

    """
    turn = Turn(turn_s)
    entities = []
    for item in page.items:
        assert item.stored is not None, "asked for"
        entities.append(await load_entity(domain, item.stored, turn))
    return entities
