"""SQL as text: the named statements, and the array literals that carry their parameters.

A column of many values travels as one array literal in text, ``{"a","b",NULL}``, and the statement
casts it (``$1::text::bigint[]``): a driver's own adaption of lists costs three times as much, and
an append has 42 of them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HEADING = re.compile(r"^-- (\w+) --\n", re.MULTILINE)

_CHAIN_SIGN = 1 << 63
_CHAIN_MASK = (1 << 64) - 1

NULL = "NULL"
"""A null in an array literal; text is always in quotes, so that nobody's title can be one."""


@cache
def queries() -> dict[str, str]:
    """Read every statement of ``queries.sql``, by its name."""
    text = (files(__package__) / "sql" / "queries.sql").read_text(encoding="utf-8")
    _preamble, *parts = _HEADING.split(text)
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def quoted(text: str | None) -> str:
    """Write a text as an element of an array literal."""
    if text is None:
        return NULL
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def storable(text: str) -> str:
    """Write a message of whatever origin without what is no text to PostgreSQL."""
    return text.replace("\0", "?").encode(errors="replace").decode()


def array(elements: Iterable[str]) -> str:
    """Write an array literal of elements that are quoted where they need be."""
    return "{" + ",".join(elements) + "}"


def texts(values: Iterable[str | None]) -> str:
    """Write an array literal of texts."""
    return array(map(quoted, values))


def columns(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Turn rows of ``width`` elements into one array literal a column."""
    if not rows:
        return ["{}"] * width
    return [array(column) for column in zip(*rows, strict=True)]


def signed(chain: int) -> int:
    """Write a chain, unsigned 64 bit, as the bigint with the same bits."""
    return chain - (1 << 64) if chain >= _CHAIN_SIGN else chain


def unsigned(chain: int) -> int:
    """Read a chain from the bigint with the same bits."""
    return chain & _CHAIN_MASK
