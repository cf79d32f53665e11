"""Notes over HTTP: in these bodies ``event_seq`` is the note's own number, which is its version."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import PatchOps, Receipt
from dalsegno.protocol.routes import (
    Asked,
    BaseVersion,
    CommandRoute,
    InWorkspace,
    OfEntity,
    Reading,
    ReadRoute,
    found,
)

from ._domain import ApplyPatch, CreateNote, DeleteNote, Note, RollbackNote, SetTitle, notes

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route


class NoteCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to create a note."""

    workspace_id: str
    title: str
    markdown: str = ""
    note_kind: str = "markdown"
    access_scope: str = "workspace"
    project_id: str | None = None
    idempotency_key: str | None = None


class PatchBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change the text."""

    base_version: int | None = None
    """None: ``If-Match`` says it."""
    patch_ops: PatchOps
    idempotency_key: str | None = None


class TitleBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change the title."""

    base_version: int | None = None
    """None: ``If-Match`` says it."""
    title: str
    idempotency_key: str | None = None


class RollbackBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to return to an earlier version."""

    target_version: int
    base_version: int | None = None
    idempotency_key: str | None = None


class NoteBody(msgspec.Struct, frozen=True, kw_only=True):
    """A note's current state."""

    note_id: str
    workspace_id: str
    project_id: str | None
    title: str
    note_kind: str
    access_scope: str
    version: int
    event_seq: int
    markdown: str
    tags: tuple[str, ...]
    metadata_json: dict[str, Any]
    deleted_at: datetime | None


class NoteChangedBody(msgspec.Struct, frozen=True, kw_only=True):
    """A note's version after a change."""

    note_id: str
    version: int
    event_seq: int
    idempotency_key: str


class NoteParams(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a change of a note whose request has a body."""

    note_id: str


class NoteReading(Reading, frozen=True, kw_only=True):
    """The parameters of a note that is read."""

    note_id: str


class NoteBasis(NoteParams, frozen=True, kw_only=True):
    """The parameters of a change of a note whose request has no fields."""

    base_version: BaseVersion | None = None


OF_NOTE = OfEntity(notes, "note_id")


def _created(asked: Asked[None, NoteCreateBody], receipt: Receipt) -> NoteBody:
    """Return a note as it was created, whatever has become of it: a repeat gets the same."""
    body = asked.body
    return NoteBody(
        note_id=receipt.entity_id,
        workspace_id=receipt.workspace_id,
        project_id=body.project_id,
        title=body.title,
        note_kind=body.note_kind,
        access_scope="workspace",
        version=receipt.version,
        event_seq=receipt.version,
        markdown=body.markdown,
        tags=(),
        metadata_json={},
        deleted_at=None,
    )


def _create(asked: Asked[None, NoteCreateBody]) -> CreateNote:
    body = asked.body
    return CreateNote(
        body.title,
        body.markdown,
        body.note_kind,
        body.access_scope,
        project_id=body.project_id,
    )


async def _read(asked: Asked[NoteReading, None]) -> NoteBody:
    note_id, workspace = asked.params.note_id, asked.workspace
    note: Note = (await found(workspace, notes, note_id, min_seq=asked.params.min_seq)).state
    return NoteBody(
        note_id=note_id,
        workspace_id=workspace.id,
        project_id=note.project_id,
        title=note.title,
        note_kind=note.note_kind,
        access_scope=note.access_scope,
        version=note.version,
        event_seq=note.version,
        markdown=note.markdown,
        tags=note.tags,
        metadata_json=note.metadata,
        deleted_at=note.deleted_at,
    )


def _patch(asked: Asked[NoteParams, PatchBody]) -> ApplyPatch:
    body = asked.body
    return ApplyPatch(asked.params.note_id, body.patch_ops, asked.needs_base(body.base_version))


def _set_title(asked: Asked[NoteParams, TitleBody]) -> SetTitle:
    body = asked.body
    return SetTitle(asked.params.note_id, body.title, asked.needs_base(body.base_version))


def _roll_back(asked: Asked[NoteParams, RollbackBody]) -> RollbackNote:
    body = asked.body
    base = asked.based_on(body.base_version)
    return RollbackNote(asked.params.note_id, body.target_version, base)


def _delete(asked: Asked[NoteBasis, None]) -> DeleteNote:
    return DeleteNote(asked.params.note_id, asked.based_on(asked.params.base_version))


def _changed(asked: Asked[Any, Any], receipt: Receipt) -> NoteChangedBody:
    return NoteChangedBody(
        note_id=receipt.entity_id,
        version=receipt.version,
        event_seq=receipt.version,
        idempotency_key=asked.made_key,
    )


routes: tuple[Route, ...] = (
    CommandRoute(
        "POST",
        "/api/notes",
        summary="Create a note.",
        at=InWorkspace(place="body"),
        body=NoteCreateBody,
        command=_create,
        returns=NoteBody,
        answer=_created,
        status=201,
    ),
    ReadRoute(
        "GET",
        "/api/notes/{note_id}",
        summary="Read a note as it is committed.",
        at=OF_NOTE,
        params=NoteReading,
        read=_read,
        returns=NoteBody,
        version_of=lambda body: body.version,
    ),
    CommandRoute(
        "PATCH",
        "/api/notes/{note_id}",
        summary="Change a note's text.",
        at=OF_NOTE,
        params=NoteParams,
        body=PatchBody,
        command=_patch,
        returns=NoteChangedBody,
        answer=_changed,
        makes_key=True,
    ),
    CommandRoute(
        "PATCH",
        "/api/notes/{note_id}/title",
        summary="Change a note's title.",
        at=OF_NOTE,
        params=NoteParams,
        body=TitleBody,
        command=_set_title,
        returns=NoteChangedBody,
        answer=_changed,
        makes_key=True,
    ),
    CommandRoute(
        "POST",
        "/api/notes/{note_id}/rollback",
        summary="Return a note to an earlier version.",
        at=OF_NOTE,
        params=NoteParams,
        body=RollbackBody,
        command=_roll_back,
        returns=NoteChangedBody,
        answer=_changed,
        makes_key=True,
    ),
    CommandRoute(
        "DELETE",
        "/api/notes/{note_id}",
        summary="Delete a note; its versions stay.",
        at=OF_NOTE,
        params=NoteBasis,
        command=_delete,
    ),
)
