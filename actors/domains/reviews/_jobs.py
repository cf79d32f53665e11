"""Validations and iterations: runs that a proposal asks for, which hold the project's lock.

What a job has come to is committed with its end: what it says of the proposal, the comments that it
resolves, and the lock that it gives back.  One that came to nothing is cleared away by a reactor,
and holds the lock no longer from its very end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import Context, On, Reject, Touched
from dalsegno.protocol.runs import (
    AsProgram,
    RequestRun,
    RunFinished,
    asked_for,
    cancelled_by,
    runs,
)

from ._comments import Comment, proposal_comments, resolved_by_iteration
from ._job_commands import (
    CancelJob,
    EndJob,
    IterateProposal,
    RecordIteration,
    RecordValidation,
    ValidateProposal,
)
from ._locks import (
    LOCK_ID,
    LockUse,
    Named,
    is_held_by,
    job_of,
    lock_of,
    project_locks,
    return_lock,
    use_lock,
)
from ._proposals import (
    Job,
    Proposal,
    ProposalIterated,
    ProposalJobEnded,
    ProposalJobStarted,
    ProposalValidated,
    Verdict,
    check_writable,
    job_run,
    proposals,
)
from ._steps import check_who
from ._words import AUTHORS, ITERATOR, PROPOSAL_LABEL, TAKES_PART, UNRESOLVED, VALIDATOR, JobKind

if TYPE_CHECKING:
    from dalsegno.protocol.runs import Work

DEADLINE_S = {"validation": 300.0, "iteration": 1_800.0}
"""How long a job may take, all attempts together, in seconds."""


class ValidationTask(msgspec.Struct, frozen=True, kw_only=True):
    """What a validation is asked."""

    proposal_id: str
    name: str
    folder: str


class IterationTask(ValidationTask, frozen=True, kw_only=True):
    """What an iteration is asked."""

    description: str
    instructions: str
    comment_ids: tuple[str, ...]


# ------------------------------------------------------------------------------------ beginning


def _lock_and_its_job(_proposal: Proposal | None, _command: object, touched: Touched) -> Named:
    return job_of(touched.get(project_locks, LOCK_ID))


def _begin(
    kind: JobKind, worker: str, task: ValidationTask, context: Context, touched: Touched
) -> Sequence[ProposalJobStarted | On[Any]]:
    """Return the events by which a job begins: it is asked for, and has the lock.

    Raises:
        Reject: ``PROJECT_LOCKED``, ``JOB_RUNNING``; ``NOT_CONFIGURED`` where nobody does such.

    """
    if worker not in context.workers:
        raise Reject("NOT_CONFIGURED", f"no {kind}s are set up here", kind=kind)
    run_id = context.new_id()
    request = RequestRun(
        worker=worker,
        input=msgspec.to_builtins(task),
        labels={PROPOSAL_LABEL: task.proposal_id},
    )
    asked = asked_for(request, context)
    use = LockUse(run_id=run_id, kind=kind, proposal_id=task.proposal_id, until=asked.deadline)
    job = Job(run_id=run_id, kind=kind, requested_by=context.principal.user_id)
    lock = use_lock(use, context, touched)
    return [*lock, On(runs, run_id, asked), ProposalJobStarted(job=job)]


@proposals.decide(touches=lock_of, follows=_lock_and_its_job, allow=TAKES_PART)
def _validate(
    proposal: Proposal, command: ValidateProposal, context: Context, touched: Touched
) -> Sequence[ProposalJobStarted | On[Any]]:
    check_writable(proposal, "a validation")
    task = ValidationTask(
        proposal_id=command.proposal_id, name=proposal.name, folder=proposal.folder
    )
    return _begin("validation", VALIDATOR, task, context, touched)


@proposals.decide(touches=lock_of, follows=_lock_and_its_job, allow=AUTHORS)
def _iterate(
    proposal: Proposal, command: IterateProposal, context: Context, touched: Touched
) -> Sequence[ProposalJobStarted | On[Any]]:
    check_who("author", context, {"author": proposal.author_id})
    if proposal.status not in _ITERATED:
        message = "a draft is iterated on, or what is in review"
        raise Reject(
            "INVALID_TRANSITION", message, status=400, current=proposal.status, valid=_ITERATED
        )
    task = IterationTask(
        proposal_id=command.proposal_id,
        name=proposal.name,
        folder=proposal.folder,
        description=proposal.description,
        instructions=command.instructions,
        comment_ids=proposal.selected,
    )
    return _begin("iteration", ITERATOR, task, context, touched)


_ITERATED = ["DRAFT", "REVIEW"]


@proposals.decide(follows=job_run, allow=TAKES_PART)
def _cancel(
    proposal: Proposal, command: CancelJob, context: Context, touched: Touched
) -> Sequence[On[Any]]:
    job = proposal.job
    run = None if job is None else touched.get(runs, job.run_id)
    is_other = job is not None and command.job_id not in {None, job.run_id}
    if job is None or run is None or not run.is_open or is_other:
        raise Reject("JOB_NOT_RUNNING", "there is no such job under way")
    if context.principal.user_id != job.requested_by:
        check_who("author", context, {"author": proposal.author_id})
    cancelled = cancelled_by(run, context, reason="cancelled by command")
    return [On(runs, job.run_id, each) for each in cancelled]


# --------------------------------------------------------------------------------------- ending


def _is_of(proposal: Proposal | None, run_id: str) -> bool:
    return proposal is not None and proposal.job is not None and proposal.job.run_id == run_id


@proposals.decide(touches=lock_of, allow=())
def _record_validation(
    proposal: Proposal | None, command: RecordValidation, context: Context, touched: Touched
) -> Sequence[ProposalValidated | ProposalJobEnded | On[Any]]:
    lock = return_lock(command.run_id, touched.get(project_locks, LOCK_ID), context)
    if proposal is None or proposal.job is None or not _is_of(proposal, command.run_id):
        return lock  # it was deleted meanwhile
    if proposal.job.is_stale:
        return [ProposalJobEnded(run_id=command.run_id, verdict=None), *lock]
    verdict = Verdict(run_id=command.run_id, status=command.status, summary=command.summary)
    return [ProposalValidated(verdict=verdict), *lock]


def _lock_and_comments(command: RecordIteration) -> Named:
    return [*lock_of(command), *((proposal_comments, each) for each in command.comment_ids)]


@proposals.decide(touches=_lock_and_comments, allow=())
def _record_iteration(
    proposal: Proposal, command: RecordIteration, context: Context, touched: Touched
) -> Sequence[ProposalIterated | On[Any]]:
    lock = touched.get(project_locks, LOCK_ID)
    if not is_held_by(command.run_id, lock) or not _is_of(proposal, command.run_id):
        raise Reject("LOCK_LOST", "somebody has taken the project's lock away meanwhile")
    resolved: list[str] = []
    events: list[On[Any]] = []
    assert proposal.job is not None, "it is of this run"
    for comment_id in command.comment_ids:
        comment: Comment | None = touched.get(proposal_comments, comment_id)
        if comment is not None and comment.status in UNRESOLVED:
            resolved.append(comment_id)
            by = proposal.job.requested_by
            event = resolved_by_iteration(comment_id, comment, proposal, by, context.now)
            events.append(event)
    verdict = None
    if command.validation:
        verdict = msgspec.convert({"run_id": command.run_id, **command.validation}, Verdict)
    iterated = ProposalIterated(
        run_id=command.run_id, files=command.files, resolved=tuple(resolved), verdict=verdict
    )
    return [*events, *return_lock(command.run_id, lock, context), iterated]


@proposals.decide(touches=lock_of, allow=())
def _end(
    proposal: Proposal | None, command: EndJob, context: Context, touched: Touched
) -> Sequence[ProposalJobEnded | On[Any]]:
    lock = return_lock(command.run_id, touched.get(project_locks, LOCK_ID), context)
    if proposal is None or proposal.job is None or not _is_of(proposal, command.run_id):
        return lock
    verdict = None
    if proposal.job.kind == "validation" and not proposal.job.is_stale:
        verdict = Verdict(run_id=command.run_id, status="error", summary={"code": command.code})
    return [ProposalJobEnded(run_id=command.run_id, verdict=verdict), *lock]


def _came_to_nothing(event: RunFinished) -> bool:
    is_job = event.kind in DEADLINE_S and PROPOSAL_LABEL in event.labels
    return is_job and event.outcome != "succeeded"


@runs.react(RunFinished, name="review_job_ended", kind="bookkeeping", when=_came_to_nothing)
async def clear_away(run: Work, event: RunFinished) -> AsProgram:
    """Return what clears a job away that came to nothing."""
    assert run.trigger is not None, "a reactor's run has one"
    _, _, run_id = run.trigger.stream_id.partition(":")
    code = "CANCELLED" if event.error is None else event.error.code
    return AsProgram(EndJob(proposal_id=event.labels[PROPOSAL_LABEL], run_id=run_id, code=code))
