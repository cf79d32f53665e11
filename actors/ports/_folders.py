"""The port to the folders of workspaces: files that runs read, stage and put in place.

A *root* is the folder of a worker, by its path.  Each workspace has its folder in it, and beside
those is `STAGING`, with the stages by their names: unique, 3 to 200 of ``[A-Za-z0-9_.%!~-]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dalsegno.protocol.runs import StageWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from dalsegno.protocol.runs import Staged


class Stage(StageWriter, Protocol):
    """Files that are staged, and whether they are all of them."""

    @property
    def finished(self) -> Staged | None:
        """What is staged, once it is finished."""


class Folders(Protocol):
    """The folders of workspaces, below those of workers.  All of it raises `FolderError`.

    What is begun goes to its end, whoever is cancelled meanwhile.
    """

    async def folder(self, root: str, workspace_id: str) -> str:
        """Make a workspace's folder, unless it is there, and return its absolute path.

        Raises:
            Reject: ``PATH_FORBIDDEN`` for a workspace of whose id there can be no folder.

        """

    def stage(self, root: str, workspace_id: str, name: str) -> AbstractAsyncContextManager[Stage]:
        """Stage files for the length of a block, at whose end one that was not finished is deleted.

        Raises:
            Reject: as `folder`.

        """

    async def names(self, root: str) -> Sequence[str]:
        """Return the names of all stages, in any order."""

    def settling(self, root: str, workspace_id: str) -> AbstractAsyncContextManager[None]:
        """Keep others from putting files into a workspace's folder, for the length of a block.

        Raises:
            FolderError: somebody else does, in this process or another one, and for long.

        """

    async def place(self, root: str, workspace_id: str, staged: Staged) -> None:
        """Put the files of a stage in place, in their order, durably; delete the stage.

        One that is no longer in the stage is in place already; the others are compared with what
        ``staged`` says first.

        Raises:
            FolderError: a file cannot be put in place; the stage is there, with the rest of them.

        """

    async def delete(self, root: str, name: str) -> None:
        """Delete a stage, if it is there."""
