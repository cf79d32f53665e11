"""Artifacts: files that runs write, and what a run's result says of its own."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from ._domain import RunState

ARTIFACT = "artifact"
"""The key under which a run's result has its artifact: what no result names is swept."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a run has written: durable, and under its name."""

    name: str
    """Unique: no other attempt writes a file of this name."""
    node_id: str
    """The node whose disk has it."""
    bytes: int
    sha256: str
    """In hex."""
    expires_at: datetime
    """When it is deleted."""


class ArtifactWriter(Protocol):
    """A file that is being written, under a temporary name."""

    async def write(self, data: bytes) -> None:
        """Write more.

        Raises:
            ArtifactError: the disk is full, or fails; or a bound is reached.

        """

    async def finish(self) -> Artifact:
        """Make it durable and give it its name; nothing is written afterwards.

        Raises:
            ArtifactError: as `write`.

        """


def artifact_of(run: RunState) -> Artifact | None:
    """Return the artifact that a run's result names; None where it names none."""
    result: Any = run.result
    if isinstance(result, dict):
        with suppress(msgspec.ValidationError):
            return msgspec.convert(result.get(ARTIFACT), Artifact)
    return None
