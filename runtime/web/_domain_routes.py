"""The routes of any domain: send one of its commands by name, list its entities, read one of them.

They show what the generic dialect shows, and a command has the same outcome over either.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Response

from dalsegno.actors import PageBounds, entities_of, list_entities
from dalsegno.protocol import (
    SEQ_MAX,
    Event,
    Reject,
    chain_text,
    check_id,
    not_found,
    place_of,
    token_of,
)
from dalsegno.protocol.routes import Limited, MinSeq, Reading

from ._entity_tag import EntityTag
from ._envelope import answer, read_document, replayed, request_id
from ._membership import check_role
from ._route_context import RouteContext, idempotency_key
from ._route_table import COMMANDS, IN_WORKSPACE, KEYED, RouteTable, read_params

if TYPE_CHECKING:
    from dalsegno.actors import EntityItem, Receipt
    from dalsegno.protocol import Domain
    from dalsegno.runtime import Runtime, Workspace

    AnyDomain = Domain[Any, Any, Any]


class EntitiesParams(Limited, frozen=True, kw_only=True):
    """Which entities are listed."""

    min_seq: MinSeq | None = None
    workspace_id: str
    domain: str
    key: str | None = None
    """Only those that carry it, in the order of their sort."""
    sort: bool = False
    """Without a key: those that have a sort, in its order."""
    states: bool = False
    """With their states."""
    after: str | None = None
    """The ``next`` of the page before."""


class EntityParams(Reading, frozen=True, kw_only=True):
    """Which entity is read."""

    workspace_id: str
    domain: str
    entity_id: str
    at_version: Annotated[int, Meta(ge=1, le=SEQ_MAX)] | None = None
    """As it was; None: as it is."""


class EntityHistoryParams(Limited, frozen=True, kw_only=True):
    """Which events of an entity are read."""

    workspace_id: str
    domain: str
    entity_id: str
    after: Annotated[int, Meta(ge=0, lt=SEQ_MAX)] = 0
    """One of its versions."""


class CommittedBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command that was accepted, as ``committed`` in the generic dialect."""

    workspace_id: str
    event_seq: int
    entity: str
    version: int
    idempotency_key: str | None
    repeated: bool | UnsetType = UNSET


class EntityBody(msgspec.Struct, frozen=True, kw_only=True):
    """An entity, at one of its versions."""

    entity_id: str
    version: int
    event_seq: int
    """The number of the version's event in the workspace."""
    state: Any


class EntityItemBody(msgspec.Struct, frozen=True, kw_only=True):
    """An entity in a list."""

    entity_id: str
    version: int
    title: str | None
    keys: tuple[str, ...]
    sort: str | None
    updated_at: datetime
    state: Any = UNSET
    """Left out unless states were asked for."""


class EntitiesBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of entities, all of one moment."""

    items: list[EntityItemBody]
    next: str | None
    event_seq: int
    """The last event that the page reflects: follow the workspace after it."""


class EntityEventBody(msgspec.Struct, frozen=True, kw_only=True):
    """An event of an entity; its payload is the log's, byte for byte."""

    seq: int
    event_seq: int
    event_id: str
    event_type: str
    type_version: int
    payload: msgspec.Raw
    actor_id: str | None
    recorded_at: datetime
    chain: str


class HistoryBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of an entity's events."""

    items: list[EntityEventBody]
    next: int | None


