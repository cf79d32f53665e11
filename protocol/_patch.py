"""The patch algebra: how a text changes without being sent whole.

A patch is a list of operations that walk once over the text, from its beginning:

    {"retain": n}     keep the next n characters
    {"delete": n}     leave out the next n
    {"insert": text}  insert this text here

The text after the last operation is kept.  A character is a Unicode scalar value, which is what
Python's strings count, whatever a reader sees as one.  Zero counts and empty inserts are allowed
and do nothing.

A patch is data: decoding checks its types, and nothing in Python runs for each operation.  Whether
it is one, and fits its text, is a question of kinds and lengths alone, which `patched_length`
answers without touching the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from ._errors import Reject

PATCH_OPS_MAX = 4_096
"""Operations in one patch; more than anybody types, few enough to apply in one go."""


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class PatchOp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One operation of a patch: exactly one of the three."""

    retain: _Count | UnsetType = UNSET
    insert: str | UnsetType = UNSET
    delete: _Count | UnsetType = UNSET


PatchOps = Annotated[Sequence[PatchOp], msgspec.Meta(extra={"code": "INVALID_PATCH"})]
"""A patch as a field of a message; `refusal` gives its errors their code."""


def apply_patch(text: str, ops: Sequence[PatchOp]) -> str:
    """Apply a patch to a text.

    Raises:
        Reject: ``INVALID_PATCH`` if it is no patch, or reaches beyond the text's end.

    """
    _check_bound(ops)
    pieces: list[str] = []
    at = kept = 0  # what is kept without a change in between is copied at once
    for op in ops:
        retain, insert, delete = op.retain, op.insert, op.delete
        if retain is not UNSET and insert is UNSET and delete is UNSET:
            at += retain
        elif insert is not UNSET and retain is UNSET and delete is UNSET:
            if at > kept:
                pieces.append(text[kept:at])
                kept = at
            pieces.append(insert)
        elif delete is not UNSET and retain is UNSET and insert is UNSET:
            if at > kept:
                pieces.append(text[kept:at])
            at = kept = at + delete
        else:
            raise _no_operation()
    if at > len(text):
        raise _overrun(at, len(text))
    pieces.append(text[kept:])
    return "".join(pieces)


def patched_length(length: int, ops: Sequence[PatchOp]) -> int:
    """Return the length of a text of this length after a patch, in characters.

    Raises:
        Reject: ``INVALID_PATCH``, exactly where `apply_patch` would.

    """
    _check_bound(ops)
    at = growth = 0
    for op in ops:
        retain, insert, delete = op.retain, op.insert, op.delete
        if retain is not UNSET and insert is UNSET and delete is UNSET:
            at += retain
        elif insert is not UNSET and retain is UNSET and delete is UNSET:
            growth += len(insert)
        elif delete is not UNSET and retain is UNSET and insert is UNSET:
            at += delete
            growth -= delete
        else:
            raise _no_operation()
    if at > length:
        raise _overrun(at, length)
    return length + growth


def inserted_bytes(ops: Sequence[PatchOp]) -> int:
    """Return the length of what a patch inserts, UTF-8: its text grows by no more than that."""
    inserts = [op.insert for op in ops if op.insert is not UNSET]
    return sum(len(text) if text.isascii() else len(text.encode()) for text in inserts)


def _check_bound(ops: Sequence[PatchOp]) -> None:
    if len(ops) > PATCH_OPS_MAX:
        raise _invalid(f"more than {PATCH_OPS_MAX} operations")


def _no_operation() -> Reject:
    return _invalid("exactly one of retain, insert and delete")


def _overrun(at: int, length: int) -> Reject:
    return _invalid("the patch reaches over the end of the text", position=at, length=length)


def _invalid(message: str, **details: int) -> Reject:
    return Reject("INVALID_PATCH", message, **details)
