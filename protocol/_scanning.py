"""What a JSON document may not have in it, found without decoding it, and in steps.

**How deep it is.**  Its brackets outside strings decide that.  Python is slow at looking at one
character after another, and a hostile document of 1 MiB can have half a million brackets, or a
quarter of a million strings with one in each.  So what does not matter is removed first, each by
one pass in C: what escapes a backslash or a quote, all characters but brackets and quotes, and
quotes next to each other.  Those are the two of a string without brackets, or the end of one and
the beginning of the next: whatever follows is inside a string, or outside, as before.  Only the
brackets that are left are summed up, and only where they could be deep at all.

**U+0000**, which PostgreSQL cannot store.

It is done in slices, so that a caller can let others run in between: the worst takes 3 ms.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from ._errors import Reject

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ResultT = TypeVar("ResultT")

SLICE_BYTES = 32 * 1024
"""What is looked at in one step; a shorter document is looked at in one."""
_NUL = rb"\u0000"
_BACKSLASH = rb"\\"
_FOLDED = bytes.maketrans(b"{}", b"[]")
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # one in, one out, as signed bytes
_ROUNDS_MAX = 4
"""Rounds that remove the innermost brackets: a list of objects takes one."""
_ROUND_GAIN = 4
"""A round has to remove one in so many brackets, or another is not worth its time."""


def finished(steps: Generator[None, None, ResultT]) -> ResultT:
    """Return what a computation in steps returns, letting nobody run in between."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result


def check_nesting(document: bytes, nesting_max: int) -> None:
    """Refuse a JSON document that is nested too deeply, without decoding it.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    finished(_nesting_steps(document, nesting_max))


def check_nul(document: bytes) -> None:
    """Refuse a JSON document with an escaped U+0000 in it.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    finished(_nul_steps(document))


def scan(document: bytes, nesting_max: int) -> Generator[None, None, None]:
    """Do what `check_nesting` and `check_nul` do, and yield between their steps.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    yield from _nesting_steps(document, nesting_max)
    yield from _nul_steps(document)


def _nesting_steps(document: bytes, nesting_max: int) -> Generator[None, None, None]:
    if document.count(b"[") + document.count(b"{") <= nesting_max:
        return
    depth, is_inside = 0, 0
    for at, end in _slices(document):
        pieces = _outlined(document[at:end]).split(b'"')
        outside = b"".join(pieces[is_inside::2])
        is_inside ^= len(pieces) % 2 == 0  # an odd number of quotes
        if _may_exceed(outside, nesting_max - depth) and _height(outside) > nesting_max - depth:
            raise Reject("BAD_REQUEST", f"nested deeper than {nesting_max}")
        depth += 2 * outside.count(b"[") - len(outside)
        yield


def _nul_steps(document: bytes) -> Generator[None, None, None]:
    if _NUL not in document:
        return
    for at, end in _slices(document):
        part = document[at : end + len(_NUL) - 1]  # one that the slice's end cuts is found, too
        if _NUL in part and _NUL in part.replace(_BACKSLASH, b""):
            raise Reject("BAD_REQUEST", "U+0000 cannot be stored")
        yield


def _slices(document: bytes) -> Iterator[tuple[int, int]]:
    """Yield where slices begin and end: between a backslash and what it escapes none does."""
    at = 0
    while at < len(document):
        end = min(at + SLICE_BYTES, len(document))
        part = document[at:end]
        if part.endswith(b"\\") and (len(part) - len(part.rstrip(b"\\"))) % 2 == 1:
            end += 1
        yield at, end
        at = end


def _outlined(part: bytes) -> bytes:
    """Return the brackets, and the quotes between those that are in strings and those that are not.

    Of a run of backslashes each one escapes the next, from the left, as `bytes.replace` takes them.
    """
    if b"\\" in part:
        part = part.replace(_BACKSLASH, b"").replace(rb"\"", b"")
    return part.translate(_FOLDED, _NEITHER_BRACKET_NOR_QUOTE).replace(b'""', b"")


def _may_exceed(brackets: bytes, bound: int) -> bool:
    """Return whether brackets may rise above a bound; False is certain.

    Each round without the innermost ones takes at most one off the height.
    """
    for rounds in range(_ROUNDS_MAX + 1):
        if rounds + brackets.count(b"[") <= bound:
            return False
        fewer = brackets.replace(b"[]", b"")
        if (len(brackets) - len(fewer)) * _ROUND_GAIN < len(brackets):
            return True
        brackets = fewer
    return True


def _height(brackets: bytes) -> int:
    """Return how far brackets rise above where they begin."""
    steps = memoryview(brackets.translate(_STEPS)).cast("b")
    return max(accumulate(steps), default=0)
