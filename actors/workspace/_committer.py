"""Group commit: the batches of many workspaces in one statement, with no timer.

A task sends what is waiting when the last statement has returned, so that the load itself makes
the batches.  A workspace has at most one batch here at a time.

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
from dataclasses import dataclass, field
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
    from dalsegno.actors.ports import Store, World
    from dalsegno.protocol import Limits


_FAILED_S = 10.0
"""How long a commit that the store failed stands for those to come, unless one succeeds."""
_PROBED = Batch(workspace_id="$nowhere", epoch=0, old_head=0, events=())
"""A batch that nothing is written of: no workspace has this id."""
_LOCKED_MAX_S = 1.0
"""The longest delay before a batch whose head was locked is sent again."""


class LiveKeyError(DalsegnoError):
    """An idempotency key of the batch has a recorded answer: decide again."""


@dataclass(slots=True, eq=False)
class _Waiting:
    batch: Batch
    alone: bool
    done: trio.Event = field(default_factory=trio.Event)
    committed: bool = False
    error: DalsegnoError | None = None


class _Lane:
    """What waits for the next statement of one task."""

    __slots__ = ("filled", "sending", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.filled = trio.lowlevel.ParkingLot()
        self.sending = trio.CancelScope()
        """The cancel scope of the statement being executed, or of the last one."""

    async def sent(self, waiting: _Waiting) -> None:
        """Queue a batch and wait for its statement; raise the error if that failed."""
        self.waiting.append(waiting)
        self.filled.unpark_all()
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            if waiting in self.waiting:
                self.waiting.remove(waiting)
            raise
        if waiting.error is not None:
            raise waiting.error


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
            task_status.started()

    async def _serve(self, lane: _Lane) -> None:
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()  # the statements are shielded
            while not lane.waiting:
                await lane.filled.park()
            await self._send(lane, self._take(lane))

    def give_up(self) -> None:
        """Stop waiting for the statements that were sent: their outcome is unknown."""
        for lane in (self._short, self._long):
            lane.sending.deadline = trio.current_time()

    async def commit(self, batch: Batch) -> None:
        """Commit one workspace's batch.

        Cancelled, the batch may have been sent: its outcome is unknown.  If it was not, it will
        not be: a workspace is in a statement at most once, and its next incarnation may commit.

        Raises:
            FencedError: the epoch or the head moved; nothing was written.
            WorkspaceHaltedError: nothing was written.
            LiveKeyError: a key of it was answered before; nothing was written.
            BatchRejectedError: the store refuses this batch's data; nothing was written.
            CorruptLogError: what is stored of this workspace is damaged; nothing was written.
            StoreUnavailableError: nothing was written.
            OutcomeUnknownError: it may or may not be written.

        """
        backoff: Backoff | None = None
        lane = self._short if batch.size <= self._limits.short_batch_bytes_max else self._long
        while backoff is None or backoff.failures < self._limits.locked_retries_max:
            waiting = _Waiting(batch, alone=backoff is not None)
            await lane.sent(waiting)
            if waiting.committed:
                return
            await self._explain(batch)
            backoff = backoff or Backoff(self._limits.backoff_first_s, _LOCKED_MAX_S)
            await trio.sleep(backoff.next_s(self._world.random()))
        raise StoreUnavailableError(f"the head of {batch.workspace_id} stays locked")

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
        await self._short.sent(_Waiting(_PROBED, alone=True))

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

    def _take(self, lane: _Lane) -> list[_Waiting]:
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

    async def _send(self, lane: _Lane, group: list[_Waiting]) -> None:
        rejected: BatchRejectedError | CorruptLogError | None = None
        deadline = trio.current_time() + self._limits.commit_deadline_s
        with trio.CancelScope(deadline=deadline, shield=True) as scope:
            lane.sending = scope
            try:
                await self._append(group)
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
                raise
        if scope.cancelled_caught:
            self._unknown += len(group)
            self._failed_at = trio.current_time()
            _fail(group, OutcomeUnknownError("the database did not answer in time"))
        if rejected is not None and len(group) == 1:
            self._rejected += 1
            _fail(group, rejected)
        elif rejected is not None:
            for waiting in group:
                waiting.alone = True
            lane.waiting.extendleft(reversed(group))

    async def _append(self, group: list[_Waiting]) -> None:
        self._statements += 1
        committed = set(await self._store.append([waiting.batch for waiting in group]))
        for waiting in group:
            waiting.committed = waiting.batch.workspace_id in committed
            if waiting.committed:
                self._failed_at = -math.inf
                self._batches += 1
                self._events += len(waiting.batch.events)
            elif waiting.batch is not _PROBED:
                self._refused += 1
            waiting.done.set()


def _fail(group: list[_Waiting], error: DalsegnoError) -> None:
    for waiting in group:
        waiting.error = error
        waiting.done.set()
