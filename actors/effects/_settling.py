"""What runs have staged is put in place, or deleted, as the log says: in the order of their ends.

A stage is written before its run's end is committed, and put in place after it.  Whoever does that
may die in between, so every later run of the workspace does it first, before it reads or stages
anything itself, and every node does it from time to time for all the stages on its disk.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.actors.ports import PageBounds
from dalsegno.protocol import CorruptLogError, DalsegnoError, FolderError
from dalsegno.protocol.runs import runs, staged_of

from ._names import ids_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.actors.node import Catalog
    from dalsegno.actors.ports import Folders, Store
    from dalsegno.protocol.runs import RunState, Staged, Worker

_log = logging.getLogger("dalsegno.runs")


class _Ended(NamedTuple):
    """A stage whose run has ended, or is not there."""

    event_seq: int
    """The number of the event by which the run succeeded with it; 0: it did not."""
    name: str
    staged: Staged | None
    """What the log says is in it; None: it is to be deleted."""


class Settling:
    """Puts in place and deletes what was staged below one folder of a worker; see the module."""

    def __init__(self, folders: Folders, catalog: Catalog, store: Store, root: str) -> None:
        self._folders = folders
        self._catalog = catalog
        self._store = store
        self._root = root

    def __repr__(self) -> str:
        return f"<Settling below {self._root}>"

    async def workspaces(self) -> list[str]:
        """Return the workspaces that have stages.

        Raises:
            FolderError: the disk fails.

        """
        names = await self._folders.names(self._root)
        return sorted({ids[0] for ids in map(ids_in, names) if ids is not None})

    async def settle(self, workspace_id: str) -> int:
        """Put in place all that runs of a workspace that have succeeded by now have staged.

        What runs have staged that ended otherwise is deleted; that of open ones is left.  Where it
        fails or is cancelled, a part of it is in place, and the next one goes on with the rest.

        Returns:
            how many stages there are no longer.

        Raises:
            FolderError: the disk fails, or something is in the way.
            UnavailableError: the store is away.
            CorruptLogError: the log does not say how a run ended.

        """
        if not await self._names(workspace_id):
            return 0
        async with self._folders.settling(self._root, workspace_id):
            last = max((each.event_seq for each in await self._ended(workspace_id)), default=None)
            if last is None:
                return 0
            # A run that ended before another one may have been listed, or looked up, too early to
            # be seen: what was committed by then is seen now, and what comes later waits.
            ended = [each for each in await self._ended(workspace_id) if each.event_seq <= last]
            return sum([await self._settle(workspace_id, each) for each in sorted(ended)])

    async def _settle(self, workspace_id: str, ended: _Ended) -> bool:
        """Return whether a stage is no longer there; one that cannot be deleted holds up nobody."""
        try:
            if ended.staged is not None:
                await self._folders.place(self._root, workspace_id, ended.staged)
            else:
                await self._folders.delete(self._root, ended.name)
        except FolderError as error:
            _log.warning("%s is staged, and waits: %s", ended.name, error)
            if ended.staged is not None:
                raise
            return False
        return True

    async def discard(self, workspace_id: str, run_id: str, name: str) -> None:
        """Delete the stage of an attempt that is over, unless the run has succeeded with it.

        Raises:
            FolderError: the disk fails.
            UnavailableError: the store is away.

        """
        found = await self._catalog.look_many([(workspace_id, runs, run_id)])
        entity = found.get((workspace_id, runs.stream_id(run_id)))
        if entity is None or _named(entity.state, name) is None:
            await self._folders.delete(self._root, name)

    async def _names(self, workspace_id: str) -> dict[str, str]:
        """Return the stages of a workspace, each with its run."""
        named = {name: ids_in(name) for name in await self._folders.names(self._root)}
        return {name: ids[1] for name, ids in named.items() if ids and ids[0] == workspace_id}

    async def _ended(self, workspace_id: str) -> list[_Ended]:
        """Return the stages of a workspace whose runs are not open, by the store's word."""
        names = await self._names(workspace_id)
        found = await self._catalog.look_many([(workspace_id, runs, id_) for id_ in names.values()])
        ended = []
        for name, run_id in names.items():
            entity = found.get((workspace_id, runs.stream_id(run_id)))
            run: RunState | None = None if entity is None else entity.state
            staged = None if run is None else _named(run, name)
            if entity is not None and staged is not None:
                event_seq = await self._seq_of(workspace_id, run_id, entity.version)
                ended.append(_Ended(event_seq, name, staged))
            elif run is None or not run.is_open:
                ended.append(_Ended(0, name, None))
        return ended

    async def _seq_of(self, workspace_id: str, run_id: str, version: int) -> int:
        """Return the number of a run's last event, which is its end."""
        stream_id = runs.stream_id(run_id)
        one = PageBounds(from_seq=version, limit=1, bytes_max=1)
        found = await self._store.read_stream(workspace_id, stream_id, one)
        if not found:
            raise CorruptLogError(f"{workspace_id}: {stream_id} has lost its last event")
        return found[0].event_seq


def _named(run: RunState, name: str) -> Staged | None:
    """Return what a run has succeeded with, if that is the stage of this name."""
    staged = staged_of(run) if run.status == "succeeded" else None
    return staged if staged is not None and staged.name == name else None


class StageSweep:
    """Settles all that was left behind below the folders of this node's workers; see `Sweep`."""

    def __init__(
        self, folders: Folders, catalog: Catalog, store: Store, workers: Mapping[str, Worker]
    ) -> None:
        roots = {each.folder for each in workers.values() if each.folder is not None}
        self._below = [Settling(folders, catalog, store, root) for root in sorted(roots)]

    def __repr__(self) -> str:
        return f"<StageSweep {self._below}>"

    async def __call__(self, *, limit: int) -> int:
        """Settle the stages of one workspace after the other, until ``limit`` are settled."""
        settled = 0
        for settling in self._below:
            try:
                workspace_ids = await settling.workspaces()
            except FolderError as error:
                _log.warning("%r: %s", settling, error)
                continue
            for workspace_id in workspace_ids:
                try:
                    settled += await settling.settle(workspace_id)
                except DalsegnoError as error:
                    _log.info("%s: what was staged waits: %s", workspace_id, error)
                if settled >= limit:
                    return limit
        return settled
