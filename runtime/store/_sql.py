"""SQL as text: the named statements, and the array literals that carry their parameters.

A column of values is sent as one array literal in text, ``{"a","b",NULL}``, which the statement
casts (``$1::text::bigint[]``): a driver's own adaptation of lists costs three times as much, and an
append has 57 of them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dalsegno.actors import Turn

Quote: TypeAlias = "Callable[[str | None], str]"
"""Returns a text as an element of an array literal."""

_LONG_CHARS = 16 * 1024

_HEADING = re.compile(r"^-- (\w+) --\n", re.MULTILINE)

_CHAIN_SIGN = 1 << 63
_CHAIN_MASK = (1 << 64) - 1

NULL = "NULL"
"""A null in an array literal; text is always quoted, so that no title can be taken for one."""


@cache
def queries() -> dict[str, str]:
    """Return every statement of ``queries.sql``, by its name."""
    text = (files(__package__) / "sql" / "queries.sql").read_text(encoding="utf-8")
    _preamble, *parts = _HEADING.split(text)
    named = dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))
    assert len(named) == len(parts) // 2, "a name is of one statement"
    plain, result = named["append"].rsplit("\n)\n", 1)
    more = f"{plain}\n{named['append_more']}"
    named["append_more"] = f"{more}\n)\n{result}"
    named["append_collecting"] = f"{more}\n{named['append_collecting']}\n)\n{result}"
    return named


def quoted(text: str | None) -> str:
    """Return a text as an element of an array literal."""
    if text is None:
        return NULL
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def is_long(document: str | None) -> bool:
    """Return whether quoting a document takes long enough to let others run before it."""
    return document is not None and len(document) >= _LONG_CHARS


async def quoted_in_turns(documents: Iterable[str | None], turn: Turn) -> Quote:
    """Return `quoted`, with the long ones of these JSON documents quoted already.

    One of a megabyte that is full of quotes takes milliseconds, so others run in between (I10).
    """
    known: dict[int, tuple[str, str]] = {}  # by identity: a hash would look at all of it again
    for document in documents:
        if document is not None and is_long(document):
            await turn.pause()
            known[id(document)] = document, _quoted_long(document)
    if not known:
        return quoted
    return lambda text: known[id(text)][1] if id(text) in known else quoted(text)


def _quoted_long(document: str) -> str:
    """Quote as JSON does, in C: the same as an array literal's but for control characters."""
    written = msgspec.json.encode(document)
    backslashes = 2 * document.count("\\") + document.count('"')
    if written.count(b"\\") > backslashes:
        return quoted(document)
    return written.decode()


def storable(text: str) -> str:
    """Return a message with the characters replaced that PostgreSQL cannot store."""
    return text.replace("\0", "?").encode(errors="replace").decode()


def array(elements: Iterable[str]) -> str:
    """Return an array literal of elements that are quoted already where necessary."""
    return "{" + ",".join(elements) + "}"


def texts(values: Iterable[str | None]) -> str:
    """Return an array literal of texts."""
    several = list(values)
    try:
        written = msgspec.json.encode(several)  # in C; the same but for brackets and escapes
    except UnicodeEncodeError:
        written = b"\\"  # half a character, which the driver refuses
    if b"\\" in written:
        return array(map(quoted, several))
    return f"{{{written[1:-1].decode()}}}"


def numbers(values: Iterable[int | None]) -> str:
    """Return an array literal of integers."""
    return f"{{{msgspec.json.encode(list(values))[1:-1].decode()}}}"


def columns(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Convert rows of ``width`` elements into an array literal for each column."""
    if not rows:
        return ["{}"] * width
    return [array(column) for column in zip(*rows, strict=True)]


def signed(chain: int) -> int:
    """Return the bigint with the bits of a chain, which is an unsigned 64-bit number."""
    return chain - (1 << 64) if chain >= _CHAIN_SIGN else chain


def unsigned(chain: int) -> int:
    """Return the chain with the bits of a bigint."""
    return chain & _CHAIN_MASK
