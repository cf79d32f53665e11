"""Saved views over HTTP: queries for notes that a workspace keeps for its members."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.actors.domains.claims import check_name
from dalsegno.actors.domains.saved_views import (
    CreateView,
    DeleteView,
    SavedView,
    UpdateView,
    saved_views,
)
from dalsegno.protocol import Listed, Receipt
from dalsegno.protocol.routes import (
    Asked,
    BaseVersion,
    ChangedBody,
    CommandRoute,
    InWorkspace,
    OfEntity,
    Paging,
    Reading,
    ReadRoute,
    Seen,
    changed,
    found,
    page_of,
)

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route


class ViewCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to save a view."""

    workspace_id: str
    query_json: Any
    sort: Any = None
    filters: Any = None
    name: str | None = None


class ViewChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change a view; what is left out stays."""

    query_json: Any = UNSET
    sort: Any = UNSET
    filters: Any = UNSET
    name: str | UnsetType | None = UNSET
    base_version: int | None = None


class ViewBody(msgspec.Struct, frozen=True, kw_only=True):
    """A saved view."""

    id: str
    workspace_id: str
    owner_user_id: str | None
    name: str | None
    query_json: Any
    sort: Any
    filters: Any
    version: int
    created_at: datetime


class ViewsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of saved views."""

    views: list[ViewBody]
    next: str | None


class ViewCreatedBody(msgspec.Struct, frozen=True, kw_only=True):
    """A view as it was saved, and the number of the event in the workspace."""

    id: str
    workspace_id: str
    owner_user_id: str
    name: str | None
    query_json: Any
    sort: Any
    filters: Any
    version: int
    event_seq: int


class ViewsParams(Paging, frozen=True, kw_only=True):
    """Whose views are listed."""

    workspace_id: str


class ViewReading(Reading, frozen=True, kw_only=True):
    """Which view is read."""

    view_id: str


class ViewParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which view is changed."""

    view_id: str


class ViewBasis(ViewParams, frozen=True, kw_only=True):
    """Which view is deleted, at which version."""

    base_version: BaseVersion | None = None


_OF_VIEW = OfEntity(saved_views, "view_id")


async def _list(asked: Asked[ViewsParams, None]) -> ViewsBody:
    workspace = asked.workspace

    def show(listed: Listed[SavedView]) -> ViewBody:
        return _body(workspace.id, listed.entity_id, listed)

    page = await page_of(workspace, saved_views, asked.params, show)
    return ViewsBody(views=page.items, next=page.next)


def _create(asked: Asked[None, ViewCreateBody]) -> CreateView:
    body = asked.body
    return CreateView(body.query_json, body.sort, body.filters, body.name)


def _created(asked: Asked[None, ViewCreateBody], receipt: Receipt) -> ViewCreatedBody:
    body = asked.body
    return ViewCreatedBody(
        id=receipt.entity_id,
        workspace_id=receipt.workspace_id,
        owner_user_id=asked.user_id,
        name=None if body.name is None else check_name(body.name, what="name"),
        query_json=body.query_json,
        sort=body.sort,
        filters=body.filters,
        version=receipt.version,
        event_seq=receipt.event_seq,
    )


async def _read(asked: Asked[ViewReading, None]) -> ViewBody:
    view_id, workspace = asked.params.view_id, asked.workspace
    entity = await found(workspace, saved_views, view_id, min_seq=asked.params.min_seq)
    return _body(workspace.id, view_id, entity)


def _change(asked: Asked[ViewParams, ViewChangeBody]) -> UpdateView:
    body = asked.body
    return UpdateView(
        view_id=asked.params.view_id,
        query_json=body.query_json,
        sort=body.sort,
        filters=body.filters,
        name=body.name,
        base_version=asked.based_on(body.base_version),
    )


def _delete(asked: Asked[ViewBasis, None]) -> DeleteView:
    return DeleteView(asked.params.view_id, asked.based_on(asked.params.base_version))


def _body(workspace_id: str, view_id: str, entity: Seen) -> ViewBody:
    view: SavedView = entity.state
    return ViewBody(
        id=view_id,
        workspace_id=workspace_id,
        owner_user_id=view.owner_user_id,
        name=view.name,
        query_json=view.query_json,
        sort=view.sort,
        filters=view.filters,
        version=entity.version,
        created_at=view.created_at,
    )


view_routes: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/views",
        summary="List a workspace's saved views.",
        at=InWorkspace(),
        params=ViewsParams,
        read=_list,
        returns=ViewsBody,
    ),
    CommandRoute(
        "POST",
        "/api/views",
        summary="Save a view.",
        at=InWorkspace(place="body"),
        body=ViewCreateBody,
        command=_create,
        returns=ViewCreatedBody,
        answer=_created,
        status=201,
    ),
    ReadRoute(
        "GET",
        "/api/views/{view_id}",
        summary="Read a saved view.",
        at=_OF_VIEW,
        params=ViewReading,
        read=_read,
        returns=ViewBody,
        version_of=lambda body: body.version,
    ),
    CommandRoute(
        "PATCH",
        "/api/views/{view_id}",
        summary="Change a saved view; what is left out stays.",
        at=_OF_VIEW,
        params=ViewParams,
        body=ViewChangeBody,
        command=_change,
        returns=ChangedBody,
        answer=changed,
        makes_key=True,
    ),
    CommandRoute(
        "DELETE",
        "/api/views/{view_id}",
        summary="Delete a saved view.",
        at=_OF_VIEW,
        params=ViewBasis,
        command=_delete,
    ),
)
