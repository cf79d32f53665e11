"""This node, as the incarnations of its workspaces know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._budget import WriteBudgets
from ._cache import CacheBound
from ._room import Room

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    import trio

    from dalsegno.actors.delivery import Delivery
    from dalsegno.actors.ports import Artifacts, Bus, Dumps, Folders, ProcessRunner, Store, World
    from dalsegno.protocol import Limits
    from dalsegno.protocol.providers import Providers
    from dalsegno.protocol.runs import Worker

    from ._committer import Committer


def _nothing() -> None:
    """Tell nobody."""


@dataclass(slots=True, kw_only=True)
class LocalNode:
    """What all workspaces of this node share."""

    node_id: str
    process_id: str
    """Which process the node is: another one may take the node over."""
    code: str
    """The version of what folds the log here; a halt marker names it."""
    app_version: int = 0
    """Of the program: what a higher one has owned is not opened here."""
    store: Store
    committer: Committer
    delivery: Delivery
    bus: Bus
    founder_of: Callable[[str], Awaitable[str | None]]
    """Returns the first owner of a workspace."""
    audit_readers: Callable[[Collection[str]], Awaitable[Collection[str]]]
    """Returns those of some users who may read ``$audit`` now, by the store."""
    activating: trio.CapacityLimiter
    """The turns in which workspaces are opened."""
    world: World
    limits: Limits
    put_on_record: Callable[[], None] = _nothing
    """Called when something that is on record was committed here."""
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """Who carries out runs here, by their names."""
    processes: ProcessRunner | None = None
    """What starts processes for them; None: nothing does."""
    providers: Providers | None = None
    """Whom they ask models of; None: nobody."""
    artifacts: Artifacts | None = None
    """Where they write files; None: nowhere."""
    folders: Folders | None = None
    """What puts files into the folders of workspaces for them; None: nothing does."""
    dumps: Dumps | None = None
    """The store as rows; None: it has none."""
    budgets: WriteBudgets = field(init=False)
    """What each user may have written."""
    cached: CacheBound = field(init=False)
    """What all of them keep in memory of their entities."""
    room: Room = field(init=False)
    """For all commands that wait here."""

    def __post_init__(self) -> None:
        limits = self.limits
        self.budgets = WriteBudgets(
            bytes_per_minute=limits.written_bytes_per_minute, users_max=limits.places_cached_max
        )
        self.cached = CacheBound(limits.entities_cached_bytes_max)
        self.room = Room(limits.waiting_bytes_max)
