"""The messages of reviews: the seed's (CF-2, CF-3), and those that it leaves to be named.

Each of an event has, beside its own fields, ``seq``, the event's number in the project, and
``cursor``, from which a client continues.  Where an event is several messages, as lines that were
written together are, only the last of them has these: who resumes from there has all.  What is
shown of before has neither.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.protocol.dialects import Said

from ._comments import Reply
from ._words import CommentStatus, Status


class OfEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What every message of an event has."""

    seq: int | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class OfJob(OfEvent, frozen=True, kw_only=True):
    """… and of a job's."""

    proposal_id: str
    job_id: str


class ValidationStart(OfJob, tag="validation_start", frozen=True, kw_only=True):
    """A validation has begun (CF-2.1)."""


class Output(OfJob, tag="output", frozen=True, kw_only=True):
    """A line that it wrote (CF-2.2)."""

    line: str
    stream: str
    """``stdout`` or ``stderr``."""
    line_no: int
    """From 1, dense in an attempt …"""
    attempt: int
    """… whose number is another one where what came before is void."""


class ValidationComplete(OfJob, tag="validation_complete", frozen=True, kw_only=True):
    """It has come to an end (CF-2.3)."""

    status: str
    """``passed`` or ``failed``."""
    summary: dict[str, Any]


class ValidationError(OfJob, tag="validation_error", frozen=True, kw_only=True):
    """It has come to nothing (CF-2.4)."""

    error: str
    code: str


class IterationStart(OfJob, tag="iteration_start", frozen=True, kw_only=True):
    """An iteration has begun (CF-3.1)."""


class Token(OfJob, tag="token", frozen=True, kw_only=True):
    """More of what the model answers (CF-3.2)."""

    content: str
    message_id: str
    """Another one: the model, or another one, begins anew, and what came before is void."""
    attempt: int


class IterationComplete(OfJob, tag="iteration_complete", frozen=True, kw_only=True):
    """It has changed files (CF-3.3)."""

    files_modified: list[str]
    validation: dict[str, Any]


class IterationCancelled(OfJob, tag="iteration_cancelled", frozen=True, kw_only=True):
    """It was cancelled, or its initiator is gone (CF-3.4)."""


class IterationError(OfJob, tag="iteration_error", frozen=True, kw_only=True):
    """It has come to nothing."""

    error: str
    code: str


class OfProposal(OfEvent, frozen=True, kw_only=True):
    """What a proposal's messages have."""

    proposal_id: str
    version: int


class ProposalChanged(OfProposal, tag="proposal_changed", frozen=True, kw_only=True):
    """A proposal was made, or says something else."""

    name: str
    description: str
    folder: str


class StatusChanged(OfProposal, tag="status_changed", frozen=True, kw_only=True):
    """A proposal has another status (CF-5.1)."""

    status: Status
    previous: Status
    by: str | None


class ReviewersChanged(OfProposal, tag="reviewers_changed", frozen=True, kw_only=True):
    """These people review it now."""

    reviewers: tuple[str, ...]


class ProposalGone(OfProposal, tag="proposal_deleted", frozen=True, kw_only=True):
    """A proposal is there no longer."""


class OfComment(OfEvent, frozen=True, kw_only=True):
    """What a comment's messages have."""

    proposal_id: str
    comment_id: str
    version: int


class NewComment(OfComment, tag="comment_added", frozen=True, kw_only=True):
    """There is a comment (CF-5.2)."""

    author_id: str | None
    target_file: str
    line_number: int | None
    comment_text: str


class CommentStatusChanged(OfComment, tag="comment_status_changed", frozen=True, kw_only=True):
    """A comment has another status."""

    status: CommentStatus
    reason: str | None
    by: str | None


class CommentSelection(OfComment, tag="comment_selected", frozen=True, kw_only=True):
    """A comment is selected for the next iteration, or not any longer."""

    selected: bool


class NewReply(OfComment, tag="comment_replied", frozen=True, kw_only=True):
    """Somebody has replied."""

    reply: Reply


class LockChanged(OfEvent, tag="lock_changed", frozen=True, kw_only=True):
    """The project's lock has another holder, or none (CF-5.3)."""

    locked: bool
    locked_by: str | None
    """Who holds it, or has held it."""
    locked_at: datetime | None
    expires_at: datetime | None
    """None: nobody holds it, or a job does, until that has ended."""
    reason: str
    """``locked``, ``job``; ``released``, ``forced``, ``expired``, ``job_ended``."""


class Viewed(Said, tag="viewing", kw_only=True, gc=False):
    """The answer to ``view`` and ``leave``: what this connection views, from the next event on."""

    proposals: list[str]
    seq: int


class JobAccepted(Said, tag="accepted", kw_only=True, gc=False):
    """The answer to a command: it is decided, and its event has this number."""

    proposal_id: str
    seq: int


JOB_MESSAGES: tuple[type[msgspec.Struct], ...] = (
    ValidationStart,
    Output,
    ValidationComplete,
    ValidationError,
    IterationStart,
    Token,
    IterationComplete,
    IterationCancelled,
    IterationError,
)
MESSAGES: tuple[type[msgspec.Struct], ...] = (
    *JOB_MESSAGES,
    ProposalChanged,
    StatusChanged,
    ReviewersChanged,
    ProposalGone,
    NewComment,
    CommentStatusChanged,
    CommentSelection,
    NewReply,
    LockChanged,
    Viewed,
    JobAccepted,
)
