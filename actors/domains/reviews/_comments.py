"""Comments on a proposal's files, with replies: open until somebody has settled them.

    OPEN ─▶ ACCEPTED | REJECTED | DEFERRED ─▶ RESOLVED     and back, by who has made it

Each event names whom it concerns, ``notify``: the proposal's author and its reviewers at that
moment (CF-5.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from dalsegno.protocol import Audit, Context, Domain, Index, On, Reject, Touched, not_found
from dalsegno.protocol.runs import check_path

from ._locks import Named
from ._proposals import Proposal, ProposalCommentTracked, check_writable, proposals
from ._steps import check_step, check_who
from ._words import (
    COMMENT_STEPS,
    COMMENTS_MAX,
    REPLIES_MAX,
    SELECTED_MAX,
    TAKES_PART,
    UNRESOLVED,
    UNRESOLVED_MAX,
    CommentStatus,
    CommentStep,
    CommentText,
    LineNumber,
    Path,
    Reason,
)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply to a comment."""

    reply_id: str
    author_id: str | None
    text: str
    at: datetime


class Comment(msgspec.Struct, frozen=True, kw_only=True):
    """A comment."""

    proposal_id: str
    author_id: str | None
    target_file: str
    line_number: int | None
    comment_text: str
    status: CommentStatus
    created_at: datetime
    reason: str | None = None
    """Why it was rejected or deferred."""
    is_selected: bool = False
    replies: tuple[Reply, ...] = ()


class AddComment(msgspec.Struct, frozen=True, kw_only=True):
    """Comment on a file of a proposal that is in review; without an id the runtime makes one."""

    proposal_id: str
    target_file: Path
    comment_text: CommentText
    line_number: LineNumber | None = None
    proposal_comment_id: str | None = None


class SettleComment(msgspec.Struct, frozen=True, kw_only=True):
    """Take a step with a comment."""

    proposal_comment_id: str
    step: CommentStep
    reason: Reason | None = None
    base_version: int | None = None


class SelectComment(msgspec.Struct, frozen=True, kw_only=True):
    """Select a comment for the next iteration, or not any longer."""

    proposal_comment_id: str
    selected: bool = True
    base_version: int | None = None


