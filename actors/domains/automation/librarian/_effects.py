"""What each kind of operation does to a note, exactly (KJ §1.5.7, LIM-LIB-01).

An operation is decided by the note's own deciders, so that it is bound by what binds a user's
write; and by the version that the proposal has seen, or that an earlier operation of the same
proposal has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.domains.notes import (
    ApplyPatch,
    CreateNote,
    Note,
    SetTags,
    SetTitle,
    create_note,
    link_parts,
    patch_note,
    set_note_tags,
    set_note_title,
)
from dalsegno.protocol import Context, PatchOp, Reject, Touched

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._reports import ApplyResult, LibrarianOperation, RejectReason


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation does."""

    result: ApplyResult
    note_id: str | None = None
    version: int | None = None
    """Of the note, after it."""
    event: Any = None
    """What happens to the note; None: nothing does."""


class NotAppliedError(Exception):
    """An operation that cannot be carried out, and why."""

    def __init__(self, reason: RejectReason, detail: str | None = None) -> None:
        super().__init__(reason)
        self.reason: RejectReason = reason
        self.detail = detail


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation is carried out on."""

    operation: LibrarianOperation
    note: Note | None
    """The target, as it is now."""
    base_version: int | None
    """The version of it that the operation goes on from."""
    context: Context
    touched: Touched

    def target(self) -> tuple[str, Note]:
        """Return the note, which has to be as the proposal knows it.

        Raises:
            NotAppliedError: there is none, or somebody has changed it.

        """
        note_id = self.operation.target_note_id
        if note_id is None:
            raise NotAppliedError("MISSING_TARGET_NOTE")
        if self.note is None or self.note.deleted_at is not None:
            raise NotAppliedError("TARGET_NOTE_NOT_FOUND")
        if self.note.version != self.base_version:
            detail = f"VERSION_CONFLICT: expected {self.base_version}, current {self.note.version}"
            raise NotAppliedError("APPLY_FAILED", detail)
        return note_id, self.note


def effect_of(aim: Aim) -> Effect:
    """Return what an operation does.

    Raises:
        NotAppliedError: it cannot be carried out; nothing happens.

    """
    act = _KINDS.get(aim.operation.kind)
    if act is None:
        raise NotAppliedError("UNSUPPORTED_APPLY_KIND")
    try:
        return act(aim)
    except Reject as error:
        raise NotAppliedError("APPLY_FAILED", f"{error.code}: {error.message}") from error


def _create(aim: Aim) -> Effect:
    said = aim.operation
    title = said.title or (said.target_path or "").rpartition("/")[2]
    command = CreateNote(title=title, markdown=said.body_markdown)
    event = create_note(None, command, aim.context, aim.touched)
    return Effect(result="created", note_id=aim.context.new_id(), version=1, event=event)


def _rewrite(aim: Aim) -> Effect:
    note_id, note = aim.target()
    return _with_text(aim, note_id, note, "rewritten")


def _relink(aim: Aim) -> Effect:
    note_id, note = aim.target()
    if not _differ_in_links_alone(note.markdown, aim.operation.body_markdown):
        raise NotAppliedError("APPLY_FAILED", "the text differs in more than its links")
    return _with_text(aim, note_id, note, "relinked")


def _with_text(aim: Aim, note_id: str, note: Note, result: ApplyResult) -> Effect:
    body = aim.operation.body_markdown
    if body == note.markdown.strip():  # a model's text has no blanks at its ends
        return _unchanged(note_id, note)
    patch = ApplyPatch(note_id, _replacing(note.markdown, body), note.version)
    return _changed(note_id, note, patch_note(note, patch, aim.context), result)


def _retitle(aim: Aim) -> Effect:
    note_id, note = aim.target()
    try:
        event = set_note_title(note, SetTitle(note_id, aim.operation.title, note.version))
    except Reject as error:
        raise NotAppliedError("INVALID_RETITLE_PAYLOAD", error.message) from error
    if aim.operation.title == note.title:
        return _unchanged(note_id, note)
    return _changed(note_id, note, event, "retitled")


def _retag(aim: Aim) -> Effect:
    note_id, note = aim.target()
    lines = (line.strip() for line in aim.operation.body_markdown.split("\n"))
    tags = [line for line in lines if line]
    event = set_note_tags(note, SetTags(note_id, tags, note.version))
    return _changed(note_id, note, event, "retagged")


def _defer(_aim: Aim) -> Effect:
    return Effect(result="deferred")


def _changed(note_id: str, note: Note, event: object, result: ApplyResult) -> Effect:
    if event is None:
        return _unchanged(note_id, note)
    return Effect(result=result, note_id=note_id, version=note.version + 1, event=event)


def _unchanged(note_id: str, note: Note) -> Effect:
    return Effect(result="no_change", note_id=note_id, version=note.version)


_KINDS: dict[str, Callable[[Aim], Effect]] = {
    "create_note": _create,
    "rewrite_note": _rewrite,
    "retitle_note": _retitle,
    "relink_note": _relink,
    "retag_note": _retag,
    "defer": _defer,
}


# ---------------------------------------------------------------------------------------- texts


def _replacing(before: str, after: str) -> list[PatchOp]:
    """Return a patch that makes one text of another, and touches what lies between the first and
    the last difference.
    """
    start, end = _ends_in_common(before, after)
    ops = [PatchOp(retain=start)] if start else []
    if gone := len(before) - start - end:
        ops.append(PatchOp(delete=gone))
    if new := after[start : len(after) - end]:
        ops.append(PatchOp(insert=new))
    return ops


def _ends_in_common(one: str, other: str) -> tuple[int, int]:
    """Return how many characters two texts have in common at their beginning, then at their end."""
    most = min(len(one), len(other))
    start = _common(one, other, most)
    return start, _common(one[::-1], other[::-1], most - start)


def _common(one: str, other: str, most: int) -> int:
    """Return how many characters two texts have in common at their beginning, up to a number."""
    low, high = 0, most
    while low < high:  # by halves: slices are compared at once
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _differ_in_links_alone(before: str, after: str) -> bool:
    """Return whether what stands outside of links in either text stands in the other, in order.

    There it may be within a link, so that words are made a link, or one is unmade.  Blanks do not
    count.
    """
    outside_before, all_before = _written(before)
    outside_after, all_after = _written(after)
    return _is_within(outside_before, all_after) and _is_within(outside_after, all_before)


def _written(text: str) -> tuple[str, str]:
    """Return what is written outside of links, and that with their titles; without blanks."""
    outside, everything = [], []
    for part, is_link in link_parts(text):
        written = "".join(part.split())
        everything.append(written)
        if not is_link:
            outside.append(written)
    return "".join(outside), "".join(everything)


def _is_within(one: str, other: str) -> bool:
    """Return whether the characters of a text are in another one, in their order."""
    if len(one) > len(other):
        return False
    start, end = _ends_in_common(one, other)
    characters = iter(other[start : len(other) - end])
    return all(character in characters for character in one[start : len(one) - end])
