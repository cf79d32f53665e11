"""The port between nodes: a word that something was committed, nothing more.

What travels here may be lost, doubled or late, and what follows stays right: whoever hears of a
head that is newer than the one it knows reads the log (research: every push needs a backstop).
"""

from __future__ import annotations

from typing import Protocol


class Bus(Protocol):
    """How one node tells the others."""

    def announce(self, workspace_id: str, head_seq: int) -> None:
        """Tell that a workspace's log has grown up to here; never waits, never raises."""


class Alone:
    """The bus of a node that nobody listens to."""

    def __repr__(self) -> str:
        return "<Alone>"

    def announce(self, workspace_id: str, head_seq: int) -> None:
        """Tell nobody."""
