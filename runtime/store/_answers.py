"""What a server's answers mean, whichever driver brings them."""

from __future__ import annotations

DATA_EXCEPTION = "22000"
INTERNAL_ERROR = "XX000"

# PostgreSQL manual, appendix A: connection exceptions, and operator interventions that end the
# session (but not 57014, a statement cancelled by a timeout).
_LOST = ("08", "57P0")
_FATAL = frozenset({"FATAL", "PANIC"})

STANDBY_WAIT = "SyncRepWaitForLSN"
"""The function in which a commit waits for standbys, and warns when the wait was cancelled.

The warning's SQLSTATE, 01000, is that of any warning and its text is translated; the name of the
function identifies it (src/backend/replication/syncrep.c).
"""


def ends_session(sqlstate: str, severity: str | None) -> bool:
    """Return whether an error ends the session, whatever became of the statement."""
    return severity in _FATAL or sqlstate.startswith(_LOST)
