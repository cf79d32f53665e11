"""The folders of workspaces on a disk of this machine, or one that several machines share.

    root/acme/…                     a workspace's folder
    root/.staging/acme!run!a1/      a stage: of one attempt at a run
        files/…                     what it puts into the workspace's folder
        manifest.json               … and that it is finished
        tried-1/…                   a copy of the workspace's folder
    root/.staging/.locks/acme       locked by whoever puts files into the workspace's folder

A file is put in place by renaming it, so a stage is on the same file system.  One that is no longer
in its stage is in place, so that whoever died in between is followed by another one who goes on.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio

from dalsegno.protocol import FolderError
from dalsegno.protocol.runs import STAGING, check_path
from dalsegno.runtime.disk import RealDisk, make_durable_folder

from ._copying import removed
from ._descriptors import (
    Calls,
    InTheWayError,
    below,
    private,
    root_of,
)
from ._stage import FILES, Stage, check, is_left, parents_of
from ._threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from dalsegno.protocol.runs import Staged
    from dalsegno.runtime.disk import Disk, Lock

_LOCKS = ".locks"
_LOCK_S = 10.0
"""How long others that put files into a folder are waited for …"""
_LOOK_S = 0.05
"""… and how often it is looked whether they are done."""


class LocalFolders:
    """The folders of workspaces, as `Folders`; see the module."""

    def __init__(self, *, calls: Calls | None = None, disk: Disk | None = None) -> None:
        """Make it; nothing is looked at before there is something to do.

        Args:
            calls: what writes below a worker's folder.
            disk: what makes that, and locks.

        """
        self._calls = Calls() if calls is None else calls
        self._disk = RealDisk() if disk is None else disk
        self._threads = Threads()

    def __repr__(self) -> str:
        return f"<LocalFolders, {self._threads!r}>"

    async def folder(self, root: str, workspace_id: str) -> str:
        """Make a workspace's folder, unless it is there; see `Folders.folder`."""
        check_path(workspace_id)  # "." and ".." are ids, too
        path = _absolute(root) / workspace_id

        def make() -> None:
            make_durable_folder(self._disk, path)
            with root_of(root) as opened, below(opened, (workspace_id,)):
                pass

        await self._threads.run(make)
        return str(path)

    @asynccontextmanager
    async def stage(self, root: str, workspace_id: str, name: str) -> AsyncIterator[Stage]:
        """Stage files for the length of a block; see `Folders.stage`."""
        await self.folder(root, workspace_id)
        stage = Stage(
            str(_absolute(root)), workspace_id, name, calls=self._calls, threads=self._threads
        )
        try:
            await self._threads.run(stage.begin)
            yield stage
        finally:
            if stage.finished is None:
                await self._threads.end(lambda: self._delete(root, name))

    async def names(self, root: str) -> Sequence[str]:
        """Return the names of all stages; see `Folders.names`."""
        names = await self._threads.run(lambda: self._disk.names(Path(root, STAGING)))
        return [name for name in names if name != _LOCKS]

    # ----------------------------------------------------------------------------------- settling

    @asynccontextmanager
    async def settling(self, root: str, workspace_id: str) -> AsyncIterator[None]:
        """Keep others from putting files into a folder; see `Folders.settling`."""
        lock = await self._locked(root, workspace_id)
        try:
            yield
        finally:
            lock.release()

    async def _locked(self, root: str, workspace_id: str) -> Lock:
        """Wait for the lock of a file, which keeps others of this process out, too.

        Raises:
            FolderError: somebody else has it for long.

        """
        path = Path(root, STAGING, _LOCKS, quote(workspace_id, safe=""))

        def attempt() -> Lock | None:
            with root_of(root) as opened:
                private(opened, (STAGING, _LOCKS), self._calls)
            return self._disk.try_lock(path, shared=False)

        with trio.move_on_after(_LOCK_S):
            while (lock := await self._threads.run(attempt)) is None:  # noqa: ASYNC110 - a process's
                await trio.sleep(_LOOK_S)
            return lock
        raise FolderError("somebody else puts files into this folder")

    async def place(self, root: str, workspace_id: str, staged: Staged) -> None:
        """Put the files of a stage in place; see `Folders.place`."""
        await self._threads.run(lambda: self._place(root, workspace_id, staged))
        await self._threads.end(lambda: self._delete(root, staged.name))

    def _place(self, root: str, workspace_id: str, staged: Staged) -> None:
        with root_of(root) as opened, below(opened, (STAGING, staged.name)) as stage:
            check(stage, staged)
            with below(opened, (workspace_id,), makes=self._calls) as own:
                for file in staged.files:
                    if is_left(stage, file):
                        self._move(stage, own, file.path.split("/"))
                # Also of those that were moved by a process that died before this.
                for path in {"", *(each for f in staged.files for each in parents_of(f.path))}:
                    self._sync(own, path.split("/") if path else [])

    def _move(self, stage: int, own: int, segments: list[str]) -> None:
        *parents, name = segments
        with (
            below(stage, [FILES, *parents]) as source,
            below(own, parents, makes=self._calls) as target,
        ):
            self._calls.rename(name, source, target)

    def _sync(self, own: int, segments: Sequence[str]) -> None:
        """Make the names in a folder durable, unless it was deleted or replaced since."""
        with suppress(FileNotFoundError, InTheWayError), below(own, segments) as folder:
            self._calls.sync(folder)

    async def delete(self, root: str, name: str) -> None:
        """Delete a stage, if it is there; see `Folders.delete`."""
        await self._threads.run(lambda: self._delete(root, name))

    def _delete(self, root: str, name: str) -> None:
        removed(os.path.join(root, STAGING, name))


def _absolute(root: str) -> Path:
    return Path(os.path.abspath(root))