def domain_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("domains")
    rt = context.rt

    @routes.route(
        "POST",
        "/api/workspaces/{workspace_id}/commands/{name}",
        "Send a command by its name.",
        body=msgspec.Raw,
        returns=CommittedBody,
        refusals=COMMANDS,
        headers=(*KEYED, "if-match"),
    )
    async def send_command(workspace_id: str, name: str) -> Response:
        identity = await context.authenticate()
        workspace = identity.acting(rt.workspace(workspace_id))
        key = idempotency_key()
        receipt = await _send(rt, workspace, name, await read_document(), key)
        body = CommittedBody(
            workspace_id=workspace_id,
            event_seq=receipt.event_seq,
            entity=receipt.stream_id,
            version=receipt.version,
            idempotency_key=key,
            repeated=receipt.repeated or UNSET,
        )
        return replayed(answer(body), receipt)

    @routes.route(
        "GET",
        "/api/workspaces/{workspace_id}/entities/{domain}",
        "List entities of a domain.",
        params=EntitiesParams,
        returns=EntitiesBody,
        refusals=[*IN_WORKSPACE, 503],
    )
    async def list_all(workspace_id: str, domain: str) -> Response:
        identity = await context.authenticate()
        of, params = _served(rt, domain), read_params(EntitiesParams)
        key = "" if params.key is None and params.sort else params.key
        limit, with_states, after = params.limit, params.states, place_of(params.after)
        await check_role(rt, workspace_id, identity.user_id)
        page = await list_entities(
            rt.service.directory,
            rt.service.catalog,
            workspace_id,
            of,
            principal=identity.acting(rt.workspace(workspace_id)).principal,
            key=key,
            after=after,
            limit=limit,
            with_states=with_states,
            min_seq=params.min_seq or None,
        )
        states: list[Any] = [UNSET] * len(page.items)
        if with_states:
            folded = await entities_of(page, of, rt.limits.turn_s)
            states = [entity.state for entity in folded]
        following = None if page.is_last else token_of(page.items[-1].place_in(key))
        items = [_item_body(*each) for each in zip(page.items, states, strict=True)]
        return answer(EntitiesBody(items=items, next=following, event_seq=page.head_seq))

    @routes.route(
        "GET",
        "/api/workspaces/{workspace_id}/entities/{domain}/{entity_id}",
        "Read an entity, now or as it was.",
        params=EntityParams,
        returns=EntityBody,
        also={304: None},
        refusals=[*IN_WORKSPACE, 503],
        headers=("if-none-match",),
    )
    async def read_one(workspace_id: str, domain: str, entity_id: str) -> Response:
        identity = await context.authenticate()
        of, params = _served(rt, domain), read_params(EntityParams)
        check_id(entity_id, chars_max=rt.limits.id_chars_max, what=of.id_field)
        await check_role(rt, workspace_id, identity.user_id)
        workspace = identity.acting(rt.workspace(workspace_id))
        version, state = await _look(workspace, of, params)
        event = await _event_at(rt, workspace_id, of.stream_id(entity_id), version)
        assert event is not None, "a version is an event's number"
        tag = EntityTag.of(event)
        if tag.is_known:
            return tag.not_modified()
        body = EntityBody(
            entity_id=entity_id, version=version, event_seq=event.event_seq, state=state
        )
        return tag.put_on(answer(body))

    @routes.route(
        "GET",
        "/api/workspaces/{workspace_id}/entities/{domain}/{entity_id}/history",
        "Read a page of an entity's events.",
        params=EntityHistoryParams,
        returns=HistoryBody,
        refusals=[*IN_WORKSPACE, 503],
    )
    async def read_history(workspace_id: str, domain: str, entity_id: str) -> Response:
        identity = await context.authenticate()
        of, params = _served(rt, domain), read_params(EntityHistoryParams)
        after, limit = params.after, params.limit
        check_id(entity_id, chars_max=rt.limits.id_chars_max, what=of.id_field)
        await check_role(rt, workspace_id, identity.user_id)
        workspace = identity.acting(rt.workspace(workspace_id))
        entity = await workspace.look(of, entity_id)
        if entity is None:
            raise not_found(of.stream_id(entity_id))
        page = await workspace.history(of, entity_id, after=after, limit=limit)
        more = bool(page) and page[-1].stream_seq < entity.version
        items = [_event_body(event) for event in page]
        return answer(HistoryBody(items=items, next=items[-1].seq if more else None))

    return routes


