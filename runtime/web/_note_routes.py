"""Notes: in these bodies ``event_seq`` is the note's own number, which is its version."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from quart import Blueprint, Response

from dalsegno.actors.domains.notes import (
    ApplyPatch,
    CreateNote,
    DeleteNote,
    Note,
    RollbackNote,
    SetTitle,
    notes,
)
from dalsegno.protocol import WRITERS, PatchOps

from ._conditions import (
    base_version,
    is_known,
    needed_base_version,
    not_modified,
    query_base_version,
    tagged,
)
from ._envelope import answer, read, replayed, request_id
from ._located import delete, look_up, send_change
from ._membership import check_sender
from ._route_context import RouteContext, idempotency_key, needed_key

if TYPE_CHECKING:
    from dalsegno.actors import Receipt
    from dalsegno.runtime import Runtime

    from ._identity import Identity


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


def note_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("notes", __name__)
    rt = context.rt

    @routes.post("/api/notes")
    async def create_note() -> Response:
        identity = await context.authenticate()
        body = await read(NoteCreateBody, known=True)
        workspace = identity.acting(rt.workspace(body.workspace_id))
        command = CreateNote(
            body.title,
            body.markdown,
            body.note_kind,
            body.access_scope,
            project_id=body.project_id,
        )
        key = idempotency_key(body.idempotency_key)
        await check_sender(rt, workspace, command, key, allow=WRITERS)
        receipt = await workspace.send(command, key=key, correlation_id=request_id())
        return tagged(replayed(answer(_created_body(body, receipt), 201), receipt), receipt.version)

    @routes.get("/api/notes/<note_id>")
    async def read_note(note_id: str) -> Response:
        identity = await context.authenticate()
        workspace, entity = await look_up(rt, notes, note_id, identity)
        if is_known(entity.version):
            return not_modified(entity.version)
        body = _note_body(workspace.id, note_id, entity.state)
        return tagged(answer(body), entity.version)

    @routes.patch("/api/notes/<note_id>")
    async def patch_note(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(PatchBody, known=True)
        command = ApplyPatch(note_id, body.patch_ops, needed_base_version(body.base_version))
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.patch("/api/notes/<note_id>/title")
    async def set_title(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(TitleBody, known=True)
        command = SetTitle(note_id, body.title, needed_base_version(body.base_version))
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.post("/api/notes/<note_id>/rollback")
    async def roll_back(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(RollbackBody, known=True)
        command = RollbackNote(note_id, body.target_version, base_version(body.base_version))
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.delete("/api/notes/<note_id>")
    async def delete_note(note_id: str) -> Response:
        identity = await context.authenticate()
        command = DeleteNote(note_id, query_base_version())
        return await delete(rt, notes, identity, note_id, command)

    return routes


async def _change(
    rt: Runtime,
    identity: Identity,
    note_id: str,
    command: ApplyPatch | SetTitle | RollbackNote,
    in_body: str | None,
) -> Response:
    key = needed_key(rt, in_body)
    receipt = await send_change(rt, notes, identity, note_id, command, key)
    changed = NoteChangedBody(
        note_id=note_id,
        version=receipt.version,
        event_seq=receipt.version,
        idempotency_key=key,
    )
    return tagged(replayed(answer(changed), receipt), receipt.version)


def _created_body(body: NoteCreateBody, receipt: Receipt) -> NoteBody:
    """Return a note as it was created, whatever has become of it: a repeat gets the same."""
    return NoteBody(
        note_id=receipt.entity_id,
        workspace_id=body.workspace_id,
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


def _note_body(workspace_id: str, note_id: str, note: Note) -> NoteBody:
    return NoteBody(
        note_id=note_id,
        workspace_id=workspace_id,
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
