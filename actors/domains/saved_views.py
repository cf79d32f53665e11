"""Saved views: a query for notes, with its order and its filters, kept for everybody's use.

What they say is the clients' business, any JSON: nothing here is carried out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.protocol import Context, Domain, Index, Reject

from .claims import check_name

VIEW_BYTES_MAX = 16 * 1024
"""A view's query, order and filters together, as JSON."""


class SavedView(msgspec.Struct, frozen=True, kw_only=True):
    """A saved view."""

    owner_user_id: str | None
    """The user who made it; None for the embedding program."""
    name: str | None
    query_json: Any
    sort: Any
    filters: Any
    created_at: datetime


class CreateView(msgspec.Struct, frozen=True):
    """Save a view; without an id the runtime makes one."""

    query_json: Any
    sort: Any = None
    filters: Any = None
    name: str | None = None
    view_id: str | None = None


class UpdateView(msgspec.Struct, frozen=True, kw_only=True):
    """Change a view; what is left out stays."""

    view_id: str
    query_json: Any = UNSET
    sort: Any = UNSET
    filters: Any = UNSET
    name: str | UnsetType | None = UNSET
    base_version: int | None = None


class DeleteView(msgspec.Struct, frozen=True):
    """Delete a view."""

    view_id: str
    base_version: int | None = None


class ViewCreated(msgspec.Struct, frozen=True):
    """A view was saved."""

    owner_user_id: str | None
    name: str | None
    query_json: Any
    sort: Any
    filters: Any
    created_at: datetime


class ViewUpdated(msgspec.Struct, frozen=True):
    """A view says this now."""

    name: str | None
    query_json: Any
    sort: Any
    filters: Any


class ViewDeleted(msgspec.Struct, frozen=True):
    """A view was deleted."""


saved_views = Domain(
    "view",
    state=SavedView,
    commands=CreateView | UpdateView | DeleteView,
    events=ViewCreated | ViewUpdated | ViewDeleted,
)


@saved_views.decide
def _create(view: SavedView | None, command: CreateView, context: Context) -> ViewCreated:
    if view is not None:
        raise Reject("STATE_CONFLICT", "a view has this id", field="view_id")
    _check_size(command.query_json, command.sort, command.filters)
    return ViewCreated(
        owner_user_id=context.principal.user_id,
        name=_checked(command.name),
        query_json=command.query_json,
        sort=command.sort,
        filters=command.filters,
        created_at=context.now,
    )


@saved_views.decide
def _update(view: SavedView, command: UpdateView) -> ViewUpdated | None:
    before = ViewUpdated(view.name, view.query_json, view.sort, view.filters)
    after = ViewUpdated(
        name=view.name if command.name is UNSET else _checked(command.name),
        query_json=view.query_json if command.query_json is UNSET else command.query_json,
        sort=view.sort if command.sort is UNSET else command.sort,
        filters=view.filters if command.filters is UNSET else command.filters,
    )
    _check_size(after.query_json, after.sort, after.filters)
    # As they are written: to Python, True is 1 and 1 is 1.0.
    return None if msgspec.json.encode(after) == msgspec.json.encode(before) else after


@saved_views.decide
def _delete(_view: SavedView, _command: DeleteView) -> ViewDeleted:
    return ViewDeleted()


def _checked(name: str | None) -> str | None:
    return None if name is None else check_name(name, what="name")


def _check_size(*said: object) -> None:
    size = len(msgspec.json.encode(said))
    if size > VIEW_BYTES_MAX:
        message = f"a view has at most {VIEW_BYTES_MAX} bytes"
        raise Reject("PAYLOAD_TOO_LARGE", message, size=size)


@saved_views.evolve
def _created(_before: SavedView | None, event: ViewCreated) -> SavedView:
    return SavedView(
        owner_user_id=event.owner_user_id,
        name=event.name,
        query_json=event.query_json,
        sort=event.sort,
        filters=event.filters,
        created_at=event.created_at,
    )


@saved_views.evolve
def _updated(view: SavedView, event: ViewUpdated) -> SavedView:
    return msgspec.structs.replace(
        view,
        name=event.name,
        query_json=event.query_json,
        sort=event.sort,
        filters=event.filters,
    )


@saved_views.evolve
def _deleted(_view: SavedView, _event: ViewDeleted) -> SavedView | None:
    return None


@saved_views.index
def _by_name(view: SavedView) -> Index:
    return Index(title=view.name)


class _Seen(msgspec.Struct, frozen=True, gc=False):
    pass


class _Shown(msgspec.Struct, frozen=True, gc=False):
    view_id: str
    version: int


@saved_views.view(of=_Seen)
def _on_workspace_stream(_event: _Seen, view_id: str, version: int) -> _Shown:
    """Return which view changed: what it says is read from it."""
    return _Shown(view_id, version)
