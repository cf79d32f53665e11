"""What is said about a note beside its text: its tags, its metadata, its project."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import msgspec
from quart import Blueprint, Response

from dalsegno.actors.domains.notes import (
    DeleteMetadata,
    PutMetadata,
    SetProject,
    SetTags,
    check_tags,
    notes,
)

from ._conditions import base_version, query_base_version, tagged
from ._envelope import answer, read, read_any, replayed
from ._located import delete, send_change
from ._route_context import RouteContext, needed_key

if TYPE_CHECKING:
    from dalsegno.actors import Receipt


class TagsBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to replace the tags."""

    tags: list[str]
    base_version: int | None = None
    idempotency_key: str | None = None


class NoteProjectBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to move a note to a project, or out of every one."""

    project_id: str | None
    base_version: int | None = None
    idempotency_key: str | None = None


class LabelledBody(msgspec.Struct, frozen=True, kw_only=True):
    """What is common to the answers."""

    note_id: str
    version: int
    event_seq: int
    idempotency_key: str


class TagsSetBody(LabelledBody, frozen=True, kw_only=True):
    """A note's tags after a change."""

    tags: tuple[str, ...]


class MetadataSetBody(LabelledBody, frozen=True, kw_only=True):
    """The key of the metadata that was set."""

    key: str


class NoteProjectSetBody(LabelledBody, frozen=True, kw_only=True):
    """A note's project after a change."""

    project_id: str | None


class _Common(TypedDict):
    note_id: str
    version: int
    event_seq: int
    idempotency_key: str


def note_label_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("note_labels", __name__)
    rt = context.rt

    @routes.put("/api/notes/<note_id>/tags")
    async def set_tags(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(TagsBody, known=True)
        command = SetTags(note_id, body.tags, base_version(body.base_version))
        key = needed_key(rt, body.idempotency_key)
        receipt = await send_change(rt, notes, identity, note_id, command, key)
        tags = check_tags(body.tags)
        return _labelled(TagsSetBody(tags=tags, **_common(receipt, key)), receipt)

    @routes.put("/api/notes/<note_id>/metadata/<key>")
    async def put_metadata(note_id: str, key: str) -> Response:
        identity = await context.authenticate()
        command = PutMetadata(note_id, key, await read_any(), query_base_version())
        once = needed_key(rt)
        receipt = await send_change(rt, notes, identity, note_id, command, once)
        return _labelled(MetadataSetBody(key=key, **_common(receipt, once)), receipt)

    @routes.delete("/api/notes/<note_id>/metadata/<key>")
    async def delete_metadata(note_id: str, key: str) -> Response:
        identity = await context.authenticate()
        command = DeleteMetadata(note_id, key, query_base_version())
        return await delete(rt, notes, identity, note_id, command)

    @routes.put("/api/notes/<note_id>/project")
    async def set_project(note_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(NoteProjectBody, known=True)
        command = SetProject(note_id, body.project_id, base_version(body.base_version))
        key = needed_key(rt, body.idempotency_key)
        receipt = await send_change(rt, notes, identity, note_id, command, key)
        moved = NoteProjectSetBody(project_id=body.project_id, **_common(receipt, key))
        return _labelled(moved, receipt)

    return routes


def _common(receipt: Receipt, key: str) -> _Common:
    return {
        "note_id": receipt.entity_id,
        "version": receipt.version,
        "event_seq": receipt.version,
        "idempotency_key": key,
    }


def _labelled(body: LabelledBody, receipt: Receipt) -> Response:
    return tagged(replayed(answer(body), receipt), receipt.version)
