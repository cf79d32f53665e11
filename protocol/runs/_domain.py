"""Runs as entities: requested, carried out attempt by attempt, ended exactly once (I12).

    requested ──► running ──► finished
        ▲            │
        └─ released ◄┘

What an attempt does is refused, in the workspace's order, unless it is the run's present one; so
that a worker that was thought dead, and comes back, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from dalsegno.protocol._deciding import Context
from dalsegno.protocol._domain import Domain, Touched
from dalsegno.protocol._errors import Reject
from dalsegno.protocol._indexing import Audit, Due, Index
from dalsegno.protocol._limits import MIB
from dalsegno.protocol._worker import OnDisconnect, Worker

from ._commands import (
    AnyRunCommand,
    CancelRun,
    ExpireRun,
    FinishRun,
    FinishStep,
    HoldAttempt,
    ReleaseRun,
    RequestRun,
    SaveRun,
    StartAttempt,
    TriggerRun,
    WriteOutput,
)
from ._vocabulary import (
    AnyRunEvent,
    Outcome,
    RunCancelRequested,
    RunEvent,
    RunFinished,
    RunOutput,
    RunProblem,
    RunReleased,
    RunRequested,
    RunRestarted,
    RunSaved,
    RunStarted,
    StepFinished,
    StepReceipt,
    Trigger,
)

STEPS_MAX = 1_000
"""Named steps in a run's life."""
OUTPUT_BYTES_MAX = 4 * MIB
"""What a run may say in its life, over all attempts, in bytes of UTF-8 …"""
OUTPUT_EVENT_BYTES = 256
"""… where an event counts as so many more: a word in each of two channels in turns is an event a
word."""

Status: TypeAlias = Literal["requested", "running", "released"] | Outcome

OneT = TypeVar("OneT", bound=RunEvent)

AUTOMATION = "automation"
"""The kind of the runs that nobody asks for in person, which are on record (KJ-RBAC-5)."""

_NOBODY = frozenset[str]()
"""What only the program itself may send."""


class Cancelled(msgspec.Struct, frozen=True):
    """Who cancelled a run."""

    by: str | None
    reason: str | None


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """A run."""

    kind: str
    labels: dict[str, str]
    worker: str
    input: Any
    requested_by: str | None
    deadline: datetime
    attempts_max: int
    on_disconnect: OnDisconnect
    trigger: Trigger | None = None
    depth: int = 0
    connection_id: str | None = None
    """The connection with whose end it is cancelled; None: with that of none."""
    status: Status = "requested"
    attempt: int = 0
    attempt_id: str | None = None
    """The present attempt's, or the last one's."""
    failures: int = 0
    """Attempts that failed …"""
    interruptions: int = 0
    """… and those of which nothing was heard again."""
    retry_at: datetime | None = None
    checkpoint: Any = None
    steps: dict[str, StepReceipt] = {}
    written_to: int = 0
    """The last frame of the present attempt that is in the log."""
    written_bytes: int = 0
    """How much all attempts said that is in the log, counted as its bound is."""
    cancelled: Cancelled | None = None
    result: Any = None
    error: RunProblem | None = None
    requested_at: datetime | None = None
    """None for a run of before this was recorded, and so are the others, or the first two."""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status in _OPEN


_OPEN = frozenset({"requested", "running", "released"})

runs = Domain("run", version=2, state=RunState, commands=AnyRunCommand, events=AnyRunEvent)
"""The runs of a workspace."""

_Events: TypeAlias = Sequence[AnyRunEvent]


# ------------------------------------------------------------------------------ asking for one


@runs.decide
def _request(run: RunState | None, command: RequestRun, context: Context) -> RunRequested | None:
    worker = _worker(command.worker, context)
    if worker.is_reactor:
        raise Reject("WORKER_UNKNOWN", "events ask for its runs", status=400, field="worker")
    if context.principal.user_id is not None and context.role not in worker.allowed:
        raise Reject("ROLE_FORBIDDEN", "not allowed to ask for this", role=context.role)
    if run is not None:
        is_same = (run.worker, run.input, run.labels) == (
            command.worker,
            command.input,
            command.labels,
        )
        if is_same and run.requested_by == context.principal.user_id:
            return None
        raise Reject("RUN_EXISTS", "there is another run with this id")
    return asked_for(command, context)


