"""Which workspaces are active here, and who restarts them.

Each workspace has a slot for the life of the runtime: its mailbox, its hub and whatever an
incarnation left unresolved outlive the incarnations, which the slot's task runs one after the
other.  An incarnation's failure is a value here, never an exception in the nursery, so a fault
stays with its workspace (I10); what follows from it is DESIGN §7's table.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    DalsegnoError,
    OutcomeUnknownError,
    OverloadedError,
    RuntimeClosedError,
    StoreUnavailableError,
    UnavailableError,
    WorkspaceHaltedError,
)

from ._entity import load_entity
from ._hub import Delivery, Hub
from ._mailbox import Mailbox
from ._roles import role_in, role_stream
from ._workspace import Incarnation

if TYPE_CHECKING:
    from dalsegno.protocol import Domain, Limits

    from ._command import Command, Domains
    from ._committer import Committer
    from ._entity import Entity
    from ._seams import World
    from ._store import Store

_log = logging.getLogger("dalsegno.workspace")

_SWEEP_S = 0.5


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """A workspace at one moment."""

    head: int
    """The published head."""
    waiting: int
    """Commands in its mailbox."""
    unresolved: int
    """Commands whose outcome is unknown until the next incarnation has looked."""
    subscriptions: int
    incarnations: int
    """Since the runtime's start."""


