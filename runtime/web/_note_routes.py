"""Notes: in these bodies ``event_seq`` is the note's own number, which is its version."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from quart import Blueprint, Response, request

from dalsegno.actors.domains.notes import (
    ApplyPatch,
    CreateNote,
    DeleteNote,
    Note,
    RollbackNote,
    SetTitle,
    notes,
)
from dalsegno.protocol import SEQ_MAX, WRITERS, PatchOps, Reject, check_id

from ._envelope import answer, nothing, query_int, read, replayed, request_id
from ._membership import check_sender
from ._route_context import RouteContext, idempotency_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.actors import Receipt
    from dalsegno.runtime import Runtime, Workspace

    from ._auth import Identity


class NoteCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to create a note."""

    workspace_id: str
    title: str
    markdown: str = ""
    note_kind: str = "markdown"
    access_scope: str = "workspace"
    idempotency_key: str | None = None


class PatchBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change the text."""

    base_version: int
    patch_ops: PatchOps
    idempotency_key: str | None = None


class TitleBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change the title."""

    base_version: int
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
    title: str
    note_kind: str
    access_scope: str
    version: int
    event_seq: int
    markdown: str
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
        workspace = rt.workspace(body.workspace_id).acting(user_id=identity.user_id)
        command = CreateNote(body.title, body.markdown, body.note_kind, body.access_scope)
        key = idempotency_key(body.idempotency_key)
        await check_sender(rt, workspace, command, key, allow=WRITERS)
        receipt = await workspace.send(command, key=key, correlation_id=request_id())
        created = NoteBody(
            note_id=receipt.entity_id,
            workspace_id=body.workspace_id,
            title=body.title,
            note_kind=body.note_kind,
            access_scope=body.access_scope,
            version=receipt.version,
            event_seq=receipt.version,
            markdown=body.markdown,
            deleted_at=None,
        )
        return replayed(answer(created, 201), receipt)

    @routes.get("/api/notes/<note_id>")
    async def read_note(note_id: str) -> Response:
        identity = await context.authenticate()
        workspace, _ = await _workspace_of(rt, note_id, identity)
        min_seq = query_int("min_seq", 0, least=0, most=SEQ_MAX)
        try:
            note = await workspace.get(notes, note_id, min_seq=min_seq or None)
        except Reject as error:
            if error.code != "ROLE_FORBIDDEN":
                raise
            note = None  # removed meanwhile: it does not exist for the caller any more (C22)
        if note is None:
            raise _not_found()
        return answer(_note_body(workspace.id, note_id, note))

    @routes.patch("/api/notes/<note_id>")
    async def patch_note(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(PatchBody, known=True)
        command = ApplyPatch(note_id, body.patch_ops, body.base_version)
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.patch("/api/notes/<note_id>/title")
    async def set_title(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(TitleBody, known=True)
        command = SetTitle(note_id, body.title, body.base_version)
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.post("/api/notes/<note_id>/rollback")
    async def roll_back(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(RollbackBody, known=True)
        command = RollbackNote(note_id, body.target_version, body.base_version)
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.delete("/api/notes/<note_id>")
    async def delete_note(note_id: str) -> Response:
        identity = await context.authenticate()
        base_version = query_int("base_version", 0, least=0, most=SEQ_MAX)
        command = DeleteNote(note_id, base_version or None)
        receipt = await _send(rt, identity, note_id, command, idempotency_key())
        return replayed(nothing(), receipt)

    return routes


async def _workspace_of(
    rt: Runtime,
    note_id: str,
    identity: Identity,
    is_known: Callable[[Workspace], Awaitable[bool]] | None = None,
) -> tuple[Workspace, str | None]:
    """Return the workspace of a note, as the caller, who must be a member of it, or known there.

    With it comes the caller's role, None for one who is no member any more.

    To the caller, a note that may not be seen does not exist (C22).  Ids that the runtime generates
    are unique; a program may choose its own, and then ``?workspace_id=`` selects the workspace.

    Raises:
        Reject: ``NOTE_NOT_FOUND``; ``BAD_REQUEST`` if several workspaces match.

    """
    check_id(note_id, chars_max=rt.limits.id_chars_max, what="note_id")
    asked = request.args.get("workspace_id")
    found = [asked] if asked is not None else await rt.store.locate(notes.stream_id(note_id))
    among = [rt.workspace(each).acting(user_id=identity.user_id) for each in found]
    roles = [(each, await each.role_of(identity.user_id)) for each in among]
    own = [found for found in roles if found[1] is not None]
    if not own and is_known is not None:
        own = [found for found in roles if await is_known(found[0])]
    if not own:
        raise _not_found()
    if len(own) > 1:
        raise Reject("BAD_REQUEST", "several workspaces have this note: add ?workspace_id=")
    return own[0]


async def _send(
    rt: Runtime,
    identity: Identity,
    note_id: str,
    command: ApplyPatch | SetTitle | RollbackNote | DeleteNote,
    key: str | None,
) -> Receipt:
    """Send a change of a note: a writer's, or a repeat by whoever has left since."""

    async def is_known(workspace: Workspace) -> bool:
        return key is not None and await workspace.has_answered(command, key=key)

    workspace, role = await _workspace_of(rt, note_id, identity, is_known)
    if role not in WRITERS and not await is_known(workspace):
        raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
    return await workspace.send(command, key=key, correlation_id=request_id())


async def _change(
    rt: Runtime,
    identity: Identity,
    note_id: str,
    command: ApplyPatch | SetTitle | RollbackNote,
    key: str | None,
) -> Response:
    key = idempotency_key(key)
    if key is None:
        key = rt.world.new_id()
    receipt = await _send(rt, identity, note_id, command, key)
    changed = NoteChangedBody(
        note_id=note_id,
        version=receipt.version,
        event_seq=receipt.version,
        idempotency_key=key,
    )
    return replayed(answer(changed), receipt)


def _note_body(workspace_id: str, note_id: str, note: Note) -> NoteBody:
    return NoteBody(
        note_id=note_id,
        workspace_id=workspace_id,
        title=note.title,
        note_kind=note.note_kind,
        access_scope=note.access_scope,
        version=note.version,
        event_seq=note.version,
        markdown=note.markdown,
        deleted_at=note.deleted_at,
    )


def _not_found() -> Reject:
    return Reject("NOTE_NOT_FOUND", "no such note")
