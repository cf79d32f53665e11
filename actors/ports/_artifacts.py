"""The port to artifacts: files that runs write, and that are read over HTTP.

They are a node's own: what is in the log of one says which node has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager


class ArtifactFile(Protocol):
    """A file that is being written."""

    async def write(self, data: bytes) -> None:
        """Write more.  Cancelled, the file is not finished.

        Raises:
            ArtifactError: the disk is full, or fails; or a bound of `Limits` is reached.

        """

    async def finish(self) -> tuple[int, str]:
        """Make it durable and give it its name; return its size and its SHA-256 in hex.

        Raises:
            ArtifactError: as `write`.

        """


class Artifacts(Protocol):
    """Files by name: 1 to 240 of ``[A-Za-z0-9_.%!~-]``, unique.

    What stands before the first ``!`` is whose they are: each has
    `Limits.artifacts_per_workspace_max`.
    """

    def write(self, name: str) -> AbstractAsyncContextManager[ArtifactFile]:
        """Write a file for the length of a block; it is there under its name once it is finished.

        At the end of the block nothing is left of one that was not, and nothing after a crash once
        it was swept.

        Raises:
            ArtifactError: it cannot be begun.

        """

    def read(
        self, name: str, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read a part of a file in pieces, for the length of a block; ``end`` is exclusive.

        One that is deleted meanwhile is read to its end.

        Raises:
            ArtifactGoneError: there is none.
            ArtifactError: the disk fails, also at a piece.

        """

    async def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""

    async def delete(self, name: str) -> None:
        """Delete a file, if it is there.

        Raises:
            ArtifactError: the disk fails.

        """

    async def sweep(self, is_wanted: Callable[[str], Awaitable[bool]], *, limit: int) -> int:
        """Delete at most so many files that are too old, or that nobody wants; return how many.

        Args:
            is_wanted: whether a file, some time after it was written, is named by the log.
            limit: at most so many.

        Raises:
            ArtifactError: the disk fails.
            UnavailableError: of ``is_wanted``.

        """
