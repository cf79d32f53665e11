"""The life of a note: its text, its title, its end and its return.

A patch is folded once, by the evolver; the decider only asks whether it fits, which is a question
of lengths.  So a keystroke in a note of 100 KB copies that text once, and scans as much of it as a
link can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from dalsegno.actors.domains.projects import check_project, project_of
from dalsegno.protocol import (
    SEQ_MAX,
    Context,
    Domain,
    Limits,
    Past,
    Reject,
    Touched,
    apply_patch,
    check_id,
    inserted_bytes,
    patched_length,
)

from ._domain import (
    NOTE_KINDS,
    TITLE_CHARS_MAX,
    ApplyPatch,
    CreateNote,
    DeleteNote,
    Note,
    NoteCreated,
    NoteDeleted,
    NotePatched,
    NoteRollback,
    NoteTitleUpdated,
    RollbackNote,
    SetTitle,
    notes,
)
from ._links import links_after, links_in

_SCOPES = frozenset({"workspace", "project"})
_UTF8_MAX = 4  # bytes of one character


# ------------------------------------------------------------------------------------- deciding


def _its_project(command: CreateNote) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return project_of(command.project_id)


@notes.decide(touches=_its_project)
def create_note(
    note: Note | None, command: CreateNote, context: Context, touched: Touched
) -> NoteCreated:
    """Create a note under an id that no other has or had."""
    if note is not None:
        raise Reject("NOTE_EXISTS", "a note has this id")
    if command.note_kind not in NOTE_KINDS:
        raise Reject("BAD_REQUEST", f"note_kind is one of {', '.join(sorted(NOTE_KINDS))}")
    if command.access_scope not in _SCOPES:
        raise Reject("BAD_REQUEST", "a note's access_scope is 'workspace' or 'project'")
    if command.access_scope == "project" and command.project_id is None:
        raise Reject("PROJECT_SCOPE_INVALID", "which project is not said", status=422)
    check_project(command.project_id, touched)
    check_size(command.markdown, context.limits)
    return NoteCreated(
        title=check_title(command.title),
        markdown=command.markdown,
        version=1,
        note_kind=command.note_kind,
        access_scope="workspace",  # a project's members are the workspace's
        created_by=context.principal.user_id,
        created_at=context.now,
        project_id=command.project_id,
    )


@notes.decide(repeats="original")  # a client may have rebased it meanwhile (C1)
def patch_note(note: Note, command: ApplyPatch, context: Context) -> NotePatched:
    """Change the text, if the patch fits it."""
    check_alive(note)
    ops, bytes_max = command.patch_ops, context.limits.note_bytes_max
    length = patched_length(len(note.markdown), ops)
    if length * _UTF8_MAX > bytes_max:
        most = _bytes_of(note.markdown) + inserted_bytes(ops)
        if most > bytes_max:  # else it need not be made twice
            check_size(apply_patch(note.markdown, ops), context.limits)
    return NotePatched(patch_ops=ops, length=length, version=note.version + 1)


@notes.decide
def set_note_title(note: Note, command: SetTitle) -> NoteTitleUpdated:
    """Change the title."""
    check_alive(note)
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


def check_alive(note: Note) -> None:
    """Raise if a note was deleted.

    Raises:
        Reject: ``NOTE_NOT_FOUND``.

    """
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
        created_at=event.created_at,
        project_id=event.project_id,
        links=links_in(event.markdown),
    )


@notes.evolve
def patched(note: Note, event: NotePatched) -> Note:
    """Apply the patch."""
    markdown = apply_patch(note.markdown, event.patch_ops)
    links = links_after(note.links, note.markdown, markdown, event.patch_ops)
    return replace(note, markdown=markdown, links=links, version=event.version)


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
        links=links_in(event.markdown),
        deleted_at=None,
        version=event.version,
    )
