"""Every failure that a caller can meet, by whose fault it is.

    DalsegnoError
    ├── Reject                    the caller's: the command is refused and nothing happened
    │   └── StaleCursorError      … a cursor below what can be honoured
    ├── UnavailableError          nobody's: not applied, try again
    │   ├── OverloadedError       … after `retry_after_s`
    │   │   └── RateLimitedError  … which this caller alone has to wait
    │   ├── StoreUnavailableError … the database is away
    │   ├── NotReadyError         … this node does not know yet what the database says
    │   │   └── RuntimeClosedError    … or has not started, or has ended
    │   │       └── DrainingError     … or is about to end
    │   ├── WorkspaceMovedError   … another node owns the workspace: ask there
    │   └── CodeTooOldError       … a later version of the program has owned the workspace
    ├── ArtifactError             the disk's: a file of a run cannot be written or read
    ├── ArtifactGoneError         nobody's: a file of a run is there no longer
    ├── ArtifactElsewhereError    nobody's: a file of a run is on another node's disk
    ├── FolderError               the disk's: files of a workspace's folder cannot be read or put
    ├── OutcomeUnknownError       nobody's: may have been applied, retry with the same key
    ├── WorkspaceHaltedError      the log's: the workspace needs a repair first
    │   ├── CorruptLogError       … a record that cannot be read
    │   └── SchemaVersionError    … an envelope of another version (X-PER-5)
    ├── FencedError               another owner's: the workspace lives elsewhere now
    ├── SequenceOverflowError     the log's: 2^63 - 1 events (X-SEQ-8)
    └── InternalError             ours

    DomainError (a TypeError)     the programmer's: a domain is declared wrongly

``code`` is what goes over the wire; it is stable, upper case, at most 64 characters.
"""

from __future__ import annotations

from typing import Any

PATH_FORBIDDEN = "PATH_FORBIDDEN"
"""A path that leads out of where it may: who sends one tries something, so it is put on record."""


class DalsegnoError(Exception):
    """The base of all; carries the fields of the error envelope."""

    code = "INTERNAL_ERROR"
    retryable = False
    status: int | None = None
    """The HTTP status, where it is not that of its code; see `http_status`."""

    def __init__(self, message: str = "", **details: Any) -> None:  # noqa: ANN401 - JSON values
        super().__init__(message or self.code)
        self.message = message or self.code.replace("_", " ").lower()
        self.details: dict[str, Any] = details

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class DomainError(TypeError):
    """A domain is declared wrongly: raised while it is declared, or at the latest by `check`."""


class Reject(DalsegnoError):
    """Raised by a decider or a rule: the command is refused, nothing happened.

    Its ``status``, if it is given, is 400 to 499.
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        status: int | None = None,
        **details: Any,  # noqa: ANN401 - JSON values
    ) -> None:
        _check_status(code, status)
        self.code = code
        self.status = status
        super().__init__(message, **details)


class StaleCursorError(Reject):
    """An ack below the stored cursor, or a replay from below what is kept (C2)."""

    def __init__(self, message: str = "stale cursor", **details: Any) -> None:  # noqa: ANN401
        super().__init__("STALE_CURSOR", message, **details)


class UnavailableError(DalsegnoError):
    """Not applied; the same command may be sent again."""

    code = "STORE_UNAVAILABLE"
    retryable = True


class OverloadedError(UnavailableError):
    """A bound was reached and did not clear before the deadline; see ``retry_after_s``."""

    code = "OVERLOADED"

    def __init__(self, message: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """This caller asked too often, or guessed wrongly too often; see ``retry_after_s``."""

    code = "RATE_LIMITED"


class StoreUnavailableError(UnavailableError):
    """The database could not be reached, and nothing was sent to it."""

    code = "STORE_UNAVAILABLE"


class NotReadyError(UnavailableError):
    """This node cannot answer for the workspace yet: it is opening it, or its lease had lapsed."""

    code = "NOT_READY"


class RuntimeClosedError(NotReadyError):
    """The runtime has not started, or has ended."""


class DrainingError(RuntimeClosedError):
    """The runtime is finishing what it has accepted, and accepts nothing new."""

    code = "DRAINING"


class WorkspaceMovedError(UnavailableError):
    """Another node owns the workspace: ask there, or here again when its lease has run out.

    ``owner`` names the node; ``address`` is present if that node gave one; ``retry_after`` is the
    rest of its lease, in seconds.
    """

    code = "WORKSPACE_MOVED"

    def __init__(
        self, owner: str | None, *, address: str | None = None, retry_after_s: float = 1.0
    ) -> None:
        details = {"owner": owner, "retry_after": round(max(retry_after_s, 0.0), 3)}
        if address is not None:
            details["address"] = address
        super().__init__("another node owns this workspace", **details)
        self.owner = owner
        self.retry_after_s = retry_after_s


class ArtifactError(DalsegnoError):
    """A file that a run writes, or has written, cannot be written or read: the disk, or a bound."""

    code = "ARTIFACT_FAILED"


class ArtifactGoneError(DalsegnoError):
    """A run's file is there no longer: its time is over, or its disk has been lost."""

    code = "ARTIFACT_GONE"


class ArtifactElsewhereError(DalsegnoError):
    """A run's file is on another node's disk: ask there.

    ``owner`` names the node; ``address`` is present if that node gave one.
    """

    code = "ARTIFACT_ELSEWHERE"

    def __init__(self, owner: str, *, address: str | None = None) -> None:
        details = {"owner": owner} if address is None else {"owner": owner, "address": address}
        super().__init__("the node that wrote this has it", **details)


class FolderError(DalsegnoError):
    """Files of a workspace's folder cannot be read, staged or put in place: the disk fails.

    ``errno`` names the system's error, where there was one.
    """

    code = "FOLDER_FAILED"


