"""What a note is, what can be asked of it, and what can happen to it.

A note's version is the number of its last event, and every accepted write that changes something
raises it by one.  A deleted note keeps its state, with ``deleted_at`` set: its versions stay
readable, and a rollback brings it back.  Nothing else changes it, and its id is not free again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from dalsegno.protocol import Domain, PatchOps

TITLE_CHARS_MAX = 300
"""A title: 1 to this many printable characters on one line, not all of them blank."""

NOTE_KINDS = frozenset({"markdown", "settings", "media_image", "media_video"})
"""The kinds of notes."""


class Note(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A note as it is, or was when it was deleted."""

    version: int
    title: str
    markdown: str
    note_kind: str
    access_scope: str
    created_by: str | None
    """The user; None for the embedding program."""
    created_at: datetime | None = None
    """None for a note of before this was recorded."""
    deleted_at: datetime | None = None
    project_id: str | None = None
    """As it was set: the project may have been deleted since."""
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    links: tuple[str, ...] = ()
    """The titles that the text links to, as digests; see `links_in`."""


# ------------------------------------------------------------------------------------- commands


class CreateNote(msgspec.Struct, frozen=True, gc=False):
    """Create a note; without an id the runtime makes one."""

    title: str
    markdown: str = ""
    note_kind: str = "markdown"
    access_scope: str = "workspace"
    note_id: str | None = None
    project_id: str | None = None


class ApplyPatch(msgspec.Struct, frozen=True, gc=False):
    """Change the text, based on a version of it."""

    note_id: str
    patch_ops: PatchOps
    base_version: int


class SetTitle(msgspec.Struct, frozen=True, gc=False):
    """Change the title, based on a version of the note."""

    note_id: str
    title: str
    base_version: int


class DeleteNote(msgspec.Struct, frozen=True, gc=False):
    """Delete the note; repeating it does nothing."""

    note_id: str
    base_version: int | None = None


class RollbackNote(msgspec.Struct, frozen=True, gc=False):
    """Restore the title and the text of a version, and a deleted note with them."""

    note_id: str
    target_version: int
    base_version: int | None = None


class SetTags(msgspec.Struct, frozen=True, gc=False):
    """Give the note these tags instead of those that it has."""

    note_id: str
    tags: Sequence[str]
    base_version: int | None = None


class PutMetadata(msgspec.Struct, frozen=True, gc=False):
    """Set one key of the metadata to any JSON value."""

    note_id: str
    key: str
    value: Any
    base_version: int | None = None


class DeleteMetadata(msgspec.Struct, frozen=True, gc=False):
    """Remove one key of the metadata; removing none does nothing."""

    note_id: str
    key: str
    base_version: int | None = None


class SetProject(msgspec.Struct, frozen=True, gc=False):
    """Move the note to a project, or with None out of every one."""

    note_id: str
    project_id: str | None
    base_version: int | None = None


# --------------------------------------------------------------------------------------- events


class NoteCreated(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A note was created."""

    title: str
    markdown: str
    version: int
    note_kind: str
    access_scope: str
    created_by: str | None
    created_at: datetime | None = None
    project_id: str | None = None


class NotePatched(msgspec.Struct, frozen=True, gc=False):
    """The text changed; the patch applies to the version before."""

    patch_ops: PatchOps
    length: int
    """Of the text now, in characters (Unicode scalar values)."""
    version: int


class NoteTitleUpdated(msgspec.Struct, frozen=True, gc=False):
    """The title changed."""

    title: str
    version: int


class NoteDeleted(msgspec.Struct, frozen=True, gc=False):
    """The note was deleted."""

    version: int
    deleted_at: datetime


class NoteRollback(msgspec.Struct, frozen=True, gc=False):
    """The title and the text of an earlier version were restored."""

    title: str
    markdown: str
    version: int
    rolled_back_to: int


class NoteTagsUpdated(msgspec.Struct, frozen=True, gc=False):
    """The note has these tags now, and no others."""

    tags: tuple[str, ...]
    version: int


class NoteMetadataUpdated(msgspec.Struct, frozen=True, gc=False):
    """A key of the metadata has this value now."""

    key: str
    value: Any
    version: int


class NoteMetadataDeleted(msgspec.Struct, frozen=True, gc=False):
    """A key of the metadata is gone."""

    key: str
    version: int


class NoteProjectUpdated(msgspec.Struct, frozen=True, gc=False):
    """The note belongs to another project now, or to none."""

    project_id: str | None
    version: int


NoteCommand: TypeAlias = (
    CreateNote
    | ApplyPatch
    | SetTitle
    | DeleteNote
    | RollbackNote
    | SetTags
    | PutMetadata
    | DeleteMetadata
    | SetProject
)
NoteEvent: TypeAlias = (
    NoteCreated
    | NotePatched
    | NoteTitleUpdated
    | NoteDeleted
    | NoteRollback
    | NoteTagsUpdated
    | NoteMetadataUpdated
    | NoteMetadataDeleted
    | NoteProjectUpdated
)

# Version 2: a stored state of before knows nothing of the links in its text.
notes = Domain("note", state=Note, commands=NoteCommand, events=NoteEvent, version=2)