class ReplyToComment(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to a comment."""

    proposal_comment_id: str
    reply_text: CommentText


class CommentAdded(msgspec.Struct, frozen=True, kw_only=True):
    """There is a comment."""

    proposal_id: str
    author_id: str | None
    target_file: str
    line_number: int | None
    comment_text: str
    at: datetime
    notify: tuple[str, ...]


class CommentSettled(msgspec.Struct, frozen=True, kw_only=True):
    """A comment has another status, in which it is not selected."""

    proposal_id: str
    step: CommentStep
    status: CommentStatus
    reason: str | None
    by: str | None
    at: datetime
    notify: tuple[str, ...]


class CommentSelected(msgspec.Struct, frozen=True, kw_only=True):
    """A comment is selected, or not any longer."""

    proposal_id: str
    selected: bool
    notify: tuple[str, ...]


class CommentReplied(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody replied to a comment."""

    proposal_id: str
    reply: Reply
    notify: tuple[str, ...]


CommentEvent: TypeAlias = CommentAdded | CommentSettled | CommentSelected | CommentReplied

proposal_comments = Domain(
    "proposal_comment",
    state=Comment,
    commands=AddComment | SettleComment | SelectComment | ReplyToComment,
    events=CommentEvent,
    allow=TAKES_PART,
)
"""The comments of a project."""


# ------------------------------------------------------------------------------------- deciding


def _tracked(
    comment_id: str, *, is_unresolved: bool, is_selected: bool = False, is_new: bool = False
) -> ProposalCommentTracked:
    return ProposalCommentTracked(
        comment_id=comment_id,
        is_new=is_new,
        is_unresolved=is_unresolved,
        is_selected=is_selected,
    )


def _proposal(proposal_id: str, touched: Touched) -> Proposal:
    """Return the proposal of a comment.

    Raises:
        Reject: ``PROPOSAL_NOT_FOUND``.

    """
    proposal = touched.get(proposals, proposal_id)
    if proposal is None:
        raise not_found(proposals.stream_id(proposal_id))
    return proposal


def _its_proposal(comment: Comment, _command: object) -> Named:
    return [(proposals, comment.proposal_id)]


@proposal_comments.decide(touches=lambda command: [(proposals, command.proposal_id)])
def _add(
    comment: Comment | None, command: AddComment, context: Context, touched: Touched
) -> Sequence[CommentAdded | On[Any]]:
    proposal = _proposal(command.proposal_id, touched)
    if comment is not None:
        raise Reject("ID_TAKEN", "a comment has this id")
    if proposal.status != "REVIEW":
        message = "comments are made while it is in review"
        raise Reject("PROPOSAL_NOT_IN_REVIEW", message, status=400, current=proposal.status)
    if proposal.comments >= COMMENTS_MAX or len(proposal.unresolved) >= UNRESOLVED_MAX:
        message = f"at most {COMMENTS_MAX} comments, {UNRESOLVED_MAX} of them unresolved"
        raise Reject("QUOTA_EXCEEDED", message)
    added = CommentAdded(
        proposal_id=command.proposal_id,
        author_id=context.principal.user_id,
        target_file=check_path(command.target_file),
        line_number=command.line_number,
        comment_text=command.comment_text,
        at=context.now,
        notify=proposal.audience,
    )
    tracked = _tracked(context.entity_id, is_new=True, is_unresolved=True)
    return [added, On(proposals, command.proposal_id, tracked)]


@proposal_comments.decide(follows=_its_proposal)
def _settle(
    comment: Comment, command: SettleComment, context: Context, touched: Touched
) -> Sequence[CommentSettled | On[Any]]:
    proposal = _proposal(comment.proposal_id, touched)
    check_writable(proposal, "a step with a comment")
    step = check_step(
        COMMENT_STEPS,
        command.step,
        comment.status,
        context,
        {"author": proposal.author_id, "commenter": comment.author_id},
    )
    if step.has_reason and command.reason is None:
        raise Reject("BAD_REQUEST", f"{command.step} has a reason", field="reason")
    settled = CommentSettled(
        proposal_id=comment.proposal_id,
        step=command.step,
        status=msgspec.convert(step.target, CommentStatus),
        reason=command.reason if step.has_reason else None,
        by=context.principal.user_id,
        at=context.now,
        notify=proposal.audience,
    )
    is_unresolved = settled.status in UNRESOLVED
    if is_unresolved and len({*proposal.unresolved, context.entity_id}) > UNRESOLVED_MAX:
        raise Reject("QUOTA_EXCEEDED", f"at most {UNRESOLVED_MAX} unresolved comments")
    is_selected = comment.is_selected and is_unresolved
    tracked = _tracked(context.entity_id, is_unresolved=is_unresolved, is_selected=is_selected)
    return [settled, On(proposals, comment.proposal_id, tracked)]


def resolved_by_iteration(
    comment_id: str, comment: Comment, proposal: Proposal, by: str | None, now: datetime
) -> On[Any]:
    """Return the event by which an iteration resolves a comment that it was given."""
    settled = CommentSettled(
        proposal_id=comment.proposal_id,
        step="resolve",
        status="RESOLVED",
        reason=None,
        by=by,
        at=now,
        notify=proposal.audience,
    )
    return On(proposal_comments, comment_id, settled)


@proposal_comments.decide(follows=_its_proposal)
def _select(
    comment: Comment, command: SelectComment, context: Context, touched: Touched
) -> Sequence[CommentSelected | On[Any]]:
    proposal = _proposal(comment.proposal_id, touched)
    check_writable(proposal, "a selection")
    check_who("author", context, {"author": proposal.author_id})
    if comment.is_selected == command.selected:
        return []
    if command.selected and comment.status not in UNRESOLVED:
        message = "only what is not resolved is selected"
        raise Reject("COMMENT_NOT_OPEN", message, status=400, current=comment.status)
    if command.selected and len(proposal.selected) >= SELECTED_MAX:
        raise Reject("QUOTA_EXCEEDED", f"at most {SELECTED_MAX} comments are selected")
    selected = CommentSelected(
        proposal_id=comment.proposal_id, selected=command.selected, notify=proposal.audience
    )
    tracked = _tracked(
        context.entity_id,
        is_unresolved=comment.status in UNRESOLVED,
        is_selected=command.selected,
    )
    return [selected, On(proposals, comment.proposal_id, tracked)]


@proposal_comments.decide(follows=_its_proposal)
def _reply(
    comment: Comment, command: ReplyToComment, context: Context, touched: Touched
) -> CommentReplied:
    proposal = _proposal(comment.proposal_id, touched)
    check_writable(proposal, "a reply")
    if len(comment.replies) >= REPLIES_MAX:
        raise Reject("QUOTA_EXCEEDED", f"a comment has at most {REPLIES_MAX} replies")
    reply = Reply(
        reply_id=context.new_id(),
        author_id=context.principal.user_id,
        text=command.reply_text,
        at=context.now,
    )
    return CommentReplied(proposal_id=comment.proposal_id, reply=reply, notify=proposal.audience)


# -------------------------------------------------------------------------------------- folding


@proposal_comments.evolve
def _added(_before: Comment | None, event: CommentAdded) -> Comment:
    return Comment(
        proposal_id=event.proposal_id,
        author_id=event.author_id,
        target_file=event.target_file,
        line_number=event.line_number,
        comment_text=event.comment_text,
        status="OPEN",
        created_at=event.at,
    )


@proposal_comments.evolve
def _settled(comment: Comment, event: CommentSettled) -> Comment:
    is_selected = comment.is_selected and event.status in UNRESOLVED
    return replace(comment, status=event.status, reason=event.reason, is_selected=is_selected)


@proposal_comments.evolve
def _selected(comment: Comment, event: CommentSelected) -> Comment:
    return replace(comment, is_selected=event.selected)


@proposal_comments.evolve
def _replied(comment: Comment, event: CommentReplied) -> Comment:
    return replace(comment, replies=(*comment.replies, event.reply))


@proposal_comments.index
def _index(comment: Comment) -> Index:
    its = f"proposal:{comment.proposal_id}"
    keys = [its, f"{its}:{comment.status}", f"author:{comment.author_id}"]
    return Index(keys=tuple(keys), sort=comment.created_at.isoformat())


@proposal_comments.audit
def _audit(event: CommentEvent, before: Comment | None, after: Comment | None) -> Audit | None:
    if not isinstance(event, CommentSettled) or before is None or after is None:
        return None
    action = "COMMENT_RESOLVED" if event.status == "RESOLVED" else "COMMENT_STATUS_CHANGED"
    return Audit(
        action=action, old_value={"status": before.status}, new_value={"status": after.status}
    )
