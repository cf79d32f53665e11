"""Saved views: queries for notes that a workspace keeps for its members."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType
from quart import Blueprint, Response

from dalsegno.actors.domains.claims import check_name
from dalsegno.actors.domains.saved_views import (
    CreateView,
    DeleteView,
    SavedView,
    UpdateView,
    saved_views,
)
from dalsegno.protocol import WRITERS

from ._conditions import base_version, is_known, not_modified, query_base_version, tagged
from ._entity_lists import page_of, query_workspace
from ._envelope import answer, read, replayed, request_id
from ._located import change, delete, look_up
from ._membership import check_sender
from ._route_context import RouteContext, idempotency_key

if TYPE_CHECKING:
    from dalsegno.actors import Entity
    from dalsegno.runtime import Listed


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


def view_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("views", __name__)
    rt = context.rt

    @routes.get("/api/views")
    async def list_views() -> Response:
        identity = await context.authenticate()
        workspace_id = query_workspace()

        def show(listed: Listed[SavedView]) -> ViewBody:
            return _view_body(workspace_id, listed.entity_id, listed)

        page = await page_of(rt, workspace_id, saved_views, identity.user_id, show)
        return answer(ViewsBody(views=page.items, next=page.next))

    @routes.post("/api/views")
    async def create_view() -> Response:
        identity = await context.authenticate()
        body = await read(ViewCreateBody, known=True)
        workspace = identity.acting(rt.workspace(body.workspace_id))
        command = CreateView(body.query_json, body.sort, body.filters, body.name)
        key = idempotency_key()
        await check_sender(rt, workspace, command, key, allow=WRITERS)
        receipt = await workspace.send(command, key=key, correlation_id=request_id())
        created = ViewCreatedBody(
            id=receipt.entity_id,
            workspace_id=body.workspace_id,
            owner_user_id=identity.user_id,
            name=None if body.name is None else check_name(body.name, what="name"),
            query_json=body.query_json,
            sort=body.sort,
            filters=body.filters,
            version=receipt.version,
            event_seq=receipt.event_seq,
        )
        return tagged(replayed(answer(created, 201), receipt), receipt.version)

    @routes.get("/api/views/<view_id>")
    async def read_view(view_id: str) -> Response:
        identity = await context.authenticate()
        workspace, entity = await look_up(rt, saved_views, view_id, identity)
        if is_known(entity.version):
            return not_modified(entity.version)
        return tagged(answer(_view_body(workspace.id, view_id, entity)), entity.version)

    @routes.patch("/api/views/<view_id>")
    async def change_view(view_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(ViewChangeBody, known=True)
        command = UpdateView(
            view_id=view_id,
            query_json=body.query_json,
            sort=body.sort,
            filters=body.filters,
            name=body.name,
            base_version=base_version(body.base_version),
        )
        return await change(rt, saved_views, identity, view_id, command)

    @routes.delete("/api/views/<view_id>")
    async def delete_view(view_id: str) -> Response:
        identity = await context.authenticate()
        command = DeleteView(view_id, query_base_version())
        return await delete(rt, saved_views, identity, view_id, command)

    return routes


def _view_body(workspace_id: str, view_id: str, entity: Entity | Listed[Any]) -> ViewBody:
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
