"""One workspace's place on this node: who runs its incarnations, and what outlives them.

The mailbox, the hub and what an incarnation left unresolved belong to the slot; its task runs one
incarnation after the other.  A failure of an incarnation is a value here, never an exception in
the nursery, so a fault stays with its workspace (I10).  What follows from it is DESIGN §7's table:

* fenced: the next incarnation asks at once who owns the workspace now.
* moved: another node does; waiters and readers hear where, and the slot is given up.
* store away, outcome unknown: back-off with full jitter, or until the store answers again.
* a log that cannot be read, or a loop that crashes too often: halted, durably; the slot is given
  up, and whoever asks again finds the marker in the log's head.

Idle, an incarnation ends without a failure: the workspace is passivated.  While it has readers the
slot stays, and with it the ownership, so that no other node appends unseen by them.  A slot is
given up only in a step in which its mailbox is empty and nobody uses it, so no message is lost.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.delivery import Hub
from dalsegno.actors.workspace import LiveKeyError, Mailbox
from dalsegno.protocol import (
    DalsegnoError,
    FencedError,
    OutcomeUnknownError,
    OverloadedError,
    RuntimeClosedError,
    StoreUnavailableError,
    UnavailableError,
    WorkspaceHaltedError,
    WorkspaceMovedError,
)

from ._supervisor import first_of

if TYPE_CHECKING:
    from dalsegno.actors.ports import Head
    from dalsegno.actors.workspace import Command, Incarnation

    from ._directory import Directory

_log = logging.getLogger("dalsegno.workspace")

_HALTED_REST_S = 1.0
"""How long a halted workspace answers from memory, so that who asks all the time costs little."""


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """A workspace at one moment."""

    state: str
    """``opening``, ``running``, ``waiting`` (backs off), ``resting`` (passivated) or ``halted``."""
    head: int
    """The published head."""
    epoch: int
    """Of the last incarnation that opened."""
    waiting: int
    """Commands in its mailbox."""
    unresolved: int
    """Commands whose outcome is unknown until the next incarnation has looked."""
    subscriptions: int
    incarnations: int
    """Since the slot was made."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a slot took for granted of its log, at one moment."""

    epoch: int
    head: int
    """The published head; 0 where nothing was opened."""
    chain: int

    def fits(self, head: Head) -> bool:
        """Tell whether what the store says, or said later, can follow from it."""
        if head.epoch != self.epoch or head.head_seq < self.head:
            return False
        return head.head_seq > self.head or head.chain == self.chain or self.epoch == 0


