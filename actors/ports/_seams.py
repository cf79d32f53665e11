"""The seams: time, randomness, ids, and how other nodes are told of commits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class World:
    """Wall time, randomness, ids and salts; Trio's clock is a seam already."""

    now: Callable[[], datetime]
    """The time, UTC, aware."""
    random: Callable[[], float]
    """Uniform in [0, 1)."""
    new_id: Callable[[], str]
    """A UUIDv7, 36 characters."""
    new_salt: Callable[[], bytes]
    """16 bytes that nobody can guess."""


class Bus(Protocol):
    """The channel by which a node tells the others that something was committed.

    An announcement may be lost, duplicated or late, and nothing goes wrong: a node that is told
    of a newer head than it knows reads the log (research: every push needs a backstop).
    """

    def announce(self, workspace_id: str, head_seq: int) -> None:
        """Announce that a workspace's log has grown up to here; never waits, never raises."""


class Alone:
    """The bus of a node without others."""

    def __repr__(self) -> str:
        return "<Alone>"

    def announce(self, workspace_id: str, head_seq: int) -> None:
        """Announce it to nobody."""
