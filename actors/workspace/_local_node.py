"""This node, as the incarnations of its workspaces know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from dalsegno.actors.delivery import Delivery
    from dalsegno.actors.ports import Bus, Store, World
    from dalsegno.protocol import Limits

    from ._budget import WriteBudgets
    from ._cache import CacheBound
    from ._committer import Committer
    from ._room import Room


@dataclass(slots=True, kw_only=True)
class LocalNode:
    """What all workspaces of this node share."""

    node_id: str
    process_id: str
    """Which process the node is: another one may take the node over."""
    code: str
    """The version of what folds the log here; a halt marker names it."""
    store: Store
    committer: Committer
    delivery: Delivery
    bus: Bus
    founder_of: Callable[[str], Awaitable[str | None]]
    """Returns the first owner of a workspace."""
    budgets: WriteBudgets
    """What each user may have written."""
    cached: CacheBound
    """What all of them keep in memory of their entities."""
    room: Room
    """For all commands that wait here."""
    activating: trio.CapacityLimiter
    """The turns in which workspaces are opened."""
    world: World
    limits: Limits
