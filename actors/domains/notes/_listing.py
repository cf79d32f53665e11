"""Under which keys a note is listed, what is on record of it, what the workspace's stream shows.

    live            every note that is not deleted
    tag:…           those with a tag        any:tag:…        … the deleted ones too
    project:…       those of a project      any:project:…    … the deleted ones too
    link:…          those that link to a title, by its digest

A page is read by one key, so what has to be listed together has a key of its own.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.protocol import Audit, Index

from ._domain import Note, NoteDeleted, NoteEvent, notes
from ._links import title_digest

LIVE = "live"
"""The key of every note that is not deleted."""

_ANY = "any:"
_ONLY_LIVE = (LIVE,)


def tag_key(tag: str, *, deleted_too: bool = False) -> str:
    """Return the key of the notes that have a tag."""
    return f"{_ANY if deleted_too else ''}tag:{tag}"


def project_key(project_id: str, *, deleted_too: bool = False) -> str:
    """Return the key of the notes of a project."""
    return f"{_ANY if deleted_too else ''}project:{project_id}"


def link_key(title: str) -> str:
    """Return the key of the notes that link to a title."""
    return f"link:{title_digest(title)}"


@notes.index
def index(note: Note) -> Index:
    """Return the title and the keys by which notes are listed."""
    if note.tags == note.links == () and note.project_id is None:  # asked at every keystroke
        return Index(keys=_ONLY_LIVE if note.deleted_at is None else (), title=note.title)
    keys = [f"tag:{tag}" for tag in note.tags]
    if note.project_id is not None:
        keys.append(f"project:{note.project_id}")
    both = [f"{_ANY}{key}" for key in keys]
    if note.deleted_at is not None:
        return Index(keys=tuple(both), title=note.title)
    links = [f"link:{digest}" for digest in note.links]
    return Index(keys=(LIVE, *keys, *both, *links), title=note.title)


@notes.audit
def on_record(event: NoteEvent, before: Note | None, _after: Note | None) -> Audit | None:
    """Put on record that a note was deleted (KJ-RBAC-5); its history has everything else."""
    if type(event) is not NoteDeleted or before is None:
        return None
    return Audit(action="NOTE_DELETED", old_value={"version": before.version})


class _Seen(msgspec.Struct, frozen=True, gc=False):
    """The fields of any event that the workspace's stream shows."""

    version: int
    rolled_back_to: int | None = None


class _Shown(msgspec.Struct, frozen=True, gc=False):
    """Which note changed, not how."""

    note_id: str
    version: int
    event_seq: int
    """The number in the note's stream."""
    rolled_back_to: int | UnsetType


@notes.view(of=_Seen)
def on_workspace_stream(event: _Seen, note_id: str, version: int) -> _Shown:
    """Return what the workspace's stream shows of an event."""
    target = event.rolled_back_to
    return _Shown(note_id, event.version, version, UNSET if target is None else target)
