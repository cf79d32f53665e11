"""The life of a workspace on this node, as a table.

    resting ──(wanted)──▶ opening ──(opened)──▶ running ──(idle)──▶ resting
    opening, running ──(failed)──▶ waiting ──(retried)──▶ opening
    opening, running ──(halted)──▶ halted
    any ──(moved, unwanted, stopped)──▶ closed

A workspace that comes into memory begins to open at once.  *Resting*, it has readers and no
incarnation; *waiting*, it backs off; *closed*, it has left the directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from dalsegno.protocol import Machine

if TYPE_CHECKING:
    from dalsegno.actors.ports import Head


class State(Enum):
    """What a workspace is at."""

    OPENING = "opening"
    """An incarnation asks the store who owns the workspace."""
    RUNNING = "running"
    """It takes commands."""
    WAITING = "waiting"
    """It backs off before the next incarnation."""
    RESTING = "resting"
    """It is passivated."""
    HALTED = "halted"
    """Its log needs a repair first."""
    CLOSED = "closed"
    """It has left memory."""


class Input(Enum):
    """What happens to it."""

    OPENED = "opened"
    """The incarnation knows the log's head and has resolved what was left."""
    IDLE = "idle"
    """The incarnation ended without a failure."""
    FAILED = "failed"
    """It ended with one that another incarnation may not meet."""
    MOVED = "moved"
    """Another node owns the workspace."""
    HALTED = "halted"
    """The log cannot be read, or the loop crashed too often."""
    RETRIED = "retried"
    """The back-off is over, and there is something to do."""
    WANTED = "wanted"
    """There are commands, or the store has to be asked who owns the workspace."""
    UNWANTED = "unwanted"
    """Nobody needs it to stay."""
    STOPPED = "stopped"
    """The node stops, or its supervision failed."""


_OPENING, _RUNNING, _CLOSED = State.OPENING, State.RUNNING, State.CLOSED

LIFECYCLE = Machine(
    "workspace",
    {
        State.OPENING: {
            Input.OPENED: _RUNNING,
            Input.FAILED: State.WAITING,
            Input.MOVED: _CLOSED,
            Input.HALTED: State.HALTED,
            Input.STOPPED: _CLOSED,
        },
        State.RUNNING: {
            Input.IDLE: State.RESTING,
            Input.FAILED: State.WAITING,
            Input.MOVED: _CLOSED,
            Input.HALTED: State.HALTED,
            Input.STOPPED: _CLOSED,
        },
        State.WAITING: {
            Input.RETRIED: _OPENING,
            Input.UNWANTED: _CLOSED,
            Input.STOPPED: _CLOSED,
        },
        State.RESTING: {
            Input.WANTED: _OPENING,
            Input.UNWANTED: _CLOSED,
            Input.STOPPED: _CLOSED,
        },
        State.HALTED: {Input.UNWANTED: _CLOSED, Input.STOPPED: _CLOSED},
        State.CLOSED: {Input.STOPPED: _CLOSED},
    },
)
"""Every step of a workspace on this node."""


@dataclass(frozen=True, slots=True)
class WorkspaceStatistics:
    """A workspace at one moment."""

    state: str
    """A `State`'s value."""
    head: int
    """The published head."""
    epoch: int
    """Of the last incarnation that opened."""
    waiting: int
    """Commands in its mailbox."""
    unresolved: int
    """Commands whose outcome is unknown until the next incarnation has looked."""
    subscriptions: int
    incarnations: int
    """Since the supervisor was made."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a supervisor assumes of its log, at one moment."""

    owner: str
    """This node, where it owns the workspace."""
    epoch: int
    head: int
    """The published head; 0 where nothing was opened."""
    chain: int

    def fits(self, head: Head) -> bool:
        """Return whether what the store says, or said later, can follow from it.

        A failover that loses the log's end loses epochs too, and gives them out again: the same
        one may be another node's.
        """
        if head.epoch != self.epoch or head.head_seq < self.head:
            return False
        if self.epoch > 0 and head.owner != self.owner:
            return False
        return head.head_seq > self.head or head.chain == self.chain or self.epoch == 0
