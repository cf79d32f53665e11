"""Comments over HTTP (CF §4.2)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import Receipt, place_of, token_of
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    OfEntity,
    Paging,
    ReadRoute,
    found,
)

from ._comments import (
    AddComment,
    Comment,
    Reply,
    ReplyToComment,
    SelectComment,
    SettleComment,
    proposal_comments,
)
from ._proposals import proposals
from ._routes import OF_PROPOSAL, RATE, REFUSED, ProposalParams
from ._words import COMMENT_STEPS, CommentStatus, CommentStep, CommentText, LineNumber, Path, Reason

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route

OF_COMMENT = OfEntity(proposal_comments, "comment_id")


class CommentItem(msgspec.Struct, frozen=True, kw_only=True):
    """A comment."""

    id: str
    proposal_id: str
    version: int
    author_id: str | None
    target_file: str
    line_number: int | None
    comment_text: str
    status: CommentStatus
    reason: str | None
    selected: bool
    replies: tuple[Reply, ...]
    created_at: datetime


class CommentsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of comments, in the order in which they were made."""

    comments: list[CommentItem]
    next: str | None


class CommentBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to comment."""

    target_file: Path
    comment_text: CommentText
    line_number: LineNumber | None = None


class CommentStepBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to take a step with a comment."""

    reason: Reason | None = None
    version: int | None = None


class SelectBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to select a comment, or not any longer."""

    selected: bool = True
    version: int | None = None


class ReplyBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to reply."""

    reply_text: CommentText


class CommentsParams(Paging, frozen=True, kw_only=True):
    """Which comments are listed."""

    proposal_id: str
    status: CommentStatus | None = None


class CommentParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which comment is meant."""

    comment_id: str


def _item(comment_id: str, version: int, it: Comment) -> CommentItem:
    return CommentItem(
        id=comment_id,
        proposal_id=it.proposal_id,
        version=version,
        author_id=it.author_id,
        target_file=it.target_file,
        line_number=it.line_number,
        comment_text=it.comment_text,
        status=it.status,
        reason=it.reason,
        selected=it.is_selected,
        replies=it.replies,
        created_at=it.created_at,
    )


def _shown(receipt: Receipt, comment: Comment) -> CommentItem:
    return _item(receipt.entity_id, receipt.version, comment)


async def _list(asked: Asked[CommentsParams, None]) -> CommentsBody:
    params, workspace = asked.params, asked.workspace
    await found(workspace, proposals, params.proposal_id)
    key = f"proposal:{params.proposal_id}"
    if params.status is not None:
        key = f"{key}:{params.status}"
    page = await workspace.snapshot(
        proposal_comments, key=key, after=place_of(params.after), limit=params.limit
    )
    items = [_item(each.entity_id, each.version, each.state) for each in page.items]
    return CommentsBody(comments=items, next=None if page.next is None else token_of(page.next))


def _add(asked: Asked[ProposalParams, CommentBody]) -> AddComment:
    body = asked.body
    return AddComment(
        proposal_id=asked.params.proposal_id,
        target_file=body.target_file,
        comment_text=body.comment_text,
        line_number=body.line_number,
    )


def _select(asked: Asked[CommentParams, SelectBody]) -> SelectComment:
    return SelectComment(
        proposal_comment_id=asked.params.comment_id,
        selected=asked.body.selected,
        base_version=asked.based_on(asked.body.version),
    )


def _step_route(step: CommentStep) -> CommandRoute:
    def settle(asked: Asked[CommentParams, CommentStepBody]) -> SettleComment:
        return SettleComment(
            proposal_comment_id=asked.params.comment_id,
            step=step,
            reason=asked.body.reason,
            base_version=asked.based_on(asked.body.version),
        )

    return CommandRoute(
        "POST",
        f"/api/v1/comments/{{comment_id}}/{step}",
        summary=f"{step.capitalize()} a comment: {COMMENT_STEPS[step].target} from now on.",
        group="reviews",
        at=OF_COMMENT,
        params=CommentParams,
        body=CommentStepBody,
        command=settle,
        returns=CommentItem,
        shows=_shown,
        refusals=REFUSED,
        rate=RATE,
    )


comment_routes: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/v1/proposals/{proposal_id}/comments",
        summary="List a proposal's comments.",
        group="reviews",
        at=OF_PROPOSAL,
        params=CommentsParams,
        read=_list,
        returns=CommentsBody,
        rate=RATE,
    ),
    CommandRoute(
        "POST",
        "/api/v1/proposals/{proposal_id}/comments",
        summary="Comment on a file of a proposal in review.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalParams,
        body=CommentBody,
        command=_add,
        returns=CommentItem,
        shows=_shown,
        status=201,
        refusals=REFUSED,
        rate=RATE,
    ),
    *(_step_route(msgspec.convert(each, CommentStep)) for each in COMMENT_STEPS),
    CommandRoute(
        "POST",
        "/api/v1/comments/{comment_id}/select",
        summary="Select a comment for the next iteration, or not any longer.",
        group="reviews",
        at=OF_COMMENT,
        params=CommentParams,
        body=SelectBody,
        command=_select,
        returns=CommentItem,
        shows=_shown,
        refusals=REFUSED,
        rate=RATE,
    ),
    CommandRoute(
        "POST",
        "/api/v1/comments/{comment_id}/replies",
        summary="Reply to a comment.",
        group="reviews",
        at=OF_COMMENT,
        params=CommentParams,
        body=ReplyBody,
        command=lambda asked: ReplyToComment(
            proposal_comment_id=asked.params.comment_id, reply_text=asked.body.reply_text
        ),
        returns=CommentItem,
        shows=_shown,
        status=201,
        refusals=REFUSED,
        rate=RATE,
    ),
)
