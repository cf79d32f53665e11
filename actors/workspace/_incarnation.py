"""One incarnation of a workspace: it takes one command at a time, and nothing leaves too early.

Two tasks share a `Speculation`.  The decider takes what waits in the mailbox, loads what it needs
in one query a kind, and decides; the committer's half sends the forming batch as soon as the one
in flight is settled, publishes it, and goes on.  So one batch is on its way to the database while
the next one forms, and the load itself makes the batches: no timer.

An incarnation ends by raising.  Whatever it took and did not settle it leaves behind in order, for
the next one: what was surely not written goes back to the front of the mailbox, what may have been
written waits in ``unresolved`` until the next incarnation has fenced this one and looked (I4).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import BatchRejectedError, Head
from dalsegno.protocol import (
    CorruptLogError,
    DalsegnoError,
    FencedError,
    InternalError,
    OutcomeUnknownError,
    Past,
    Reject,
    StoreUnavailableError,
    UnavailableError,
    WorkspaceHaltedError,
    WorkspaceMovedError,
)

from ._entity import encoded_state, load_entity, state_write
from ._speculation import Speculation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.node import Lease
    from dalsegno.actors.ports import Bus, EntityWrite, Store, World
    from dalsegno.protocol import Limits

    from ._command import Command
    from ._committer import Committer
    from ._entity import Entity
    from ._mailbox import Mailbox
    from ._speculation import Forming

_log = logging.getLogger("dalsegno.workspace")


class Incarnation:
    """A workspace from one activation to its end; see the module."""

    def __init__(
        self,
        workspace_id: str,
        *,
        mailbox: Mailbox[Command],
        unresolved: list[Command],
        hub: Hub,
        store: Store,
        committer: Committer,
        bus: Bus,
        activating: trio.CapacityLimiter,
        owner_of: Callable[[str], Awaitable[str | None]],
        lease: Lease,
        code: str,
        world: World,
        limits: Limits,
    ) -> None:
        self.workspace_id = workspace_id
        self.ready = trio.Event()
        """Set once the log's head is known and what was unresolved is answered."""
        self._mailbox = mailbox
        self._unresolved = unresolved
        self._hub = hub
        self._store = store
        self._committer = committer
        self._bus = bus
        self._activating = activating
        self._owner_of = owner_of
        self._lease = lease
        self._code = code
        self._world = world
        self._limits = limits
        self._speculation: Speculation | None = None
        self._epoch = 0
        self._is_new = False
        self._is_sent = False
        """Whether the batch in flight may have reached the store."""
        self._in_hand: list[Command] = []
        self._scope = trio.CancelScope()
        self._stopped_for: DalsegnoError | None = None
        self._decided = trio.lowlevel.ParkingLot()
        self._settled = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "opening" if self._speculation is None else f"epoch {self._speculation.epoch}"
        return f"<Incarnation {self.workspace_id} {state}>"

    @property
    def epoch(self) -> int:
        """What it owns the workspace under; 0 before, and where the workspace was never made."""
        return self._epoch if self._speculation is None else self._speculation.epoch

    def committed(self, stream_id: str) -> Entity | None:
        """Look at an entity as it is committed; None where it is not in memory."""
        if self._speculation is None or self._scope.cancel_called:
            return None
        return self._speculation.entities.get(stream_id)

    def remember(self, stream_id: str, entity: Entity) -> None:
        """Keep a committed entity that was read from outside, unless it is in memory already."""
        if self._speculation is not None and self._speculation.entities.get(stream_id) is None:
            self._speculation.entities.put(stream_id, entity)

    def stop(self, failure: DalsegnoError | None = None) -> None:
        """End it: `run` raises ``failure``, or returns where there is none."""
        self._stopped_for = self._stopped_for or failure
        self._scope.cancel(reason="stopped")

    async def run(self) -> None:
        """Take commands until cancelled or stopped, or until it has to end.

        Raises:
            FencedError: another incarnation owns the workspace now.
            WorkspaceMovedError: another node does; what was unresolved here is answered.
            LiveKeyError: decide again.
            WorkspaceHaltedError: the log cannot be read, or was halted.
            BatchRejectedError: the store refused a batch; its commands have `InternalError`.
            UnavailableError: the store is away; nothing is lost.
            OutcomeUnknownError: a commit had no answer.

        """
        try:
            with self._scope:
                async with self._activating:
                    self._speculation = await self._open()
                self.ready.set()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._decide)
                    nursery.start_soon(self._commit)
        finally:
            self._leave_behind()
        if self._stopped_for is not None:
            raise self._stopped_for

    # ------------------------------------------------------------------------------ opening

    async def _open(self) -> Speculation:
        head = await self._acquire(create=False)
        self._is_new = head is None
        head = head or Head(workspace_id=self.workspace_id, epoch=0, owner=self._lease.node_id)
        if head.owner != self._lease.node_id:
            # It was taken over, so nothing sent from here can be written any more: what the log
            # says of the unresolved is final (I4).
            moved = await self._moved(head.owner)
            await self._resolve(moved)
            raise moved
        self._epoch = head.epoch
        if head.halted_reason is not None:
            await self._try_again(head)
        # Events first: whoever hears that its command took effect can read what it did.
        await self._publish_rest(head)
        await self._resolve()
        return Speculation(
            head,
            owner_id=await self._owner_of(self.workspace_id),
            world=self._world,
            limits=self._limits,
        )

    async def _acquire(self, *, create: bool) -> Head | None:
        head = await self._store.acquire(
            self.workspace_id,
            self._lease.node_id,
            create=create,
            incarnation=self._lease.incarnation,
        )
        if head is not None and head.owner is None:
            raise FencedError("another process is this node")
        return head

    async def _moved(self, owner: str | None) -> WorkspaceMovedError:
        node = None if owner is None else await self._store.find_node(owner)
        if node is None:
            return WorkspaceMovedError(owner)
        return WorkspaceMovedError(owner, address=node.address, retry_after_s=node.expires_in_s)

    async def _try_again(self, head: Head) -> None:
        """Open a halted workspace once more where other code than that which halted it runs."""
        if head.halted_code == self._code:
            raise WorkspaceHaltedError(str(head.halted_reason))
        await self._store.resume(
            self.workspace_id,
            head.epoch,
            actor=self._lease.node_id,
            detail=f"tried again by {self._code}, after: {head.halted_reason}",
        )

    async def _resolve(self, moved: WorkspaceMovedError | None = None) -> None:
        """Answer what an earlier incarnation left open, now that it is fenced (I4).

        What was not applied is decided again, or hears where the workspace is now.
        """
        if not self._unresolved:
            return
        ids = [command.command_id for command in self._unresolved]
        after_seq = min(command.sent_after for command in self._unresolved)
        found = await self._store.find_commands(self.workspace_id, ids, after_seq=after_seq)
        versions = await self._store.read_versions(
            self.workspace_id, [command.stream_id for command in self._unresolved]
        )
        again = []
        for command in self._unresolved:
            events = found.get(command.command_id)
            if events:
                own = [e.stream_seq for e in events if e.stream_id == command.stream_id]
                version = max(own) if own else versions.get(command.stream_id, 0)
                command.answer(command.receipt(events[-1].event_seq, version))
            elif moved is not None:
                command.answer(moved)
            else:
                again.append(command)
        self._unresolved.clear()
        self._mailbox.give_back(again)

    async def _publish_rest(self, head: Head) -> None:
        """Publish what was committed and never published; the first opening has nothing to."""
        hub, store = self._hub, self._store
        if hub.is_open and not await self._continues(head):
            # A failover lost the end of the log, or it was restored: what was published here is of
            # another history, and so is every cursor above the place where they part.
            _log.error("%s: the log is not the one that was published here", self.workspace_id)
            hub.end(Reject("CURSOR_DIVERGED", "the log was restored to another history"))
        if not hub.is_open:
            hub.open(head.head_seq, head.chain)
            return
        while hub.head < head.head_seq:
            page = await store.read_events(
                self.workspace_id,
                hub.head + 1,
                to_seq=head.head_seq,
                limit=self._limits.page_events,
                bytes_max=self._limits.page_bytes_max,
            )
            if not page or page[0].event_seq != hub.head + 1:
                raise CorruptLogError(f"{self.workspace_id}: nothing after {hub.head}")
            await hub.publish(page, _nothing)
        hub.trust()

    async def _continues(self, head: Head) -> bool:
        """Tell whether the log goes on from what was published here."""
        seq, chain = self._hub.head, self._hub.chain
        if head.head_seq <= seq:
            return (head.head_seq, head.chain) == (seq, chain)
        if seq == 0:
            return True
        found = await self._store.read_events(
            self.workspace_id, seq, to_seq=seq, limit=1, bytes_max=1
        )
        return bool(found) and found[0].chain == chain

    # ----------------------------------------------------------------------------- deciding

    async def _decide(self) -> None:
        speculation = self._speculation
        assert speculation is not None
        while True:
            await self._mailbox.wait_filled()
            while speculation.is_full:
                await self._settled.park()
            self._in_hand = self._mailbox.take(
                count_max=self._limits.batch_commands_max, bytes_max=self._limits.batch_bytes_max
            )
            self._in_hand = [command for command in self._in_hand if not command.answered]
            await self._load(speculation, self._in_hand)
            while self._in_hand:
                needs = self._in_hand[0].needs
                past = None
                if needs is not None:
                    past = await self._load_past(speculation, self._in_hand[0], needs)
                speculation.decide(self._in_hand.pop(0), past)
                if self._decided:
                    self._decided.unpark()
                while speculation.is_full:
                    await self._settled.park()

    async def _load(self, speculation: Speculation, commands: list[Command]) -> None:
        keys = speculation.missing_keys(commands)
        if keys:
            speculation.found(keys, await self._store.find_results(self.workspace_id, keys))
        missing = speculation.missing_entities(commands)
        if missing:
            versions = {stream_id: domain.version for stream_id, domain in missing.items()}
            stored = await self._store.load_entities(self.workspace_id, versions, versions)
            speculation.loaded(missing, stored)

    async def _load_past(self, speculation: Speculation, command: Command, version: int) -> Past:
        """Load the past version that a command declared; it may have been decided just now."""
        while not speculation.is_settled:
            await self._settled.park()
        stored = await self._store.load_entity_at(
            self.workspace_id, command.stream_id, version, command.domain.version
        )
        state = None if stored is None else load_entity(command.domain, stored).state
        return Past(version=version, state=state)

    # --------------------------------------------------------------------------- committing

    async def _commit(self) -> None:
        speculation = self._speculation
        assert speculation is not None
        while True:
            while not speculation.forming.answers:
                await self._decided.park()
            forming = speculation.start()
            if forming.events or forming.results:
                await self._append(speculation, forming)
            else:
                await self._check_owner(speculation)
            speculation.settle()
            self._settled.unpark_all()
            await self._hub.publish(forming.events, forming.give_answers)
            if forming.events:
                self._bus.announce(self.workspace_id, forming.events[-1].event_seq)

    async def _check_owner(self, speculation: Speculation) -> None:
        """Let no answer leave that rests on what may be another's by now; a commit tells itself.

        A lease does not tell: another process may have become this very node, and owns at once.
        """
        head = await self._store.read_head(self.workspace_id)
        if head is not None and head.epoch != speculation.epoch:
            raise FencedError(f"{self.workspace_id} was taken over")

    async def _append(self, speculation: Speculation, forming: Forming) -> None:
        if self._is_new:
            head = await self._acquire(create=True)
            if head is None:
                raise StoreUnavailableError("another node is making this workspace")
            if head.owner != self._lease.node_id:
                raise await self._moved(head.owner)
            if head.head_seq > 0:
                raise FencedError("another node has written to this workspace meanwhile")
            speculation.epoch = head.epoch
            self._is_new = False
        batch = speculation.batch(forming)
        for command in forming.commands:
            command.sent_after = batch.old_head
        self._is_sent = True
        try:
            await self._committer.commit(batch)
        except OutcomeUnknownError:
            raise
        except BatchRejectedError:
            self._is_sent = False
            for command in forming.commands:
                command.answer(InternalError("the store refused this command's data"))
            raise
        except DalsegnoError:
            self._is_sent = False
            raise
        self._is_sent = False

    # -------------------------------------------------------------------------------- ending

    async def store_states(self) -> None:
        """Store the states that lag, once it has ended idle, so that waking folds little.

        A command that comes meanwhile waits no longer than for one write.
        """
        lagging = [] if self._speculation is None else self._speculation.lagging()
        try:
            while lagging and not self._mailbox:
                size = 0
                several: list[EntityWrite] = []
                while lagging and size < self._limits.batch_bytes_max:
                    stream_id, entity = lagging.pop()
                    state = encoded_state(stream_id, entity)
                    if state is not None:
                        several.append(state_write(stream_id, entity, state))
                        size += len(state)
                if not await self._store.write_states(self.workspace_id, self.epoch, several):
                    return
        except UnavailableError as error:
            _log.info("%s: states were not stored: %s", self.workspace_id, error)
        except Exception:  # noqa: BLE001 - the log has it all: nobody needs to hear of it
            _log.exception("%s: states were not stored", self.workspace_id)

    def expire(self, before: float) -> None:
        """Answer what was sent before then and is not settled; it may yet be committed."""
        if self._speculation is None:
            return
        in_flight, forming = self._speculation.in_flight, self._speculation.forming
        taken = () if in_flight is None else in_flight.commands
        for commands in (taken, forming.commands, self._in_hand):
            for command in commands:
                if command.sent_at > before:
                    break
                command.answer(OutcomeUnknownError("the commit had no answer yet"))

    @property
    def is_idle(self) -> bool:
        """Whether everything that it took is settled."""
        return not self._in_hand and (self._speculation is None or self._speculation.is_settled)

    def _leave_behind(self) -> None:
        if self._speculation is None:
            return
        in_flight = self._speculation.in_flight
        taken = [] if in_flight is None else in_flight.commands
        if self._is_sent:
            self._unresolved += [command for command in taken if not command.answered]
            taken = []
        back = [*taken, *self._speculation.forming.commands, *self._in_hand]
        self._mailbox.give_back([command for command in back if not command.answered])


def _nothing() -> None:
    """Answer nobody."""
