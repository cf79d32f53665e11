"""The life of a connection, as a table.

    new ──(run)──▶ idle ⇄ writing ⇄ sending
    any of them ──(close)──▶ closing ──(end)──▶ closed

*Idle*, whatever is to be written is written at once; *writing*, a task does it; *sending*, that
task waits for the client to take something.  From *closing* on nothing is written but the close.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from dalsegno.protocol import Close, Machine

if TYPE_CHECKING:
    import trio


class State(Enum):
    """What a connection is at."""

    NEW = "new"
    IDLE = "idle"
    WRITING = "writing"
    SENDING = "sending"
    CLOSING = "closing"
    CLOSED = "closed"


class Input(Enum):
    """What happens to it."""

    RUN = "run"
    """It is served from now on."""
    WRITE = "write"
    """There is more to write than the client takes at once."""
    BLOCK = "block"
    """The client takes nothing just now."""
    UNBLOCK = "unblock"
    """The client took everything."""
    REST = "rest"
    """Nothing is left to write."""
    CLOSE = "close"
    """Either side ends it."""
    END = "end"
    """The closing handshake is over."""


_CLOSING = State.CLOSING

LIFECYCLE = Machine(
    "connection",
    {
        State.NEW: {Input.RUN: State.IDLE, Input.CLOSE: _CLOSING},
        State.IDLE: {Input.WRITE: State.WRITING, Input.CLOSE: _CLOSING},
        State.WRITING: {
            Input.BLOCK: State.SENDING,
            Input.REST: State.IDLE,
            Input.CLOSE: _CLOSING,
        },
        State.SENDING: {Input.UNBLOCK: State.WRITING, Input.CLOSE: _CLOSING},
        _CLOSING: {
            # It may be closed before it is served, and again; its writer ends a little later.
            Input.RUN: _CLOSING,
            Input.BLOCK: _CLOSING,
            Input.UNBLOCK: _CLOSING,
            Input.REST: _CLOSING,
            Input.CLOSE: _CLOSING,
            Input.END: State.CLOSED,
        },
        State.CLOSED: {Input.CLOSE: State.CLOSED},
    },
)
"""Every step of a connection."""


def ended_by(cancelled: trio.Cancelled) -> tuple[Close, str]:
    """Return what to tell a client whose connection is cancelled from outside.

    Trio says why: a nursery cancels what is in it because a task failed, ours or the host's.
    """
    if cancelled.source == "nursery":
        return Close.INTERNAL, "the server failed"
    return Close.GOING_AWAY, "shutting down"
