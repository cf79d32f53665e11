"""The encoding of messages that all dialects share."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from dalsegno.protocol._errors import DalsegnoError

_encode = msgspec.json.encode

_ENVELOPE = frozenset({"type", "code", "message", "request_id", "details"})


@lru_cache(maxsize=4_096)
def quoted(text: str | None) -> str:
    """Return a name as JSON; cached, since the same few come with event after event."""
    return _encode(text).decode()


def error_message(error: DalsegnoError, request_id: str | None, **context: Any) -> bytes:  # noqa: ANN401 - JSON
    """Encode an error: the envelope, and its details again, flat, beside it."""
    details = {**error.details, **context}
    flat = {name: value for name, value in details.items() if name not in _ENVELOPE}
    return _encode(
        {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "request_id": request_id,
            "details": details or None,
            **flat,
        }
    )


def message(type_: str, request_id: str | None = None, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
    """Encode any other message; ``request_id`` is left out if the client gave none."""
    if request_id is not None:
        fields["request_id"] = request_id
    return _encode({"type": type_, **fields})
