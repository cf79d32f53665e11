"""Proposals: what somebody wants to have changed in a project, until it is merged.

    DRAFT ⇄ REVIEW ─▶ READY ─▶ MERGED

A proposal knows what is decided about it by others than itself: which of its comments are open,
which are selected for the next iteration, which job is under way, and what the last validation said
of it as it is now.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from dalsegno.actors.domains.members import Member, members
from dalsegno.protocol import Audit, Context, Domain, Index, On, Reject, Touched
from dalsegno.protocol.runs import check_path, runs

from ._job_commands import JobCommand
from ._locks import Named
from ._names import name_entity, release_name, take_name
from ._steps import check_step, check_who
from ._words import (
    AUTHORS,
    PROPOSAL_STEPS,
    REVIEWERS,
    REVIEWERS_MAX,
    TAKES_PART,
    VALIDATOR,
    JobKind,
    Name,
    Path,
    ProposalStep,
    Prose,
    Status,
    Who,
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The validation or iteration that was begun last, while it is not known to have ended."""

    run_id: str
    kind: JobKind
    requested_by: str | None
    is_stale: bool = False
    """Whether the proposal was changed since: what a validation says of it counts no longer."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a validation said of the proposal as it is now."""

    run_id: str
    status: str
    """``passed``, ``failed``, or ``error``: it came to no end."""
    summary: dict[str, Any]


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal."""

    name: str
    description: str
    folder: str
    """Where its files are, below the project's folder; empty: anywhere in it."""
    author_id: str | None
    status: Status
    created_at: datetime
    updated_at: datetime
    approved_by: str | None = None
    reviewers: tuple[str, ...] = ()
    comments: int = 0
    """How many were made."""
    unresolved: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()
    job: Job | None = None
    verdict: Verdict | None = None

    @property
    def audience(self) -> tuple[str, ...]:
        """Whom what is said about it concerns: its author and its reviewers (CF-5.2)."""
        author = () if self.author_id is None else (self.author_id,)
        return tuple(sorted({*author, *self.reviewers}))


# -------------------------------------------------------------------------------------- commands


class CreateProposal(msgspec.Struct, frozen=True, kw_only=True):
    """Make a proposal, a draft; without an id the runtime makes one."""

    name: Name
    description: Prose = ""
    folder: Path = ""
    proposal_id: str | None = None


class EditProposal(msgspec.Struct, frozen=True, kw_only=True):
    """Change what a proposal says, until it is ready; what is left out stays."""

    proposal_id: str
    name: Name | UnsetType = UNSET
    description: Prose | UnsetType = UNSET
    folder: Path | UnsetType = UNSET
    base_version: int | None = None


