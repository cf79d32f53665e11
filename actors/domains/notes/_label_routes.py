"""What is said over HTTP about a note beside its text: its tags, its metadata, its project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from dalsegno.protocol import Receipt
from dalsegno.protocol.routes import Asked, CommandRoute

from ._domain import DeleteMetadata, PutMetadata, SetProject, SetTags
from ._labels import check_tags
from ._routes import OF_NOTE, NoteBasis, NoteParams

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route


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


class MetadataParams(NoteBasis, frozen=True, kw_only=True):
    """The parameters of a change of one key of the metadata."""

    key: str


def _set_tags(asked: Asked[NoteParams, TagsBody]) -> SetTags:
    body = asked.body
    return SetTags(asked.params.note_id, body.tags, asked.based_on(body.base_version))


def _tags_set(asked: Asked[NoteParams, TagsBody], receipt: Receipt) -> TagsSetBody:
    return TagsSetBody(tags=check_tags(asked.body.tags), **_common(asked, receipt))


def _put_metadata(asked: Asked[MetadataParams, Any]) -> PutMetadata:
    params = asked.params
    base = asked.based_on(params.base_version)
    return PutMetadata(params.note_id, params.key, asked.body, base)


def _metadata_set(asked: Asked[MetadataParams, Any], receipt: Receipt) -> MetadataSetBody:
    return MetadataSetBody(key=asked.params.key, **_common(asked, receipt))


def _delete_metadata(asked: Asked[MetadataParams, None]) -> DeleteMetadata:
    params = asked.params
    return DeleteMetadata(params.note_id, params.key, asked.based_on(params.base_version))


def _set_project(asked: Asked[NoteParams, NoteProjectBody]) -> SetProject:
    body = asked.body
    return SetProject(asked.params.note_id, body.project_id, asked.based_on(body.base_version))


def _project_set(asked: Asked[NoteParams, NoteProjectBody], receipt: Receipt) -> NoteProjectSetBody:
    return NoteProjectSetBody(project_id=asked.body.project_id, **_common(asked, receipt))


def _common(asked: Asked[Any, Any], receipt: Receipt) -> _Common:
    return {
        "note_id": receipt.entity_id,
        "version": receipt.version,
        "event_seq": receipt.version,
        "idempotency_key": asked.made_key,
    }


label_routes: tuple[Route, ...] = (
    CommandRoute(
        "PUT",
        "/api/notes/{note_id}/tags",
        summary="Replace a note's tags.",
        at=OF_NOTE,
        params=NoteParams,
        body=TagsBody,
        command=_set_tags,
        returns=TagsSetBody,
        answer=_tags_set,
        makes_key=True,
    ),
    CommandRoute(
        "PUT",
        "/api/notes/{note_id}/metadata/{key}",
        summary="Set a key of a note's metadata to any JSON.",
        at=OF_NOTE,
        params=MetadataParams,
        body=Any,
        command=_put_metadata,
        returns=MetadataSetBody,
        answer=_metadata_set,
        makes_key=True,
    ),
    CommandRoute(
        "DELETE",
        "/api/notes/{note_id}/metadata/{key}",
        summary="Remove a key of a note's metadata.",
        at=OF_NOTE,
        params=MetadataParams,
        command=_delete_metadata,
    ),
    CommandRoute(
        "PUT",
        "/api/notes/{note_id}/project",
        summary="Move a note to a project, or out of every one.",
        at=OF_NOTE,
        params=NoteParams,
        body=NoteProjectBody,
        command=_set_project,
        returns=NoteProjectSetBody,
        answer=_project_set,
        makes_key=True,
    ),
)
