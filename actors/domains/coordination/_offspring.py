"""What belongs to a trajectory or a scope, and goes when that goes, however much it is.

A command names at most some hundred entities, and a state that lists all of its parts would be
written anew with each.  So the parts of a parent stand on pages of their own, and the parent counts
the pages.  It ends by a timer that takes one page at a time, the last one first:

    parent, 3 pages ── page 0: 200 parts
                    ├─ page 1: 200 parts
                    └─ page 2: 17 parts       the next part goes here, and ends goes first

A part that is deleted by itself stays on its page, and is passed over.  One that is made anew under
its id is on a page once more, perhaps of another parent: it goes once, and with its own alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Never, TypeAlias

import msgspec

from dalsegno.protocol import Domain, On, Touched

PAGE_PARTS = 200
"""Parts on a page: with their parent and the page they are fewer than a command may name."""

Named: TypeAlias = list[tuple[Domain[Any, Any, Any], str]]


class Offspring(msgspec.Struct, frozen=True):
    """A page of a parent's parts, by their streams."""

    streams: tuple[str, ...]


class OffspringAdded(msgspec.Struct, frozen=True):
    """A part was added."""

    stream_id: str


class OffspringEnded(msgspec.Struct, frozen=True):
    """All parts of the page have gone."""


offspring = Domain(
    "offspring", state=Offspring, commands=Never, events=OffspringAdded | OffspringEnded
)


@offspring.evolve
def _added(page: Offspring | None, event: OffspringAdded) -> Offspring:
    before = () if page is None else page.streams
    return Offspring((*before, event.stream_id))


@offspring.evolve
def _ended(_page: Offspring, _event: OffspringEnded) -> Offspring | None:
    return None


def page_id(parent: str, number: int) -> str:
    """Return the id of one of a parent's pages, whose stream may be longer than an id."""
    return f"{blake2b(parent.encode(), digest_size=16).hexdigest()}.{number}"


def pages_of(parent: str, pages: int) -> Named:
    """Return the pages that a further part may be added to: the last one, and the one behind it."""
    return [(offspring, page_id(parent, number)) for number in (pages - 1, pages) if number >= 0]


def add_part(
    parent: str, pages: int, part: str, touched: Touched, *, turned: On[Any]
) -> Sequence[On[Any]]:
    """Return the events that add a part to its parent.

    Args:
        parent: the parent's stream.
        pages: how many pages it has.
        part: the part's stream.
        touched: what `pages_of` named.
        turned: the parent's event that it has one page more, where it needs one.

    """
    if pages:
        last = touched.get(offspring, page_id(parent, pages - 1))
        if last is not None and len(last.streams) < PAGE_PARTS:
            return [On(offspring, page_id(parent, pages - 1), OffspringAdded(part))]
    return [turned, On(offspring, page_id(parent, pages), OffspringAdded(part))]


def parts_on(page: Offspring | None, kinds: Sequence[Domain[Any, Any, Any]]) -> Named:
    """Return the parts on a page with their domains, each once."""
    by_name = {domain.name: domain for domain in kinds}
    streams = () if page is None else page.streams
    split = (stream_id.partition(":") for stream_id in dict.fromkeys(streams))
    return [(by_name[kind], entity_id) for kind, _, entity_id in split]