class DeleteProposal(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a draft."""

    proposal_id: str
    base_version: int | None = None


class AdvanceProposal(msgspec.Struct, frozen=True, kw_only=True):
    """Take a step with a proposal."""

    proposal_id: str
    step: ProposalStep
    base_version: int | None = None


class AddReviewer(msgspec.Struct, frozen=True, kw_only=True):
    """Have somebody review a proposal; a reviewer of it stays one."""

    proposal_id: str
    user_id: str


class RemoveReviewer(msgspec.Struct, frozen=True, kw_only=True):
    """Have somebody review a proposal no longer."""

    proposal_id: str
    user_id: str


# ---------------------------------------------------------------------------------------- events


class ProposalCreated(msgspec.Struct, frozen=True, kw_only=True):
    """There is a proposal."""

    name: str
    description: str
    folder: str
    author_id: str | None
    at: datetime


class ProposalEdited(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal says this now."""

    name: str
    description: str
    folder: str
    at: datetime


class ProposalDeleted(msgspec.Struct, frozen=True):
    """A proposal is there no longer."""


class ProposalAdvanced(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal has another status."""

    step: ProposalStep
    status: Status
    previous: Status
    by: str | None
    at: datetime


class ProposalReviewersChanged(msgspec.Struct, frozen=True, kw_only=True):
    """These people review a proposal now."""

    reviewers: tuple[str, ...]


class ProposalCommentTracked(msgspec.Struct, frozen=True, kw_only=True):
    """One of its comments is new, or is open, resolved or selected where it was not before."""

    comment_id: str
    is_new: bool
    is_unresolved: bool
    is_selected: bool


class ProposalJobStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A validation or an iteration was asked for."""

    job: Job


class ProposalValidated(msgspec.Struct, frozen=True, kw_only=True):
    """A validation has come to an end."""

    verdict: Verdict


class ProposalIterated(msgspec.Struct, frozen=True, kw_only=True):
    """An iteration has changed files, and with it comments are resolved."""

    run_id: str
    files: tuple[str, ...]
    resolved: tuple[str, ...]
    verdict: Verdict | None
    """None: the project is not validated."""


class ProposalJobEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A job ended without having come to anything."""

    run_id: str
    verdict: Verdict | None
    """Of a validation."""


ProposalEvent: TypeAlias = (
    ProposalCreated
    | ProposalEdited
    | ProposalDeleted
    | ProposalAdvanced
    | ProposalReviewersChanged
    | ProposalCommentTracked
    | ProposalJobStarted
    | ProposalValidated
    | ProposalIterated
    | ProposalJobEnded
)

proposals = Domain(
    "proposal",
    state=Proposal,
    commands=CreateProposal
    | EditProposal
    | DeleteProposal
    | AdvanceProposal
    | AddReviewer
    | RemoveReviewer
    | JobCommand,
    events=ProposalEvent,
    allow=AUTHORS,
)
"""The proposals of a project."""


# ------------------------------------------------------------------------------------- deciding


def checked_folder(path: str) -> str:
    """Check and return a folder below the project's, which may be that itself.

    Raises:
        Reject: ``PATH_FORBIDDEN``.

    """
    return check_path(path) if path else ""


def check_writable(proposal: Proposal, what: str) -> None:
    """Raise unless a proposal may still be changed.

    Raises:
        Reject: ``INVALID_TRANSITION``.

    """
    if proposal.status == "MERGED":
        message = f"it is merged: {what} comes too late"
        raise Reject("INVALID_TRANSITION", message, status=400, current="MERGED", valid=[])


def job_run(proposal: Proposal | None, _command: object) -> Named:
    """Return the run of a proposal's job, for ``follows=``."""
    return [] if proposal is None or proposal.job is None else [(runs, proposal.job.run_id)]


def _check_not_iterating(proposal: Proposal, touched: Touched) -> None:
    """Raise while an iteration is under way: it works for a proposal that stays as it is.

    Raises:
        Reject: ``JOB_RUNNING``.

    """
    job = proposal.job
    if job is None or job.kind != "iteration":
        return
    run = touched.get(runs, job.run_id)
    if run is not None and run.is_open:
        message = "an iteration is under way"
        raise Reject("JOB_RUNNING", message, kind=job.kind, job_id=job.run_id)


@proposals.decide(touches=lambda command: name_entity(command.name))
def _create(
    proposal: Proposal | None, command: CreateProposal, context: Context, touched: Touched
) -> Sequence[ProposalCreated | On[Any]]:
    if proposal is not None:
        raise Reject("ID_TAKEN", "a proposal has this id", proposal_id=context.entity_id)
    created = ProposalCreated(
        name=command.name,
        description=command.description,
        folder=checked_folder(command.folder),
        author_id=context.principal.user_id,
        at=context.now,
    )
    return [created, take_name(command.name, context.entity_id, touched)]


def _new_name(command: EditProposal) -> Named:
    return [] if command.name is UNSET else name_entity(command.name)


def _old_name(proposal: Proposal, command: EditProposal) -> Named:
    return [*name_entity(proposal.name), *job_run(proposal, command)]


@proposals.decide(touches=_new_name, follows=_old_name)
def _edit(
    proposal: Proposal, command: EditProposal, context: Context, touched: Touched
) -> Sequence[ProposalEdited | On[Any]]:
    check_who("author", context, {"author": proposal.author_id})
    if proposal.status not in {"DRAFT", "REVIEW"}:
        raise _too_late("what was approved stays as it is", proposal.status)
    _check_not_iterating(proposal, touched)
    name = proposal.name if command.name is UNSET else command.name
    description = proposal.description if command.description is UNSET else command.description
    folder = proposal.folder if command.folder is UNSET else checked_folder(command.folder)
    if (name, description, folder) == (proposal.name, proposal.description, proposal.folder):
        return []
    edited = ProposalEdited(name=name, description=description, folder=folder, at=context.now)
    if name_entity(name) == name_entity(proposal.name):
        return [edited]
    return [edited, take_name(name, context.entity_id, touched), release_name(proposal.name)]


def _left_behind(proposal: Proposal, command: DeleteProposal) -> Named:
    return [*name_entity(proposal.name), *job_run(proposal, command)]


@proposals.decide(follows=_left_behind)
def _delete(
    proposal: Proposal, _command: DeleteProposal, context: Context, touched: Touched
) -> Sequence[ProposalDeleted | On[Any]]:
    check_who("author", context, {"author": proposal.author_id})
    if proposal.status != "DRAFT":
        raise _too_late("only a draft is deleted", proposal.status)
    _check_not_iterating(proposal, touched)
    return [ProposalDeleted(), release_name(proposal.name)]


def _too_late(message: str, status: str) -> Reject:
    valid = sorted(name for name, step in PROPOSAL_STEPS.items() if status in step.sources)
    return Reject("INVALID_TRANSITION", message, status=400, current=status, valid=valid)


@proposals.decide(allow=TAKES_PART, follows=job_run)
def _advance(
    proposal: Proposal, command: AdvanceProposal, context: Context, touched: Touched
) -> ProposalAdvanced:
    people: dict[Who, str | None] = {"author": proposal.author_id}
    step = check_step(PROPOSAL_STEPS, command.step, proposal.status, context, people)
    _check_not_iterating(proposal, touched)
    if command.step == "submit" and VALIDATOR in context.workers:
        _check_passed(proposal)
    if command.step == "mark-ready" and proposal.unresolved:
        unresolved = list(proposal.unresolved)
        message = "some comments are not resolved"
        raise Reject("COMMENTS_UNRESOLVED", message, status=400, comment_ids=unresolved)
    return ProposalAdvanced(
        step=command.step,
        status=msgspec.convert(step.target, Status),
        previous=proposal.status,
        by=context.principal.user_id,
        at=context.now,
    )


def _check_passed(proposal: Proposal) -> None:
    verdict = proposal.verdict
    if verdict is None:
        message = "it has to be validated as it is now"
        raise Reject("VALIDATION_NEEDED", message, status=400)
    if verdict.status != "passed":
        message = "its last validation did not pass"
        raise Reject(
            "VALIDATION_FAILED",
            message,
            status=400,
            job_id=verdict.run_id,
            result=verdict.status,
            summary=verdict.summary,
        )


def _their_membership(command: AddReviewer) -> Named:
    return [(members, command.user_id)]


@proposals.decide(touches=_their_membership)
def _add_reviewer(
    proposal: Proposal, command: AddReviewer, context: Context, touched: Touched
) -> ProposalReviewersChanged | None:
    check_who("author", context, {"author": proposal.author_id})
    check_writable(proposal, "a reviewer")
    if command.user_id in proposal.reviewers:
        return None
    member: Member | None = touched.get(members, command.user_id)
    role = "owner" if member is None and command.user_id == context.owner_id else None
    if member is not None:
        role = member.role
    if role not in REVIEWERS:
        message = "who reviews is a member, as a reviewer or an admin"
        raise Reject("REVIEWER_UNFIT", message, status=400, role=role)
    if len(proposal.reviewers) >= REVIEWERS_MAX:
        raise Reject("QUOTA_EXCEEDED", f"a proposal has at most {REVIEWERS_MAX} reviewers")
    return ProposalReviewersChanged(reviewers=(*proposal.reviewers, command.user_id))


@proposals.decide
def _remove_reviewer(
    proposal: Proposal, command: RemoveReviewer, context: Context
) -> ProposalReviewersChanged:
    check_who("author", context, {"author": proposal.author_id})
    check_writable(proposal, "a reviewer")
    if command.user_id not in proposal.reviewers:
        raise Reject("REVIEWER_NOT_FOUND", "this person does not review it")
    left = tuple(each for each in proposal.reviewers if each != command.user_id)
    return ProposalReviewersChanged(reviewers=left)


# -------------------------------------------------------------------------------------- folding


@proposals.evolve
def _created(_before: Proposal | None, event: ProposalCreated) -> Proposal:
    return Proposal(
        name=event.name,
        description=event.description,
        folder=event.folder,
        author_id=event.author_id,
        status="DRAFT",
        created_at=event.at,
        updated_at=event.at,
    )


@proposals.evolve
def _edited(proposal: Proposal, event: ProposalEdited) -> Proposal:
    return replace(
        proposal,
        name=event.name,
        description=event.description,
        folder=event.folder,
        updated_at=event.at,
        verdict=None,
        job=None if proposal.job is None else replace(proposal.job, is_stale=True),
    )


@proposals.evolve
def _deleted(_proposal: Proposal, _event: ProposalDeleted) -> Proposal | None:
    return None


@proposals.evolve
def _advanced(proposal: Proposal, event: ProposalAdvanced) -> Proposal:
    approved_by = event.by if event.status == "READY" else None
    if event.status == "MERGED":
        approved_by = proposal.approved_by
    return replace(proposal, status=event.status, approved_by=approved_by, updated_at=event.at)


@proposals.evolve
def _reviewed_by(proposal: Proposal, event: ProposalReviewersChanged) -> Proposal:
    return replace(proposal, reviewers=event.reviewers)


@proposals.evolve
def _tracked(proposal: Proposal, event: ProposalCommentTracked) -> Proposal:
    return replace(
        proposal,
        comments=proposal.comments + event.is_new,
        unresolved=_with(proposal.unresolved, event.comment_id, is_in=event.is_unresolved),
        selected=_with(proposal.selected, event.comment_id, is_in=event.is_selected),
    )


def _with(ids: tuple[str, ...], one: str, *, is_in: bool) -> tuple[str, ...]:
    if (one in ids) == is_in:
        return ids
    return (*ids, one) if is_in else tuple(each for each in ids if each != one)


@proposals.evolve
def _job_started(proposal: Proposal, event: ProposalJobStarted) -> Proposal:
    return replace(proposal, job=event.job)


@proposals.evolve
def _validated(proposal: Proposal, event: ProposalValidated) -> Proposal:
    return replace(proposal, job=None, verdict=event.verdict)


@proposals.evolve
def _iterated(proposal: Proposal, event: ProposalIterated) -> Proposal:
    gone = {*event.resolved}
    return replace(
        proposal,
        job=None,
        verdict=event.verdict,
        unresolved=tuple(each for each in proposal.unresolved if each not in gone),
        selected=tuple(each for each in proposal.selected if each not in gone),
    )


@proposals.evolve
def _job_ended(proposal: Proposal, event: ProposalJobEnded) -> Proposal:
    verdict = proposal.verdict if event.verdict is None else event.verdict
    return replace(proposal, job=None, verdict=verdict)


@proposals.index
def _index(proposal: Proposal) -> Index:
    keys = ["all", f"status:{proposal.status}"]
    if proposal.author_id is not None:
        keys.append(f"author:{proposal.author_id}")
    keys += [f"reviewer:{each}" for each in proposal.reviewers]
    return Index(keys=tuple(keys), title=proposal.name)


class _OnRecord(msgspec.Struct, frozen=True):
    """What the record has of a proposal: who it is by and how it stands, and none of its texts."""

    status: str
    author_id: str | None
    approved_by: str | None
    reviewers: tuple[str, ...]


def _recorded(proposal: Proposal | None) -> _OnRecord | None:
    if proposal is None:
        return None
    return _OnRecord(proposal.status, proposal.author_id, proposal.approved_by, proposal.reviewers)


_ACTIONS: dict[type, str] = {
    ProposalCreated: "PROPOSAL_CREATED",
    ProposalEdited: "CONTENT_MODIFIED",
    ProposalDeleted: "PROPOSAL_DELETED",
    ProposalAdvanced: "STATUS_CHANGED",
    ProposalReviewersChanged: "REVIEWERS_CHANGED",
    ProposalIterated: "CONTENT_MODIFIED",
}


@proposals.audit
def _audit(event: ProposalEvent, before: Proposal | None, after: Proposal | None) -> Audit | None:
    action = _ACTIONS.get(type(event))
    if action is None:
        return None
    return Audit(action=action, old_value=_recorded(before), new_value=_recorded(after))
