"""One incarnation of a workspace: it takes one command at a time, and nothing leaves too early.

Two tasks share a `Speculation`.  The decider takes what waits in the mailbox, loads what it needs
in one query a kind, decides, and sends the forming batch if none is in flight.  The committing task
is woken when that one's statement has ended: it settles it, sends what has formed meanwhile, and
only then publishes what was settled.  So one batch is on its way to the database while the next one
forms, and the load itself makes the batches: no timer.

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
    CodeTooOldError,
    DalsegnoError,
    FencedError,
    InternalError,
    NotReadyError,
    OutcomeUnknownError,
    Past,
    UnavailableError,
)
from dalsegno.protocol.audit import not_a_reader

from ._access_log import log_access
from ._entity import encoded_state, entity_from, state_write
from ._opening import acquire, bring_up_to_date, moved_to
from ._speculation import Speculation
from ._turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.ports import EntityWrite, Uncollected

    from ._command import AnyDomain, Command
    from ._committer import Sending
    from ._entity import Entity
    from ._local_node import LocalNode
    from ._mailbox import Mailbox
    from ._speculation import PendingBatch

_log = logging.getLogger("dalsegno.workspace")

_LOADS_MAX = 8
"""How often a command is decided anew, since it needs what was not loaded for it."""


class Incarnation:
    """A workspace from one activation to its end; see the module."""

    def __init__(
        self,
        node: LocalNode,
        hub: Hub,
        *,
        mailbox: Mailbox[Command],
        unresolved: list[Command],
        opened: Callable[[], None],
    ) -> None:
        """Make it; `run` begins it.

        Args:
            node: what it shares with the other workspaces here.
            hub: its readers; outlives it.
            mailbox: its commands; outlives it.
            unresolved: commands that an earlier one may have applied.
            opened: called once the log's head is known and ``unresolved`` is answered.

        """
        self.workspace_id = hub.workspace_id
        self._node = node
        self._hub = hub
        self._mailbox = mailbox
        self._unresolved = unresolved
        self._opened = opened
        self._speculation: Speculation | None = None
        self._epoch = 0
        self._is_new = False
        self._is_sent = False
        """Whether the batch in flight may have reached the store."""
        self._in_hand: list[Command] = []
        self._is_amid = False
        """Whether more is being decided, in short turns, that belongs into the same batch."""
        self._scope = trio.CancelScope()
        self._stopped_for: DalsegnoError | None = None
        self._sending: Sending | None = None
        """The batch in flight, if it writes anything."""
        self._is_due = False
        """Whether the batch in flight needs the committing task: its statement has ended."""
        self._publishing: list[Command] = []
        """The commands of a batch that is settled, and not published yet."""
        self._due = trio.lowlevel.ParkingLot()
        self._woken = self._wake
        """Bound once, not for each batch."""
        self._settled = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "opening" if self._speculation is None else f"epoch {self._speculation.epoch}"
        return f"<Incarnation {self.workspace_id} {state}>"

    @property
    def epoch(self) -> int:
        """What it owns the workspace under; 0 before, and where the workspace was never made."""
        return self._epoch if self._speculation is None else self._speculation.epoch

    def committed(self, stream_id: str) -> Entity | None:
        """Return an entity as it is committed; None where it is not in memory."""
        if self._speculation is None or self._scope.cancel_called:
            return None
        return self._speculation.entities.get(stream_id)

    def remember(self, stream_id: str, entity: Entity) -> None:
        """Keep a committed entity that was read from outside, unless it is in memory already.

        While a batch is in flight the store may be ahead of what is in memory, where all has to be
        of one moment: who reads a note there is judged by the membership beside it.
        """
        speculation = self._speculation
        if speculation is None or speculation.in_flight is not None:
            return
        if speculation.entities.get(stream_id) is None:
            speculation.entities.put(stream_id, entity)

    def stop(self, failure: DalsegnoError | None = None) -> None:
        """End it: `run` raises ``failure``, or returns where there is none."""
        self._stopped_for = self._stopped_for or failure
        self._scope.cancel(reason="stopped")

    async def run(self) -> None:
        """Take commands until cancelled or stopped, or until it has to end.

        Raises:
            FencedError: another incarnation owns the workspace now.
            WorkspaceMovedError: another node does; what was unresolved here is answered.
            CodeTooOldError: a later program has; the same.
            LiveKeyError: decide again.
            WorkspaceHaltedError: the log cannot be read, or was halted.
            BatchRejectedError: the store refused a batch; its commands have `InternalError`.
            UnavailableError: the store is away; nothing is lost.
            OutcomeUnknownError: a commit had no answer.

        """
        try:
            with self._scope:
                async with self._node.activating:
                    self._speculation = await self._open()
                self._opened()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._decide, self._speculation)
                    nursery.start_soon(self._commit, self._speculation)
        finally:
            self._leave_behind()
        if self._stopped_for is not None:
            raise self._stopped_for

    async def _open(self) -> Speculation:
        node = self._node
        head = await acquire(node, self.workspace_id, create=False)
        self._is_new = head is None
        head = head or Head(workspace_id=self.workspace_id, epoch=0, owner=node.node_id)
        if head.owner == node.node_id and head.app_version <= node.app_version:
            self._epoch = head.epoch
        await bring_up_to_date(node, head, self._hub, self._mailbox, self._unresolved)
        return Speculation(
            head,
            founder_id=await node.founder_of(self.workspace_id),
            budgets=node.budgets,
            cached=node.cached,
            roles=node.delivery.roles,
            workers=node.workers,
            world=node.world,
            limits=node.limits,
        )

    # ----------------------------------------------------------------------------- deciding

    async def _decide(self, speculation: Speculation) -> None:
        limits = self._node.limits
        while True:
            await self._mailbox.wait_filled()
            while speculation.is_full:
                await self._settled.park()
            self._in_hand = self._mailbox.take(
                count_max=limits.batch_commands_max, bytes_max=limits.batch_bytes_max
            )
            self._in_hand = [command for command in self._in_hand if not command.answered]
            await self._load(speculation, self._in_hand)
            turn = Turn(limits.turn_s)
            self._is_amid = True
            while self._in_hand:
                await turn.pause()
                command = self._in_hand[0]
                if command.is_abandoned:
                    self._in_hand.pop(0).drop()
                    continue
                refused = self._node.budgets.refusal(command.principal)
                pasts: dict[str, Past] = {}
                if refused is None and (command.needs is not None or command.others):
                    pasts = await self._load_pasts(speculation, command)
                if command.is_collecting:
                    command.uncollected = await self._read_uncollected(speculation)
                if (missing := speculation.decide(command, pasts, refused)) is not None:
                    await self._decide_later(speculation, command, pasts, missing)
                self._in_hand.pop(0)
                while speculation.is_full:
                    await self._send_formed(speculation)
                    if speculation.is_full:
                        await self._settled.park()
                self._is_amid = True
            await self._send_formed(speculation)

    async def _load(self, speculation: Speculation, commands: list[Command]) -> None:
        store = self._node.store
        keys = speculation.keys.missing(commands)
        if keys:
            speculation.keys.found(keys, await store.find_results(self.workspace_id, keys))
        missing = speculation.missing_entities(commands)
        if missing:
            await self._load_entities(speculation, missing)

    async def _load_entities(
        self, speculation: Speculation, missing: Mapping[str, AnyDomain]
    ) -> None:
        versions = {stream_id: domain.version for stream_id, domain in missing.items()}
        stored = await self._node.store.load_entities(self.workspace_id, versions, versions)
        turn = Turn(self._node.limits.turn_s)
        for stream_id, domain in missing.items():
            entity = await entity_from(domain, stored.get(stream_id), turn)
            speculation.loaded(stream_id, entity)

    async def _load_pasts(self, speculation: Speculation, command: Command) -> dict[str, Past]:
        """Load the past versions that a command, or a group, declared.

        They may have been decided just now; what the group itself will make is not among them.
        """
        pasts = {}
        for each in command.group:
            if each.needs is not None:
                pasts[each.command_id] = await self._load_past(speculation, each, each.needs)
        return pasts

    async def _load_past(self, speculation: Speculation, command: Command, version: int) -> Past:
        await self._send_formed(speculation)
        while not speculation.is_settled:
            await self._settled.park()
        stored = await self._node.store.load_entity_at(
            self.workspace_id, command.stream_id, version, command.domain.version
        )
        past = await entity_from(command.domain, stored, Turn(self._node.limits.turn_s))
        return Past(version=version, state=past.state)

    async def _read_uncollected(self, speculation: Speculation) -> list[Uncollected]:
        """Read what is on record and not in this log, which is that of ``$audit``.

        Nothing is on its way then, and an epoch before this one writes nothing any more: what is
        not marked is not in the log, and what is read here nobody else puts there.  So each row is
        once (I1).  Who follows the log, and had lost the role for it before something of this was
        written, does not get it (I8): the role is read after it.
        """
        await self._send_formed(speculation)
        while not speculation.is_settled:
            await self._settled.park()
        node = self._node
        found = await node.store.read_uncollected(
            limit=min(node.limits.page_events, node.limits.command_events_max),
            bytes_max=node.limits.page_bytes_max,
        )
        readers = self._hub.user_ids() if found else []
        if readers:
            allowed = await node.audit_readers(readers)
            self._hub.dismiss([each for each in readers if each not in allowed], not_a_reader())
        return found

    async def _decide_later(
        self,
        speculation: Speculation,
        command: Command,
        pasts: Mapping[str, Past],
        missing: Mapping[str, AnyDomain],
    ) -> None:
        """Decide a command that found by its state which further entities it needs.

        It is decided anew after each look-up, and nothing else is meanwhile.
        """
        refused: DalsegnoError | None = None
        for number in range(_LOADS_MAX, -1, -1):
            if missing:
                await self._send_formed(speculation)
                await self._load_entities(speculation, missing)
            if number == 0:
                refused = InternalError("follows= names further entities again and again")
            found = speculation.decide(command, pasts, refused)
            if found is None:
                return
            missing = found

    # --------------------------------------------------------------------------- committing

    async def _send_formed(self, speculation: Speculation) -> None:
        """Send the forming batch, which no more decisions will join soon.

        While another one is in flight it is sent as soon as that is settled.
        """
        self._is_amid = False
        if speculation.in_flight is None and speculation.forming.answers:
            await self._send(speculation)

    async def _send(self, speculation: Speculation) -> None:
        """Send the forming batch: it is the one in flight now."""
        pending = speculation.start()
        if not (pending.events or pending.results or pending.entities):
            self._wake()  # it only needs the store's word that the workspace is still owned
            return
        if self._is_new:
            speculation.epoch = await self._create()
            self._is_new = False
        batch = await speculation.batch(pending)
        for command in pending.commands:
            command.sent_after = batch.old_head
        self._is_sent = True
        self._sending = self._node.committer.send(batch, self._woken)

    def _wake(self) -> None:
        self._is_due = True
        self._due.unpark()

    async def _commit(self, speculation: Speculation) -> None:
        while True:
            while not self._is_due:
                await self._due.park()
            self._is_due = False
            batch = speculation.in_flight
            assert batch is not None, "it has woken this task"
            if self._sending is None:
                await self._check_owner(speculation)
            else:
                await self._append(batch)
            speculation.settle()
            self._publishing = batch.commands
            if self._settled:
                self._settled.unpark_all()
            # The database works on the next one while this one is published.
            if not self._is_amid:
                await self._send_formed(speculation)
            await self._publish(batch)

    async def _publish(self, batch: PendingBatch) -> None:
        log_access(self._node.delivery.roles, batch.events)
        if batch.audits:
            self._node.put_on_record()
        await self._hub.publish(batch.events, batch.give_answers)
        self._publishing = []
        if batch.events:
            self._node.bus.announce(self.workspace_id, batch.events[-1].event_seq)

    async def _check_owner(self, speculation: Speculation) -> None:
        """Check that the workspace is still owned before answers leave that no commit checks.

        The lease does not suffice: another process may have become this very node, and owns at
        once.
        """
        head = await self._node.store.read_head(self.workspace_id)
        if head is not None and head.epoch != speculation.epoch:
            raise FencedError(f"{self.workspace_id} was taken over")

    async def _append(self, pending: PendingBatch) -> None:
        """Return once the batch in flight is committed."""
        sending, self._sending = self._sending, None
        assert sending is not None, "it was sent"
        try:
            await self._node.committer.commit(sending)
        except OutcomeUnknownError:
            raise
        except BatchRejectedError:
            self._is_sent = False
            for command in pending.commands:
                command.answer(InternalError("the store refused this command's data"))
            raise
        except DalsegnoError:
            self._is_sent = False
            raise
        self._is_sent = False

    async def _create(self) -> int:
        """Begin the log; return the epoch that it is owned under."""
        head = await acquire(self._node, self.workspace_id, create=True)
        if head is None:
            raise NotReadyError("another node is making this workspace")
        if head.app_version > self._node.app_version:
            raise CodeTooOldError(head.app_version, self._node.app_version)
        if head.owner != self._node.node_id:
            raise await moved_to(self._node, head.owner)
        if head.head_seq > 0:
            raise FencedError("another node has written to this workspace meanwhile")
        return head.epoch

    # -------------------------------------------------------------------------------- ending

    async def store_states(self) -> None:
        """Store the states that lag, once it has ended idle, so that waking folds little.

        A command that comes meanwhile waits no longer than for one write.
        """
        lagging = [] if self._speculation is None else self._speculation.lagging()
        try:
            while lagging and not self._mailbox:
                size, turn = 0, Turn(self._node.limits.turn_s)
                several: list[EntityWrite] = []
                while lagging and size < self._node.limits.batch_bytes_max:
                    await turn.pause()
                    stream_id, entity = lagging.pop()
                    state = encoded_state(stream_id, entity)
                    if state is not None:
                        several.append(state_write(stream_id, entity, state))
                        size += len(state)
                if not await self._node.store.write_states(self.workspace_id, self.epoch, several):
                    return
        except UnavailableError as error:
            _log.info("%s: states were not stored: %s", self.workspace_id, error)
        except Exception:  # noqa: BLE001 - the log has it all: no caller needs to know
            _log.exception("%s: states were not stored", self.workspace_id)

    def forget(self) -> None:
        """Keep nothing in memory: it has ended, and its states were stored or need not be."""
        if self._speculation is not None:
            self._speculation.entities.clear()
            self._speculation = None  # a look-up that began before must not fill it again

    def expire(self, before: float) -> None:
        """Answer what was sent before then and is not settled; it may yet be committed."""
        if self._speculation is None:
            return
        in_flight, forming = self._speculation.in_flight, self._speculation.forming
        taken = () if in_flight is None else in_flight.commands
        for commands in (self._publishing, taken, forming.commands, self._in_hand):
            for command in commands:
                if command.sent_at > before:
                    break
                command.answer(OutcomeUnknownError("the commit had no answer yet"))

    @property
    def is_idle(self) -> bool:
        """Whether everything that it took is settled."""
        if self._in_hand or self._publishing:
            return False
        return self._speculation is None or self._speculation.is_settled

    def _leave_behind(self) -> None:
        if self._speculation is None:
            return
        if self._sending is not None and self._node.committer.withdraw(self._sending):
            self._is_sent = False
        self._unresolved += [command for command in self._publishing if not command.answered]
        in_flight = self._speculation.in_flight
        taken = [] if in_flight is None else in_flight.commands
        if self._is_sent:
            self._unresolved += [command for command in taken if not command.answered]
            taken = []
        back = [*taken, *self._speculation.forming.commands, *self._in_hand]
        self._mailbox.give_back([command for command in back if not command.answered])
