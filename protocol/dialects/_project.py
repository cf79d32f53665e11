"""A project's connection: one workspace, followed from the first byte (CF-1.1, CF-1.4).

A project is a workspace.  A socket at its path needs to ask for nothing: it begins where its client
left off, and every message says where that is now.  A package that shows events in words of its own
has a dialect that derives from this one, and `project_socket` with that.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from dalsegno.protocol._position import chain_text

from ._dialect import Dialect, SubscribeRequest, Text
from ._language import Beginning
from ._presence import (
    PRESENCE_SAYS,
    PresenceDialect,
    PresenceSubscribe,
    PresenceUnsubscribe,
    PresenceUpdate,
)
from ._said import Said, asked_by, encode_said
from ._socket import Opening, Socket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol._errors import DalsegnoError
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._receipt import Receipt

    from ._dialect import Begun, CommandRequest, Shown


class ProjectConnected(Said, tag="connected", kw_only=True, gc=False):
    """The first message: where the project is, and where this connection begins."""

    project_id: str
    head: int
    cursor: str


class ProjectEvent(msgspec.Struct, tag="event", kw_only=True, gc=False):
    """An event of a project."""

    seq: int
    cursor: str
    event_type: str
    entity: str
    version: int
    event_id: str
    actor_id: str | None
    recorded_at: datetime
    payload: Any


class ProjectHeartbeat(msgspec.Struct, tag="heartbeat", kw_only=True, gc=False):
    """A sign of life, with where the project is and how far this connection was told."""

    server_ts: datetime
    head: int
    seq: int


class ProjectDialect(PresenceDialect):
    """What a project's connections are told."""

    name = "project"
    says: Sequence[type[msgspec.Struct]] = (
        ProjectConnected,
        ProjectEvent,
        ProjectHeartbeat,
        *PRESENCE_SAYS,
    )
    ends_with_stream = True

    def entity_event(self, event: Event) -> Shown:
        """Encode an event for its entity's stream, as for the project's."""
        return self.workspace_event(event, msgspec.Raw(event.payload))

    def workspace_event(self, event: Event, payload: object) -> Shown:
        """Encode an event."""
        return encode_said(
            ProjectEvent(
                seq=event.event_seq,
                cursor=_cursor(event.event_seq, event.chain),
                event_type=event.type,
                entity=event.stream_id,
                version=event.stream_seq,
                event_id=event.event_id,
                actor_id=event.actor_id,
                recorded_at=event.recorded_at,
                payload=payload,
            )
        )

    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> bytes:
        """Tell where the project is, and where the connection begins."""
        cursor = str(begun.cursor) if begun.chain is None else _cursor(begun.cursor, begun.chain)
        return encode_said(
            ProjectConnected(
                project_id=begun.workspace_id,
                head=begun.head,
                cursor=cursor,
                request_id=asked_by(asked.request_id),
            )
        )

    def heartbeat(self, now: datetime) -> None:
        """Say nothing here: `standing` is the sign of life."""

    def standing(self, stream_id: str, head: int, cursor: int, now: datetime) -> bytes:
        """Give a sign of life, with where the project is."""
        return encode_said(ProjectHeartbeat(server_ts=now, head=head, seq=cursor))

    def committed(self, asked: CommandRequest, receipt: Receipt) -> bytes | None:
        """Say nothing: commands are sent over HTTP, or a socket of their own."""
        return None

    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> bytes | None:
        """Say nothing, likewise."""
        return None


def _cursor(seq: int, chain: int) -> str:
    return f"{seq}-{chain_text(chain)}"


PROJECT = ProjectDialect()


class FollowProject(SubscribeRequest, tag="follow_project", frozen=True, kw_only=True):
    """Follow a project from where its client left off."""

    dialect: ClassVar[Dialect] = PROJECT

    project_id: Text

    @property
    def stream_id(self) -> str:
        """The workspace's stream."""
        return f"workspace:{self.project_id}"


class AttendProject(PresenceSubscribe, tag="presence_subscribe", frozen=True, kw_only=True):
    """Be present in a project, and be told who is."""

    dialect: ClassVar[Dialect] = PROJECT


class ChangeStateInProject(PresenceUpdate, tag="presence_update", frozen=True, kw_only=True):
    """Say something else of oneself."""

    dialect: ClassVar[Dialect] = PROJECT


class LeaveProject(PresenceUnsubscribe, tag="presence_unsubscribe", frozen=True, kw_only=True):
    """Be present no longer."""

    dialect: ClassVar[Dialect] = PROJECT


ProjectDialect.messages = (AttendProject, ChangeStateInProject, LeaveProject)


def _begin(opening: Opening) -> Beginning:
    project_id = opening.path["project_id"]
    return Beginning(follows=[FollowProject(project_id=project_id, cursor=opening.cursor)])


project_socket = Socket(
    "/ws/projects/{project_id}",
    PROJECT,
    begin=_begin,
    accepts_first=True,
    project="project_id",
)
"""The sockets of projects; see `App`."""
