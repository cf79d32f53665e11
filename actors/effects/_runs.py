"""Runs: what workspaces of this node have asked for is carried out, whatever dies.

A run is an entity of its workspace, carried out by the workspace's owner.  Of an active workspace a
node hears what is asked for as it is committed.  For the others it looks in the store every few
seconds: for those of workspaces that it owns, or that nobody does any longer.  So whatever becomes
of the node that began a run, another one goes on with it, or ends it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import DalsegnoError

from ._attempt import release_deadline_s
from ._woken import Woken, look_again_s
from ._workspace_runs import WorkspaceRuns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.protocol import Event
    from dalsegno.protocol.runs import Worker

_log = logging.getLogger("dalsegno.runs")

_SCANNED = 1_000
"""Workspaces that are looked at in one scan; the next one goes on where it ended."""
_WOKEN = 2
"""Of the table of active workspaces, one in so many is there for runs alone, at most."""
_CANCELLING = 16
"""Runs of lost connections that are cancelled at the same time, so that a thousand of them do not
fill the mailboxes of their workspaces."""
_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """The runs of a node at one moment."""

    running: int
    """Attempts under way."""
    waiting: int
    """Open runs that wait, as far as this node knows them."""
    workspaces: int
    """Workspaces whose runs it looks after."""
    woken: int
    """… and those of them that are active for their runs alone."""


class Runs:
    """Carries out the runs of one node; see the module."""

    def __init__(
        self, directory: Directory, catalog: Catalog, workers: Mapping[str, Worker]
    ) -> None:
        self._directory = directory
        self._catalog = catalog
        self._node = directory.node
        self._workers = workers
        self._running = trio.CapacityLimiter(directory.node.limits.runs_running_max)
        self._cancelling = trio.CapacityLimiter(_CANCELLING)
        self._served: dict[str, WorkspaceRuns] = {}
        self._woken = Woken(directory, share=_WOKEN)
        self._scanned = ""
        """The workspace where the last scan ended before it had seen all."""
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Runs by {', '.join(self._workers)}, {self._running.borrowed_tokens} under way>"

    def statistics(self) -> RunStatistics:
        """Return how they stand."""
        return RunStatistics(
            running=sum(each.running for each in self._served.values()),
            waiting=sum(each.waiting for each in self._served.values()),
            workspaces=len(self._served),
            woken=len(self._woken),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out runs until cancelled."""
        if not self._workers:
            task_status.started()
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for workspace_id in self._directory.open_ids():
                    self.opened(workspace_id)
                task_status.started()
                next_at = trio.current_time()
                while True:
                    self._woken.let_rest(self._may_rest)
                    if trio.current_time() >= next_at:
                        next_at = trio.current_time() + await self._scan()
                    await trio.sleep(_TICK_S)
            finally:
                self._nursery = None
                self._served.clear()

    # ---------------------------------------------------------------------------- the watcher's

    def opened(self, workspace_id: str) -> None:
        """Look after the runs of a workspace that is active here."""
        if self._nursery is None or workspace_id in self._served:
            return
        served = WorkspaceRuns(
            workspace_id,
            self._directory,
            self._catalog,
            self._workers,
            self._running,
            self._cancelling,
        )
        self._served[workspace_id] = served
        self._nursery.start_soon(served.serve)

    def published(self, workspace_id: str, events: Sequence[Event]) -> None:
        """Note what was committed in a workspace."""
        served = self._served.get(workspace_id)
        if served is not None:
            served.published(events)

    def ended(self, workspace_id: str) -> None:
        """Stop what is carried out for a workspace that is not served here any longer."""
        served = self._served.pop(workspace_id, None)
        if served is not None:
            served.end()

    # ------------------------------------------------------------------------------- the others

    async def _scan(self) -> float:
        """Wake the workspaces that have open runs and that nobody serves; when to do it again."""
        node = self._node
        if not (node.is_open and node.lease.is_held):
            return _TICK_S
        try:
            page = await node.store.find_runs(node.node_id, after=self._scanned, limit=_SCANNED)
            again_s = await look_again_s(node)
        except DalsegnoError as error:
            _log.warning("open runs could not be looked for: %s", error)
            return node.limits.runs_scan_s
        self._scanned = page.last or ""
        for workspace_id in page.workspace_ids:
            served = self._served.get(workspace_id)
            if served is not None:
                served.look_again()
            else:
                self._woken.wake(workspace_id)
        return again_s

    def _may_rest(self, workspace_id: str) -> bool:
        """Return whether a workspace has no open run."""
        served = self._served.get(workspace_id)
        return served is not None and served.is_idle

    async def drain(self) -> None:
        """End every attempt in the log, within a bound, before this node takes no more commands."""
        with trio.move_on_after(release_deadline_s(self._node.limits)):
            async with trio.open_nursery() as nursery:
                for served in list(self._served.values()):
                    nursery.start_soon(served.drain)
