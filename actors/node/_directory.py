"""The workspaces that are active on this node.

The table is bounded.  Near its bound idle workspaces leave before their time, the longest unused
first; at it a workspace that is not active is refused with `OVERLOADED`, and the active ones go on.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Agenda, OverloadedError

from ._workspace_supervisor import WorkspaceSupervisor

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Iterator

    from dalsegno.actors.delivery import Hub

    from ._lifecycle import WorkspaceStatistics
    from ._serving_node import ServingNode

_TICK_S = 0.5
_CROWDED = 0.9
"""Of the table's bound: from there on idle workspaces leave before their time."""
_LOOKED_AT = 2_000
"""Workspaces that are looked at in a tick to find those that leave early."""
_COMPARED_AT_ONCE = 500
"""Heads read in one query, and with every beat."""


class Directory:
    """The active workspaces, each with its supervisor."""

    def __init__(self, node: ServingNode, active: OrderedDict[str, WorkspaceSupervisor]) -> None:
        """Make it.

        Args:
            node: what the workspaces share.
            active: the table that it fills; whoever only reads entities looks into it as well.

        """
        self.node = node
        self._active = active
        """In the order in which they are looked at, those first that were not for longest."""
        self._watched: dict[WorkspaceSupervisor, None] = {}
        """Those that the next tick looks at; each adds itself where something may become due."""
        self._idle: Agenda[WorkspaceSupervisor] = Agenda(_TICK_S, trio.current_time())
        """When each may have been idle for long enough to be passivated."""
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
                    self._tick(trio.current_time())
            finally:
                self._nursery, self.node.is_open = None, False

    def _tick(self, now: float) -> None:
        """Do what is due; what is active and idle costs nothing."""
        for supervisor in list(self._watched):
            if not supervisor.tick(now):
                del self._watched[supervisor]
        self._passivate(now)
        self._make_room()

    def _passivate(self, now: float) -> None:
        """Passivate idle workspaces, up to a bound per round."""
        after_s, left = self.node.limits.passivate_after_s, self.node.limits.activations_max
        for supervisor in self._idle.take(now):
            due = supervisor.used_at + after_s
            if due <= now and not supervisor.is_running:
                due = now + after_s  # it has to be used to run, which counts from then
            elif due <= now and left > 0 and supervisor.passivate():
                due = now + after_s
                left -= 1
            self._idle.put(supervisor, due)

    def _make_room(self) -> None:
        """Near the bound, let those leave that nobody needs, the longest unused first."""
        excess = len(self._active) - int(self.node.limits.workspaces_active_max * _CROWDED)
        if excess <= 0:
            return
        unused = [each for each in self._next(_LOOKED_AT) if each.is_running and not each.is_used]
        for supervisor in sorted(unused, key=lambda each: each.used_at)[:excess]:
            supervisor.passivate()

    def _next(self, count: int) -> list[WorkspaceSupervisor]:
        """Return so many that were not returned for longest, so that each has its turn."""
        several = list(islice(self._active.items(), count))
        for workspace_id, _ in several:
            self._active.move_to_end(workspace_id)
        return [supervisor for _, supervisor in several]

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
            supervisor = WorkspaceSupervisor(workspace_id, self.node, self._watched)
            self._active[workspace_id] = supervisor
            self._idle.put(supervisor, supervisor.used_at + self.node.limits.passivate_after_s)
            self._nursery.start_soon(self._run, supervisor)
        return supervisor

    def open_ids(self) -> list[str]:
        """Return the ids of the active workspaces whose head is known."""
        return [id_ for id_, each in self._active.items() if each.hub.is_open]

    def is_active(self, workspace_id: str) -> bool:
        """Return whether a workspace is in memory here."""
        return workspace_id in self._active

    def hub_of(self, workspace_id: str) -> Hub | None:
        """Return the readers of a workspace; None where it is not in memory here."""
        supervisor = self._active.get(workspace_id)
        return None if supervisor is None else supervisor.hub

    def has(self, supervisor: WorkspaceSupervisor) -> bool:
        """Return whether a supervisor is its workspace's still."""
        return self._active.get(supervisor.workspace_id) is supervisor

    def wake(self, workspace_id: str) -> WorkspaceSupervisor:
        """Return a workspace's supervisor as `activate` does; one that was not active is woken.

        It stays so until somebody else uses it, and whoever woke it has it passivated.

        Raises:
            OverloadedError: as `activate`.
            RuntimeClosedError: as `activate`.

        """
        was_active = self.is_active(workspace_id)
        supervisor = self.activate(workspace_id)
        supervisor.is_woken = supervisor.is_woken or not was_active
        return supervisor

    async def _run(self, supervisor: WorkspaceSupervisor) -> None:
        try:
            await supervisor.run()
        finally:
            self._remove(supervisor)
            supervisor.close()
            self._idle.discard(supervisor)
            self._watched.pop(supervisor, None)

    def _remove(self, supervisor: WorkspaceSupervisor) -> None:
        """Remove a supervisor from the table: the next request for its workspace starts another."""
        if self._active.get(supervisor.workspace_id) is supervisor:
            del self._active[supervisor.workspace_id]

    @contextmanager
    def using(self, workspace_id: str, *, is_use: bool = True) -> Iterator[WorkspaceSupervisor]:
        """Return a workspace's supervisor and keep it for the length of a block; see `kept`."""
        supervisor = self.activate(workspace_id)
        with supervisor.kept(is_use=is_use):
            yield supervisor

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
        process was the same node, another node made what it reads, a failover lost the log's end,
        somebody appended to it by SQL.  So some are compared with every beat, each in its turn, and
        all where there is a reason.

        Raises:
            UnavailableError: ask again.

        """
        served = self._next(len(self._active) if everything else _COMPARED_AT_ONCE)
        served = [each for each in served if each.epoch > 0 or each.hub.is_used]
        served = [each for each in served if not each.is_opening]  # it asks the store itself
        for first in range(0, len(served), _COMPARED_AT_ONCE):
            known = [(each, each.known) for each in served[first : first + _COMPARED_AT_ONCE]]
            heads = await self.node.store.read_heads([each.workspace_id for each, _ in known])
            for supervisor, before in known:
                head = heads.get(supervisor.workspace_id)
                is_same = supervisor.epoch == before.epoch and not supervisor.is_opening
                if head is None or not is_same:
                    continue
                if not before.fits(head) or supervisor.is_behind(before, head):
                    supervisor.fence()
