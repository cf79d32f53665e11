"""The errors of a client, in addition to those that the server sends.

    DalsegnoError
    ├── UnreachableError      no connection within the attempts that are allowed
    │   └── NoTokenError      … since the program's ``token=`` gave no token
    ├── DisconnectedError     the server ended the connection and refuses further ones
    ├── SequenceGapError      the server's fault: a stream's numbers are not dense
    ├── UnsafeAddressError    a server's fault: it sends the session where no TLS is
    └── ClientClosedError     the program's fault: it left the client's ``async with``

The server's errors arrive as the classes that they had there, according to their codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.protocol import (
    DalsegnoError,
    DrainingError,
    InternalError,
    NotReadyError,
    OutcomeUnknownError,
    OverloadedError,
    RateLimitedError,
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
    """The server cannot be reached; a command that was sent may have been applied."""

    code = "UNREACHABLE"
    retryable = True


class NoTokenError(UnreachableError):
    """The program's ``token=`` gave no token: it raised (``__cause__``), or took too long."""

    code = "NO_TOKEN"


class DisconnectedError(DalsegnoError):
    """The server ended the connection for good; ``close_code`` says why."""

    code = "DISCONNECTED"

    def __init__(self, close_code: int, reason: str = "") -> None:
        said = f": {reason}" if reason else ""
        super().__init__(f"the server ended the connection with {close_code}{said}")
        self.close_code = close_code
        self.reason = reason


class SequenceGapError(DalsegnoError):
    """Events of a stream are missing; those before this error were complete."""

    code = "SEQUENCE_GAP"


class UnsafeAddressError(DalsegnoError):
    """The owner of a workspace gives an address without TLS, and the session came over TLS.

    Following it would show cookie and password to everybody on the way.
    """

    code = "UNSAFE_ADDRESS"


class ClientClosedError(DalsegnoError):
    """The client was closed."""

    code = "CLIENT_CLOSED"


_BY_CODE: dict[str, type[DalsegnoError]] = {
    "STALE_CURSOR": StaleCursorError,
    "STORE_UNAVAILABLE": StoreUnavailableError,
    "NOT_READY": NotReadyError,
    "DRAINING": DrainingError,
    "DB_UNAVAILABLE": StoreUnavailableError,
    "OUTCOME_UNKNOWN": OutcomeUnknownError,
    "WORKSPACE_HALTED": WorkspaceHaltedError,
    "INTERNAL_ERROR": InternalError,
}

_WAITED_FOR: dict[str, type[OverloadedError]] = {
    "OVERLOADED": OverloadedError,
    "RATE_LIMITED": RateLimitedError,
}


def error_of(code: str, message: str, details: Mapping[str, Any] | None) -> DalsegnoError:
    """Return an error of the server's as the class that it had there."""
    given = dict(details or {})
    if code in _WAITED_FOR:
        return _WAITED_FOR[code](message, retry_after_s=seconds(given.get("retry_after")))
    kind = _BY_CODE.get(code)
    error: DalsegnoError
    if code == "WORKSPACE_MOVED":
        owner = given.get("owner")
        error = WorkspaceMovedError(
            owner if isinstance(owner, str) else None,
            retry_after_s=seconds(given.get("retry_after")),
        )
        error.message = message
    else:
        error = Reject(code, message) if kind is None else kind(message)
    # Set afterwards: the server chose their names, one of which may be that of an argument.
    error.details = given
    return error


def seconds(value: object) -> float:
    """Parse a number of seconds from another program; return one second if it is invalid."""
    try:
        said = float(str(value))
    except ValueError:
        return _RETRY_AFTER_S
    return said if 0 <= said <= 3600 else _RETRY_AFTER_S