def asked_for(command: RequestRun, context: Context) -> RunRequested:
    """Return the event by which a decider of another domain asks for a run: ``On(runs, id, …)``.

    So the run is asked for in the commit of what is decided, or not at all, with the rights of who
    sent that.  Its id is one that ``touches=`` or ``follows=`` named and of which there is no run,
    or `Context.new_id`'s; that of the command is not looked at.  Who may ask is the decider's to
    say: a worker's ``allow=`` is not asked, and one whose runs only events ask for does, too.

    Raises:
        Reject: ``WORKER_UNKNOWN``.

    """
    asked = _requested(command, _worker(command.worker, context), context)
    return replace(asked, requested_by=context.principal.user_id, depth=context.depth)


def _made_by(command: TriggerRun) -> list[tuple[Domain[Any, Any, Any], str]]:
    return [] if command.cause is None else [(runs, command.cause)]


@runs.decide(allow=_NOBODY, touches=_made_by)
def _trigger(
    run: RunState | None, command: TriggerRun, context: Context, touched: Touched
) -> RunRequested | None:
    worker = _worker(command.worker, context)
    cause = None if command.cause is None else touched.get(runs, command.cause)
    depth = 1 if cause is None else cause.depth + 1
    if run is not None or depth > command.depth_max:
        return None  # whoever is told of an event twice asks for what there is
    asked = _requested(command, worker, context)
    return replace(asked, requested_by=command.requested_by, trigger=command.trigger, depth=depth)


def _worker(name: str, context: Context) -> Worker:
    worker: Worker | None = context.workers.get(name)
    if worker is None:
        raise Reject("WORKER_UNKNOWN", "no worker has this name", status=400, field="worker")
    return worker


def _requested(command: RequestRun | TriggerRun, worker: Worker, context: Context) -> RunRequested:
    deadline_s = min(command.deadline_s or worker.deadline_s, worker.deadline_s)
    is_tied = worker.on_disconnect == "cancel"
    return RunRequested(
        kind=worker.kind,
        labels=command.labels,
        worker=worker.name,
        input=command.input,
        deadline=context.now + timedelta(seconds=deadline_s),
        attempts_max=worker.retry.attempts_max,
        on_disconnect=worker.on_disconnect,
        connection_id=context.principal.connection_id if is_tied else None,
        at=context.now,
    )


# ------------------------------------------------------------------------------------ attempts


@runs.decide(allow=_NOBODY)
def _start(run: RunState, command: StartAttempt, context: Context) -> _Events:
    _check_open(run)
    if command.after != run.attempt_id:
        raise Reject("RUN_FENCED", "another attempt began meanwhile", attempt=run.attempt)
    if run.cancelled is not None or _is_left(run):
        return _ended(run, "cancelled", command.attempt_id, context.now)
    if run.deadline <= context.now:
        return _ended(run, "failed", command.attempt_id, context.now, _LATE)
    if run.status == "running" and run.interruptions + 1 >= run.attempts_max:
        return _ended(run, "failed", command.attempt_id, context.now, _INTERRUPTED)
    if run.retry_at is not None and run.retry_at > context.now:
        raise Reject("RUN_NOT_DUE", "not before", retry_at=run.retry_at.isoformat())
    if run.attempt == 0:
        return [_of(run, RunStarted, attempt=1, attempt_id=command.attempt_id, at=context.now)]
    reason = "interrupted"
    if run.status == "released":
        reason = "released" if run.retry_at is None else "retry"
    return [
        _of(
            run,
            RunRestarted,
            attempt=run.attempt + 1,
            attempt_id=command.attempt_id,
            reason=reason,
        )
    ]


def _is_left(run: RunState) -> bool:
    """Return whether who carried it out is gone, and nobody is to go on in their place."""
    is_retried = run.status == "released" and run.retry_at is not None
    return run.attempt > 0 and run.on_disconnect == "cancel" and not is_retried


