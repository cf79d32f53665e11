"""The patch algebra: how a text changes without being sent whole.

A patch is a list of operations that walk once over the text, from its beginning:

    {"retain": n}     keep the next n characters
    {"delete": n}     leave out the next n
    {"insert": text}  insert this text here

The text after the last operation is kept.  A character is a Unicode scalar value, which is what
Python's strings count, whatever a reader sees as one.  Zero counts and empty inserts are allowed
and do nothing.

An operation is checked when it is made, so one that exists is valid; whether a patch fits its text
is a question of lengths alone, which `patched_length` answers without touching the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from ._errors import Reject

PATCH_OPS_MAX = 10_000
"""Operations in one patch; more than anybody types, few enough to apply in one go."""


class PatchOp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One operation of a patch: exactly one of the three.

    Raises:
        Reject: ``INVALID_PATCH``, on construction or decoding.

    """

    retain: int | UnsetType = UNSET
    insert: str | UnsetType = UNSET
    delete: int | UnsetType = UNSET

    def __post_init__(self) -> None:
        retain, insert, delete = self.retain, self.insert, self.delete
        if insert is UNSET and (retain is UNSET) is not (delete is UNSET):
            count = delete if retain is UNSET else retain
            if type(count) is not int or count < 0:  # exactly int: True is not a count
                raise _invalid("a count is a whole number, not negative")
        elif insert is not UNSET and retain is UNSET and delete is UNSET:
            _check_insert(insert)
        else:
            raise _invalid("exactly one of retain, insert and delete")


PatchOps = Annotated[Sequence[PatchOp], msgspec.Meta(extra={"code": "INVALID_PATCH"})]
"""A patch as a field of a message; `refusal` gives its errors their code."""


def apply_patch(text: str, ops: Sequence[PatchOp]) -> str:
    """Apply a patch to a text.

    Raises:
        Reject: ``INVALID_PATCH`` if the patch reaches beyond the text's end, or is too long.

    """
    _check_bound(ops)
    pieces: list[str] = []
    at = 0
    for op in ops:
        if op.insert is not UNSET:
            pieces.append(op.insert)
        elif op.retain is not UNSET:
            pieces.append(text[at : at + op.retain])
            at += op.retain
        elif op.delete is not UNSET:
            at += op.delete
    if at > len(text):
        raise _overrun(at, len(text))
    pieces.append(text[at:])
    return "".join(pieces)


def patched_length(length: int, ops: Sequence[PatchOp]) -> int:
    """Return the length of a text of this length after a patch, in characters.

    Raises:
        Reject: ``INVALID_PATCH``, exactly where `apply_patch` would.

    """
    _check_bound(ops)
    at = growth = 0
    for op in ops:
        if op.insert is not UNSET:
            growth += len(op.insert)
        elif op.retain is not UNSET:
            at += op.retain
        elif op.delete is not UNSET:
            at += op.delete
            growth -= op.delete
    if at > length:
        raise _overrun(at, length)
    return length + growth


def _check_insert(text: object) -> None:
    """Refuse what the log cannot hold; only a text that is not ASCII is encoded for that."""
    if not isinstance(text, str):
        raise _invalid("an insert is a text")
    if "\0" in text:
        raise _invalid("U+0000 cannot be stored")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _invalid("a lone surrogate is not text") from None


def _check_bound(ops: Sequence[PatchOp]) -> None:
    if len(ops) > PATCH_OPS_MAX:
        raise _invalid(f"more than {PATCH_OPS_MAX} operations")


def _overrun(at: int, length: int) -> Reject:
    return _invalid("the patch reaches over the end of the text", position=at, length=length)


def _invalid(message: str, **details: int) -> Reject:
    return Reject("INVALID_PATCH", message, **details)
