"""The routes that every family has, as values: create, read, list, change, delete, and a step.

All of them are about one tenant: the workspace that ``X-Tenant-ID`` names, or the only one of who
asks.  It is never taken from a body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict

from dalsegno.protocol import Listed, Receipt, Reject, not_found, place_of, token_of
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    Limited,
    OfCaller,
    Reading,
    ReadRoute,
    Reads,
    found,
)

from ._refusals import as_known

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._shown import Family

TENANT = OfCaller("x-tenant-id", param="tenant_id")
"""Where a request names its tenant; the parameter is for pages, whose sockets send no headers."""

REFUSED = frozenset({400, 404, 409, 504})


def shown_by(family: Family) -> Callable[[Receipt, Any], msgspec.Struct]:
    """Return the function that shows an entity right after a command."""

    def shows(receipt: Receipt, state: Any) -> msgspec.Struct:  # noqa: ANN401 - the domain's
        shown = family.show_state(receipt.workspace_id, receipt.entity_id, receipt.version, state)
        assert shown is not None, "what was just changed is not on its way out"
        return shown

    return shows


def create(
    family: Family, new: type[msgspec.Struct], command: type[msgspec.Struct], *, path: str = ""
) -> CommandRoute:
    """Return the route that creates an entity: 201, and the entity."""
    return CommandRoute(
        "POST",
        path or family.path,
        summary=f"Create {_a(family)}.",
        group=_group(family),
        at=TENANT,
        body=new,
        command=lambda asked: command(**asdict(asked.body)),
        returns=family.body,
        shows=shown_by(family),
        status=201,
        refusals=REFUSED,
        shows_error=as_known,
    )


def change(
    family: Family, change: type[msgspec.Struct], command: type[msgspec.Struct]
) -> CommandRoute:
    """Return the route that changes an entity: 200, and the entity; ``If-Match`` holds."""
    return CommandRoute(
        "PATCH",
        _one(family),
        summary=f"Change {_a(family)}.",
        group=_group(family),
        at=TENANT,
        body=change,
        command=lambda asked: command(
            **asdict(asked.body), **_id_of(family, asked), base_version=asked.if_match
        ),
        returns=family.body,
        shows=shown_by(family),
        refusals=REFUSED,
        shows_error=as_known,
    )


def delete(family: Family, command: type[msgspec.Struct]) -> CommandRoute:
    """Return the route that deletes an entity: 204; ``If-Match`` holds."""
    return CommandRoute(
        "DELETE",
        _one(family),
        summary=f"Delete {_a(family)}.",
        group=_group(family),
        at=TENANT,
        command=lambda asked: command(**_id_of(family, asked), base_version=asked.if_match),
        refusals=REFUSED,
        shows_error=as_known,
    )


def step(
    family: Family,
    verb: str,
    command: type[msgspec.Struct],
    *,
    body: type[msgspec.Struct] | None = None,
    status: int = 204,
) -> CommandRoute:
    """Return the route of a step: 204, or another status with the entity after it."""
    is_shown = status != 204

    def commanded(asked: Asked[Any, Any]) -> msgspec.Struct:
        given = {} if asked.body is None else asdict(asked.body)
        based = {"base_version": asked.if_match} if _is_based(command) else {}
        return command(**given, **_id_of(family, asked), **based)

    return CommandRoute(
        "POST",
        f"{_one(family)}/{verb}",
        summary=f"{verb.capitalize()} {_a(family)}.",
        group=_group(family),
        at=TENANT,
        body=body,
        command=commanded,
        returns=family.body if is_shown else None,
        shows=shown_by(family) if is_shown else None,
        status=status if is_shown else 200,
        refusals=REFUSED,
        shows_error=as_known,
    )


def read(family: Family) -> ReadRoute:
    """Return the route that reads an entity; ``?min_seq=`` waits."""
    params: type[msgspec.Struct] = msgspec.defstruct(
        f"{family.body.__name__}Params",
        [(family.id_name, str)],
        bases=(Reading,),
        frozen=True,
        kw_only=True,
    )

    async def look(asked: Asked[Any, None]) -> msgspec.Struct:
        return await one_of(family, asked, getattr(asked.params, family.id_name))

    return ReadRoute(
        "GET",
        _one(family),
        summary=f"Read {_a(family)}.",
        group=_group(family),
        at=TENANT,
        params=params,
        read=look,
        returns=family.body,
        version_of=lambda body: body.version,
        refusals=REFUSED,
        shows_error=as_known,
    )


async def one_of(family: Family, asked: Asked[Any, Any], entity_id: str) -> msgspec.Struct:
    """Return an entity of the tenant.

    Raises:
        Reject: ``…_NOT_FOUND``, and what reading raises.

    """
    min_seq = getattr(asked.params, "min_seq", None)
    entity = await found(asked.workspace, family.domain, entity_id, min_seq=min_seq)
    shown = family.show_state(asked.workspace.id, entity_id, entity.version, entity.state)
    if shown is None:
        raise not_found(family.domain.stream_id(entity_id))
    return shown


class Listing(Limited, frozen=True, kw_only=True):
    """The parameters that every list has."""

    after: str | None = None
    """The ``next`` of the page before."""


def filters_of(
    name: str, *filters: str, also: Iterable[tuple[str, type]] = ()
) -> type[msgspec.Struct]:
    """Return the parameters of a list that may be narrowed by fields of its entities."""
    fields: list[Any] = [(each, str | None, None) for each in filters]
    fields += [(each, type_) for each, type_ in also]
    return msgspec.defstruct(name, fields, bases=(Listing,), frozen=True, kw_only=True)


def page_type(family: Family) -> type[msgspec.Struct]:
    """Return the answer of a list: items, the ``after`` of the next page, and its moment."""
    item: Any = family.body
    return msgspec.defstruct(
        f"{item.__name__}Page",
        [("items", list[item]), ("next", str | None), ("event_seq", int)],
        frozen=True,
        kw_only=True,
    )


async def page(
    family: Family,
    workspace: Reads,
    filters: dict[str, str],
    *,
    after: str | None,
    limit: int,
    titled: str = "",
) -> dict[str, Any]:
    """Return a page of a family, of one moment: by its sort, else the oldest first.

    The first filter is looked up; by the others, and by the words that a title has to have, what is
    on the page is narrowed, so that it may have fewer items than there is room for.
    """
    first, *others = [f"{name}:{value}" for name, value in filters.items()] or ["all"]
    words = titled.casefold().split()
    listed = await workspace.snapshot(family.domain, key=first, after=place_of(after), limit=limit)

    def fits(item: Listed[Any]) -> bool:
        title = (item.title or "").casefold()
        return all(each in item.keys for each in others) and all(w in title for w in words)

    shown = [
        family.show_state(workspace.id, item.entity_id, item.version, item.state)
        for item in listed.items
        if fits(item)
    ]
    return {
        "items": [each for each in shown if each is not None],
        "next": None if listed.next is None else token_of(listed.next),
        "event_seq": listed.event_seq,
    }


def many(family: Family, *filters: str) -> ReadRoute:
    """Return the route that lists a family, by some of its fields."""
    params = filters_of(f"{family.body.__name__}Filters", *filters)
    returns = page_type(family)

    async def listed(asked: Asked[Any, None]) -> msgspec.Struct:
        given = _said(asked.params, filters)
        asking = asked.params
        return returns(
            **await page(family, asked.workspace, given, after=asking.after, limit=asking.limit)
        )

    return _list_route(family, family.path, params, returns, listed)


def below(family: Family, parent: Family, name: str, *, by: str) -> ReadRoute:
    """Return the route that lists what belongs to an entity of another family, or of its own."""
    params = filters_of(f"{parent.body.__name__}{name.capitalize()}", also=[(parent.id_name, str)])
    returns = page_type(family)

    async def listed(asked: Asked[Any, None]) -> msgspec.Struct:
        asking = asked.params
        parent_id = getattr(asking, parent.id_name)
        await one_of(parent, asked, parent_id)
        return returns(
            **await page(
                family,
                asked.workspace,
                {by: parent_id},
                after=asking.after,
                limit=asking.limit,
            )
        )

    return _list_route(family, f"{_one(parent)}/{name}", params, returns, listed)


def search(family: Family, *filters: str) -> ReadRoute:
    """Return the route that searches a family: by its fields, and by the words of a title."""
    fields: list[Any] = [(each, str | None, None) for each in filters]
    body = msgspec.defstruct(
        f"{family.body.__name__}Search",
        [
            ("query", str, ""),
            *fields,
            ("after", str | None, None),
            ("limit", int, 100),
        ],
        frozen=True,
        kw_only=True,
    )
    returns = page_type(family)

    async def found_by(asked: Asked[None, Any]) -> msgspec.Struct:
        asking = asked.body
        if not 1 <= asking.limit <= asked.limits.list_limit_max:
            message = f"limit is a number from 1 to {asked.limits.list_limit_max}"
            raise Reject("INVALID_RANGE", message, status=400, field="limit")
        return returns(
            **await page(
                family,
                asked.workspace,
                _said(asking, filters),
                after=asking.after,
                limit=asking.limit,
                titled=asking.query,
            )
        )

    return ReadRoute(
        "POST",
        f"{family.path}/search",
        summary=f"Search a tenant's {_group(family)}.",
        group=_group(family),
        at=TENANT,
        body=body,
        read=found_by,
        returns=returns,
        refusals=REFUSED,
        shows_error=as_known,
    )


def _list_route(
    family: Family,
    path: str,
    params: type[msgspec.Struct],
    returns: type[msgspec.Struct],
    listed: Callable[[Asked[Any, None]], Awaitable[msgspec.Struct]],
) -> ReadRoute:
    return ReadRoute(
        "GET",
        path,
        summary=f"List a tenant's {_group(family)}.",
        group=_group(family),
        at=TENANT,
        params=params,
        read=listed,
        returns=returns,
        refusals=REFUSED,
        shows_error=as_known,
    )


def _said(params: object, filters: Iterable[str]) -> dict[str, str]:
    return {each: said for each in filters if (said := getattr(params, each)) is not None}


def _one(family: Family) -> str:
    return f"{family.path}/{{{family.id_name}}}"


def _group(family: Family) -> str:
    return family.path.removeprefix("/api/v1/").partition("/")[0]


def _a(family: Family) -> str:
    return f"{'an' if family.name[0] in 'aeiou' else 'a'} {family.name}"


def _id_of(family: Family, asked: Asked[Any, Any]) -> dict[str, str]:
    return {family.domain.id_field: getattr(asked.params, family.id_name)}


def _is_based(command: type[msgspec.Struct]) -> bool:
    return "base_version" in command.__struct_fields__
