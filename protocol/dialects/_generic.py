"""The generic dialect: any stream, any command by its name."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dalsegno.protocol._position import chain_text
from dalsegno.protocol._spoken import Channel

from ._dialect import (
    Begun,
    CommandRequest,
    Dialect,
    SubscribeRequest,
    Text,
    UnsubscribeRequest,
)
from ._presence import (
    PRESENCE_SAYS,
    PresenceDialect,
    PresenceSubscribe,
    PresenceUnsubscribe,
    PresenceUpdate,
)
from ._said import Said, asked_by, encode_said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._errors import DalsegnoError
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._limits import Limits
    from dalsegno.protocol._receipt import Receipt
    from dalsegno.protocol._spoken import Frame, TailFrame

    from ._dialect import Shown


class Subscribed(Said, tag="subscribed", kw_only=True, gc=False):
    """The first answer of a subscription."""

    stream_id: str
    workspace_id: str
    head: int
    cursor: int
    chain: str | None


class Committed(Said, tag="committed", kw_only=True, gc=False):
    """A command was accepted: the commonest answer."""

    workspace_id: str
    event_seq: int
    entity: str
    version: int
    idempotency_key: str | None
    repeated: bool | UnsetType = UNSET


class Rejected(Said, tag="rejected", kw_only=True, gc=False):
    """A command was refused, or failed."""

    workspace_id: str | None
    code: str
    message: str
    details: dict[str, Any] | None
    idempotency_key: str | None


class EventShown(msgspec.Struct, tag="event", kw_only=True, gc=False):
    """An event of a stream."""

    stream_id: str
    seq: int
    event_seq: int
    entity: str
    version: int
    event_type: str
    event_id: str
    actor_id: str | None
    recorded_at: datetime
    chain: str
    payload: Any


class FrameShown(msgspec.Struct, tag="frame", kw_only=True, gc=False):
    """Something that a run says, which is not stored."""

    stream_id: str
    attempt: int
    message_id: str
    channel: Channel
    frame_no: int
    text: str


class TailShown(msgspec.Struct, tag="tail", kw_only=True, gc=False):
    """What a run has said and what is not stored yet, for who missed some of it."""

    stream_id: str
    attempt: int
    message_id: str
    channel: Channel
    committed_to: int
    frame_no: int
    text: str


class GenericDialect(PresenceDialect):
    """The dialect of streams and commands by name."""

    name = "generic"
    says: Sequence[type[msgspec.Struct]] = (
        Subscribed,
        Committed,
        Rejected,
        EventShown,
        FrameShown,
        TailShown,
        *PRESENCE_SAYS,
    )

    def entity_event(self, event: Event) -> Shown:
        """Encode an event for its entity's stream."""
        return _event(event, event.stream_id, event.stream_seq, Raw(event.payload))

    def workspace_event(self, event: Event, payload: object) -> Shown:
        """Encode an event for the workspace's stream."""
        return _event(event, f"workspace:{event.workspace_id}", event.event_seq, payload)

    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> bytes:
        """Encode the first answer of a subscription."""
        return encode_said(
            Subscribed(
                stream_id=begun.stream_id,
                workspace_id=begun.workspace_id,
                head=begun.head,
                cursor=begun.cursor,
                chain=None if begun.chain is None else chain_text(begun.chain),
                request_id=asked_by(asked.request_id),
            )
        )

    def committed(self, asked: CommandRequest, receipt: Receipt) -> bytes:
        """Encode the answer to a command that was accepted."""
        return encode_said(
            Committed(
                workspace_id=receipt.workspace_id,
                event_seq=receipt.event_seq,
                entity=receipt.stream_id,
                version=receipt.version,
                idempotency_key=asked.idempotency_key,
                repeated=receipt.repeated or UNSET,
                request_id=asked_by(asked.request_id),
            )
        )

    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> bytes:
        """Show that a command was refused, or failed."""
        return encode_said(
            Rejected(
                workspace_id=asked.workspace_id,
                code=error.code,
                message=error.message,
                details=error.details or None,
                idempotency_key=asked.idempotency_key,
                request_id=asked_by(asked.request_id),
            )
        )

    def frame(self, frame: Frame) -> bytes:
        """Encode what a run says."""
        return encode_said(
            FrameShown(
                stream_id=frame.stream_id,
                attempt=frame.attempt,
                message_id=frame.message_id,
                channel=frame.channel,
                frame_no=frame.frame_no,
                text=frame.text,
            )
        )

    def tail(self, tail: TailFrame) -> bytes:
        """Encode what a run has said and what is not durable yet."""
        return encode_said(
            TailShown(
                stream_id=tail.stream_id,
                attempt=tail.attempt,
                message_id=tail.message_id,
                channel=tail.channel,
                committed_to=tail.committed_to,
                frame_no=tail.frame_no,
                text=tail.text,
            )
        )


GENERIC = GenericDialect()


class Subscribe(SubscribeRequest, tag="subscribe", frozen=True, kw_only=True):
    """Follow a stream."""

    dialect: ClassVar[Dialect] = GENERIC

    stream_id: Text


class Unsubscribe(UnsubscribeRequest, tag="unsubscribe", frozen=True, kw_only=True):
    """Stop following a stream."""

    dialect: ClassVar[Dialect] = GENERIC

    stream_id: Text


class CommandMessage(CommandRequest, tag="command", frozen=True, kw_only=True):
    """Ask for a change by a command's name."""

    dialect: ClassVar[Dialect] = GENERIC

    workspace_id: Text
    name: Text
    payload: Raw

    @property
    def stream_id(self) -> None:
        """None: the payload names the entity."""
        return

    def decode(self, domain: Domain[Any, Any, Any], limits: Limits) -> tuple[Any, int]:
        """Return the domain's command of this name, and its length in bytes."""
        payload = bytes(self.payload)
        return domain.decode_command(self.name, payload, limits), len(payload)


class Attend(PresenceSubscribe, tag="presence_subscribe", frozen=True, kw_only=True):
    """Be present in a workspace, and be told who is."""

    dialect: ClassVar[Dialect] = GENERIC


class ChangeState(PresenceUpdate, tag="presence_update", frozen=True, kw_only=True):
    """Say something else of oneself."""

    dialect: ClassVar[Dialect] = GENERIC


class Leave(PresenceUnsubscribe, tag="presence_unsubscribe", frozen=True, kw_only=True):
    """Be present no longer."""

    dialect: ClassVar[Dialect] = GENERIC


GenericDialect.messages = (Subscribe, Unsubscribe, CommandMessage, Attend, ChangeState, Leave)


def _event(event: Event, stream_id: str, seq: int, payload: object) -> bytes:
    return encode_said(
        EventShown(
            stream_id=stream_id,
            seq=seq,
            event_seq=event.event_seq,
            entity=event.stream_id,
            version=event.stream_seq,
            event_type=event.type,
            event_id=event.event_id,
            actor_id=event.actor_id,
            recorded_at=event.recorded_at,
            chain=chain_text(event.chain),
            payload=payload,
        )
    )
