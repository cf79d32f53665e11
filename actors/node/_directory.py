"""Which workspaces are active on this node.

The table is bounded.  Near its bound idle workspaces leave before their time, the longest unused
first; at it a workspace that is not active is refused with `OVERLOADED`, and the active ones go on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.actors.delivery import Delivery
from dalsegno.actors.ports import role_in, role_stream
from dalsegno.actors.workspace import Incarnation, absent_entity, load_entity
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    OverloadedError,
    RuntimeClosedError,
    UnavailableError,
)

from ._workspace_supervisor import Slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.ports import Bus, Store, World
    from dalsegno.actors.workspace import Committer, Domains, Entity
    from dalsegno.protocol import Domain, Limits, WorkspaceHaltedError

    from ._lease import Lease
    from ._workspace_supervisor import SlotStatistics

_log = logging.getLogger("dalsegno.workspace")

_TICK_S = 0.5
_CROWDED = 0.9
"""Of the table's bound: from there on idle workspaces leave before their time."""
_COMPARED_AT_ONCE = 500
"""Heads read in one query, and with every beat."""


class Directory:
    """The workspaces of one runtime."""

    def __init__(
        self,
        store: Store,
        *,
        committer: Committer,
        lease: Lease,
        domains: Domains,
        code: str,
        bus: Bus,
        world: World,
        limits: Limits,
    ) -> None:
        self.store = store
        self.domains = domains
        self.code = code
        """The version of what folds the log here; a halt marker names it."""
        self.world = world
        self.limits = limits
        self.delivery = Delivery(store, limits=limits)
        self._bus = bus
        self._committer = committer
        self.lease = lease
        self._slots: dict[str, Slot] = {}
        self._owners: OrderedDict[str, str] = OrderedDict()
        """First owners of workspaces; those asked for last stay longest."""
        self._activating = trio.CapacityLimiter(limits.activations_max)
        self._compared = 0
        """Where the next comparison goes on."""
        self._store_returned = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self.is_draining = False
        """Whether new commands are refused."""

    def __repr__(self) -> str:
        return f"<Directory {len(self._slots)} workspaces, {self._activating.borrowed_tokens} open>"

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
                    await trio.sleep(_TICK_S)
                    now = trio.current_time()
                    for slot in list(self._slots.values()):
                        slot.tick(now)
                    self._make_room(now)
            finally:
                self._nursery = None

    def _make_room(self, now: float) -> None:
        """Let idle workspaces leave, the longest unused first, and no herd of them at once."""
        excess = len(self._slots) - int(self.limits.workspaces_active_max * _CROWDED)
        idle_since = now - self.limits.passivate_after_s
        left = self.limits.activations_max
        running = [slot for slot in self._slots.values() if slot.is_running]
        if excess <= 0:
            running = [slot for slot in running if slot.used_at <= idle_since]
        for slot in sorted(running, key=lambda slot: slot.used_at):
            is_due = slot.used_at <= idle_since and left > 0
            if (is_due or (excess > 0 and not slot.is_used)) and slot.passivate():
                left -= 1
                excess -= 1

    # ---------------------------------------------------------------------------------- slots

    def slot(self, workspace_id: str) -> Slot:
        """Look a workspace up, and start it where it is not active.

        It may leave memory at the next checkpoint, unless it was given a command before that, or
        is kept with `using`.

        Raises:
            OverloadedError: the table is full.
            RuntimeClosedError: the runtime drains.

        """
        slot = self._slots.get(workspace_id)
        if slot is None:
            self.check_admission()
            if len(self._slots) >= self.limits.workspaces_active_max:
                raise OverloadedError("too many workspaces are active", retry_after_s=_TICK_S)
            assert self._nursery is not None, "checked"
            slot = self._slots[workspace_id] = Slot(workspace_id, self)
            self._nursery.start_soon(slot.run)
        return slot

    @contextmanager
    def using(self, workspace_id: str) -> Iterator[Slot]:
        """Look a workspace up and keep its slot for the length of a block."""
        slot = self.slot(workspace_id)
        slot.users += 1
        try:
            yield slot
        finally:
            slot.users -= 1
            slot.used_at = trio.current_time()

    def incarnation(self, slot: Slot) -> Incarnation:
        """Make the next incarnation of a workspace."""
        return Incarnation(
            slot.workspace_id,
            mailbox=slot.mailbox,
            unresolved=slot.unresolved,
            hub=slot.hub,
            store=self.store,
            committer=self._committer,
            bus=self._bus,
            activating=self._activating,
            owner_of=self.owner_of,
            lease=self.lease,
            code=self.code,
            world=self.world,
            limits=self.limits,
        )

    def give_up(self, slot: Slot) -> None:
        """Take a slot out of the table: the next who asks for the workspace begins anew."""
        if self._slots.get(slot.workspace_id) is slot:
            del self._slots[slot.workspace_id]

    async def release(self, workspace_id: str, epoch: int) -> None:
        """Own a workspace no longer; where the store is away, this node's lease has to run out."""
        if epoch == 0:
            return
        try:
            await self.store.release(workspace_id, epoch)
        except UnavailableError as error:
            _log.info("%s was not released: %s", workspace_id, error)

    async def mark_halted(
        self, workspace_id: str, epoch: int, failure: WorkspaceHaltedError
    ) -> bool:
        """Say it in the log's head, for whoever opens the workspace next; tell whether it stands.

        A later owner's head is left alone (X-PER-9).
        """
        try:
            await self.store.halt(
                workspace_id, epoch, failure.message, code=self.code, actor=self.lease.node_id
            )
        except UnavailableError as error:
            _log.error("%s: the halt could not be recorded: %s", workspace_id, error)
            return False
        return True

    def reopen(self, workspace_id: str) -> None:
        """Look at a repaired workspace again, from the next who asks for it on."""
        slot = self._slots.get(workspace_id)
        if slot is not None and slot.reopen():
            self.give_up(slot)

    # --------------------------------------------------------------------------- the lease's

    async def compare(self, *, everything: bool) -> None:
        """Compare what is served here with what the store says of it.

        A node can be wrong about a workspace without hearing of it: its lease was over, another
        process was the same node, another node made what it reads, a failover lost the log's end.
        So some are compared with every beat, each in its turn, and all where there is a reason.

        Raises:
            UnavailableError: ask again.

        """
        served = [slot for slot in self._slots.values() if slot.epoch > 0 or slot.hub.is_used]
        served = [slot for slot in served if not slot.is_opening]  # it asks the store itself
        if not everything and len(served) > _COMPARED_AT_ONCE:
            first = self._compared % len(served)
            self._compared = first + _COMPARED_AT_ONCE
            served = (served + served)[first : first + _COMPARED_AT_ONCE]
        for first in range(0, len(served), _COMPARED_AT_ONCE):
            known = [(slot, slot.known) for slot in served[first : first + _COMPARED_AT_ONCE]]
            heads = await self.store.read_heads([slot.workspace_id for slot, _ in known])
            for slot, before in known:
                head = heads.get(slot.workspace_id)
                is_same = slot.epoch == before.epoch and not slot.is_opening
                if head is not None and is_same and not before.fits(head):
                    slot.fence()

    def is_certain(self, hub: Hub) -> bool:
        """Tell whether a hub's head is the log's, as far as can be told from here."""
        return self.lease.is_held and not hub.is_doubtful

    def tell_store_returned(self) -> None:
        """Let those who back off try at once."""
        self._store_returned.unpark_all()

    async def wait_store_returned(self) -> None:
        """Wait until the store answers again after it did not."""
        await self._store_returned.park()

    # ------------------------------------------------------------------------------ admission

    def check_admission(self) -> None:
        """Raise `RuntimeClosedError` once `drain` has begun."""
        if self.is_draining or self._nursery is None:
            raise RuntimeClosedError("the runtime is closed")

    async def drain(self) -> None:
        """Refuse new commands and wait until those that were taken are settled; bound it."""
        self.is_draining = True
        slots = list(self._slots.values())
        while slots := [slot for slot in slots if not slot.is_settled]:  # noqa: ASYNC110 - rare
            await trio.sleep(0.01)

    # -------------------------------------------------------------------------------- reading

    async def look(
        self, workspace_id: str, domain: Domain[Any, Any, Any], entity_id: str
    ) -> Entity | None:
        """Read an entity as it is committed; None where it never existed."""
        stream_id = domain.stream_id(entity_id)
        slot = self._slots.get(workspace_id)
        # Once the lease may be over, another node may know better than this one's memory.
        incarnation = slot.incarnation if slot is not None and self.lease.is_held else None
        entity = None if incarnation is None else incarnation.committed(stream_id)
        if entity is None:
            head = 0 if slot is None else slot.hub.head
            versions = {stream_id: domain.version}
            stored = await self.store.load_entities(workspace_id, versions, versions)
            entity = (
                load_entity(domain, stored[stream_id])
                if stream_id in stored
                else absent_entity(domain)
            )
            # Where nothing was committed meanwhile the next one need not ask.
            if slot is not None and incarnation is not None and slot.hub.head == head:
                incarnation.remember(stream_id, entity)
        return entity if entity.version else None

    async def owner_of(self, workspace_id: str) -> str | None:
        """Tell a workspace's first owner, whom ``$system`` records and who stays that for ever."""
        if workspace_id == SYSTEM_WORKSPACE or "space" not in self.domains:
            return None
        if workspace_id in self._owners:
            self._owners.move_to_end(workspace_id)
            return self._owners[workspace_id]
        space = await self.look(SYSTEM_WORKSPACE, self.domains["space"], workspace_id)
        if space is None or space.state is None:
            return None
        owner_id = self._owners[workspace_id] = str(space.state.owner_id)
        if len(self._owners) > self.limits.places_cached_max:
            self._owners.popitem(last=False)
        return owner_id

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