class Slot:
    """One workspace's place on this node; see the module."""

    def __init__(self, workspace_id: str, directory: Directory) -> None:
        limits = directory.limits
        self.workspace_id = workspace_id
        self.hub = Hub(workspace_id, delivery=directory.delivery)
        self.mailbox: Mailbox[Command] = Mailbox(
            count_max=limits.mailbox_commands_max, bytes_max=limits.mailbox_bytes_max
        )
        self.unresolved: list[Command] = []
        self.incarnation: Incarnation | None = None
        self.users = 0
        """Blocks that need it to stay: see `Directory.using`."""
        self.used_at = trio.current_time()
        self._directory = directory
        self._limits = limits
        self._resting: trio.CancelScope | None = None
        """Around the wait of a slot without an incarnation; cancelled, it goes on."""
        self._is_backing_off = False
        self._is_doubtful = False
        """Whether another node may own it since the last incarnation ended."""
        self._ended_with: WorkspaceHaltedError | WorkspaceMovedError | None = None
        """What whoever still asks hears."""
        self._failure: DalsegnoError | None = None
        self._failures = 0
        self._crashes: deque[float] = deque()
        self._incarnations = 0
        self._epoch = 0
        """Of the last incarnation that ended."""

    def __repr__(self) -> str:
        return f"<Slot {self.workspace_id} {self.state}, epoch {self.epoch}, {self.mailbox!r}>"

    def statistics(self) -> SlotStatistics:
        """Tell how it stands."""
        return SlotStatistics(
            state=self.state,
            head=self.hub.head,
            epoch=self.epoch,
            waiting=len(self.mailbox),
            unresolved=len(self.unresolved),
            subscriptions=self.hub.subscriptions,
            incarnations=self._incarnations,
        )

    @property
    def state(self) -> str:
        """What it is at; see `SlotStatistics.state`."""
        if isinstance(self._ended_with, WorkspaceHaltedError):
            return "halted"
        if self.is_running:
            return "running"
        if self.incarnation is not None:
            return "opening"
        return "waiting" if self._is_backing_off else "resting"

    @property
    def epoch(self) -> int:
        """The epoch that it owns the workspace under, as far as it knows; 0: it never did."""
        return self._epoch if self.incarnation is None else self.incarnation.epoch or self._epoch

    @property
    def known(self) -> Known:
        """What it takes for granted of its log."""
        return Known(self.epoch, self.hub.head if self.hub.is_open else 0, self.hub.chain)

    @property
    def is_opening(self) -> bool:
        """Whether an incarnation is asking the store whose the workspace is."""
        return self.incarnation is not None and not self.incarnation.ready.is_set()

    @property
    def is_running(self) -> bool:
        """Whether commands are being taken."""
        return self.incarnation is not None and self.incarnation.ready.is_set()

    @property
    def is_settled(self) -> bool:
        """Whether every command was settled."""
        settled = self.incarnation is None or self.incarnation.is_idle
        return not self.mailbox and not self.unresolved and settled

    @property
    def is_used(self) -> bool:
        """Whether somebody needs the slot to stay, idle or not."""
        return self.users > 0 or self.hub.is_used

    # ------------------------------------------------------------------------------- callers

    def admit_nowait(self, command: Command) -> bool:
        """Put a command into the mailbox, but False where there is no room; see `admit`."""
        self._directory.check_admission()
        self._check_not_ended()
        self.used_at = command.sent_at = trio.current_time()
        try:
            self.mailbox.send_nowait(command)
        except trio.WouldBlock:
            return False
        return True

    async def admit(self, command: Command) -> None:
        """Put a command into the mailbox; cancelled while it waits for room, it is not there.

        Raises:
            OverloadedError: no room within ``mailbox_deadline_s``.
            WorkspaceHaltedError: the log needs a repair first.
            WorkspaceMovedError: another node owns the workspace.
            RuntimeClosedError: the runtime drains.

        """
        if self.admit_nowait(command):
            return
        deadline_s = self._limits.mailbox_deadline_s
        with trio.move_on_after(deadline_s) as scope:
            await self.mailbox.send(command)
        if scope.cancelled_caught:
            raise OverloadedError("the workspace's mailbox is full", retry_after_s=deadline_s)

    async def wait_open(self, event_seq: int = 0) -> None:
        """Wait until the published head is known, and at least ``event_seq``.

        The caller keeps the slot, with `Directory.using`.

        Raises:
            WorkspaceHaltedError: the log needs a repair first.
            WorkspaceMovedError: another node owns the workspace.
            UnavailableError: not within ``mailbox_deadline_s``.

        """
        self._check_not_ended()
        lease = self._directory.lease
        with trio.move_on_after(self._limits.mailbox_deadline_s):
            await lease.wait_held()
            await self.hub.wait_head(event_seq)
            self._check_not_ended()
            return
        self._check_not_ended()
        is_certain = self.hub.is_open and lease.is_held and not self.hub.is_doubtful
        if isinstance(self._failure, UnavailableError) or not is_certain:
            raise StoreUnavailableError("the workspace could not be opened") from self._failure
        raise OverloadedError(f"event {event_seq} is not there yet")

    def _check_not_ended(self) -> None:
        if self._ended_with is not None:
            raise self._ended_with.with_traceback(None)  # it is raised again and again

    # --------------------------------------------------------------------------- supervision

    async def run(self) -> None:
        """Run one incarnation after the other, until cancelled or given up."""
        try:
            while await self._run_once():
                pass
        except Exception:  # noqa: BLE001 - a fault here stays in this workspace
            _log.exception("%s: its supervision failed", self.workspace_id)
        finally:
            self._directory.give_up(self)
            self._close()

    async def _run_once(self) -> bool:
        """Run one incarnation and do what its end asks for; False where the slot is given up."""
        began, head = trio.current_time(), self.hub.head
        failure = self._failure = await self._incarnate()
        if failure is None:
            return await self._rest()
        if isinstance(failure, WorkspaceHaltedError):
            await self._halt(failure)
            return False
        if isinstance(failure, WorkspaceMovedError):
            self._end(failure)
            return False
        lived_s = trio.current_time() - began
        is_well = self.hub.head > head or lived_s > self._limits.backoff_max_s
        self._failures = 1 if is_well else min(self._failures + 1, 32)
        await self._back_off(failure)
        return bool(self.mailbox or self.unresolved) or self.is_used

    async def _incarnate(self) -> DalsegnoError | None:
        """Run one incarnation to its end; None where it was idle."""
        self._incarnations += 1
        self._is_doubtful = False
        incarnation = self.incarnation = self._directory.incarnation(self)
        try:
            await incarnation.run()
        except BaseExceptionGroup as group:
            # Cancelled, it may have failed as well: that is no news any more to anybody.
            cancelled = group.subgroup(trio.Cancelled)
            if cancelled is not None:
                raise cancelled from None
            if not isinstance(group, ExceptionGroup):
                raise
            return self._failed(group)
        except Exception as error:  # noqa: BLE001 - a fault here stays in this workspace
            return self._failed(error)
        finally:
            self.incarnation = None
            self._epoch = incarnation.epoch or self._epoch
        await incarnation.store_states()
        return None

    def _failed(self, error: Exception) -> DalsegnoError:
        """Tell what an incarnation ended with."""
        failure = first_of(error)
        if isinstance(failure, DalsegnoError):
            # That another node owns it is nothing to warn of, and anybody may ask for it.
            level = logging.DEBUG if isinstance(failure, WorkspaceMovedError) else logging.WARN
            _log.log(level, "%s: the incarnation ends: %s", self.workspace_id, failure)
            return failure
        _log.error("%s: the incarnation failed", self.workspace_id, exc_info=error)
        return self._crashed()

    def _crashed(self) -> DalsegnoError:
        """Count a bug in the loop; tell what follows where there were too many (DESIGN §7)."""
        limits, crashes = self._limits, self._crashes
        crashes.append(trio.current_time())
        while crashes[0] < crashes[-1] - limits.crash_window_s:
            crashes.popleft()
        if len(crashes) <= limits.crashes_max:
            return DalsegnoError("a bug in the workspace's loop")
        return WorkspaceHaltedError(f"failed {len(crashes)} times in {limits.crash_window_s:g} s")

    async def _back_off(self, failure: DalsegnoError) -> None:
        limits, directory = self._limits, self._directory
        if self._failures == 1 and isinstance(failure, (FencedError, LiveKeyError)):
            return  # nothing is wrong that waiting would mend
        bound_s = min(limits.backoff_max_s, limits.backoff_first_s * 2 ** (self._failures - 1))
        self._is_backing_off = True
        try:
            with trio.move_on_after(bound_s * directory.world.random()):
                await directory.wait_store_returned()
        finally:
            self._is_backing_off = False

    async def _rest(self) -> bool:
        """Stay without an incarnation while there are readers; False where the slot is given up."""
        while not self.mailbox:
            if not self.is_used:
                await self._directory.release(self.workspace_id, self._epoch)
                return bool(self.mailbox) or self.is_used
            if self._is_doubtful:
                return True
            with trio.CancelScope() as self._resting:
                await self.mailbox.wait_filled()
            if self._resting.cancelled_caught and self.is_used:
                return True
        return True

    # ------------------------------------------------------------------------ the directory's

    def tick(self, now: float) -> None:
        """Do what is due: answer who has waited too long, and rest where nothing is asked."""
        if not self.is_running:
            self._expire(now)
        elif not self.is_settled:
            self._expire_late(now)
        if self._resting is not None and not self.is_used:
            self._resting.cancel(reason="nobody needs the slot")

    def passivate(self) -> bool:
        """Leave memory if nothing is being done; tell whether that is so."""
        if not self.is_running or not self.is_settled:
            return False
        assert self.incarnation is not None, "it is running"
        self.incarnation.stop()
        return True

    def fence(self) -> None:
        """Ask the store who owns the workspace: another node may."""
        self.hub.is_doubtful = True
        if self.incarnation is not None:
            self.incarnation.stop(FencedError("the lease had run out"))
            return
        self._is_doubtful = True  # it may not rest yet: its states are stored before
        if self._resting is not None:
            self._resting.cancel(reason="another node may own the workspace")

    def reopen(self) -> bool:
        """Answer no longer from memory that the workspace is halted; False where it does not."""
        if self.state != "halted" or self._resting is None:
            return False
        self._resting.cancel(reason="repaired")
        return True

    def _expire(self, now: float) -> None:
        limits = self._limits
        old = self.mailbox.drain(lambda c: c.sent_at > now - limits.mailbox_deadline_s)
        _answer(old, StoreUnavailableError("the workspace's store is away"))
        for command in self.unresolved:
            if command.sent_at <= now - limits.command_deadline_s:
                command.answer(OutcomeUnknownError("the commit had no answer yet"))
        # In place: an incarnation that opens has this very list, and looks the rest up.
        self.unresolved[:] = [command for command in self.unresolved if not command.answered]

    def _expire_late(self, now: float) -> None:
        """Answer those for whom even a workspace that runs has had no time."""
        assert self.incarnation is not None, "it is running"
        before = now - self._limits.command_deadline_s
        self.incarnation.expire(before)
        old = self.mailbox.drain(lambda command: command.sent_at > before)
        _answer(old, StoreUnavailableError("the workspace had no time for it"))

    # ---------------------------------------------------------------------------------- ends

    def _end(self, failure: WorkspaceHaltedError | WorkspaceMovedError) -> None:
        """Tell everybody who waits or reads; from this step on, whoever asks hears it too."""
        self._ended_with = failure
        _answer(self.mailbox.drain(), failure)
        _answer(self.unresolved, OutcomeUnknownError(str(failure)))
        self.hub.end(failure)

    async def _halt(self, failure: WorkspaceHaltedError) -> None:
        _log.error("%s is halted: %s", self.workspace_id, failure)
        self._end(failure)
        self._failures = 0
        with trio.CancelScope() as self._resting:
            while not await self._directory.mark_halted(self.workspace_id, self._epoch, failure):
                self._failures = min(self._failures + 1, 32)
                await self._back_off(failure)
            await trio.sleep(_HALTED_REST_S)

    def _close(self) -> None:
        ended = self._ended_with or RuntimeClosedError("this node stops")
        _answer(self.mailbox.drain(), ended)
        _answer(self.unresolved, OutcomeUnknownError("this node stops"))
        if self.hub.is_used:
            self.hub.end(ended)


def _answer(commands: list[Command], error: DalsegnoError) -> None:
    """Answer and forget them."""
    for command in commands:
        command.answer(error)
    commands.clear()
