"""Reactors: told of what is committed in workspaces of this node, whatever dies.

A reactor is told by the workspace's owner.  How far it has come is written every few seconds, and
after it has asked for something; that is no promise but a saving: what it is told of a second time
asks for nothing new.  A workspace is released with its reactors at the head.  Where its owner died,
another node looks for it, by what is written, and tells them of the rest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import ReactorStart
from dalsegno.protocol import Backoff, DalsegnoError, UnavailableError

from ._follower import Follower
from ._reactions import ReactorTable
from ._woken import Woken, look_again_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.actors.ports import ReactorPlace
    from dalsegno.protocol import Event, Reactor

_log = logging.getLogger("dalsegno.reactors")

_TICK_S = 1.0
_LOOKED_AT = 1_000
"""Workspaces that are looked at in one query …"""
_PAGES = 20
"""… and queries in one scan; the next one goes on where it ended."""
_WOKEN = 4
"""Of the table of active workspaces, one in so many is there for reactors alone, at most."""


@dataclass(frozen=True, slots=True)
class ReactorStatistics:
    """The reactors of a node at one moment."""

    workspaces: int
    """Workspaces where they are told of events …"""
    behind: int
    """… and those of them where there is something that they were not told of."""
    woken: int
    """… and those that are active for that alone."""
    asked: int
    """Runs that were asked for since the start, those included that there were."""
    failed: int
    """Events of which one could not be told, or by which it failed: they asked for no run."""
    replaced: int
    """Workspaces that turned out to have another history: they went on from its head."""


class Reactors:
    """Tells the reactors of one node; see the module."""

    def __init__(self, directory: Directory, catalog: Catalog, reactors: Sequence[Reactor]) -> None:
        self._directory = directory
        self._catalog = catalog
        self._node = directory.node
        self._table = ReactorTable(reactors)
        self._served: dict[str, Follower] = {}
        self._unwritten: dict[str, ReactorPlace] = {}
        """How far they came in workspaces that are not followed any longer."""
        self._woken = Woken(directory, share=_WOKEN)
        self._scanned = ("", "")
        """Where the last scan ended before it had seen all."""
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Reactors {', '.join(self._table.names)}, {len(self._served)} workspaces>"

    def statistics(self) -> ReactorStatistics:
        """Return how they stand."""
        return ReactorStatistics(
            workspaces=len(self._served),
            behind=sum(not each.is_level for each in self._served.values()),
            woken=len(self._woken),
            asked=self._table.asked,
            failed=self._table.failed,
            replaced=self._table.replaced,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell them until cancelled.

        It has started once they are registered: what is committed from then on they are told of.
        """
        if not self._table.reactors:
            task_status.started()
            await trio.sleep_forever()
        await self._register()
        task_status.started()
        limits = self._node.limits
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for workspace_id in self._directory.open_ids():
                    self.opened(workspace_id)
                scan_at = write_at = trio.current_time()
                while True:
                    self._woken.let_rest(self._may_rest)
                    if trio.current_time() >= scan_at:
                        scan_at = trio.current_time() + await self._scan()
                    if trio.current_time() >= write_at:
                        await self.write()
                        write_at = trio.current_time() + limits.places_every_s
                    await trio.sleep(_TICK_S)
            finally:
                self._nursery = None
                self._served.clear()

    async def _register(self) -> None:
        """Note where those begin that there were not before; nobody is told of anything earlier."""
        starts = [
            ReactorStart(name=each.name, since=each.since, was=each.was)
            for each in self._table.reactors
        ]
        backoff = Backoff(self._node.limits.backoff_first_s, self._node.limits.backoff_max_s)
        while True:
            try:
                await self._node.store.register_reactors(starts)
            except UnavailableError as error:
                _log.info("reactors cannot begin yet: %s", error)
                await trio.sleep(backoff.next_s(self._node.world.random()))
            else:
                return

    # ---------------------------------------------------------------------------- the watcher's

    def opened(self, workspace_id: str) -> None:
        """Follow a workspace that is active here."""
        if self._nursery is None or workspace_id in self._served:
            return
        follower = Follower(workspace_id, self._directory, self._catalog, self._table)
        self._served[workspace_id] = follower
        self._nursery.start_soon(follower.serve)

    def published(self, workspace_id: str, events: Sequence[Event]) -> None:
        """Note what was committed in a workspace."""
        follower = self._served.get(workspace_id)
        if follower is not None:
            follower.published(events)

    def ended(self, workspace_id: str) -> None:
        """Stop following a workspace that is not served here any longer."""
        follower = self._served.pop(workspace_id, None)
        if follower is not None:
            follower.end()
            if follower.is_dirty:
                self._unwritten[workspace_id] = follower.place()

    # ------------------------------------------------------------------------------- the rest

    def _may_rest(self, workspace_id: str) -> bool:
        """Return whether the reactors of a workspace were told of everything."""
        follower = self._served.get(workspace_id)
        return follower is not None and follower.is_level

    async def write(self) -> None:
        """Write how far they have come; where the store is away, later."""
        followers = [each for each in self._served.values() if each.is_dirty]
        places = self._unwritten | {each.workspace_id: each.place() for each in followers}
        if not places:
            return
        for each in followers:
            each.is_dirty = False
        unwritten, self._unwritten = self._unwritten, {}
        try:
            await self._node.store.write_places(places)
        except UnavailableError as error:
            _log.info("how far reactors have come was not written: %s", error)
            for each in followers:
                each.is_dirty = True
            self._unwritten = unwritten | self._unwritten

    async def _scan(self) -> float:
        """Wake the workspaces where they are behind and that nobody serves; when to do it again."""
        node = self._node
        if not (node.is_open and node.lease.is_held):
            return _TICK_S
        try:
            for _ in range(_PAGES):
                page = await node.store.find_behind(
                    node.node_id, self._table.names, after=self._scanned, limit=_LOOKED_AT
                )
                for workspace_id in page.workspace_ids:
                    if workspace_id not in self._served:
                        self._woken.wake(workspace_id)
                self._scanned = page.last or ("", "")
                if page.last is None:
                    return await look_again_s(node)
        except DalsegnoError as error:
            _log.warning("what reactors are behind in could not be looked for: %s", error)
        return node.limits.runs_scan_s

    def stop(self) -> None:
        """Stop telling them."""
        self._nursery = None
        for workspace_id in list(self._served):
            self.ended(workspace_id)
