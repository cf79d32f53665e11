"""Where a page of a list ended, as a client gets it and brings it back: opaque, and checked."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress

import msgspec

from dalsegno.actors import BEGINNING, Place
from dalsegno.protocol import Reject

_CHARS_MAX = 4_096
"""Of a token: a sort and a stream's id, escaped, are shorter."""


def token_of(place: Place) -> str:
    """Return the token of a place: base64url of its JSON."""
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
        text = urlsafe_b64decode(token[:_CHARS_MAX] + "==")
    try:
        sort, stream_id = msgspec.json.decode(text, type=tuple[str, str])
    except msgspec.MsgspecError:
        sort = stream_id = "\0"
    if "\0" in sort + stream_id:
        raise Reject("BAD_REQUEST", "after is the next of a page before", field="after")
    return Place(sort, stream_id)
