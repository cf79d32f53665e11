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

from ._envelope import answer, nothing, number, read, request_id
from ._membership import check_role
from ._site import Site, idempotency_key

if TYPE_CHECKING:
    from dalsegno.actors import Receipt
    from dalsegno.runtime import Runtime, Workspace

    from ._auth import Identity

REPLAYED = "x-idempotency-replay"
"""The header of an answer that was given before (X-IDEM-7)."""


class NoteCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a note is created with."""

    workspace_id: str
    title: str
    markdown: str = ""
    note_kind: str = "markdown"
    access_scope: str = "workspace"
    idempotency_key: str | None = None


class PatchBody(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the text."""

    base_version: int
    patch_ops: PatchOps
    idempotency_key: str | None = None


class TitleBody(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the title."""

    base_version: int
    title: str
    idempotency_key: str | None = None


class RollbackBody(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go back to."""

    target_version: int
    base_version: int | None = None
    idempotency_key: str | None = None


class NoteBody(msgspec.Struct, frozen=True, kw_only=True):
    """A note as it stands."""

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
    """What a change made of a note."""

    note_id: str
    version: int
    event_seq: int
    idempotency_key: str


def note_routes(site: Site) -> Blueprint:
    """Make the routes."""
    routes = Blueprint("notes", __name__)
    rt = site.rt

    @routes.post("/api/notes")
    async def create_note() -> Response:
        identity = await site.enter()
        body = await read(NoteCreateBody)
        await check_role(rt, body.workspace_id, identity.user_id, allow=WRITERS)
        workspace = rt.workspace(body.workspace_id).acting(user_id=identity.user_id)
        command = CreateNote(body.title, body.markdown, body.note_kind, body.access_scope)
        key = idempotency_key(body.idempotency_key)
        receipt = await workspace.send(command, key=key, correlation_id=request_id())
        if receipt.repeated:
            await _check_same(rt, receipt, command)
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
        return _replayed(answer(created, 201), receipt)

    @routes.get("/api/notes/<note_id>")
    async def read_note(note_id: str) -> Response:
        identity = await site.enter()
        workspace = await _workspace_of(rt, note_id, identity)
        min_seq = number("min_seq", 0, least=0, most=SEQ_MAX)
        note = await workspace.get(notes, note_id, min_seq=min_seq or None)
        if note is None:
            raise _not_found()
        return answer(_note_body(workspace.id, note_id, note))

    @routes.patch("/api/notes/<note_id>")
    async def patch_note(note_id: str) -> Response:
        identity = await site.enter()
        body = await read(PatchBody)
        command = ApplyPatch(note_id, body.patch_ops, body.base_version)
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.patch("/api/notes/<note_id>/title")
    async def set_title(note_id: str) -> Response:
        identity = await site.enter()
        body = await read(TitleBody)
        command = SetTitle(note_id, body.title, body.base_version)
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.post("/api/notes/<note_id>/rollback")
    async def roll_back(note_id: str) -> Response:
        identity = await site.enter()
        body = await read(RollbackBody)
        command = RollbackNote(note_id, body.target_version, body.base_version)
        return await _change(rt, identity, note_id, command, body.idempotency_key)

    @routes.delete("/api/notes/<note_id>")
    async def delete_note(note_id: str) -> Response:
        identity = await site.enter()
        workspace = await _workspace_of(rt, note_id, identity, allow=WRITERS)
        base_version = number("base_version", 0, least=0, most=SEQ_MAX)
        command = DeleteNote(note_id, base_version or None)
        await workspace.send(command, key=idempotency_key(), correlation_id=request_id())
        return nothing()

    return routes


async def _workspace_of(
    rt: Runtime, note_id: str, identity: Identity, *, allow: frozenset[str] | None = None
) -> Workspace:
    """Find the workspace of a note in which the caller is a member, to act there.

    A note that the caller may not see is not told from one that is not there (C22).  An id is
    unique among those that the runtime gave; a program may give its own, and then
    ``?workspace_id=`` says which is meant.

    Raises:
        Reject: ``NOTE_NOT_FOUND``; ``ROLE_FORBIDDEN`` for a member of another role; ``BAD_REQUEST``
            where several could be meant.

    """
    check_id(note_id, chars_max=rt.limits.id_chars_max, what="note_id")
    asked = request.args.get("workspace_id")
    there = [asked] if asked is not None else await rt.store.locate(notes.stream_id(note_id))
    roles = {
        workspace_id: role
        for workspace_id in there
        if (role := await rt.workspace(workspace_id).role_of(identity.user_id)) is not None
    }
    if not roles:
        raise _not_found()
    if len(roles) > 1:
        raise Reject("BAD_REQUEST", "several workspaces have this note: say ?workspace_id=")
    ((workspace_id, role),) = roles.items()
    if allow is not None and role not in allow:
        raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
    return rt.workspace(workspace_id).acting(user_id=identity.user_id)


async def _change(
    rt: Runtime,
    identity: Identity,
    note_id: str,
    command: ApplyPatch | SetTitle | RollbackNote,
    key: str | None,
) -> Response:
    workspace = await _workspace_of(rt, note_id, identity, allow=WRITERS)
    key = idempotency_key(key)
    if key is None:
        key = rt.world.new_id()
    receipt = await workspace.send(command, key=key, correlation_id=request_id())
    changed = NoteChangedBody(
        note_id=note_id,
        version=receipt.version,
        event_seq=receipt.version,
        idempotency_key=key,
    )
    return _replayed(answer(changed), receipt)


async def _check_same(rt: Runtime, receipt: Receipt, command: CreateNote) -> None:
    """Refuse another note under a key that made one: there is no original to patch (C1).

    Raises:
        Reject: ``STATE_CONFLICT``.

    """
    (first,) = await rt.store.read_stream(
        receipt.workspace_id, receipt.stream_id, 1, to_event_seq=SEQ_MAX, limit=1, bytes_max=1
    )
    created = notes.decode(first.type, first.type_version, first.payload)
    for name in ("title", "markdown", "note_kind", "access_scope"):
        if getattr(created, name) != getattr(command, name):
            raise Reject("STATE_CONFLICT", "this idempotency key was used with another note")


def _replayed(response: Response, receipt: Receipt) -> Response:
    if receipt.repeated:
        response.headers[REPLAYED] = "true"
    return response


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
