"""Lists of entities, as those see them who read: a page, its items, and where it ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

StateT = TypeVar("StateT", bound=msgspec.Struct)


class Place(msgspec.Struct, frozen=True):
    """Where a page of a list ended."""

    sort: str = ""
    """Empty in a list by id."""
    stream_id: str = ""


BEGINNING = Place()
"""Before the first item of any list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed(Generic[StateT]):
    """An entity in a list, with its state."""

    entity_id: str
    version: int
    state: StateT
    keys: tuple[str, ...]
    sort: str | None
    title: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Generic[StateT]):
    """A page of a list with states, as of one moment."""

    event_seq: int
    """The last event that it reflects: subscribe after it."""
    items: list[Listed[StateT]]
    next: Place | None
    """Where the next page begins; None: this was the last."""
