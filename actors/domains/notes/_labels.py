"""What is said about a note beside its text: tags, metadata, and the project that it is part of.

A rollback restores none of it: it is about the note, not about a version of its text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from dalsegno.actors.domains.projects import check_project, project_of
from dalsegno.protocol import Domain, Reject, Touched, check_id

from ._domain import (
    DeleteMetadata,
    Note,
    NoteMetadataDeleted,
    NoteMetadataUpdated,
    NoteProjectUpdated,
    NoteTagsUpdated,
    PutMetadata,
    SetProject,
    SetTags,
    notes,
)
from ._text import check_alive

TAGS_MAX = 64
"""Tags of one note; it is listed under each."""
TAG_CHARS_MAX = 64
"""A tag: 1 to this many printable characters."""
METADATA_KEYS_MAX = 100
"""Keys of one note's metadata …"""
METADATA_BYTES_MAX = 64 * 1024
"""… and its length as JSON: every event of the note copies the state that it is part of."""

_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_RESERVED = "system."


# ------------------------------------------------------------------------------------- deciding


@notes.decide
def set_note_tags(note: Note, command: SetTags) -> NoteTagsUpdated | None:
    """Replace the tags."""
    check_alive(note)
    tags = check_tags(command.tags)
    return None if tags == note.tags else NoteTagsUpdated(tags, note.version + 1)


@notes.decide
def put_metadata(note: Note, command: PutMetadata) -> NoteMetadataUpdated | None:
    """Set a key of the metadata."""
    check_alive(note)
    _check_key(command.key)
    changed = {**note.metadata, command.key: command.value}
    if len(changed) > METADATA_KEYS_MAX:
        raise Reject("PAYLOAD_TOO_LARGE", f"a note's metadata has at most {METADATA_KEYS_MAX} keys")
    written = msgspec.json.encode(changed)
    if len(written) > METADATA_BYTES_MAX:
        message = f"a note's metadata has at most {METADATA_BYTES_MAX} bytes"
        raise Reject("PAYLOAD_TOO_LARGE", message, size=len(written))
    # As they are written: to Python, True is 1 and 1 is 1.0.
    if written == msgspec.json.encode(note.metadata):
        return None
    return NoteMetadataUpdated(command.key, command.value, note.version + 1)


@notes.decide
def delete_metadata(note: Note, command: DeleteMetadata) -> NoteMetadataDeleted | None:
    """Remove a key of the metadata, if it is there."""
    check_alive(note)
    _check_key(command.key)
    if command.key not in note.metadata:
        return None
    return NoteMetadataDeleted(command.key, note.version + 1)


def _new_project(command: SetProject) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return project_of(command.project_id)


@notes.decide(touches=_new_project)
def set_project(note: Note, command: SetProject, touched: Touched) -> NoteProjectUpdated | None:
    """Move the note to a project that there is."""
    check_alive(note)
    if command.project_id == note.project_id:
        return None
    check_project(command.project_id, touched)
    return NoteProjectUpdated(command.project_id, note.version + 1)


def check_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Check and return tags, each once, in the order in which they were given.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    same = (unicodedata.normalize("NFC", tag.strip()) for tag in tags)
    kept = tuple(dict.fromkeys(same))
    if len(kept) > TAGS_MAX:
        raise Reject("BAD_REQUEST", f"a note has at most {TAGS_MAX} tags", field="tags")
    for tag in kept:
        check_id(tag, chars_max=TAG_CHARS_MAX, what="tag")
    return kept


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise Reject("BAD_REQUEST", "a key has 1 to 64 of a-z 0-9 . _ -", field="key")
    if key.startswith(_RESERVED):
        message = f"keys that begin with {_RESERVED!r} are not for clients"
        raise Reject("RULE_INVALID", message, status=422, field="key")


# -------------------------------------------------------------------------------------- folding


@notes.evolve
def tags_updated(note: Note, event: NoteTagsUpdated) -> Note:
    """Set the tags."""
    return replace(note, tags=event.tags, version=event.version)


@notes.evolve
def metadata_updated(note: Note, event: NoteMetadataUpdated) -> Note:
    """Set a key of the metadata."""
    metadata = {**note.metadata, event.key: event.value}
    return replace(note, metadata=metadata, version=event.version)


@notes.evolve
def metadata_deleted(note: Note, event: NoteMetadataDeleted) -> Note:
    """Remove a key of the metadata."""
    metadata = {key: value for key, value in note.metadata.items() if key != event.key}
    return replace(note, metadata=metadata, version=event.version)


@notes.evolve
def project_updated(note: Note, event: NoteProjectUpdated) -> Note:
    """Set the project."""
    return replace(note, project_id=event.project_id, version=event.version)