class Slot:
    """One workspace's place in this runtime."""

    def __init__(self, workspace_id: str, directory: Directory) -> None:
        limits = directory.limits
        self.workspace_id = workspace_id
        self.hub = Hub(workspace_id, delivery=directory.delivery)
        self.incarnation: Incarnation | None = None
        self._directory = directory
        self._mailbox: Mailbox[Command] = Mailbox(
            count_max=limits.mailbox_commands_max, bytes_max=limits.mailbox_bytes_max
        )
        self._unresolved: list[Command] = []
        self._halted: WorkspaceHaltedError | None = None
        self._failure: DalsegnoError | None = None
        self._incarnations = 0
        self._epoch = 0
        """Of the last incarnation that ended."""

    def __repr__(self) -> str:
        state = "halted" if self._halted else "running" if self._is_running else "opening"
        return f"<Slot {self.workspace_id} {state}, {self._mailbox!r}>"

    def statistics(self) -> SlotStatistics:
        """Tell how it stands."""
        return SlotStatistics(
            head=self.hub.head,
            waiting=len(self._mailbox),
            unresolved=len(self._unresolved),
            subscriptions=self.hub.subscriptions,
            incarnations=self._incarnations,
        )

    @property
    def _is_running(self) -> bool:
        return self.incarnation is not None and self.incarnation.ready.is_set()

    @property
    def is_idle(self) -> bool:
        """Whether every command was settled."""
        settled = self.incarnation is None or self.incarnation.is_idle
        return not self._mailbox and not self._unresolved and settled

    async def admit(self, command: Command) -> None:
        """Put a command into the mailbox; cancelled while it waits for room, it is not there.

        Raises:
            OverloadedError: no room within ``mailbox_deadline_s``.
            WorkspaceHaltedError: the log needs a repair first.
            RuntimeClosedError: the runtime drains.

        """
        self._directory.check_admission()
        self._check_not_halted()
        command.sent_at = trio.current_time()
        try:
            self._mailbox.send_nowait(command)
        except trio.WouldBlock:
            await self._admit_later(command)

    async def _admit_later(self, command: Command) -> None:
        deadline_s = self._directory.limits.mailbox_deadline_s
        with trio.move_on_after(deadline_s) as scope:
            await self._mailbox.send(command)
        if scope.cancelled_caught:
            raise OverloadedError("the workspace's mailbox is full", retry_after_s=deadline_s)

    async def wait_open(self, event_seq: int = 0) -> None:
        """Wait until the published head is known, and at least ``event_seq``.

        Raises:
            WorkspaceHaltedError: the log needs a repair first.
            UnavailableError: not within ``mailbox_deadline_s``.

        """
        self._check_not_halted()
        with trio.move_on_after(self._directory.limits.mailbox_deadline_s):
            await self.hub.wait_head(event_seq)
            return
        self._check_not_halted()
        if isinstance(self._failure, UnavailableError) or not self.hub.is_open:
            raise StoreUnavailableError("the workspace could not be opened") from self._failure
        raise OverloadedError(f"event {event_seq} is not there yet")

    def _check_not_halted(self) -> None:
        if self._halted is not None:
            raise self._halted.with_traceback(None)  # it is raised again and again

    # -------------------------------------------------------------------------- supervision

    async def run(self) -> None:
        """Run one incarnation after the other, until cancelled or halted."""
        limits = self._directory.limits
        failures = 0
        crashes: deque[float] = deque()
        try:
            while True:
                began, head = trio.current_time(), self.hub.head
                self._failure = await self._run_once() or self._crashed(crashes)
                if isinstance(self._failure, WorkspaceHaltedError):
                    self._halt(self._failure)
                    await self._mark_halted(self._failure)
                    return
                lived_s = trio.current_time() - began
                is_well = self.hub.head > head or lived_s > limits.backoff_max_s
                failures = 1 if is_well else min(failures + 1, 32)
                bound_s = min(limits.backoff_max_s, limits.backoff_first_s * 2 ** (failures - 1))
                await trio.sleep(bound_s * self._directory.world.random())
        finally:
            self._close()

    def _crashed(self, crashes: deque[float]) -> DalsegnoError | None:
        """Count a bug in the loop; tell what follows where there were too many (DESIGN §7)."""
        limits = self._directory.limits
        crashes.append(trio.current_time())
        while crashes[0] < crashes[-1] - limits.crash_window_s:
            crashes.popleft()
        if len(crashes) <= limits.crashes_max:
            return None
        return WorkspaceHaltedError(f"failed {len(crashes)} times in {limits.crash_window_s:g} s")

    async def _run_once(self) -> DalsegnoError | None:
        self._incarnations += 1
        self.incarnation = self._directory.incarnation(
            self.workspace_id, self._mailbox, self._unresolved, self.hub
        )
        incarnation = self.incarnation
        try:
            await incarnation.run()
        except Exception as error:  # noqa: BLE001 - a fault here stays in this workspace
            failure = _first(error)
            if isinstance(failure, DalsegnoError):
                _log.warning("%s: the incarnation ends: %s", self.workspace_id, failure)
                return failure
            _log.error("%s: the incarnation failed", self.workspace_id, exc_info=error)
        finally:
            self.incarnation = None
            self._epoch = incarnation.epoch
        return None

    def _halt(self, failure: WorkspaceHaltedError) -> None:
        _log.error("%s is halted: %s", self.workspace_id, failure)
        self._halted = failure
        self._answer(self._mailbox.drain(), failure)
        self._answer(self._unresolved, OutcomeUnknownError(str(failure)))

    async def _mark_halted(self, failure: WorkspaceHaltedError) -> None:
        """Say it in the log's head, for whoever opens the workspace next (X-PER-9)."""
        deadline_s = self._directory.limits.commit_deadline_s
        with trio.move_on_after(deadline_s) as scope:
            try:
                await self._directory.store.halt(self.workspace_id, self._epoch, failure.message)
            except UnavailableError as error:
                _log.error("%s: the halt could not be recorded: %s", self.workspace_id, error)
        if scope.cancelled_caught:
            _log.error("%s: the halt could not be recorded in time", self.workspace_id)

    def _close(self) -> None:
        self._answer(self._mailbox.drain(), self._halted or RuntimeClosedError("shutting down"))
        self._answer(self._unresolved, OutcomeUnknownError("shutting down"))

    def expire(self, now: float) -> None:
        """Answer those who have waited too long for a store that is away."""
        if self._is_running:
            return
        limits = self._directory.limits
        old = self._mailbox.drain(lambda c: c.sent_at > now - limits.mailbox_deadline_s)
        self._answer(old, StoreUnavailableError("the workspace's store is away"))
        for command in self._unresolved:
            if command.sent_at <= now - limits.command_deadline_s:
                command.answer(OutcomeUnknownError("the commit had no answer yet"))

    @staticmethod
    def _answer(commands: list[Command], error: DalsegnoError) -> None:
        """Answer and forget them."""
        for command in commands:
            command.answer(error)
        commands.clear()


