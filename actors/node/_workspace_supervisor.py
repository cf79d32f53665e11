"""The supervisor of one workspace: it runs its incarnations, and keeps what outlives them.

The mailbox, the hub and what an incarnation left unresolved belong to the supervisor; its task runs
one incarnation after the other.  A failure of an incarnation is a value here, never an exception in
the nursery, so a fault stays with its workspace (I10).  What follows from it is the table
`LIFECYCLE`:

* fenced: the next incarnation asks at once who owns the workspace now.
* moved: another node does; waiters and readers are told where, and the supervisor ends.  It is the
  same where a later version of the program has owned it.
* store away, outcome unknown: back-off with full jitter, or until the store answers again.
* a log that cannot be read, or a loop that crashes too often: halted, durably; the supervisor ends
  after a while, and the next one finds the marker in the log's head.

Idle, an incarnation ends without a failure: the workspace is passivated.  While it has readers the
supervisor stays, and with it the ownership, so that no other node appends unseen by them.  It ends
only in a step in which its mailbox is empty and nobody uses it, so no message is lost.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.delivery import Hub
from dalsegno.actors.workspace import Incarnation, LiveKeyError
from dalsegno.protocol import (
    Backoff,
    CodeTooOldError,
    DalsegnoError,
    FailureWindow,
    FencedError,
    NotReadyError,
    OverloadedError,
    RuntimeClosedError,
    StoreUnavailableError,
    UnavailableError,
    WorkspaceHaltedError,
    WorkspaceMovedError,
)

from ._backlog import Backlog
from ._lifecycle import LIFECYCLE, Input, Known, State, WorkspaceStatistics
from ._supervisor import first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.actors.ports import Head
    from dalsegno.actors.workspace import Command

    from ._serving_node import ServingNode

_log = logging.getLogger("dalsegno.workspace")

_HALTED_REST_S = 1.0
"""How long a halted workspace answers from memory, so that repeated requests cost little."""


class WorkspaceSupervisor:
    """Runs the incarnations of one workspace; see the module."""

    def __init__(
        self, workspace_id: str, node: ServingNode, watched: dict[WorkspaceSupervisor, None]
    ) -> None:
        """Make it; it puts itself into ``watched`` where something may become due; see `tick`."""
        limits = node.limits
        self.workspace_id = workspace_id
        self.hub = Hub(workspace_id, delivery=node.delivery, unused=self.check_used)
        self.backlog = Backlog(limits, node.room)
        self.mailbox = self.backlog.mailbox
        self.incarnation: Incarnation | None = None
        self.users = 0
        """Blocks that need it to stay: see `kept`."""
        self.is_woken = False
        """Whether nobody has used it but who woke it; see `Directory.wake`."""
        self.used_at = trio.current_time()
        self._node = node
        self._watched = watched
        self._limits = limits
        self._state = State.OPENING
        self._resting: trio.CancelScope | None = None
        """Around a wait without an incarnation; cancelled, it goes on."""
        self._is_unverified = False
        """Whether another node may own the workspace since the last incarnation ended."""
        self._ended_with: WorkspaceHaltedError | WorkspaceMovedError | CodeTooOldError | None = None
        """The error that everybody who still asks gets."""
        self._failure: DalsegnoError | None = None
        self._backoff = Backoff(limits.backoff_first_s, limits.backoff_max_s)
        self._crashes = FailureWindow(limits.crashes_max, limits.crash_window_s)
        self._incarnations = 0
        self._epoch = 0
        """Of the last incarnation that ended."""

    def __repr__(self) -> str:
        place = f"{self.workspace_id} {self.state}, epoch {self.epoch}"
        return f"<WorkspaceSupervisor {place}, {self.mailbox!r}>"

    def statistics(self) -> WorkspaceStatistics:
        """Return how the workspace stands."""
        return WorkspaceStatistics(
            state=self.state,
            head=self.hub.head,
            epoch=self.epoch,
            waiting=len(self.mailbox),
            unresolved=len(self.backlog.unresolved),
            subscriptions=self.hub.subscriptions,
            incarnations=self._incarnations,
        )

    @property
    def state(self) -> str:
        """What it is at; see `WorkspaceStatistics.state`."""
        return self._state.value

    @property
    def epoch(self) -> int:
        """The epoch that it owns the workspace under, as far as it knows; 0: it never did."""
        return self._epoch if self.incarnation is None else self.incarnation.epoch or self._epoch

    @property
    def known(self) -> Known:
        """What it assumes of its log."""
        head = self.hub.head if self.hub.is_open else 0
        return Known(self._node.node_id, self.epoch, head, self.hub.chain)

    @property
    def is_opening(self) -> bool:
        """Whether an incarnation is asking the store who owns the workspace."""
        return self._state is State.OPENING

    @property
    def is_running(self) -> bool:
        """Whether commands are being taken."""
        return self._state is State.RUNNING

    @property
    def is_settled(self) -> bool:
        """Whether every command was settled."""
        settled = self.incarnation is None or self.incarnation.is_idle
        return settled and not self.backlog

    def is_behind(self, before: Known, head: Head) -> bool:
        """Return whether the log has events that did not come through here.

        ``before`` is what was known before the store was asked for the head.  Where nothing is on
        its way, and nothing was published meanwhile, what is above that is somebody else's: it was
        written past the owner, and is published by the next incarnation.
        """
        is_published = self.hub.is_open and self.known == before
        return is_published and self.is_settled and self.epoch > 0 and head.head_seq > before.head

    @property
    def is_used(self) -> bool:
        """Whether a reader or a caller needs it, idle or not."""
        return self.users > 0 or self.hub.is_used

    # ------------------------------------------------------------------------------- callers

    def admit_nowait(self, command: Command) -> bool:
        """Put a command into the mailbox, or return False where there is no space; see `admit`."""
        if not self._node.is_open:
            raise self._node.closed_error()
        self._check_not_ended()
        self.used_at = command.sent_at = trio.current_time()
        self.is_woken = self.is_woken and (command.due is not None or command.is_relisting)
        self._watched[self] = None
        return self.backlog.put_nowait(command)

    async def admit(self, command: Command) -> None:
        """Put a command into the mailbox; cancelled while it waits for space, it is not there.

        Raises:
            OverloadedError: no space within ``mailbox_deadline_s``.
            WorkspaceHaltedError: the log needs a repair first.
            WorkspaceMovedError: another node owns the workspace.
            CodeTooOldError: a later version of the program has owned it.
            RuntimeClosedError: the runtime drains.

        """
        if self.admit_nowait(command):
            return
        deadline_s = self._limits.mailbox_deadline_s
        was_woken = self.is_woken
        with self.kept(), trio.move_on_after(deadline_s) as scope:
            self.is_woken = was_woken
            await self.backlog.put(command)
            self._watched[self] = None  # it may have been settled meanwhile
        if scope.cancelled_caught:
            raise OverloadedError("too many commands wait here", retry_after_s=deadline_s)

    async def wait_open(self, event_seq: int = 0) -> None:
        """Wait until the published head is known, and at least ``event_seq``.

        The caller keeps the supervisor, with `Directory.using`.

        Raises:
            WorkspaceHaltedError: the log needs a repair first.
            WorkspaceMovedError: another node owns the workspace.
            CodeTooOldError: a later version of the program has owned it.
            StoreUnavailableError: the head is not known within ``mailbox_deadline_s``, since the
                store is away.
            NotReadyError: … for another reason.
            OverloadedError: it is known by then, and lower.

        """
        self._check_not_ended()
        node = self._node
        with trio.move_on_after(self._limits.mailbox_deadline_s):
            await node.lease.wait_held()
            await self.hub.wait_head(event_seq)
            self._check_not_ended()
            return
        self._check_not_ended()
        is_known = self.hub.is_open and node.knows_head(self.hub)
        if isinstance(self._failure, StoreUnavailableError):
            raise StoreUnavailableError("the store is away") from self._failure
        if isinstance(self._failure, UnavailableError) or not is_known:
            raise NotReadyError("the workspace could not be opened") from self._failure
        raise OverloadedError(f"event {event_seq} is not there yet")

    def _check_not_ended(self) -> None:
        if self._ended_with is not None:
            raise self._ended_with.with_traceback(None)  # it is raised again and again

    @contextmanager
    def kept(self, *, is_use: bool = True) -> Iterator[None]:
        """Keep it for the length of a block: it does not leave as idle.

        Where that is no use of it, it is there still for whoever woke it alone.
        """
        self.users += 1
        self.is_woken = self.is_woken and not is_use
        try:
            yield
        finally:
            self.users -= 1
            self.used_at = trio.current_time()
            self.check_used()

    # --------------------------------------------------------------------------- supervision

    async def run(self) -> None:
        """Run one incarnation after the other, until cancelled or closed."""
        try:
            while self._state is State.OPENING:
                await self._run_once()
        except Exception:  # noqa: BLE001 - a fault here stays in this workspace
            _log.exception("%s: its supervision failed", self.workspace_id)
        finally:
            self._step(Input.STOPPED)

    def _step(self, input_: Input) -> None:
        self._state = LIFECYCLE.step(self._state, input_)

    async def _run_once(self) -> None:
        """Run one incarnation and act on how it ended."""
        began, head = trio.current_time(), self.hub.head
        self._incarnations += 1
        self._is_unverified = False
        incarnation = self._incarnation()
        try:
            failure = self._failure = await self._run_incarnation(incarnation)
            if failure is None:
                self._step(Input.IDLE)
                await incarnation.store_states()
        finally:
            incarnation.forget()
        if failure is None:
            await self._rest()
        elif isinstance(failure, WorkspaceHaltedError):
            self._step(Input.HALTED)
            await self._halt(failure)
        elif isinstance(failure, (WorkspaceMovedError, CodeTooOldError)):
            self._step(Input.MOVED)
            self._end(failure)
        else:
            self._step(Input.FAILED)
            lived_s = trio.current_time() - began
            if self.hub.head > head or lived_s > self._limits.backoff_max_s:
                self._backoff.reset()  # it was well for a while
            await self._back_off(failure)
            has_work = bool(self.backlog) or self.is_used
            self._step(Input.RETRIED if has_work else Input.UNWANTED)

    def _incarnation(self) -> Incarnation:
        return Incarnation(
            self._node,
            self.hub,
            mailbox=self.mailbox,
            unresolved=self.backlog.unresolved,
            opened=lambda: self._step(Input.OPENED),
        )

    async def _run_incarnation(self, incarnation: Incarnation) -> DalsegnoError | None:
        """Run an incarnation to its end; None where it was idle."""
        self.incarnation = incarnation
        try:
            await incarnation.run()
        except BaseExceptionGroup as group:
            # Cancelled, it may have failed as well: that concerns nobody any more.
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
        return None

    def _failed(self, error: Exception) -> DalsegnoError:
        """Return what an incarnation ended with."""
        failure = first_of(error)
        if isinstance(failure, DalsegnoError):
            # That another node owns it is no reason for a warning: anybody may ask here for it.
            level = logging.DEBUG if isinstance(failure, WorkspaceMovedError) else logging.WARN
            _log.log(level, "%s: the incarnation ends: %s", self.workspace_id, failure)
            return failure
        _log.error("%s: the incarnation failed", self.workspace_id, exc_info=error)
        if not self._crashes.add(trio.current_time()):
            return DalsegnoError("a bug in the workspace's loop")
        crashes = self._crashes
        return WorkspaceHaltedError(f"failed {len(crashes)} times in {crashes.window_s:g} s")

    async def _back_off(self, failure: DalsegnoError) -> None:
        node = self._node
        delay_s = self._backoff.next_s(node.world.random())
        if self._backoff.failures == 1 and isinstance(failure, (FencedError, LiveKeyError)):
            return  # nothing is wrong that waiting would cure
        with trio.move_on_after(delay_s):
            await node.wait_store_returned()

    async def _rest(self) -> None:
        """Stay without an incarnation as long as there are only readers."""
        while not self.mailbox:
            if not self.is_used:
                await self._release()
                is_needed = bool(self.mailbox) or self.is_used
                self._step(Input.WANTED if is_needed else Input.UNWANTED)
                return
            if self._is_unverified:
                break
            with trio.CancelScope() as self._resting:
                await self.mailbox.wait_filled()
            if self._resting.cancelled_caught and self.is_used:
                break
        self._step(Input.WANTED)

    async def _release(self) -> None:
        """Release the workspace; if the store is away, others wait until the lease runs out."""
        if self._epoch == 0:
            return
        try:
            await self._node.store.release(self.workspace_id, self._epoch)
        except UnavailableError as error:
            _log.info("%s was not released: %s", self.workspace_id, error)

    # ------------------------------------------------------------------------ the directory's

    def check_used(self) -> None:
        """Ask to be looked at if it rests and nobody needs it; a reader may be back by then."""
        if self._state is State.RESTING and not self.is_used:
            self._watched[self] = None

    def tick(self, now: float) -> bool:
        """Do what is due: answer commands that waited too long, and leave if nobody needs it.

        Returns whether to look at it again: while it has commands that are not settled.
        """
        if not self.is_running:
            self.backlog.expire_unopened(now)
        elif not self.is_settled:
            assert self.incarnation is not None, "it is running"
            self.incarnation.expire(now - self._limits.command_deadline_s)
            self.backlog.expire(now)
        if self._state is State.RESTING and self._resting is not None and not self.is_used:
            self._resting.cancel(reason="nobody needs the workspace")
        return not self.is_settled

    def passivate(self) -> bool:
        """Begin to leave memory if nothing is being done; return whether that is so."""
        if not self.is_running or not self.is_settled:
            return False
        assert self.incarnation is not None, "it is running"
        self.incarnation.stop()
        return True

    def fence(self) -> None:
        """Ask the store whether another node owns the workspace."""
        self.hub.is_unverified = True
        if self.incarnation is not None:
            self.incarnation.stop(FencedError("the log is not what is known of it here"))
            return
        self._is_unverified = True  # it may not rest yet: its states are stored before
        if self._resting is not None:
            self._resting.cancel(reason="another node may own the workspace")

    def reopen(self) -> bool:
        """Stop answering from memory that the workspace is halted; False where it does not."""
        if self._state is not State.HALTED or self._resting is None:
            return False
        self._resting.cancel(reason="repaired")
        return True

    # ---------------------------------------------------------------------------------- ends

    def _end(self, failure: WorkspaceHaltedError | WorkspaceMovedError | CodeTooOldError) -> None:
        """Give those that wait and those that read the error; whoever asks later gets it too."""
        self._ended_with = failure
        self.backlog.close(failure)
        self.hub.end(failure)

    async def _halt(self, failure: WorkspaceHaltedError) -> None:
        _log.error("%s is halted: %s", self.workspace_id, failure)
        self._end(failure)
        self._backoff.reset()
        with trio.CancelScope() as self._resting:
            while not await self._node.mark_halted(self.workspace_id, self._epoch, failure):
                await self._back_off(failure)
            await trio.sleep(_HALTED_REST_S)
        self._step(Input.UNWANTED)

    def close(self) -> None:
        """Answer the commands that are left, once it is out of the directory."""
        ended = self._ended_with or RuntimeClosedError("this node stops")
        self.backlog.close(ended)
        if self.hub.is_used:
            self.hub.end(ended)
        self._node.delivery.watcher.ended(self.workspace_id)
