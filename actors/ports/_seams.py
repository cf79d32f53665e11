"""The seams: what an actor may not take from the process itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class World:
    """Wall time, randomness and ids; Trio's clock is a seam already."""

    now: Callable[[], datetime]
    """The time, UTC, aware."""
    random: Callable[[], float]
    """Uniform in [0, 1)."""
    new_id: Callable[[], str]
    """A UUIDv7, 36 characters."""
