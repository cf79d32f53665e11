"""The body of every refusal, and what its header has to say beside it."""

from __future__ import annotations

from typing import Any

import msgspec

from dalsegno.protocol import DalsegnoError


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of every error."""

    code: str
    message: str
    details: dict[str, Any] | None
    request_id: str


def challenge(error: DalsegnoError) -> str:
    """Return the ``WWW-Authenticate`` of a 401 (RFC 9110 §11.6.1, RFC 6750 §3).

    Where a route calls it something else, it is raised from the error as it was.
    """
    was = error.__cause__ if isinstance(error.__cause__, DalsegnoError) else error
    if was.code.startswith("TOKEN_"):
        return 'Bearer realm="dalsegno", error="invalid_token"'
    return 'Bearer realm="dalsegno"'
