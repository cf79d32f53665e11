"""How an event of reviews looks to its readers: as no message, as one, or as several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dalsegno.protocol import chain_text
from dalsegno.protocol.dialects import encode_said
from dalsegno.protocol.runs import RunFinished, RunOutput, RunStarted, runs

from . import _said as said
from ._comments import (
    CommentAdded,
    CommentReplied,
    CommentSelected,
    CommentSettled,
    proposal_comments,
)
from ._locks import (
    ProjectLocked,
    ProjectLockReturned,
    ProjectLockUsed,
    ProjectUnlocked,
    project_locks,
)
from ._proposals import (
    ProposalAdvanced,
    ProposalCreated,
    ProposalDeleted,
    ProposalEdited,
    ProposalReviewersChanged,
    proposals,
)
from ._routing import JOBS
from ._words import PROPOSAL_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Event

OWN = frozenset({proposals.name, proposal_comments.name, project_locks.name})
"""The domains whose events are shown in words of their own, besides the runs of jobs."""


def messages_of(event: Event) -> Sequence[said.OfEvent] | None:
    """Return what an event is shown as; None for one that is no event of reviews."""
    name, _, entity_id = event.stream_id.partition(":")
    if name == runs.name:
        return _of_run(event, entity_id)
    if name == proposals.name:
        return _of_proposal(event, entity_id)
    if name == proposal_comments.name:
        return _of_comment(event, entity_id)
    return _of_lock(event) if name == project_locks.name else None


def shown(event: Event, messages: Sequence[said.OfEvent], *, seq: int) -> list[bytes]:
    """Encode the messages of an event, the last of them with its number and cursor."""
    texts = [encode_said(each) for each in messages[:-1]]
    for last in messages[-1:]:
        cursor = f"{seq}-{chain_text(event.chain)}"
        texts.append(encode_said(replace(last, seq=seq, cursor=cursor)))
    return texts


def _of_run(event: Event, job_id: str) -> Sequence[said.OfEvent] | None:
    happened = runs.decode(event.type, event.type_version, event.payload)
    if happened is None or happened.kind not in JOBS:
        return None
    proposal_id = happened.labels.get(PROPOSAL_LABEL, "")
    is_validation = happened.kind == "validation"
    match happened:
        case RunStarted() if is_validation:
            return [said.ValidationStart(proposal_id=proposal_id, job_id=job_id)]
        case RunStarted():
            return [said.IterationStart(proposal_id=proposal_id, job_id=job_id)]
        case RunOutput(channel="text"):
            token = said.Token(
                proposal_id=proposal_id,
                job_id=job_id,
                content=happened.text,
                message_id=happened.message_id,
                attempt=happened.attempt,
            )
            return [token]
        case RunOutput():
            return _lines(happened, proposal_id, job_id)
        case RunFinished() if is_validation:
            return [_validated(happened, proposal_id, job_id)]
        case RunFinished():
            return [_iterated(happened, proposal_id, job_id)]
    return []


def _lines(output: RunOutput, proposal_id: str, job_id: str) -> list[said.OfEvent]:
    """Return the lines of a rollup: each was one frame, so the frames' numbers are theirs."""
    lines = output.text.removesuffix("\n").split("\n")
    return [
        said.Output(
            proposal_id=proposal_id,
            job_id=job_id,
            line=line,
            stream=output.channel,
            line_no=line_no,
            attempt=output.attempt,
        )
        for line_no, line in enumerate(lines, start=output.from_frame)
    ]


def _validated(end: RunFinished, proposal_id: str, job_id: str) -> said.OfEvent:
    if end.outcome == "succeeded" and isinstance(end.result, dict):
        return said.ValidationComplete(
            proposal_id=proposal_id,
            job_id=job_id,
            status=end.result["status"],
            summary=end.result["summary"],
        )
    code, error = _problem(end)
    return said.ValidationError(proposal_id=proposal_id, job_id=job_id, error=error, code=code)


def _iterated(end: RunFinished, proposal_id: str, job_id: str) -> said.OfEvent:
    if end.outcome == "succeeded" and isinstance(end.result, dict):
        return said.IterationComplete(
            proposal_id=proposal_id,
            job_id=job_id,
            files_modified=end.result["files_modified"],
            validation=end.result["validation"],
        )
    if end.outcome == "cancelled":
        return said.IterationCancelled(proposal_id=proposal_id, job_id=job_id)
    code, error = _problem(end)
    return said.IterationError(proposal_id=proposal_id, job_id=job_id, error=error, code=code)


def _problem(end: RunFinished) -> tuple[str, str]:
    if end.error is None:
        return "CANCELLED", "it was cancelled"
    return end.error.code, end.error.message


def _of_proposal(event: Event, proposal_id: str) -> Sequence[said.OfEvent]:
    happened = proposals.decode(event.type, event.type_version, event.payload)
    version = event.stream_seq
    match happened:
        case ProposalCreated() | ProposalEdited():
            changed = said.ProposalChanged(
                proposal_id=proposal_id,
                version=version,
                name=happened.name,
                description=happened.description,
                folder=happened.folder,
            )
            return [changed]
        case ProposalAdvanced():
            moved = said.StatusChanged(
                proposal_id=proposal_id,
                version=version,
                status=happened.status,
                previous=happened.previous,
                by=happened.by,
            )
            return [moved]
        case ProposalReviewersChanged():
            now = said.ReviewersChanged(
                proposal_id=proposal_id, version=version, reviewers=happened.reviewers
            )
            return [now]
        case ProposalDeleted():
            return [said.ProposalGone(proposal_id=proposal_id, version=version)]
    return []


def _of_comment(event: Event, comment_id: str) -> Sequence[said.OfEvent]:
    happened = proposal_comments.decode(event.type, event.type_version, event.payload)
    if happened is None:
        return []
    about: dict[str, Any] = {
        "proposal_id": happened.proposal_id,
        "comment_id": comment_id,
        "version": event.stream_seq,
    }
    match happened:
        case CommentAdded():
            new = said.NewComment(
                **about,
                author_id=happened.author_id,
                target_file=happened.target_file,
                line_number=happened.line_number,
                comment_text=happened.comment_text,
            )
            return [new]
        case CommentSettled():
            settled = said.CommentStatusChanged(
                **about, status=happened.status, reason=happened.reason, by=happened.by
            )
            return [settled]
        case CommentSelected():
            return [said.CommentSelection(**about, selected=happened.selected)]
        case CommentReplied():
            return [said.NewReply(**about, reply=happened.reply)]
    return []


def _of_lock(event: Event) -> Sequence[said.OfEvent]:
    happened = project_locks.decode(event.type, event.type_version, event.payload)
    match happened:
        case ProjectLocked() | ProjectLockUsed() | ProjectLockReturned():
            expires_at = None if isinstance(happened, ProjectLockUsed) else happened.expires_at
            held = said.LockChanged(
                locked=True,
                locked_by=happened.locked_by,
                locked_at=happened.locked_at,
                expires_at=expires_at,
                reason="job" if expires_at is None else "locked",
            )
            return [held]
        case ProjectUnlocked():
            free = said.LockChanged(
                locked=False,
                locked_by=happened.locked_by,
                locked_at=None,
                expires_at=None,
                reason=happened.reason,
            )
            return [free]
    return []