class Directory:
    """The workspaces of one runtime."""

    def __init__(
        self,
        store: Store,
        *,
        committer: Committer,
        domains: Domains,
        node_id: str,
        world: World,
        limits: Limits,
    ) -> None:
        self.store = store
        self.domains = domains
        self.world = world
        self.limits = limits
        self.delivery = Delivery(offers_per_yield=limits.offers_per_yield)
        self._committer = committer
        self._node_id = node_id
        self._slots: dict[str, Slot] = {}
        self._nursery: trio.Nursery | None = None
        self.is_draining = False
        """Whether new commands are refused."""

    def __repr__(self) -> str:
        return f"<Directory {len(self._slots)} workspaces>"

    def statistics(self) -> dict[str, SlotStatistics]:
        """Tell how each active workspace stands."""
        return {workspace_id: slot.statistics() for workspace_id, slot in self._slots.items()}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the workspaces until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await trio.sleep(_SWEEP_S)
                    for slot in self._slots.values():
                        slot.expire(trio.current_time())
            finally:
                self._nursery = None

    def slot(self, workspace_id: str) -> Slot:
        """Look a workspace up, and start it where it is not active."""
        if self._nursery is None:
            raise RuntimeClosedError("the runtime is closed")
        slot = self._slots.get(workspace_id)
        if slot is None:
            self.check_admission()
            slot = self._slots[workspace_id] = Slot(workspace_id, self)
            self._nursery.start_soon(slot.run)
        return slot

    def incarnation(
        self, workspace_id: str, mailbox: Mailbox[Command], unresolved: list[Command], hub: Hub
    ) -> Incarnation:
        """Make the next incarnation of a workspace."""
        return Incarnation(
            workspace_id,
            mailbox=mailbox,
            unresolved=unresolved,
            hub=hub,
            store=self.store,
            committer=self._committer,
            owner_of=self.owner_of,
            node_id=self._node_id,
            world=self.world,
            limits=self.limits,
        )

    def check_admission(self) -> None:
        """Raise `RuntimeClosedError` once `drain` has begun."""
        if self.is_draining or self._nursery is None:
            raise RuntimeClosedError("the runtime is closed")

    async def drain(self) -> None:
        """Refuse new commands and wait until those that were taken are settled; bound it."""
        self.is_draining = True
        while not all(slot.is_idle for slot in self._slots.values()):  # noqa: ASYNC110 - rare
            await trio.sleep(0.01)

    # -------------------------------------------------------------------------------- reading

    async def look(
        self, workspace_id: str, domain: Domain[Any, Any, Any], entity_id: str
    ) -> Entity | None:
        """Read an entity as it is committed; None where it never existed."""
        stream_id = domain.stream_id(entity_id)
        slot = self._slots.get(workspace_id)
        if slot is not None and slot.incarnation is not None:
            cached = slot.incarnation.committed(stream_id)
            if cached is not None:
                return cached if cached.version else None
        versions = {stream_id: domain.version}
        stored = await self.store.load_entities(workspace_id, versions, versions)
        return load_entity(domain, stored[stream_id]) if stream_id in stored else None

    async def owner_of(self, workspace_id: str) -> str | None:
        """Tell a workspace's first owner, whom ``$system`` records."""
        if workspace_id == SYSTEM_WORKSPACE or "space" not in self.domains:
            return None
        space = await self.look(SYSTEM_WORKSPACE, self.domains["space"], workspace_id)
        return None if space is None or space.state is None else str(space.state.owner_id)

    async def role_of(self, workspace_id: str, user_id: str) -> str | None:
        """Tell a user's role as it is committed; None for who has none."""
        name, _, entity_id = role_stream(workspace_id, user_id).partition(":")
        entity = await self.look(workspace_id, self.domains[name], entity_id)
        if entity is not None:
            return role_in(entity.version, entity.state, user_id, None)
        return role_in(0, None, user_id, await self.owner_of(workspace_id))

    def is_known(self, workspace_id: str) -> bool:
        """Tell whether a workspace is active and has events; if not, ask `exists`."""
        slot = self._slots.get(workspace_id)
        return slot is not None and slot.hub.head > 0

    async def exists(self, workspace_id: str) -> bool:
        """Tell whether a workspace was created, or ever written to."""
        if self.is_known(workspace_id):
            return True
        if await self.owner_of(workspace_id) is not None:
            return True
        return await self.store.read_head(workspace_id) is not None


def _first(error: Exception) -> Exception:
    """Tell what began it: nested groups are how nurseries pass one failure on."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
