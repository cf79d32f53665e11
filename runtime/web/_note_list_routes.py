"""Lists of notes, of what happened to a note, and of the notes that link to it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from quart import Blueprint, Response, request

from dalsegno.actors.domains.notes import (
    LIVE,
    Note,
    check_tags,
    link_key,
    notes,
    project_key,
    tag_key,
)
from dalsegno.protocol import SEQ_MAX, Event, check_id

from ._entity_lists import page_of, query_flag, query_limit, query_workspace
from ._envelope import answer, query_int
from ._located import hidden_from_strangers, look_up
from ._membership import check_role
from ._route_context import RouteContext

if TYPE_CHECKING:
    from dalsegno.runtime import Listed


class NoteItemBody(msgspec.Struct, frozen=True, kw_only=True):
    """A note in a list, without its text."""

    id: str
    workspace_id: str
    project_id: str | None
    title: str
    note_kind: str
    access_scope: str
    tags: tuple[str, ...]
    current_version: int
    deleted_at: datetime | None
    created_at: datetime | None
    updated_at: datetime


class NotesBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of notes."""

    notes: list[NoteItemBody]
    next: str | None


class NoteEventBody(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a note; its payload is the log's, byte for byte."""

    event_id: str
    seq: int
    event_type: str
    payload: msgspec.Raw
    actor_id: str | None
    created_at: datetime


class NoteEventsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a note's history."""

    events: list[NoteEventBody]
    next: int | None


class BacklinkBody(msgspec.Struct, frozen=True, kw_only=True):
    """A note that links to another."""

    note_id: str
    title: str
    target_title: str
    updated_at: datetime


class BacklinksBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the notes that link to a note."""

    backlinks: list[BacklinkBody]
    next: str | None


class TagsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the tags that notes of a workspace have, in the order of their code points."""

    tags: list[str]
    next: str | None


def note_list_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("note_lists", __name__)
    rt = context.rt

    @routes.get("/api/notes")
    async def list_notes() -> Response:
        identity = await context.authenticate()
        workspace_id, deleted_too = query_workspace(), query_flag("include_deleted")
        tag, project_id = _query_tag(), _query_project(rt.limits.id_chars_max)
        key = None if deleted_too else LIVE
        if tag is not None:
            key = tag_key(tag, deleted_too=deleted_too)
        elif project_id is not None:
            key = project_key(project_id, deleted_too=deleted_too)

        def show(listed: Listed[Note]) -> NoteItemBody | None:
            if project_id is not None and listed.state.project_id != project_id:
                return None  # listed by its tag
            return _item(workspace_id, listed)

        page = await page_of(rt, workspace_id, notes, identity.user_id, show, key=key)
        return answer(NotesBody(notes=page.items, next=page.next))

    @routes.get("/api/notes/<note_id>/history")
    async def read_history(note_id: str) -> Response:
        identity = await context.authenticate()
        workspace, entity = await look_up(rt, notes, note_id, identity)
        after, limit = query_int("after", 0, least=0, most=SEQ_MAX - 1), query_limit(rt)
        with hidden_from_strangers(notes, note_id):
            page = await workspace.history(notes, note_id, after=after, limit=limit)
        more = bool(page) and page[-1].stream_seq < entity.version
        events = [_event_body(event) for event in page]
        return answer(NoteEventsBody(events=events, next=events[-1].seq if more else None))

    @routes.get("/api/notes/<note_id>/backlinks")
    async def list_backlinks(note_id: str) -> Response:
        identity = await context.authenticate()
        workspace, entity = await look_up(rt, notes, note_id, identity)
        target: Note = entity.state

        def show(linking: Listed[Note]) -> BacklinkBody:
            return BacklinkBody(
                note_id=linking.entity_id,
                title=linking.state.title,
                target_title=target.title,
                updated_at=linking.updated_at,
            )

        key = link_key(target.title)
        with hidden_from_strangers(notes, note_id):
            page = await page_of(rt, workspace.id, notes, identity.user_id, show, key=key)
        return answer(BacklinksBody(backlinks=page.items, next=page.next))

    @routes.get("/api/tags")
    async def list_tags() -> Response:
        identity = await context.authenticate()
        workspace_id, limit = query_workspace(), query_limit(rt)
        after = request.args.get("after")
        await check_role(rt, workspace_id, identity.user_id)
        workspace = identity.acting(rt.workspace(workspace_id))
        prefix = tag_key("", deleted_too=False)
        past = "" if after is None else tag_key(check_tags([after])[0], deleted_too=False)
        found = await workspace.keys(notes, prefix=prefix, after=past, limit=limit)
        tags = [key.removeprefix(prefix) for key in found]
        return answer(TagsBody(tags=tags, next=tags[-1] if len(tags) == limit else None))

    return routes


def _query_tag() -> str | None:
    tag = request.args.get("tag")
    return None if tag is None else check_tags([tag])[0]


def _query_project(chars_max: int) -> str | None:
    project_id = request.args.get("project_id")
    if project_id is not None:
        check_id(project_id, chars_max=chars_max, what="project_id")
    return project_id


def _item(workspace_id: str, listed: Listed[Note]) -> NoteItemBody:
    note = listed.state
    return NoteItemBody(
        id=listed.entity_id,
        workspace_id=workspace_id,
        project_id=note.project_id,
        title=note.title,
        note_kind=note.note_kind,
        access_scope=note.access_scope,
        tags=note.tags,
        current_version=note.version,
        deleted_at=note.deleted_at,
        created_at=note.created_at,
        updated_at=listed.updated_at,
    )


def _event_body(event: Event) -> NoteEventBody:
    return NoteEventBody(
        event_id=event.event_id,
        seq=event.stream_seq,
        event_type=event.type,
        payload=msgspec.Raw(event.payload.encode()),
        actor_id=event.actor_id,
        created_at=event.recorded_at,
    )
