"""What a client can meet beside what the server says.

    DalsegnoError
    ├── UnreachableError      nobody's: no connection within the attempts that are allowed
    ├── DisconnectedError     the server ended the connection and wants nobody to come back
    ├── SequenceGapError      the server's: a stream's numbers are not dense
    └── ClientClosedError     the program's: it left the client's ``async with``

The server's own errors arrive as what they were there, by their code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.protocol import (
    DalsegnoError,
    InternalError,
    OutcomeUnknownError,
    OverloadedError,
    Reject,
    StaleCursorError,
    StoreUnavailableError,
    WorkspaceHaltedError,
    WorkspaceMovedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_RETRY_AFTER_S = 1.0


class UnreachableError(DalsegnoError):
    """The server cannot be reached; a command under way may have been applied."""

    code = "UNREACHABLE"
    retryable = True


class DisconnectedError(DalsegnoError):
    """The server ended the connection for good; ``close_code`` says why."""

    code = "DISCONNECTED"

    def __init__(self, close_code: int, reason: str = "") -> None:
        said = f": {reason}" if reason else ""
        super().__init__(f"the server ended the connection with {close_code}{said}")
        self.close_code = close_code
        self.reason = reason


class SequenceGapError(DalsegnoError):
    """Events of a stream are missing; what was given before is complete."""

    code = "SEQUENCE_GAP"


class ClientClosedError(DalsegnoError):
    """The client was closed."""

    code = "CLIENT_CLOSED"


_BY_CODE: dict[str, type[DalsegnoError]] = {
    "STALE_CURSOR": StaleCursorError,
    "STORE_UNAVAILABLE": StoreUnavailableError,
    "DB_UNAVAILABLE": StoreUnavailableError,
    "OUTCOME_UNKNOWN": OutcomeUnknownError,
    "WORKSPACE_HALTED": WorkspaceHaltedError,
    "INTERNAL_ERROR": InternalError,
}


def error_of(code: str, message: str, details: Mapping[str, Any] | None) -> DalsegnoError:
    """Make an error of the server's what it was there."""
    given = dict(details or {})
    if code == "OVERLOADED":
        return OverloadedError(message, retry_after_s=seconds(given.get("retry_after")))
    kind = _BY_CODE.get(code)
    error: DalsegnoError
    if code == "WORKSPACE_MOVED":
        error = WorkspaceMovedError(None, retry_after_s=seconds(given.get("retry_after")))
        error.message = message
    else:
        error = Reject(code, message) if kind is None else kind(message)
    # Set afterwards: their names are the server's, and one may be an argument's.
    error.details = given
    return error


def seconds(value: object) -> float:
    """Read a number of seconds that another program said; a second where it is none."""
    try:
        said = float(str(value))
    except ValueError:
        return _RETRY_AFTER_S
    return said if 0 <= said <= 3600 else _RETRY_AFTER_S
