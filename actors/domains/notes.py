"""Notes: titled texts that several people and agents change at once.

A note's version is the number of its last event, and every accepted write raises it by one.  A
deleted note keeps its state, with ``deleted_at`` set: its versions stay readable, and a rollback
brings it back.  Nothing else changes it, and its id is not free again.

A patch is folded once, by the evolver; the decider only asks whether it fits, which is a question
of lengths.  So a keystroke in a note of 100 KB copies that text once and scans none of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from dalsegno.protocol import (
    SEQ_MAX,
    Context,
    Domain,
    Index,
    Limits,
    Past,
    PatchOps,
    Reject,
    apply_patch,
    check_id,
    inserted_bytes,
    patched_length,
)

TITLE_CHARS_MAX = 300
"""A title: 1 to this many printable characters on one line, not all of them blank."""

NOTE_KINDS = frozenset({"markdown", "settings", "media_image", "media_video"})
"""The kinds of notes."""

_UTF8_MAX = 4  # bytes of one character


class Note(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A note as it is, or was when it was deleted."""

    version: int
    title: str
    markdown: str
    note_kind: str
    access_scope: str
    created_by: str | None
    """The user; None for the embedding program."""
    deleted_at: datetime | None = None


class CreateNote(msgspec.Struct, frozen=True, gc=False):
    """Create a note; without an id the runtime makes one."""

    title: str
    markdown: str = ""
    note_kind: str = "markdown"
    access_scope: str = "workspace"
    note_id: str | None = None


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


class NoteCreated(msgspec.Struct, frozen=True, gc=False):
    """A note was created."""

    title: str
    markdown: str
    version: int
    note_kind: str
    access_scope: str
    created_by: str | None


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


NoteCommand: TypeAlias = CreateNote | ApplyPatch | SetTitle | DeleteNote | RollbackNote
NoteEvent: TypeAlias = NoteCreated | NotePatched | NoteTitleUpdated | NoteDeleted | NoteRollback

notes = Domain("note", state=Note, commands=NoteCommand, events=NoteEvent)


# ------------------------------------------------------------------------------------- deciding


@notes.decide
def create(note: Note | None, command: CreateNote, context: Context) -> NoteCreated:
    """Create a note under an id that no other has or had."""
    if note is not None:
        raise Reject("NOTE_EXISTS", "a note has this id")
    if command.note_kind not in NOTE_KINDS:
        raise Reject("BAD_REQUEST", f"note_kind is one of {', '.join(sorted(NOTE_KINDS))}")
    if command.access_scope != "workspace":
        raise Reject("BAD_REQUEST", "a note's access_scope is 'workspace'; others are not offered")
    check_size(command.markdown, context.limits)
    return NoteCreated(
        title=check_title(command.title),
        markdown=command.markdown,
        version=1,
        note_kind=command.note_kind,
        access_scope=command.access_scope,
        created_by=context.principal.user_id,
    )


@notes.decide(repeats="original")  # a client may have rebased it meanwhile (C1)
def patch(note: Note, command: ApplyPatch, context: Context) -> NotePatched:
    """Change the text, if the patch fits it."""
    _check_alive(note)
    ops, bytes_max = command.patch_ops, context.limits.note_bytes_max
    length = patched_length(len(note.markdown), ops)
    if length * _UTF8_MAX > bytes_max:
        most = _bytes_of(note.markdown) + inserted_bytes(ops)
        if most > bytes_max:  # else it need not be made twice
            check_size(apply_patch(note.markdown, ops), context.limits)
    return NotePatched(patch_ops=ops, length=length, version=note.version + 1)


@notes.decide
def set_title(note: Note, command: SetTitle) -> NoteTitleUpdated:
    """Change the title."""
    _check_alive(note)
    return NoteTitleUpdated(title=check_title(command.title), version=note.version + 1)


@notes.decide
def put_away(note: Note, command: DeleteNote, context: Context) -> NoteDeleted | None:
    """Delete the note, once."""
    if note.deleted_at is not None:
        return None
    return NoteDeleted(version=note.version + 1, deleted_at=context.now)


def _target(command: RollbackNote) -> int | None:
    """Return the version to load; no store is asked for a number that it cannot hold."""
    return command.target_version if 1 <= command.target_version <= SEQ_MAX else None


@notes.decide(needs=_target)
def roll_back(note: Note, command: RollbackNote, past: Past, context: Context) -> NoteRollback:
    """Restore the title and the text of a version, as a new one."""
    if not 1 <= command.target_version <= note.version or past.state is None:
        raise Reject("NOTE_NOT_FOUND", f"the note has no version {command.target_version}")
    then: Note = past.state
    if then.deleted_at is not None:
        raise Reject("INVALID_PATCH", f"at version {command.target_version} the note was deleted")
    check_size(then.markdown, context.limits)
    return NoteRollback(
        title=then.title,
        markdown=then.markdown,
        version=note.version + 1,
        rolled_back_to=command.target_version,
    )


def check_title(title: str) -> str:
    """Check and return a title.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    check_id(title, chars_max=TITLE_CHARS_MAX, what="title")
    if title.isspace():
        raise Reject("BAD_REQUEST", "a title is not blank")
    return title


def check_size(markdown: str, limits: Limits) -> None:
    """Raise if a text is too long, measuring only one that may be.

    Raises:
        Reject: ``PAYLOAD_TOO_LARGE``.

    """
    bytes_max = limits.note_bytes_max
    if len(markdown) * _UTF8_MAX <= bytes_max:
        return
    size = _bytes_of(markdown)
    if size > bytes_max:
        raise Reject("PAYLOAD_TOO_LARGE", f"a note has at most {bytes_max} bytes", size=size)


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _check_alive(note: Note) -> None:
    if note.deleted_at is not None:
        raise Reject("NOTE_NOT_FOUND", "the note was deleted")


# -------------------------------------------------------------------------------------- folding


@notes.evolve
def created(_note: Note | None, event: NoteCreated) -> Note:
    """Create the note."""
    return Note(
        version=event.version,
        title=event.title,
        markdown=event.markdown,
        note_kind=event.note_kind,
        access_scope=event.access_scope,
        created_by=event.created_by,
    )


@notes.evolve
def patched(note: Note, event: NotePatched) -> Note:
    """Apply the patch."""
    markdown = apply_patch(note.markdown, event.patch_ops)
    return replace(note, markdown=markdown, version=event.version)


@notes.evolve
def title_updated(note: Note, event: NoteTitleUpdated) -> Note:
    """Set the title."""
    return replace(note, title=event.title, version=event.version)


@notes.evolve
def deleted(note: Note, event: NoteDeleted) -> Note:
    """Mark the note as deleted, and keep everything."""
    return replace(note, deleted_at=event.deleted_at, version=event.version)


@notes.evolve
def rolled_back(note: Note, event: NoteRollback) -> Note:
    """Set title and text; the note is no longer deleted."""
    return replace(
        note,
        title=event.title,
        markdown=event.markdown,
        deleted_at=None,
        version=event.version,
    )


# ------------------------------------------------------------------------- listing and viewing


@notes.index
def index(note: Note) -> Index:
    """Return the title, by which notes are listed."""
    return Index(title=note.title)


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
