"""The body of every refusal."""

from __future__ import annotations

from typing import Any

import msgspec


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of every error."""

    code: str
    message: str
    details: dict[str, Any] | None
    request_id: str
