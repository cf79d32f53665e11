"""Lists of entities, as those see them who read: a page, its items, and where it ended."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from ._errors import Reject

StateT = TypeVar("StateT", bound=msgspec.Struct)

_TOKEN_CHARS_MAX = 4_096
"""Of a token: a sort and a stream's id, escaped, are shorter."""


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


def token_of(place: Place) -> str:
    """Return a place as a client gets it and brings it back, opaque: base64url of its JSON."""
    text = msgspec.json.encode((place.sort, place.stream_id))
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def place_of(token: str | None) -> Place:
    """Return the place of a token; without one, where a list begins.

    Raises:
        Reject: ``BAD_REQUEST`` for what is no ``next`` of a page.

    """
    if token is None:
        return BEGINNING
    text = b""
    with suppress(ValueError):
        text = urlsafe_b64decode(token[:_TOKEN_CHARS_MAX] + "==")
    try:
        sort, stream_id = msgspec.json.decode(text, type=tuple[str, str])
    except msgspec.MsgspecError:
        sort = stream_id = "\0"
    if "\0" in sort + stream_id:
        raise Reject("BAD_REQUEST", "after is the next of a page before", field="after")
    return Place(sort, stream_id)
