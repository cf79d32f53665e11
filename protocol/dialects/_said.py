"""What the server says in every dialect, as types, of which documents are made.

A dialect adds its own.  Every answer echoes its message's ``request_id``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

if TYPE_CHECKING:
    from dalsegno.protocol._errors import DalsegnoError

_ENVELOPE = frozenset({"type", "code", "message", "request_id", "details"})

encode_said = msgspec.json.Encoder().encode


class Said(msgspec.Struct, kw_only=True, gc=False):
    """The base of an answer."""

    request_id: str | UnsetType = UNSET
    """That of the message which this answers."""


class Unsubscribed(Said, tag="unsubscribed", kw_only=True, gc=False):
    """A stream is followed no longer."""

    stream_id: str


class Pong(Said, tag="pong", kw_only=True, gc=False):
    """A sign of life that was asked for."""

    server_ts: datetime


class Authenticated(Said, tag="authenticated", kw_only=True, gc=False):
    """A token was accepted."""

    expires_in_ms: int | None
    """How long it is good for; None: it does not expire."""


class Heartbeat(msgspec.Struct, tag="heartbeat", kw_only=True, gc=False):
    """A sign of life."""

    server_ts: datetime


class Reconnect(msgspec.Struct, tag="reconnect", kw_only=True, gc=False):
    """The server shuts down: come back, but not at once."""

    after_ms: int


_FROM_TO = {"first": "from", "last": "to"}


class Hidden(msgspec.Struct, tag="hidden", kw_only=True, gc=False, rename=_FROM_TO):
    """Events in a row that are not shown: that they are there, so that no number is missing."""

    stream_id: str
    first: int
    last: int
    chain: str
    """The chain at the last of them."""


class Error(msgspec.Struct, tag="error", kw_only=True, gc=False):
    """What was refused, or failed; what it is about stands beside, and again in ``details``."""

    code: str
    message: str
    request_id: str | None
    details: dict[str, Any] | None


def asked_by(request_id: str | None) -> str | UnsetType:
    """Return a message's id as its answer has it: left out if the client gave none."""
    return UNSET if request_id is None else request_id


def error_message(error: DalsegnoError, request_id: str | None, **context: Any) -> bytes:  # noqa: ANN401 - JSON
    """Encode an error: the envelope, and its details again, flat, beside it."""
    details = {**error.details, **context}
    said = Error(
        code=error.code, message=error.message, request_id=request_id, details=details or None
    )
    flat = {name: value for name, value in details.items() if name not in _ENVELOPE}
    return encode_said({**msgspec.structs.asdict(said), "type": "error", **flat} if flat else said)
