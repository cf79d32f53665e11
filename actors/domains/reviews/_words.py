"""The words and bounds of reviews: roles, statuses, and which step leads from where to where."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

ADMINS = frozenset({"owner", "admin"})
"""Who may do everything (CF: Admin); who has founded the project is one of them."""
REVIEWERS = ADMINS | {"reviewer"}
"""Who approves, and asks for changes."""
AUTHORS = ADMINS | {"author"}
"""Who makes proposals, and changes their own."""
TAKES_PART = REVIEWERS | AUTHORS
"""Who does more than look on."""

Status: TypeAlias = Literal["DRAFT", "REVIEW", "READY", "MERGED"]
CommentStatus: TypeAlias = Literal["OPEN", "ACCEPTED", "REJECTED", "DEFERRED", "RESOLVED"]
UNRESOLVED = frozenset[CommentStatus]({"OPEN", "ACCEPTED"})
"""What keeps a proposal from being marked ready, and may be selected for an iteration."""

Who: TypeAlias = Literal["author", "reviewer", "admin", "commenter"]
"""Who may take a step: the proposal's author, a reviewer, an admin, the comment's own author.  An
admin always may."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step from some statuses to another one."""

    sources: frozenset[str]
    target: str
    who: Who
    has_reason: bool = False
    """Whether it has to be said why."""


ProposalStep: TypeAlias = Literal[
    "submit", "approve", "request-changes", "mark-ready", "return-to-draft", "merge"
]
CommentStep: TypeAlias = Literal["resolve", "accept", "reject", "defer", "reopen"]

PROPOSAL_STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "submit": Step(sources=frozenset({"DRAFT"}), target="REVIEW", who="author"),
        "approve": Step(sources=frozenset({"REVIEW"}), target="READY", who="reviewer"),
        "request-changes": Step(sources=frozenset({"REVIEW"}), target="DRAFT", who="reviewer"),
        "mark-ready": Step(sources=frozenset({"REVIEW"}), target="READY", who="reviewer"),
        "return-to-draft": Step(
            sources=frozenset({"REVIEW", "READY"}), target="DRAFT", who="author"
        ),
        "merge": Step(sources=frozenset({"READY"}), target="MERGED", who="admin"),
    }
)
COMMENT_STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "resolve": Step(
            sources=frozenset({"OPEN", "ACCEPTED", "DEFERRED"}), target="RESOLVED", who="author"
        ),
        "accept": Step(sources=frozenset({"OPEN"}), target="ACCEPTED", who="author"),
        "reject": Step(
            sources=frozenset({"OPEN"}), target="REJECTED", who="author", has_reason=True
        ),
        "defer": Step(
            sources=frozenset({"OPEN"}), target="DEFERRED", who="author", has_reason=True
        ),
        "reopen": Step(
            sources=frozenset({"RESOLVED", "ACCEPTED", "REJECTED", "DEFERRED"}),
            target="OPEN",
            who="commenter",
        ),
    }
)

Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$(?!\n)")
]
"""Of a proposal.  It begins with a letter or a digit, for commands are given it as an argument; and
it does not end with a line break, before which ``$`` matches in Python."""
Prose: TypeAlias = Annotated[str, Meta(max_length=20_000)]
CommentText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=10_000)]
Reason: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2_000)]
Path: TypeAlias = Annotated[str, Meta(max_length=1_024)]
"""A path below the project's folder; `checked_path` says which are none."""
LineNumber: TypeAlias = Annotated[int, Meta(ge=1, le=10_000_000)]

REVIEWERS_MAX = 50
"""Reviewers of one proposal."""
SELECTED_MAX = 50
"""Comments that are selected for one iteration."""
COMMENTS_MAX = 1_000
"""Comments on one proposal, replies not counted …"""
UNRESOLVED_MAX = 200
"""… and those of them that are not resolved: their ids are one value."""
REPLIES_MAX = 100
"""Replies to one comment."""

VALIDATOR = "review_validation"
"""The worker that carries out validations …"""
ITERATOR = "review_iteration"
"""… and the one that carries out iterations: there are such where the operator has set them up."""

JobKind: TypeAlias = Literal["validation", "iteration"]
PROPOSAL_LABEL = "proposal_id"
"""The label of a job that has its proposal."""