_LATE = RunProblem(code="DEADLINE_EXCEEDED", message="it was not done in time")
_INTERRUPTED = RunProblem(
    code="RUN_INTERRUPTED", message="its process died again and again", retryable=True
)


@runs.decide(allow=_NOBODY)
def _hold(run: RunState, command: HoldAttempt) -> None:
    _check_attempt(run, command.attempt_id)


@runs.decide(allow=_NOBODY)
def _save(run: RunState, command: SaveRun) -> RunSaved:
    _check_attempt(run, command.attempt_id)
    return _of(run, RunSaved, attempt=run.attempt, checkpoint=command.checkpoint)


@runs.decide(allow=_NOBODY)
def _finish_step(run: RunState, command: FinishStep, context: Context) -> StepFinished:
    _check_attempt(run, command.attempt_id)
    known = run.steps.get(command.step_id)
    if known is not None:
        raise Reject("STEP_FINISHED", "this step took effect", receipt=msgspec.to_builtins(known))
    if len(run.steps) >= STEPS_MAX:
        raise Reject("RUN_TOO_MANY_STEPS", f"a run has at most {STEPS_MAX} named steps")
    if not context.earlier:
        raise Reject("BAD_REQUEST", "a step ends a group of commands")
    receipt = context.earlier[-1]
    return _of(
        run,
        StepFinished,
        attempt=run.attempt,
        step_id=command.step_id,
        receipt=StepReceipt(
            stream_id=receipt.stream_id,
            event_seq=receipt.event_seq,
            version=receipt.version,
            command_id=receipt.command_id,
        ),
    )


@runs.decide(allow=_NOBODY)
def _write(run: RunState, command: WriteOutput) -> _Events:
    _check_open(run)
    _check_present(run, command.attempt_id)
    if run.cancelled is not None:
        return []  # it is dropped, and does not keep the end beside it from being recorded
    written, to, size = [], run.written_to, run.written_bytes
    for part in command.parts:
        if part.to_frame <= run.written_to:
            continue  # by a command whose outcome was unknown, or that is sent beside this one
        if part.from_frame != to + 1 or part.to_frame < part.from_frame:
            raise Reject("BAD_REQUEST", "frames are recorded in order, without a gap", frame=to + 1)
        to = part.to_frame
        size += OUTPUT_EVENT_BYTES + len(part.text.encode())
        written.append(
            _of(
                run,
                RunOutput,
                attempt=run.attempt,
                message_id=part.message_id,
                channel=part.channel,
                from_frame=part.from_frame,
                to_frame=part.to_frame,
                text=part.text,
                opens=part.opens,
                closes=part.closes,
            )
        )
    if size > OUTPUT_BYTES_MAX:
        raise too_long()
    return written


def too_long() -> Reject:
    """Return the refusal of what a run says beyond its bound."""
    return Reject("RUN_OUTPUT_TOO_LONG", f"a run says at most {OUTPUT_BYTES_MAX} bytes")


@runs.decide(allow=_NOBODY)
def _release(run: RunState, command: ReleaseRun, context: Context) -> AnyRunEvent:
    _check_open(run)
    _check_present(run, command.attempt_id)
    error, now = command.error, context.now
    if run.cancelled is not None:
        return _of(run, RunFinished, outcome="cancelled", attempt=run.attempt, at=now)
    if error is None:
        return _of(run, RunReleased, attempt=run.attempt, reason="drained")
    if run.failures + 1 >= run.attempts_max or not error.retryable:
        return _of(run, RunFinished, outcome="failed", attempt=run.attempt, error=error, at=now)
    return _of(
        run,
        RunReleased,
        attempt=run.attempt,
        reason="failed",
        error=error,
        retry_at=command.retry_at,
    )


# ------------------------------------------------------------------------------------- the end