class CodeTooOldError(UnavailableError):
    """A later version of the program has owned the workspace: this one may not, see `App`."""

    code = "CODE_TOO_OLD"

    def __init__(self, needed: int, running: int) -> None:
        super().__init__(
            "a later version of the program has served this workspace",
            needed=needed,
            running=running,
        )


class OutcomeUnknownError(DalsegnoError):
    """The command may have been applied; a repeat with the same idempotency key settles it."""

    code = "OUTCOME_UNKNOWN"
    retryable = True


class WorkspaceHaltedError(DalsegnoError):
    """The workspace answers neither commands nor replay until its log is repaired."""

    code = "WORKSPACE_HALTED"


class CorruptLogError(WorkspaceHaltedError):
    """A stored record contradicts its neighbours or cannot be decoded."""


class SchemaVersionError(WorkspaceHaltedError):
    """A stored envelope has another version than this code reads (X-PER-5)."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"event envelope of version {found}, this code reads {expected}",
            expected=expected,
            found=found,
        )
        self.expected = expected
        self.found = found


class FencedError(DalsegnoError):
    """Another incarnation holds a higher epoch of this workspace."""

    code = "NOT_READY"
    retryable = True


class SequenceOverflowError(DalsegnoError):
    """The stream has reached 2^63 - 1; nothing was appended (X-SEQ-8)."""

    code = "SEQUENCE_OVERFLOW"


class InternalError(DalsegnoError):
    """A bug of ours; the incident is logged under the request's id."""

    code = "INTERNAL_ERROR"


HTTP_STATUS: dict[str, int] = {
    "BAD_REQUEST": 400,
    "INVALID_PATCH": 400,
    "UNKNOWN_COMMAND": 400,
    "PASSWORD_TOO_COMMON": 400,
    "AUTH_REQUIRED": 401,
    "INVALID_CREDENTIALS": 401,
    "TOKEN_EXPIRED": 401,
    "TOKEN_INVALID": 401,
    "TOKEN_REUSE_DETECTED": 401,
    "SESSION_EXPIRED": 401,
    "SESSION_REVOKED": 401,
    "CSRF_INVALID": 403,
    "ROLE_FORBIDDEN": 403,
    "ORIGIN_FORBIDDEN": 403,
    "HOST_FORBIDDEN": 403,
    "SETUP_TOKEN_INVALID": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "VERSION_CONFLICT": 409,
    "STATE_CONFLICT": 409,
    "MEMBERSHIP_CONFLICT": 409,
    "SETUP_LOCKED": 409,
    "QUOTA_EXCEEDED": 409,
    "BACKUP_DAMAGED": 409,
    "RESTORE_REFUSED": 409,
    "WORKSPACE_ARCHIVED": 409,
    "CURSOR_AHEAD": 409,
    "CURSOR_DIVERGED": 409,
    "STALE_CURSOR": 409,
    "ARTIFACT_GONE": 410,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "WORKSPACE_MOVED": 421,
    "ARTIFACT_ELSEWHERE": 421,
    "UPGRADE_REQUIRED": 426,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "ARTIFACT_FAILED": 500,
    "FOLDER_FAILED": 500,
    "SEQUENCE_OVERFLOW": 500,
    "LLM_UPSTREAM_ERROR": 502,
    "LLM_PROVIDER_UNREACHABLE": 502,
    "OVERLOADED": 503,
    "STORE_UNAVAILABLE": 503,
    "NOT_READY": 503,
    "DRAINING": 503,
    "WORKSPACE_HALTED": 503,
    "CODE_TOO_OLD": 503,
    "DB_UNAVAILABLE": 503,
    "MIGRATION_UNAVAILABLE": 503,
    "OUTCOME_UNKNOWN": 504,
    "LLM_PROVIDER_TIMEOUT": 504,
}
"""By code; one that is not here is a domain's: 404 for ``…_NOT_FOUND``, else 409."""


def http_status(error: DalsegnoError) -> int:
    """Return the HTTP status of an error: its own, or that of its code."""
    known = error.status or HTTP_STATUS.get(error.code)
    if known is not None:
        return known
    return 404 if error.code.endswith("_NOT_FOUND") else 409


def renamed(error: DalsegnoError, code: str, status: int | None = None) -> DalsegnoError:
    """Return an error as others call it: the same kind, message and details under another code.

    The HTTP status is that of the error, unless another is given.

    Raises:
        DomainError: a refusal, with a status that is not 400 to 499.

    """
    kind = type(error)
    if isinstance(error, Reject):
        _check_status(code, status)
    other = kind.__new__(kind)
    vars(other).update(vars(error))
    other.args = error.args
    other.code, other.status = code, status or http_status(error)
    return other


def _check_status(code: str, status: int | None) -> None:
    if status is not None and not 400 <= status <= 499:
        raise DomainError(f"{code}: the status of a refusal is 400 to 499, not {status}")


def not_found(entity: str, /, **details: Any) -> Reject:  # noqa: ANN401 - JSON values
    """Return the refusal for an entity, named by its stream, that does not exist for the caller.

    An entity that the caller may not see is refused in the same way (C22).
    """
    kind = entity.partition(":")[0]
    return Reject(f"{kind.upper()}_NOT_FOUND", f"no such {kind}", **details)


def not_a_member(**details: Any) -> Reject:  # noqa: ANN401 - JSON values
    """Return the refusal for a user who has no role in the workspace."""
    return Reject("ROLE_FORBIDDEN", "not a member of this workspace", **details)


def membership_ended(**details: Any) -> Reject:  # noqa: ANN401 - JSON values
    """Return what ends the subscriptions of a user who was removed from the workspace."""
    return Reject("ROLE_FORBIDDEN", "no longer a member", **details)
