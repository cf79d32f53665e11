"""Errors as callers of the source know them: its codes, and the statuses that it gives them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dalsegno.protocol import renamed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol import DalsegnoError

_CALLED: Mapping[str, tuple[str, int | None]] = MappingProxyType(
    {
        "AUTH_REQUIRED": ("UNAUTHORIZED", None),
        "INVALID_CREDENTIALS": ("UNAUTHORIZED", None),
        "SESSION_EXPIRED": ("TOKEN_EXPIRED", None),
        "SESSION_REVOKED": ("UNAUTHORIZED", None),
        "TOKEN_INVALID": ("INVALID_TOKEN", None),
        "CSRF_INVALID": ("FORBIDDEN", None),
        "ORIGIN_FORBIDDEN": ("FORBIDDEN", None),
        "HOST_FORBIDDEN": ("FORBIDDEN", None),
        "ROLE_FORBIDDEN": ("FORBIDDEN", None),
        # Who is no member of a tenant does not learn whether there is one.
        "WORKSPACE_NOT_FOUND": ("FORBIDDEN", 403),
        "WORKSPACE_ARCHIVED": ("STATE_CONFLICT", None),
        "BAD_REQUEST": ("VALIDATION_FAILED", None),
        "VERSION_CONFLICT": ("CONCURRENT_MODIFICATION", None),
        "AGENT_NOTE_NOT_FOUND": ("NOTE_NOT_FOUND", None),
        "AGENT_LOCK_NOT_FOUND": ("LOCK_NOT_FOUND", None),
        "AGENT_MESSAGE_NOT_FOUND": ("MESSAGE_NOT_FOUND", None),
        "TURN_NOT_FOUND": ("ENTITY_NOT_FOUND", None),
        "DELEGATION_NOT_FOUND": ("ENTITY_NOT_FOUND", None),
        "HANDOFF_NOT_FOUND": ("ENTITY_NOT_FOUND", None),
        "AGENT_EDGE_NOT_FOUND": ("ENTITY_NOT_FOUND", None),
        "TOOL_EXECUTION_NOT_FOUND": ("ENTITY_NOT_FOUND", None),
        "SUMMARIZATION_NOT_FOUND": ("ENTITY_NOT_FOUND", None),
        "RATE_LIMITED": ("TOO_MANY_REQUESTS", None),
        "OVERLOADED": ("SERVICE_UNAVAILABLE", None),
        "STORE_UNAVAILABLE": ("SERVICE_UNAVAILABLE", None),
        "NOT_READY": ("SERVICE_UNAVAILABLE", None),
        "DRAINING": ("SERVICE_UNAVAILABLE", None),
        "CODE_TOO_OLD": ("SERVICE_UNAVAILABLE", None),
        "WORKSPACE_HALTED": ("SERVICE_UNAVAILABLE", None),
        "OUTCOME_UNKNOWN": ("TIMEOUT", None),
    }
)
"""By our codes, the source's, and the status where it is another one; others have one name."""

_MISSING = "Object missing required field"
"""How a document is refused that leaves out what it has to have."""


def as_known(error: DalsegnoError) -> DalsegnoError:
    """Return an error as the source calls it."""
    code, status = _CALLED.get(error.code, (error.code, None))
    if error.code == "BAD_REQUEST" and _is_missing(error):
        code = "MISSING_FIELD"
    return error if code == error.code else renamed(error, code, status)


def as_no_tenant(error: DalsegnoError) -> DalsegnoError:
    """Return the error of a read of a tenant: for who is no member there is none."""
    if error.code in {"WORKSPACE_NOT_FOUND", "ROLE_FORBIDDEN"}:
        return renamed(error, "TENANT_NOT_FOUND", 404)
    return as_known(error)


def _is_missing(error: DalsegnoError) -> bool:
    return error.message.startswith(_MISSING) or " is missing" in error.message