@runs.decide(allow=_NOBODY)
def _finish(run: RunState, command: FinishRun, context: Context) -> RunFinished:
    _check_open(run)
    _check_present(run, command.attempt_id)
    if run.cancelled is not None and command.outcome != "cancelled":
        raise _was_cancelled(run)
    return _of(
        run,
        RunFinished,
        outcome=command.outcome,
        attempt=run.attempt,
        result=command.result,
        error=command.error,
        at=context.now,
    )


@runs.decide
def _cancel(run: RunState, command: CancelRun, context: Context) -> _Events:
    return cancelled_by(run, context, reason=command.reason)


def cancelled_by(run: RunState, context: Context, *, reason: str | None = None) -> _Events:
    """Return the events by which a decider of another domain cancels a run: ``On(runs, id, …)``.

    So the run is cancelled in the commit of what is decided; one that has ended stays as it is.
    Who may is the decider's to say.
    """
    if not run.is_open or run.cancelled is not None:
        return []
    asked = _of(run, RunCancelRequested, by=context.principal.user_id, reason=reason)
    if run.status == "running":
        return [asked]  # who runs it ends it
    return [asked, *_ended(run, "cancelled", context.new_id(), context.now)]


@runs.decide(allow=_NOBODY)
def _expire(run: RunState, _: ExpireRun, context: Context) -> _Events:
    if not run.is_open or run.deadline > context.now:
        return []
    if run.cancelled is not None:
        return _ended(run, "cancelled", context.new_id(), context.now)
    return _ended(run, "failed", context.new_id(), context.now, _LATE)


def _ended(
    run: RunState,
    outcome: Outcome,
    attempt_id: str,
    now: datetime,
    error: RunProblem | None = None,
) -> list[AnyRunEvent]:
    """Return the end of a run; one that never ran begins with it, so that everybody sees both."""
    attempt = max(run.attempt, 1)
    end = _of(run, RunFinished, outcome=outcome, attempt=attempt, error=error, at=now)
    if run.attempt > 0:
        return [end]
    return [_of(run, RunStarted, attempt=1, attempt_id=attempt_id, at=now), end]


def _of(run: RunState, event: type[OneT], **fields: Any) -> OneT:  # noqa: ANN401 - its fields
    return event(kind=run.kind, labels=run.labels, **fields)


def _check_open(run: RunState) -> None:
    if not run.is_open:
        raise Reject("RUN_OVER", "the run has ended", outcome=run.status)


def _check_present(run: RunState, attempt_id: str) -> None:
    if run.status != "running" or run.attempt_id != attempt_id:
        raise Reject("RUN_FENCED", "another attempt began meanwhile", attempt=run.attempt)


def _check_attempt(run: RunState, attempt_id: str) -> None:
    """Raise unless an attempt may have an effect."""
    _check_open(run)
    _check_present(run, attempt_id)
    if run.cancelled is not None:
        raise _was_cancelled(run)


def _was_cancelled(run: RunState) -> Reject:
    by = None if run.cancelled is None else run.cancelled.by
    return Reject("RUN_CANCELLED", "the run was cancelled", by=by)


# ------------------------------------------------------------------------------------- folding


@runs.evolve
def _is_requested(_: RunState | None, event: RunRequested) -> RunState:
    return RunState(
        kind=event.kind,
        labels=event.labels,
        worker=event.worker,
        input=event.input,
        requested_by=event.requested_by,
        deadline=event.deadline,
        attempts_max=event.attempts_max,
        on_disconnect=event.on_disconnect,
        trigger=event.trigger,
        depth=event.depth,
        connection_id=event.connection_id,
        requested_at=event.at,
    )


@runs.evolve
def _has_started(run: RunState, event: RunStarted) -> RunState:
    return replace(
        run,
        status="running",
        attempt=event.attempt,
        attempt_id=event.attempt_id,
        started_at=event.at,
    )


@runs.evolve
def _has_restarted(run: RunState, event: RunRestarted) -> RunState:
    return replace(
        run,
        status="running",
        attempt=event.attempt,
        attempt_id=event.attempt_id,
        interruptions=run.interruptions + (event.reason == "interrupted"),
        retry_at=None,
        written_to=0,
    )


