"""The reactors of one workspace, told of what was committed there: in order, a page at a time.

    begins where they have come ──▶ tells them of pages ──▶ level: waits for the next commit
                                          ▲                            │
                                          └────────────────────────────┘

It reads after the hub has published, from the tail or the store as readers do, and is in no
reader's bound.  It keeps the workspace from resting while there is something that its reactors have
not been told of, and not longer.  What they ask for is committed before the place behind it is
written, so a crash tells them again of what they were told of; what that asks for is there already.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.delivery import check_cursor, read_page
from dalsegno.actors.node import send_group
from dalsegno.actors.ports import ReactorPlace
from dalsegno.protocol import (
    CHAIN_START,
    SYSTEM,
    Cursor,
    DalsegnoError,
    Reject,
    StaleCursorError,
    Subscription,
    UnavailableError,
    WorkspaceMovedError,
    workspace_stream,
)

from ._reactions import Reactions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.node import Catalog, Directory, WorkspaceSupervisor
    from dalsegno.protocol import Event
    from dalsegno.protocol.runs import TriggerRun

    from ._reactions import ReactorTable

_log = logging.getLogger("dalsegno.reactors")

_AGAIN_S = 1.0
"""How long to wait where the store was away."""
_AT_ONCE = 50
"""Runs that are asked for in one commit."""


class Follower:
    """Tells the reactors of one workspace; see the module."""

    def __init__(
        self, workspace_id: str, directory: Directory, catalog: Catalog, table: ReactorTable
    ) -> None:
        self.workspace_id = workspace_id
        self.is_dirty = False
        """Whether it came further than was written."""
        self._directory = directory
        self._catalog = catalog
        self._table = table
        self._reactions = Reactions(directory, catalog, workspace_id, table)
        self._subscription = Subscription(workspace_id, workspace_stream(workspace_id))
        self._told = Cursor(0, CHAIN_START)
        """Behind the last event that they were told of."""
        self._began: Mapping[str, Cursor] | None = None
        """Where each of them begins; None until that is known."""
        self._news = trio.Event()
        self._scope = trio.CancelScope()
        self._kept: ExitStack | None = None
        """Keeps the workspace in memory while they are behind."""
        self._keep()

    def __repr__(self) -> str:
        state = "level" if self.is_level else "behind"
        return f"<Follower of {self.workspace_id}, {state} at {self._subscription.sent}>"

    @property
    def is_level(self) -> bool:
        """Whether they were told of everything."""
        return self._kept is None

    def published(self, events: Sequence[Event]) -> None:
        """Note what was committed; what concerns no reactor is passed over here and now."""
        subscription = self._subscription
        is_next = self.is_level and events[0].event_seq == subscription.sent + 1
        if is_next and not any(map(self._table.concerns, events)):
            subscription.sent = events[-1].event_seq
            self._came_to(events[-1])
            return
        subscription.live = False
        self._keep()
        self._news.set()

    def place(self) -> ReactorPlace:
        """Return how far they have come, those that have come further since it began."""
        told, began = self._told, self._began or {}
        names = tuple(name for name, cursor in began.items() if cursor.seq <= told.seq)
        return ReactorPlace(names, told)

    def _came_to(self, event: Event) -> None:
        self._told = Cursor(event.event_seq, event.chain)
        self.is_dirty = True

    def end(self) -> None:
        """Stop: the workspace is another node's, or has another history."""
        self._scope.cancel(reason="the workspace is served here no longer")

    # --------------------------------------------------------------------------- following

    async def serve(self) -> None:
        """Tell them of everything, until it is ended or cancelled."""
        try:
            with self._scope:
                while True:
                    self._news = trio.Event()
                    if not self.is_level:
                        await self._try_to_catch_up()
                    else:
                        await self._news.wait()
        finally:
            self._let_go()

    def _keep(self) -> None:
        """Keep the workspace in memory; where the runtime ends, it leaves without us."""
        if self._kept is None:
            self._kept = ExitStack()
            try:
                self._kept.enter_context(self._directory.using(self.workspace_id, is_use=False))
            except UnavailableError as error:
                _log.debug("%s: %s", self.workspace_id, error)

    def _let_go(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.close()

    async def _try_to_catch_up(self) -> None:
        try:
            with self._directory.using(self.workspace_id, is_use=False) as active:
                await self._catch_up(active)
        except WorkspaceMovedError:
            await trio.sleep_forever()  # whoever says so ends this
        except DalsegnoError as error:
            _log.info("%s: its reactors are kept waiting: %s", self.workspace_id, error)
            await trio.sleep(_AGAIN_S)

    async def _catch_up(self, active: WorkspaceSupervisor) -> None:
        """Tell them of what is published, page by page.

        Raises:
            DalsegnoError: it cannot be read now, or what they ask for cannot be committed.

        """
        await active.wait_open()
        subscription, hub = self._subscription, active.hub
        if self._began is None:
            self._began = await self._begin(hub)
        while True:
            subscription.sent = self._told.seq  # also where a page could not be told
            page = await read_page(self._directory.node.delivery, hub, subscription)
            if page is None:
                break
            _, events = page
            await self._tell(events)
            self._came_to(events[-1])
        self._let_go()

    async def _begin(self, hub: Hub) -> Mapping[str, Cursor]:
        """Look up where each begins, and begin with the first of them.

        Of a history that was replaced they go on from its head: what they were told of is in no
        log any more, and nobody knows what of the new one they were told of as well.
        """
        names = self._table.names
        known = await self._directory.node.store.read_places(self.workspace_id)
        began: dict[str, Cursor] = {}
        is_of_this: dict[Cursor, bool] = {}
        for name in names:
            cursor = known.get(name, Cursor(0, CHAIN_START))
            if cursor not in is_of_this:
                is_of_this[cursor] = await self._is_of_this_history(hub, cursor)
            began[name] = cursor if is_of_this[cursor] else Cursor(hub.head, hub.chain)
        replaced = [name for name in known if name in began and began[name] != known[name]]
        if replaced:
            self._table.replaced += 1
            _log.warning(
                "%s: its history was replaced: %s go on after event %d",
                self.workspace_id,
                ", ".join(replaced),
                hub.head,
            )
        first = min(began.values(), key=lambda cursor: cursor.seq)
        self._subscription.begin(first.seq, hub.head)
        self._told = first
        self.is_dirty = bool(replaced)
        return began

    async def _is_of_this_history(self, hub: Hub, cursor: Cursor) -> bool:
        if cursor.seq > hub.head:
            return False
        try:
            await check_cursor(self._directory.node.delivery, hub, self._subscription, cursor)
        except (Reject, StaleCursorError):
            return False
        return True

    # ---------------------------------------------------------------------------- telling

    async def _tell(self, events: Sequence[Event]) -> None:
        """Tell them of a page, and ask for the runs that they want.

        Raises:
            UnavailableError: not all of it, or nobody knows: to be told again.

        """
        assert self._began is not None, "looked up before"
        asked = await self._reactions.to(events, self._began)
        for first in range(0, len(asked), _AT_ONCE):
            await self._ask_for(asked[first : first + _AT_ONCE])

    async def _ask_for(self, asked: Sequence[TriggerRun]) -> None:
        """Ask for runs in one commit; where one is refused, for each by itself."""
        try:
            await self._send(asked)
        except Reject:
            for each in asked:
                try:
                    await self._send([each])
                except Reject as error:
                    self._table.failed += 1
                    _log.warning("%s: no run of %s: %s", self.workspace_id, each.worker, error)

    async def _send(self, asked: Sequence[TriggerRun]) -> None:
        """Ask once; where nobody knows what became of it, the page is told again."""
        await send_group(
            self._directory,
            self._catalog,
            self.workspace_id,
            [(each, SYSTEM) for each in asked],
        )
        self._table.asked += len(asked)
