"""The encoding of names that come with event after event."""

from __future__ import annotations

from functools import lru_cache

import msgspec

_encode = msgspec.json.encode


@lru_cache(maxsize=4_096)
def quoted(text: str | None) -> str:
    """Return a name as JSON; cached, since the same few come with event after event."""
    return _encode(text).decode()