def _served(rt: Runtime, name: str) -> AnyDomain:
    """Return the domain of this name, of those whose entities live in workspaces.

    Raises:
        Reject: ``NOT_FOUND``.

    """
    domain = rt.service.catalog.domains.get(name)
    if domain is None or domain.reserved:
        raise Reject("NOT_FOUND", f"no domain {name[:64]!r}")
    return domain


async def _send(
    rt: Runtime, workspace: Workspace, name: str, document: bytes, key: str | None
) -> Receipt:
    """Send a command that came by its name, with what ``If-Match`` says of its entity.

    Raises:
        Reject: what reading and deciding raise; a version that ``If-Match`` names and that is not
            the entity's has the status 412 (RFC 9110 §13.1.1).

    """
    domain = rt.service.catalog.domain_of(name)
    tag = EntityTag.asked_for()
    if tag is not None:
        document = tag.put_into(document)
    command = domain.decode_command(name, document, rt.limits)
    await workspace.check_may_send(command, key=key)
    if tag is not None and not (key and await workspace.has_answered(command, key=key)):
        await _check_history(rt, workspace.id, domain, command, tag)
    try:
        return await workspace.send(command, key=key, correlation_id=request_id())
    except Reject as error:
        if tag is None or error.code != "VERSION_CONFLICT":
            raise
        raise _failed(error) from None


async def _check_history(
    rt: Runtime,
    workspace_id: str,
    domain: AnyDomain,
    command: Any,  # noqa: ANN401 - the domain's
    tag: EntityTag,
) -> None:
    """Raise unless the version of a tag is of the history that there is now.

    An event never changes in one history, so that the version alone decides from here on.
    """
    entity_id = getattr(command, domain.id_field)
    if entity_id is None:
        return  # it will be made
    found = await _event_at(rt, workspace_id, domain.stream_id(entity_id), tag.version)
    if found is None or tag != EntityTag.of(found):
        raise _failed(Reject("VERSION_CONFLICT", "if-match is of another history"))


async def _event_at(rt: Runtime, workspace_id: str, stream_id: str, version: int) -> Event | None:
    """Return the event that made a version, whose state the caller may see: at any node.

    Not by way of the published head, which is another node's matter where that owns the workspace,
    and which a state that was just committed is ahead of.
    """
    bounds = PageBounds(
        from_seq=version, to_event_seq=SEQ_MAX, limit=1, bytes_max=rt.limits.page_bytes_max
    )
    found = await rt.store.read_stream(workspace_id, stream_id, bounds)
    return found[0] if found and found[0].stream_seq == version else None


def _failed(error: Reject) -> Reject:
    return Reject(error.code, error.message, status=412, **error.details)


async def _look(workspace: Workspace, domain: AnyDomain, params: EntityParams) -> tuple[int, Any]:
    """Return an entity's version and state, now or as it was.

    Raises:
        Reject: ``…_NOT_FOUND``, ``VERSION_NOT_FOUND``.

    """
    entity_id, at_version = params.entity_id, params.at_version
    if at_version is not None:
        version, state = at_version, await workspace.at(domain, entity_id, at_version)
    else:
        entity = await workspace.look(domain, entity_id, min_seq=params.min_seq or None)
        version, state = (0, None) if entity is None else (entity.version, entity.state)
    if state is None:
        raise not_found(domain.stream_id(entity_id))
    return version, state


def _item_body(item: EntityItem, state: Any) -> EntityItemBody:  # noqa: ANN401 - the domain's
    return EntityItemBody(
        entity_id=item.stream_id.partition(":")[2],
        version=item.version,
        title=item.title,
        keys=item.keys,
        sort=item.sort,
        updated_at=item.updated_at,
        state=state,
    )


def _event_body(event: Event) -> EntityEventBody:
    return EntityEventBody(
        seq=event.stream_seq,
        event_seq=event.event_seq,
        event_id=event.event_id,
        event_type=event.type,
        type_version=event.type_version,
        payload=msgspec.Raw(event.payload.encode()),
        actor_id=event.actor_id,
        recorded_at=event.recorded_at,
        chain=chain_text(event.chain),
    )
