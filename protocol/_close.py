"""Close codes: why a connection ends, and whether a client should come back (RT-27)."""

from __future__ import annotations

from enum import IntEnum

SUPERSEDED = "superseded"
"""Why a connection is closed with 4008: another one of its tab has come."""
CONNECTION_LIMIT = "connection limit"
"""Why else: there are as many as may be, and the latest counts."""


class Close(IntEnum):
    """A WebSocket close code."""

    NORMAL = 1000
    GOING_AWAY = 1001
    """The server is shutting down: come back."""
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    """A text that is not UTF-8."""
    POLICY = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL = 1011
    """A fault of the server: come back with the cursors."""
    TRY_AGAIN = 1013
    """The client is too slow, or too much is queued: come back at once with the cursors."""
    UNAUTHORIZED = 4001
    """The session ended, or nobody was shown: do not come back without logging in."""
    FORBIDDEN = 4003
    """A token of somebody else: the socket is another's."""
    NOT_FOUND = 4004
    SUPERSEDED = 4008
    """Another connection took its place: of the same tab, or the latest of too many."""

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back by itself (RT-27)."""
        return self in {Close.NORMAL, Close.GOING_AWAY, Close.INTERNAL, Close.TRY_AGAIN}
