"""What a service of sessions raises, and what its readers are told.

SessionError                            a session cannot do this
├── SessionNotFoundError                there is none with this id
├── SessionBusyError                    a turn of it runs
├── SessionNotRunningError              no turn of it runs
├── SessionPersistenceDisabledError     the service has no store
├── SessionCompactionDisabledError      the service keeps everything
├── SessionUnsupportedError             its store cannot do this
├── SessionStoreError                   its store failed, or refuses the session
└── AgentError                          the agent failed
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from dalsegno.protocol import DalsegnoError

from ._errors import (
    EventIoError,
    EventProjectionHaltedError,
    EventStoreError,
    EventUnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class SessionError(DalsegnoError):
    """A session cannot do this (ME-P6)."""

    code = "SESSION_ERROR"


class SessionNotFoundError(SessionError):
    """There is no session with this id."""

    code = "SESSION_NOT_FOUND"


class SessionBusyError(SessionError):
    """A turn of the session runs, here or in another process; nothing was recorded."""

    code = "SESSION_BUSY"
    retryable = True


class SessionNotRunningError(SessionError):
    """No turn of the session runs here."""

    code = "SESSION_NOT_RUNNING"


class SessionPersistenceDisabledError(SessionError):
    """The service has no store, so that nothing of a session is kept."""

    code = "SESSION_PERSISTENCE_DISABLED"


class SessionCompactionDisabledError(SessionError):
    """The service keeps everything."""

    code = "SESSION_COMPACTION_DISABLED"


class SessionUnsupportedError(SessionError):
    """The session's store cannot do this."""

    code = "SESSION_UNSUPPORTED"


class SessionStoreError(SessionError):
    """The session's store failed, or refuses the session as it is; its cause says which.

    What others are told is its code, and that of the cause: the cause's text may name files.
    """

    code = "SESSION_STORE_ERROR"
    status = 500


class AgentError(SessionError):
    """The agent failed; its error is the cause."""

    code = "AGENT_ERROR"


@contextmanager
def of_session(session_id: str) -> Iterator[None]:
    """Raise what a store raises within a block as what a service of sessions does.

    Raises:
        SessionStoreError: see there; ``retryable`` where the file system or the database failed.
        SessionUnsupportedError: the store cannot do this.

    """
    try:
        yield
    except EventUnsupportedError as error:
        raise SessionUnsupportedError(error.message, session_id=session_id) from error
    except EventStoreError as error:
        details: dict[str, object] = {"session_id": session_id, "cause": error.code}
        if isinstance(error, EventProjectionHaltedError):
            details |= {"reason": error.marker.reason, "is_durable": error.is_durable}
        raised = SessionStoreError("the session's store refused", **details)
        if isinstance(error, EventIoError):
            raised.retryable, raised.status = True, 503
        raise raised from error
