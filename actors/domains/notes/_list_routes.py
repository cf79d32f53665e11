"""Lists over HTTP: of notes, of what happened to a note, of those that link to it, of tags."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from dalsegno.protocol import SEQ_MAX, Event, Listed, check_id
from dalsegno.protocol.routes import (
    Asked,
    InWorkspace,
    Limited,
    MinSeq,
    Paging,
    ReadRoute,
    found,
    page_of,
)

from ._domain import Note, notes
from ._labels import check_tags
from ._listing import LIVE, link_key, project_key, tag_key
from ._routes import OF_NOTE

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route


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


class NotesParams(Paging, frozen=True, kw_only=True):
    """Which notes are listed."""

    workspace_id: str
    tag: str | None = None
    project_id: str | None = None
    include_deleted: bool = False


class HistoryParams(Limited, frozen=True, kw_only=True):
    """Which events of a note are listed."""

    min_seq: MinSeq | None = None
    note_id: str
    after: Annotated[int, Meta(ge=0, lt=SEQ_MAX)] = 0


class BacklinksParams(Paging, frozen=True, kw_only=True):
    """Which notes that link to one are listed."""

    min_seq: MinSeq | None = None
    note_id: str


class TagsParams(Limited, frozen=True, kw_only=True):
    """Which tags are listed."""

    workspace_id: str
    after: str | None = None


async def _list_notes(asked: Asked[NotesParams, None]) -> NotesBody:
    params = asked.params
    tag = None if params.tag is None else check_tags([params.tag])[0]
    key = None if params.include_deleted else LIVE
    if tag is not None:
        key = tag_key(tag, deleted_too=params.include_deleted)
    elif params.project_id is not None:
        check_id(params.project_id, chars_max=asked.limits.id_chars_max, what="project_id")
        key = project_key(params.project_id, deleted_too=params.include_deleted)

    def show(listed: Listed[Note]) -> NoteItemBody | None:
        if params.project_id is not None and listed.state.project_id != params.project_id:
            return None  # listed by its tag
        return _item(asked.workspace.id, listed)

    page = await page_of(asked.workspace, notes, params, show, key=key)
    return NotesBody(notes=page.items, next=page.next)


async def _read_history(asked: Asked[HistoryParams, None]) -> NoteEventsBody:
    params, workspace = asked.params, asked.workspace
    note = await found(workspace, notes, params.note_id, min_seq=params.min_seq)
    page = await workspace.history(notes, params.note_id, after=params.after, limit=params.limit)
    more = bool(page) and page[-1].stream_seq < note.version
    events = [_event_body(event) for event in page]
    return NoteEventsBody(events=events, next=events[-1].seq if more else None)


async def _list_backlinks(asked: Asked[BacklinksParams, None]) -> BacklinksBody:
    params, workspace = asked.params, asked.workspace
    target: Note = (await found(workspace, notes, params.note_id, min_seq=params.min_seq)).state

    def show(linking: Listed[Note]) -> BacklinkBody:
        return BacklinkBody(
            note_id=linking.entity_id,
            title=linking.state.title,
            target_title=target.title,
            updated_at=linking.updated_at,
        )

    page = await page_of(workspace, notes, params, show, key=link_key(target.title))
    return BacklinksBody(backlinks=page.items, next=page.next)


async def _list_tags(asked: Asked[TagsParams, None]) -> TagsBody:
    params = asked.params
    prefix = tag_key("")
    past = "" if params.after is None else tag_key(check_tags([params.after])[0])
    found_keys = await asked.workspace.keys(notes, prefix=prefix, after=past, limit=params.limit)
    tags = [key.removeprefix(prefix) for key in found_keys]
    return TagsBody(tags=tags, next=tags[-1] if len(tags) == params.limit else None)


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


list_routes: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/notes",
        summary="List a workspace's notes, by tag or project.",
        at=InWorkspace(),
        params=NotesParams,
        read=_list_notes,
        returns=NotesBody,
    ),
    ReadRoute(
        "GET",
        "/api/notes/{note_id}/history",
        summary="Read what happened to a note.",
        at=OF_NOTE,
        params=HistoryParams,
        read=_read_history,
        returns=NoteEventsBody,
    ),
    ReadRoute(
        "GET",
        "/api/notes/{note_id}/backlinks",
        summary="List the notes that link to a note's title.",
        at=OF_NOTE,
        params=BacklinksParams,
        read=_list_backlinks,
        returns=BacklinksBody,
    ),
    ReadRoute(
        "GET",
        "/api/tags",
        summary="List the tags that notes of a workspace have.",
        group="notes",
        at=InWorkspace(),
        params=TagsParams,
        read=_list_tags,
        returns=TagsBody,
    ),
)
