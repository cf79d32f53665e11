"""The files that an attempt at a run reads and stages in the folder of its workspace."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.protocol import DalsegnoError, DomainError, FolderError
from dalsegno.protocol.runs import staged_in

from ._names import NAME_CHARS_MAX, name_of
from ._settling import Settling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.actors.node import Catalog, ServingNode
    from dalsegno.actors.ports import Folders
    from dalsegno.protocol.runs import Staged, StageWriter

_log = logging.getLogger("dalsegno.runs")

_BEHIND_S = 5.0
"""How long a stage that nobody wants may take to be deleted, before it is left to the sweep."""


class AttemptFiles:
    """The folder of a workspace, and the stage, as one attempt has them."""

    def __init__(
        self,
        node: ServingNode,
        catalog: Catalog,
        root: str | None,
        ids: tuple[str, str, str],
    ) -> None:
        """Make it.

        Args:
            node: this node.
            catalog: looks up the runs of other stages.
            root: the folder of the attempt's worker.
            ids: those of the workspace, the run and the attempt.

        """
        self._node = node
        self._catalog = catalog
        self._root = root
        self._workspace_id, self._run_id, _ = ids
        self._name = name_of(*ids)
        self._is_open = False
        self._finished: Staged | None = None

    def __repr__(self) -> str:
        return f"<AttemptFiles of {self._name}>"

    def _opened(self) -> tuple[Folders, str, Settling]:
        folders, root = self._node.folders, self._root
        if root is None:
            raise DomainError("its worker has no folder=")
        if folders is None:
            raise DomainError("nothing puts files into folders here")
        return folders, root, Settling(folders, self._catalog, self._node.store, root)

    async def folder(self) -> str:
        """Return the path of the workspace's folder; see `Run.folder`."""
        folders, root, settling = self._opened()
        await settling.settle(self._workspace_id)
        return await folders.folder(root, self._workspace_id)

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[StageWriter]:
        """Stage files for the length of a block; see `Run.stage`."""
        folders, root, settling = self._opened()
        if self._is_open or self._finished is not None:
            raise DomainError("an attempt finishes one stage, and has no two at a time")
        if len(self._name) > NAME_CHARS_MAX:
            raise FolderError("the id of a run that stages files is shorter than this one")
        self._is_open = True
        try:
            await settling.settle(self._workspace_id)
            async with folders.stage(root, self._workspace_id, self._name) as stage:
                try:
                    yield stage
                finally:
                    self._finished = stage.finished
        finally:
            self._is_open = False

    def check(self, result: Any) -> None:  # noqa: ANN401 - JSON
        """Raise unless what a result says is staged is what this attempt has staged.

        Raises:
            TypeError: it is not.

        """
        named = None if self._root is None else staged_in(result)
        if named is not None and named != self._finished:
            raise TypeError("a result names the files that its own attempt has staged")

    async def settle(self) -> None:
        """Put in place what the run has succeeded with; what fails is done by the next one."""
        if self._finished is None:
            return
        _, _, settling = self._opened()
        try:
            await settling.settle(self._workspace_id)
        except DalsegnoError as error:
            _log.info("%s is left to the next one: %s", self._name, error)

    async def discard(self) -> None:
        """Delete what is finished: the attempt ends without it."""
        if self._finished is None:
            return
        _, _, settling = self._opened()
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + _BEHIND_S
            try:
                await settling.discard(self._workspace_id, self._run_id, self._name)
            except DalsegnoError as error:
                _log.warning("%s is left to the sweep: %s", self._name, error)
