"""Group commit: the batches of many workspaces in one statement, with no timer.

A task sends what is waiting when the last statement has returned, so that the load itself makes
the batches; it does so before anybody acts on the answer to the last one.  What finds that task at
rest is sent by whoever asks, in the same step, and the task waits for the answer.  A workspace has
at most one batch here at a time.

Whoever waits for a batch is woken, and the batches of a large statement a few at a time: what each
of them does with the answer is done before others come, and nothing else would run meanwhile.

There are two such tasks, one for short batches and one for long ones: whoever types does not wait
for the megabytes of whoever uploads.

What a statement reports of a batch, and what follows:

* committed: its workspace goes on.
* not committed: the workspace's own task reads why, on another connection.  The epoch moved:
  `FencedError`; halted: `WorkspaceHaltedError`; a live key: `LiveKeyError`.  Nothing moved: the
  head's row was locked; the batch is sent again, alone, a bounded number of times.
* the data was refused, or what is stored under it is damaged: nothing of the statement was
  written; each batch is sent alone, and one that fails alone fails with `BatchRejectedError`, or
  with `CorruptLogError`.  Its neighbours do not notice (I10).
* no answer within ``commit_deadline_s``: the connection is abandoned, the outcome unknown (I4).
  A statement on its way is never cancelled at the server.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import Batch, BatchRejectedError
from dalsegno.protocol import (
    Backoff,
    CorruptLogError,
    DalsegnoError,
    FencedError,
    OutcomeUnknownError,
    StoreUnavailableError,
    WorkspaceHaltedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from dalsegno.actors.ports import Appending, Store, World
    from dalsegno.protocol import Limits


_FAILED_S = 10.0
"""How long a commit that the store failed stands for those to come, unless one succeeds."""
_PROBED = Batch(workspace_id="$nowhere", epoch=0, old_head=0, events=())
"""A batch that nothing is written of: no workspace has this id."""
_LOCKED_MAX_S = 1.0
"""The longest delay before a batch whose head was locked is sent again."""
_TOLD_AT_ONCE = 16
"""Workspaces that act on their answers before others have a turn: some 2 ms."""


class LiveKeyError(DalsegnoError):
    """An idempotency key of the batch has a recorded answer: decide again."""


class Sending:
    """A batch on its way, and what became of it."""

    __slots__ = ("_settled", "alone", "batch", "committed", "error")

    def __init__(self, batch: Batch, settled: Callable[[], object], *, alone: bool = False) -> None:
        self.batch = batch
        self.alone = alone
        """Whether no other batch may be in its statement."""
        self.committed = False
        self.error: DalsegnoError | None = None
        """Why its statement failed; without one, what is not committed was left out."""
        self._settled = settled

    def __repr__(self) -> str:
        state = "committed" if self.committed else self.error or "not committed"
        return f"<Sending of {self.batch.workspace_id}: {state}>"

    def settle(self) -> None:
        """Notify its sender: the statement has ended."""
        self._settled()


class _Lane:
    """What waits for the next statement of one task."""

    __slots__ = ("answered", "begun", "filled", "sending", "some_answered", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Sending] = deque()
        self.filled = trio.lowlevel.ParkingLot()
        """Where the task rests."""
        self.begun: tuple[list[Sending], Appending] | None = None
        """A statement that was sent while the task rested, and what it is to wait for."""
        self.sending = trio.CancelScope()
        """The cancel scope of the statement being executed, or of the last one."""
        self.answered: deque[Sending] = deque()
        """Batches of a large statement whose workspaces are still to be told."""
        self.some_answered = trio.lowlevel.ParkingLot()


@dataclass(frozen=True, slots=True)
class CommitterStatistics:
    """A committer at one moment; the counts are since its start."""

    waiting: int
    """Batches that wait for the next statement."""
    statements: int
    batches: int
    """Batches that were committed."""
    events: int
    """… and their events."""
    refused: int
    """Batches that a statement left out."""
    rejected: int
    """Batches whose data the store refused, alone."""
    unknown: int
    """Batches without an answer."""


class Committer:
    """Merges the batches of many workspaces into statements."""

    def __init__(self, store: Store, *, world: World, limits: Limits) -> None:
        self._store = store
        self._world = world
        self._limits = limits
        self._short, self._long = _Lane(), _Lane()
        self._statements = self._batches = self._events = 0
        self._refused = self._rejected = self._unknown = 0
        self._failed_at = -math.inf
        """When the store last failed a statement, unless it has committed since."""

    def __repr__(self) -> str:
        waiting = len(self._short.waiting) + len(self._long.waiting)
        return f"<Committer {waiting} waiting, {self._statements} statements>"

    def statistics(self) -> CommitterStatistics:
        """Return what waits and what was done."""
        return CommitterStatistics(
            waiting=len(self._short.waiting) + len(self._long.waiting),
            statements=self._statements,
            batches=self._batches,
            events=self._events,
            refused=self._refused,
            rejected=self._rejected,
            unknown=self._unknown,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what waits, until cancelled; a statement that was sent is finished first.

        Started again after a failure it goes on with what waits.
        """
        async with trio.open_nursery() as nursery:
            for lane in (self._short, self._long):
                nursery.start_soon(self._serve, lane)
                nursery.start_soon(_tell_in_turns, lane)
            task_status.started()

    async def _serve(self, lane: _Lane) -> None:
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()  # the statements are shielded
            while not lane.waiting and lane.begun is None:
                await lane.filled.park()
            begun, lane.begun = lane.begun, None
            if begun is None:
                lane.sending = self._scope()
                await self._send(lane, self._take(lane))
            else:
                await self._send(lane, *begun)

    def _scope(self) -> trio.CancelScope:
        """Return the scope of a statement that is sent now."""
        deadline = trio.current_time() + self._limits.commit_deadline_s
        return trio.CancelScope(deadline=deadline, shield=True)

    def give_up(self) -> None:
        """Stop waiting for the statements that were sent: their outcome is unknown."""
        for lane in (self._short, self._long):
            lane.sending.deadline = trio.current_time()

    def send(self, batch: Batch, settled: Callable[[], object], *, alone: bool = False) -> Sending:
        """Send one workspace's batch, now or with the next statement; `commit` has to follow.

        ``settled`` is called once when its statement has ended; it must not wait.
        """
        sending = Sending(batch, settled, alone=alone)
        lane = self._lane(batch)
        lane.waiting.append(sending)
        if lane.filled:  # nothing else waits here, or on its way
            appending = self._store.append_nowait([batch])
            if appending is not None:
                lane.begun = [lane.waiting.pop()], appending
                lane.sending = self._scope()
            lane.filled.unpark()
        return sending

    async def commit(self, sending: Sending) -> None:
        """Return once a batch is committed, whose statement has ended.

        Raises:
            FencedError: the epoch or the head moved; nothing was written.
            WorkspaceHaltedError: nothing was written.
            LiveKeyError: a key of it was answered before; nothing was written.
            BatchRejectedError: the store refuses this batch's data; nothing was written.
            CorruptLogError: what is stored of this workspace is damaged; nothing was written.
            StoreUnavailableError: nothing was written.
            OutcomeUnknownError: it may or may not be written.

        """
        batch, backoff = sending.batch, None
        while not sending.committed:
            if sending.error is not None:
                raise sending.error
            await self._explain(batch)
            backoff = backoff or Backoff(self._limits.backoff_first_s, _LOCKED_MAX_S)
            if 1 + backoff.failures >= self._limits.locked_retries_max:
                raise StoreUnavailableError(f"the head of {batch.workspace_id} stays locked")
            await trio.sleep(backoff.next_s(self._world.random()))
            sending = await self._sent_alone(batch)

    def withdraw(self, sending: Sending) -> bool:
        """Do not send a batch; return False where it was sent, and may be written.

        A workspace is in a statement at most once, and its next incarnation may commit.
        """
        waiting = self._lane(sending.batch).waiting
        if sending not in waiting:
            return False
        waiting.remove(sending)
        return True

    async def _sent_alone(self, batch: Batch) -> Sending:
        """Send a batch in a statement of its own, and wait for the end of that."""
        settled = trio.Event()
        sending = self.send(batch, settled.set, alone=True)
        try:
            await settled.wait()
        except trio.Cancelled:
            self.withdraw(sending)
            raise
        return sending

    def _lane(self, batch: Batch) -> _Lane:
        return self._short if batch.size <= self._limits.short_batch_bytes_max else self._long

    async def check(self) -> None:
        """Raise unless a command could be committed, as far as can be told without one.

        What is asked takes every commit's way, through its queue, connection and statement: it
        waits where they wait.  A full disk shows only where something is written, hence the last
        commits count too.

        Raises:
            StoreUnavailableError: none could be.
            OutcomeUnknownError: the store does not answer.

        """
        if trio.current_time() - self._failed_at < _FAILED_S:
            raise StoreUnavailableError("the last commit failed")
        probed = await self._sent_alone(_PROBED)
        if probed.error is not None:
            raise probed.error

    async def _explain(self, batch: Batch) -> None:
        """Return where nothing moved: the head was locked."""
        refusal = await self._store.explain(batch)
        head = refusal.head
        if head is None or head.epoch != batch.epoch or head.head_seq != batch.old_head:
            raise FencedError(
                f"{batch.workspace_id}: epoch {batch.epoch}, head {batch.old_head} are past",
                owner=None if head is None else head.owner,
            )
        if head.halted_reason is not None:
            raise WorkspaceHaltedError(head.halted_reason)
        if refusal.live_keys:
            raise LiveKeyError(batch.workspace_id)

    def _take(self, lane: _Lane) -> list[Sending]:
        waiting = lane.waiting
        group = [waiting.popleft()]
        size = group[0].batch.size
        while not group[0].alone and waiting and not waiting[0].alone:
            size += waiting[0].batch.size
            if (
                len(group) >= self._limits.commit_batches_max
                or size > self._limits.commit_bytes_max
            ):
                break
            group.append(waiting.popleft())
        return group

    async def _send(
        self, lane: _Lane, group: list[Sending], appending: Appending | None = None
    ) -> None:
        """Execute a group's statement, or wait for one that was sent."""
        rejected: BatchRejectedError | CorruptLogError | None = None
        self._statements += 1
        with lane.sending as scope:
            try:
                if appending is None:
                    won = await self._store.append([each.batch for each in group])
                else:
                    won = await appending.outcome()
                self._count(group, won)
            except (BatchRejectedError, CorruptLogError) as error:
                rejected = error
            except DalsegnoError as error:
                self._unknown += len(group) if isinstance(error, OutcomeUnknownError) else 0
                self._failed_at = trio.current_time()
                _fail(group, error)
            except Exception:
                # A bug: the supervisor starts a new run, and nobody waits for this one's answer.
                self._unknown += len(group)
                _fail(group, OutcomeUnknownError("the committer failed"))
                _tell(group)
                raise
        if scope.cancelled_caught:
            self._unknown += len(group)
            self._failed_at = trio.current_time()
            _fail(group, OutcomeUnknownError("the database did not answer in time"))
        if rejected is not None and len(group) > 1:
            for sending in group:
                sending.alone = True
            lane.waiting.extendleft(reversed(group))
            return
        if rejected is not None:
            self._rejected += 1
            _fail(group, rejected)
        if len(group) <= _TOLD_AT_ONCE:
            _tell(group)
        else:
            lane.answered += group
            lane.some_answered.unpark()

    def _count(self, group: list[Sending], won: Collection[str]) -> None:
        """Note which batches were committed."""
        committed = set(won)
        for sending in group:
            batch = sending.batch
            if batch.workspace_id in committed:
                sending.committed = True
                self._failed_at = -math.inf
                self._batches += 1
                self._events += len(batch.events)
            elif batch is not _PROBED:
                self._refused += 1


def _fail(group: list[Sending], error: DalsegnoError) -> None:
    for sending in group:
        sending.error = error


def _tell(group: Iterable[Sending]) -> None:
    for sending in group:
        sending.settle()


async def _tell_in_turns(lane: _Lane) -> None:
    """Notify the workspaces of large statements, a few in each turn, until cancelled."""
    answered = lane.answered
    while True:
        while not answered:
            await lane.some_answered.park()
        _tell([answered.popleft() for _ in range(min(_TOLD_AT_ONCE, len(answered)))])
        await trio.lowlevel.checkpoint()