@runs.evolve
def _is_released(run: RunState, event: RunReleased) -> RunState:
    return replace(
        run,
        status="released",
        failures=run.failures + (event.reason == "failed"),
        retry_at=event.retry_at,
        error=event.error,
    )


@runs.evolve
def _is_saved(run: RunState, event: RunSaved) -> RunState:
    return replace(run, checkpoint=event.checkpoint)


@runs.evolve
def _step_is_finished(run: RunState, event: StepFinished) -> RunState:
    return replace(run, steps={**run.steps, event.step_id: event.receipt})


@runs.evolve
def _is_written(run: RunState, event: RunOutput) -> RunState:
    return replace(
        run,
        written_to=event.to_frame,
        written_bytes=run.written_bytes + OUTPUT_EVENT_BYTES + len(event.text.encode()),
    )


@runs.evolve
def _is_cancelled(run: RunState, event: RunCancelRequested) -> RunState:
    return replace(run, cancelled=Cancelled(event.by, event.reason))


@runs.evolve
def _is_finished(run: RunState, event: RunFinished) -> RunState:
    return replace(
        run,
        status=event.outcome,
        retry_at=None,
        result=event.result,
        error=event.error,
        finished_at=event.at,
    )


# ----------------------------------------------------------------------- lists, timers, records


@runs.index
def _index(run: RunState) -> Index:
    keys = [f"status:{run.status}", f"kind:{run.kind}", f"worker:{run.worker}"]
    # In the order in which they were asked for, which never changes: what is asked for while the
    # open ones are read is listed behind.
    at = run.requested_at
    sort = None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return Index(keys=(*(["open"] if run.is_open else []), *keys), sort=sort)


@runs.due
def _deadline(run: RunState, run_id: str) -> Due | None:
    return Due(run.deadline, ExpireRun(run_id=run_id)) if run.is_open else None


@runs.audit
def _on_record(
    event: AnyRunEvent, _before: RunState | None, after: RunState | None
) -> Sequence[Audit]:
    """Put the steps of some kinds of runs on record; the log has everything else."""
    assert after is not None, "a run is never gone"
    steps = _RECORDED.get(event.kind)
    if steps is None:
        return ()
    match event:
        case RunRequested(trigger=None):  # somebody did that
            actions = steps.launched
        case RunRequested():
            actions = steps.requested
        case RunStarted():
            actions = steps.started
        case RunFinished(outcome="succeeded"):
            actions = steps.succeeded
        case RunFinished():
            actions = steps.failed
        case _:
            return ()
    said = {"worker": after.worker, "labels": after.labels, "status": after.status}
    if after.error is not None:
        said["error_code"] = after.error.code
    return [Audit(action=each, new_value=said) for each in actions]


class _Steps(msgspec.Struct, frozen=True, kw_only=True):
    """What the steps of a run are called on record."""

    launched: Sequence[str]
    """It was asked for by somebody in person, whom the record names …"""
    requested: Sequence[str]
    """… or by an event."""
    started: Sequence[str]
    succeeded: Sequence[str]
    failed: Sequence[str]


def _of_job(name: str) -> _Steps:
    """Return the steps of a job: it has started once it was asked for, by whom the record says."""
    begun = [f"{name}_JOB_STARTED"]
    return _Steps(
        launched=begun,
        requested=begun,
        started=(),
        succeeded=[f"{name}_JOB_SUCCEEDED"],
        failed=[f"{name}_JOB_FAILED"],
    )


_RECORDED = {
    AUTOMATION: _Steps(
        launched=["AUTOMATION_RUN_LAUNCHED", "AUTOMATION_RUN_QUEUED"],
        requested=["AUTOMATION_RUN_QUEUED"],
        started=["AUTOMATION_RUN_RUNNING"],
        succeeded=["AUTOMATION_RUN_SUCCEEDED"],
        failed=["AUTOMATION_RUN_FAILED"],
    ),
    "export": _of_job("EXPORT_MARKDOWN"),
    "backup": _of_job("BACKUP_SQL"),
}
"""By the kind of a run (KJ-RBAC-5); the others are not on record."""
