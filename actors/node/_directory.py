"""The workspaces that are active on this node.

The table is bounded.  Near its bound idle workspaces leave before their time, the longest unused
first; at it a workspace that is not active is refused with `OVERLOADED`, and the active ones go on.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import OverloadedError

from ._workspace_supervisor import WorkspaceSupervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._lifecycle import WorkspaceStatistics
    from ._serving_node import ServingNode

_TICK_S = 0.5
_CROWDED = 0.9
"""Of the table's bound: from there on idle workspaces leave before their time."""
_COMPARED_AT_ONCE = 500
"""Heads read in one query, and with every beat."""


class Directory:
    """The active workspaces, each with its supervisor."""

    def __init__(self, node: ServingNode, active: dict[str, WorkspaceSupervisor]) -> None:
        """Make it.

        Args:
            node: what the workspaces share.
            active: the table that it fills; whoever only reads entities looks into it as well.

        """
        self.node = node
        self._active = active
        self._compared = 0
        """Where the next comparison goes on."""
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        opening = self.node.activating.borrowed_tokens
        return f"<Directory {len(self._active)} workspaces, {opening} of them opening>"

    def statistics(self) -> dict[str, WorkspaceStatistics]:
        """Return how each active workspace stands."""
        return {workspace_id: each.statistics() for workspace_id, each in self._active.items()}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the workspaces until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery, self.node.is_open = nursery, not self.node.is_draining
            task_status.started()
            try:
                while True:
                    await trio.sleep(_TICK_S)
                    now = trio.current_time()
                    for supervisor in list(self._active.values()):
                        supervisor.tick(now)
                    self._make_room(now)
            finally:
                self._nursery, self.node.is_open = None, False

    def _make_room(self, now: float) -> None:
        """Passivate idle workspaces, the least recently used first, a bounded number at a time."""
        limits = self.node.limits
        excess = len(self._active) - int(limits.workspaces_active_max * _CROWDED)
        idle_since = now - limits.passivate_after_s
        left = limits.activations_max
        running = [each for each in self._active.values() if each.is_running]
        if excess <= 0:
            running = [each for each in running if each.used_at <= idle_since]
        for supervisor in sorted(running, key=lambda each: each.used_at):
            is_due = supervisor.used_at <= idle_since and left > 0
            if (is_due or (excess > 0 and not supervisor.is_used)) and supervisor.passivate():
                left -= 1
                excess -= 1

    # ------------------------------------------------------------------------------- the table

    def activate(self, workspace_id: str) -> WorkspaceSupervisor:
        """Return a workspace's supervisor; where the workspace is not active, start it.

        It may leave memory at the next checkpoint, unless it was given a command before that, or
        is kept with `using`.

        Raises:
            OverloadedError: the table is full.
            RuntimeClosedError: the runtime drains, or does not run.

        """
        supervisor = self._active.get(workspace_id)
        if supervisor is None:
            if not self.node.is_open:
                raise self.node.closed_error()
            if len(self._active) >= self.node.limits.workspaces_active_max:
                raise OverloadedError("too many workspaces are active", retry_after_s=_TICK_S)
            assert self._nursery is not None, "checked"
            supervisor = self._active[workspace_id] = WorkspaceSupervisor(workspace_id, self.node)
            self._nursery.start_soon(self._run, supervisor)
        return supervisor

    async def _run(self, supervisor: WorkspaceSupervisor) -> None:
        try:
            await supervisor.run()
        finally:
            self._remove(supervisor)
            supervisor.close()

    def _remove(self, supervisor: WorkspaceSupervisor) -> None:
        """Remove a supervisor from the table: the next request for its workspace starts another."""
        if self._active.get(supervisor.workspace_id) is supervisor:
            del self._active[supervisor.workspace_id]

    @contextmanager
    def using(self, workspace_id: str) -> Iterator[WorkspaceSupervisor]:
        """Return a workspace's supervisor and keep it for the length of a block."""
        supervisor = self.activate(workspace_id)
        supervisor.users += 1
        try:
            yield supervisor
        finally:
            supervisor.users -= 1
            supervisor.used_at = trio.current_time()

    def reopen(self, workspace_id: str) -> None:
        """Look at a repaired workspace again, from the next request for it on."""
        supervisor = self._active.get(workspace_id)
        if supervisor is not None and supervisor.reopen():
            self._remove(supervisor)

    async def drain(self) -> None:
        """Refuse new commands and wait until those that were taken are settled; bound it."""
        self.node.drain()
        left = list(self._active.values())
        while left := [each for each in left if not each.is_settled]:  # noqa: ASYNC110 - rare
            await trio.sleep(0.01)

    # --------------------------------------------------------------------------- the lease's

    async def compare(self, *, everything: bool) -> None:
        """Compare what is served here with what the store says of it.

        A node can be wrong about a workspace without being told: its lease was over, another
        process was the same node, another node made what it reads, a failover lost the log's end.
        So some are compared with every beat, each in its turn, and all where there is a reason.

        Raises:
            UnavailableError: ask again.

        """
        served = [each for each in self._active.values() if each.epoch > 0 or each.hub.is_used]
        served = [each for each in served if not each.is_opening]  # it asks the store itself
        if not everything and len(served) > _COMPARED_AT_ONCE:
            first = self._compared % len(served)
            self._compared = first + _COMPARED_AT_ONCE
            served = (served + served)[first : first + _COMPARED_AT_ONCE]
        for first in range(0, len(served), _COMPARED_AT_ONCE):
            known = [(each, each.known) for each in served[first : first + _COMPARED_AT_ONCE]]
            heads = await self.node.store.read_heads([each.workspace_id for each, _ in known])
            for supervisor, before in known:
                head = heads.get(supervisor.workspace_id)
                is_same = supervisor.epoch == before.epoch and not supervisor.is_opening
                if head is not None and is_same and not before.fits(head):
                    supervisor.fence()
