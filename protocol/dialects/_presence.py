"""Presence as every dialect of ours says it; one may say it in words of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dalsegno.protocol._presence import PresentUser

from ._dialect import AttendRequest, Dialect, LeaveRequest, StateRequest, Text
from ._said import Said, asked_by, encode_said

if TYPE_CHECKING:
    from dalsegno.protocol._errors import DalsegnoError
    from dalsegno.protocol._presence import PresenceChange, PresenceList


class Presence(Said, tag="presence", kw_only=True, gc=False):
    """Who is present in a workspace: the answer, and again to who missed a change."""

    workspace_id: str
    epoch: str
    rev: int
    settled: bool
    users: Sequence[PresentUser]
    total: int
    connection_id: str | UnsetType = UNSET
    """Which of them the asking one is; in an answer only."""


class PresenceDiff(msgspec.Struct, tag="presence_diff", kw_only=True, gc=False):
    """What has changed since the revision before."""

    workspace_id: str
    epoch: str
    rev: int
    settled: bool
    joined: Sequence[PresentUser]
    changed: Sequence[PresentUser]
    left: Sequence[str]
    total: int


class PresenceEnded(msgspec.Struct, tag="presence_ended", kw_only=True, gc=False):
    """Nothing more is told of a workspace, and why."""

    workspace_id: str
    code: str
    message: str
    details: dict[str, Any] | None


class PresenceUnsubscribed(Said, tag="presence_unsubscribed", kw_only=True, gc=False):
    """The connection is not present any longer."""

    workspace_id: str


PRESENCE_SAYS: Sequence[type[msgspec.Struct]] = (
    Presence,
    PresenceDiff,
    PresenceEnded,
    PresenceUnsubscribed,
)
"""What a dialect says that derives from `PresenceDialect`."""


class PresenceDialect(Dialect):
    """A dialect that says who is present as lists and changes of users."""

    def presence(
        self, listed: PresenceList, request_id: str | None, connection_id: str | None
    ) -> bytes:
        """Encode who is present."""
        return encode_said(
            Presence(
                workspace_id=listed.workspace_id,
                epoch=listed.epoch,
                rev=listed.rev,
                settled=listed.settled,
                users=listed.users,
                total=listed.total,
                connection_id=UNSET if connection_id is None else connection_id,
                request_id=asked_by(request_id),
            )
        )

    def presence_diff(self, change: PresenceChange) -> bytes:
        """Encode what has changed."""
        return encode_said(
            PresenceDiff(
                workspace_id=change.workspace_id,
                epoch=change.epoch,
                rev=change.rev,
                settled=change.settled,
                joined=change.joined,
                changed=change.changed,
                left=change.left,
                total=change.total,
            )
        )

    def presence_ended(self, workspace_id: str, error: DalsegnoError) -> bytes:
        """Encode why nothing more is told of a workspace."""
        return encode_said(
            PresenceEnded(
                workspace_id=workspace_id,
                code=error.code,
                message=error.message,
                details=error.details or None,
            )
        )

    def presence_left(self, asked: LeaveRequest) -> bytes:
        """Encode the answer to who is present no longer."""
        return encode_said(
            PresenceUnsubscribed(
                workspace_id=asked.workspace_id, request_id=asked_by(asked.request_id)
            )
        )


class PresenceSubscribe(AttendRequest, tag="presence_subscribe", frozen=True, kw_only=True):
    """Be present in a workspace, and be told who is."""

    workspace_id: Text
    state: Raw | UnsetType = UNSET


class PresenceUpdate(StateRequest, tag="presence_update", frozen=True, kw_only=True):
    """Say something else of oneself."""

    workspace_id: Text
    state: Raw


class PresenceUnsubscribe(LeaveRequest, tag="presence_unsubscribe", frozen=True, kw_only=True):
    """Be present no longer."""

    workspace_id: Text
