"""Workspaces that are in memory for what follows their commits alone, and rest again after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors.node import Directory, ServingNode, WorkspaceSupervisor


_AFTER_S = 0.05
"""How long after the end of a lease one looks: by its own clock, not a moment before."""


async def look_again_s(node: ServingNode) -> float:
    """Return when to look again for workspaces that nobody serves: once a lease has ended.

    At the latest when one would end that has begun since.

    Raises:
        UnavailableError: the store is away.

    """
    every_s = min(node.limits.runs_scan_s, node.limits.lease_s)
    next_end_s = await node.store.next_end_s(node.node_id)
    return every_s if next_end_s is None else min(every_s, next_end_s + _AFTER_S)


class Woken:
    """Those that one service has woken: at most a share of the table of active workspaces."""

    def __init__(self, directory: Directory, *, share: int) -> None:
        """Make it; of the table, one in ``share`` may be there for this service alone."""
        self._directory = directory
        self._max = max(1, directory.node.limits.workspaces_active_max // share)
        self._woken: dict[WorkspaceSupervisor, None] = {}

    def __repr__(self) -> str:
        return f"<Woken: {len(self)} of {self._max}>"

    def __len__(self) -> int:
        return len(self._woken)

    def wake(self, workspace_id: str) -> bool:
        """Have a workspace in memory; return False where there is no room for it."""
        if not self._directory.is_active(workspace_id) and len(self) >= self._max:
            return False
        try:
            supervisor = self._directory.wake(workspace_id)
        except UnavailableError:
            return False
        if supervisor.is_woken:
            self._woken[supervisor] = None
        return True

    def let_rest(self, may_rest: Callable[[str], bool]) -> None:
        """Passivate those that may rest, and that nobody else uses meanwhile."""
        for supervisor in list(self._woken):
            is_left = not supervisor.is_woken or not self._directory.has(supervisor)
            if is_left or (may_rest(supervisor.workspace_id) and supervisor.passivate()):
                del self._woken[supervisor]
