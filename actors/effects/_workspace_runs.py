"""The open runs of one workspace that this node serves: which wait, and which are carried out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.node import list_entities, send
from dalsegno.actors.ports import BEGINNING
from dalsegno.protocol import (
    SYSTEM,
    Backoff,
    DalsegnoError,
    OutcomeUnknownError,
    UnavailableError,
    WorkspaceMovedError,
)
from dalsegno.protocol.runs import CancelRun, runs

from ._attempt import Attempt, Ending, read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.protocol import Event
    from dalsegno.protocol.runs import RunState, Worker

_log = logging.getLogger("dalsegno.runs")

_AGAIN_S = 1.0
"""How long to wait where the store was away, and at most before a run of a dead process begins."""
_BEGINS = frozenset({"run_requested", "run_released"})
_GONE = "the connection that asked is gone"


@dataclass(slots=True)
class _OpenRun:
    """A run that waits for its turn, or is carried out."""

    lost: Callable[[], None]
    """What is called at the end of its connection."""
    waiting: trio.CancelScope = field(default_factory=trio.CancelScope)
    attempt: Attempt | None = None
    connection_id: str | None = None
    """The connection with which it ends, once that is known."""

    def stop(self, ending: Ending) -> None:
        if self.attempt is not None:
            self.attempt.stop(ending)
        elif ending is not Ending.CANCELLED:  # that ends one that waits, in the log
            self.waiting.cancel(reason=ending.value)


class WorkspaceRuns:
    """Carries out the open runs of one workspace, as many at a time as may be."""

    def __init__(
        self,
        workspace_id: str,
        directory: Directory,
        catalog: Catalog,
        workers: Mapping[str, Worker],
        running: trio.CapacityLimiter,
        cancelling: trio.CapacityLimiter,
    ) -> None:
        """Make it.

        Args:
            workspace_id: the workspace.
            directory: where it is active.
            catalog: looks up its runs.
            workers: who carries out runs.
            running: those of the node at a time.
            cancelling: … and those that are cancelled, since their connections are gone.

        """
        self.workspace_id = workspace_id
        self._directory = directory
        self._catalog = catalog
        self._node = directory.node
        self._workers = workers
        self._running = running
        self._cancelling = cancelling
        self._ids = directory.node.connection_ids
        self._slots = {
            name: trio.CapacityLimiter(worker.concurrency) for name, worker in workers.items()
        }
        self._open: dict[str, _OpenRun] = {}
        self._is_listed = False
        """Whether all open runs were taken; else the rest is listed once there is room."""
        self._place = BEGINNING
        """… and where that begins."""
        self._news = trio.Event()
        self._is_draining = False
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        counts = f"{self.running} of {len(self._open)} open runs carried out"
        return f"<WorkspaceRuns of {self.workspace_id}, {counts}>"

    @property
    def running(self) -> int:
        """How many are carried out."""
        return sum(each.attempt is not None for each in self._open.values())

    @property
    def waiting(self) -> int:
        """How many wait, as far as they are known."""
        return len(self._open) - self.running

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open."""
        return self._is_listed and not self._open

    # ------------------------------------------------------------------------- what is heard of

    def published(self, events: Sequence[Event]) -> None:
        """Note what was committed: a run was asked for, cancelled, or has ended."""
        for event in events:
            domain, _, run_id = event.stream_id.partition(":")
            if domain != runs.name:
                continue
            known = self._open.get(run_id)
            if event.type in _BEGINS and known is None:
                self._take(run_id)
            elif known is not None and event.type == "run_cancel_requested":
                known.stop(Ending.CANCELLED)
            elif known is not None and event.type == "run_finished":
                known.stop(Ending.OVER)
                if known.connection_id is not None:
                    self._ids.release(known.connection_id)

    def look_again(self) -> None:
        """List the open runs anew: somebody says that there are some."""
        self._is_listed = False
        self._news.set()

    def end(self) -> None:
        """Stop everything: the workspace is another node's, or has another history."""
        for each in self._open.values():
            if each.attempt is not None:
                each.attempt.silence()
        self._scope.cancel(reason="the workspace is served here no longer")

    async def drain(self) -> None:
        """End every attempt in the log, so that the next node begins another at once."""
        self._is_draining = True
        for each in list(self._open.values()):
            each.stop(Ending.DRAINED)
        while self._open:  # noqa: ASYNC110 - rare
            await trio.sleep(0.01)

    # ---------------------------------------------------------------------------- carrying out

    async def serve(self) -> None:
        """Carry out what is open, until it is ended or cancelled."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    while True:
                        self._news = trio.Event()
                        if not self._is_listed:
                            await self._list()
                        await self._news.wait()
                finally:
                    self._nursery = None  # a hub that tells it something meanwhile hears no error

    async def _list(self) -> None:
        """Take the open runs that are in the store, as many as there is room for."""
        try:
            while not self._is_listed:
                page = await list_entities(
                    self._directory,
                    self._catalog,
                    self.workspace_id,
                    runs,
                    principal=SYSTEM,
                    key="open",
                    after=self._place,
                    limit=self._node.limits.list_limit_max,
                )
                for item in page.items:
                    if not self._take(item.stream_id.partition(":")[2]):
                        return
                    self._place = item.place_in("open")
                if page.is_last:
                    self._is_listed, self._place = True, BEGINNING
        except DalsegnoError as error:
            _log.info("%s: its runs could not be listed: %s", self.workspace_id, error)
            await trio.sleep(_AGAIN_S)
            self._news.set()

    def _take(self, run_id: str) -> bool:
        """Have a run carried out, unless it is known; return False where there is no room."""
        if run_id in self._open:
            return True
        has_room = len(self._open) < self._node.limits.runs_waiting_max
        if self._is_draining or self._nursery is None or not has_room:
            self._is_listed = False
            return False
        self._open[run_id] = _OpenRun(partial(self._lost, run_id))
        self._nursery.start_soon(self._carry_out, run_id)
        return True

    async def _carry_out(self, run_id: str) -> None:
        """Carry a run out, attempt by attempt, each in its turn."""
        known = self._open[run_id]
        try:
            with known.waiting:
                delay_s: float | None = 0.0
                while delay_s is not None:
                    await trio.sleep(delay_s)
                    delay_s = await self._attempt(run_id, known)
        finally:
            del self._open[run_id]
            if known.connection_id is not None:
                self._ids.unwatch(known.connection_id, known.lost)
            if not self._is_listed and 2 * len(self._open) <= self._node.limits.runs_waiting_max:
                self._news.set()  # not for each: a list is a query

    async def _attempt(self, run_id: str, known: _OpenRun) -> float | None:
        """Make one attempt; return when the next one is due, in seconds, None: there is none."""
        try:
            state = await read_run(self._directory, self._catalog, self.workspace_id, run_id)
        except DalsegnoError as error:
            _log.info("%s %s: %s", self.workspace_id, run_id, error)
            return _AGAIN_S
        if state is None or not state.is_open:
            return None
        if not self._is_wanted(known, state):
            return await self._cancel(run_id)
        worker = self._workers.get(state.worker)
        if worker is None:
            _log.debug("%s %s: no worker %s here", self.workspace_id, run_id, state.worker)
            return None  # it waits for a program that has it, or for its deadline
        if state.retry_at is not None:
            wait_s = (state.retry_at - self._node.world.now()).total_seconds()
            if wait_s > 0:
                return wait_s
        if state.status == "running":  # of a process that died, as others may have just now
            await trio.sleep(self._node.world.random() * _AGAIN_S)
        async with self._slots[worker.name], self._running:
            attempt = Attempt(self._directory, self._catalog, self.workspace_id, run_id, worker)
            known.attempt = attempt
            try:
                with self._directory.using(self.workspace_id) as supervisor:
                    return await attempt.carry_out(state.attempt_id, supervisor.hub)
            except DalsegnoError as error:  # the runtime drains, or has too many workspaces
                _log.info("%s %s: %s", self.workspace_id, run_id, error)
                return _AGAIN_S
            finally:
                known.attempt = None

    # -------------------------------------------------------------- with the connection that asked

    def _is_wanted(self, known: _OpenRun, state: RunState) -> bool:
        """Return whether the connection that a run ends with is there; hear of its end from now on.

        It may have ended before the request was committed, or with the process that it was of.
        """
        if state.connection_id is None or state.cancelled is not None:
            return True
        if known.connection_id is None:
            known.connection_id = state.connection_id
            self._ids.watch(state.connection_id, known.lost)
        return state.connection_id in self._ids

    def _lost(self, run_id: str) -> None:
        """Cancel a run in the background: its connection has ended."""
        if self._nursery is not None:  # else whoever serves the workspace next finds it so
            self._nursery.start_soon(self._cancel, run_id)

    async def _cancel(self, run_id: str) -> float | None:
        """Cancel a run; return when it is to be looked at again, in seconds, None: not here.

        It is tried again as long as the run is open and the workspace is served here; at most to
        the run's deadline, which ends it too.
        """
        limits, world = self._node.limits, self._node.world
        backoff = Backoff(limits.backoff_first_s, limits.backoff_max_s)
        while run_id in self._open:
            try:
                async with self._cancelling:
                    await send(
                        self._directory,
                        self._catalog,
                        self.workspace_id,
                        CancelRun(run_id=run_id, reason=_GONE),
                        principal=SYSTEM,
                    )
            except WorkspaceMovedError:
                return None
            except (UnavailableError, OutcomeUnknownError) as error:
                _log.info("%s %s: %s", self.workspace_id, run_id, error)
                await trio.sleep(backoff.next_s(world.random()))
            except DalsegnoError as error:  # the workspace is halted
                _log.info("%s %s: %s", self.workspace_id, run_id, error)
                return None
            else:
                return 0.0
        return None
