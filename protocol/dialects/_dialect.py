"""The requests that every dialect has, and what a dialect has to provide.

A message is decoded once, into the request that it makes: the subclass knows its dialect's fields,
everything else reads the properties of its kind.  Its ``dialect`` encodes the answers.

    SubscribeRequest      follow a stream
    UnsubscribeRequest    stop following it
    CommandRequest        change something
    AttendRequest         be present in a workspace, and be told who is
    StateRequest          say something else of oneself there
    LeaveRequest          be present no longer
    Ack, Ping             the same in every dialect
    Authenticate          so is this: who the client is, or still is
    ViewRequest           see a stream that is followed otherwise

Every message may carry ``request_id``, which its answer echoes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta, UnsetType

from dalsegno.protocol._errors import Reject
from dalsegno.protocol._limits import KIB, SEQ_MAX
from dalsegno.protocol._position import chain_text

from ._said import (
    Authenticated,
    Error,
    Heartbeat,
    Hidden,
    Pong,
    Reconnect,
    Unsubscribed,
    asked_by,
    encode_said,
    error_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._errors import DalsegnoError
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._limits import Limits
    from dalsegno.protocol._presence import PresenceChange, PresenceList
    from dalsegno.protocol._receipt import Receipt
    from dalsegno.protocol._spoken import Frame, TailFrame

Seq: TypeAlias = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
Text: TypeAlias = Annotated[str, Meta(max_length=256)]
CursorField: TypeAlias = int | str | None
Shown: TypeAlias = "bytes | Sequence[bytes]"
"""An event as a client sees it: one whole JSON message, several, or none."""
Passes: TypeAlias = "Callable[[Event], bool]"
"""Returns whether an event is shown at all; a pure function.  The others are among those that
`Dialect.hidden` tells."""


class ClientMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields that every message may have."""

    request_id: Text | None = None


class SubscribeRequest(ClientMessage, frozen=True, kw_only=True):
    """Follow a stream."""

    dialect: ClassVar[Dialect]

    workspace_id: Text | None = None
    cursor: CursorField = None
    client_id: Text | None = None
    """None: the connection's."""

    from_now: ClassVar[bool] = False
    """Whether it begins at the stream's end where no cursor is given, and not at the last ack."""
    is_of_audit: ClassVar[bool] = False
    """Whether it is of the reserved workspace ``$audit``, which no other request reads."""

    @property
    @abstractmethod
    def stream_id(self) -> str:
        """The stream to follow."""

    @property
    def passes(self) -> Passes | None:
        """Which of its events are shown; None: all of them."""
        return None


class ViewRequest(ClientMessage, frozen=True, kw_only=True):
    """See a stream that is followed otherwise, from the next event on.

    What somebody who has not seen it needs of before may be shown first: the events so far of a
    stream that an entity's state names, such as a run that is under way.
    """

    dialect: ClassVar[Dialect]

    @property
    def looks_at(self) -> tuple[Domain[Any, Any, Any], str] | None:
        """The entity, of the workspace that is followed; None: nothing of before is shown."""
        return None

    def recalled(self, state: Any) -> str | None:  # noqa: ANN401 - the domain's
        """Return the stream, of the entity's state, which may be None; None: there is none.

        Raises:
            Reject: it cannot be seen so; everything stays as it is.

        """
        return None

    @property
    @abstractmethod
    def stream_id(self) -> str:
        """The stream."""

    @property
    @abstractmethod
    def passes(self) -> Passes | None:
        """Which of its events are shown from then on; None: all of them.

        Raises:
            Reject: that cannot be said; everything stays as it is.

        """


class UnsubscribeRequest(ClientMessage, frozen=True, kw_only=True):
    """Stop following a stream."""

    dialect: ClassVar[Dialect]

    @property
    @abstractmethod
    def stream_id(self) -> str:
        """The stream."""


class CommandRequest(ClientMessage, frozen=True, kw_only=True):
    """Ask for a change."""

    dialect: ClassVar[Dialect]

    workspace_id: Text | None = None
    """None if it has to be found by `stream_id`."""
    idempotency_key: str | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """The command's name in its domain."""

    @property
    @abstractmethod
    def stream_id(self) -> str | None:
        """The entity that the message names outside its payload, if it does."""

    @abstractmethod
    def decode(self, domain: Domain[Any, Any, Any], limits: Limits) -> tuple[Any, int]:
        """Return the domain's command that the message carries, and its length in bytes.

        Raises:
            Reject: the payload is invalid.

        """


class AttendRequest(ClientMessage, frozen=True, kw_only=True):
    """Be present in a workspace, and be told who is."""

    dialect: ClassVar[Dialect]

    repeats_list: ClassVar[bool] = True
    """Whether asking once more is answered with the list again, and not only a state."""

    @property
    @abstractmethod
    def workspace_id(self) -> str:
        """The workspace."""

    @property
    @abstractmethod
    def state(self) -> msgspec.Raw | UnsetType:
        """What the connection says of itself: any JSON; unset: null."""


class StateRequest(ClientMessage, frozen=True, kw_only=True):
    """Say something else of oneself where one is present."""

    dialect: ClassVar[Dialect]

    @property
    @abstractmethod
    def workspace_id(self) -> str:
        """The workspace."""

    @property
    @abstractmethod
    def state(self) -> msgspec.Raw:
        """What the connection says of itself from now on."""


class LeaveRequest(ClientMessage, frozen=True, kw_only=True):
    """Be present no longer."""

    dialect: ClassVar[Dialect]

    @property
    @abstractmethod
    def workspace_id(self) -> str:
        """The workspace."""


class Ack(ClientMessage, tag="ack", frozen=True, kw_only=True):
    """Acknowledge everything up to a number; there is no answer if it is accepted (I7)."""

    stream_id: Text
    event_seq: Seq | None = None
    seq: Seq | None = None

    @property
    def number(self) -> int:
        """The number in the stream.

        Raises:
            Reject: ``BAD_REQUEST`` unless exactly one of the two fields is present.

        """
        if (self.event_seq is None) == (self.seq is None):
            raise Reject("BAD_REQUEST", "an ack has event_seq or seq")
        return self.event_seq if self.event_seq is not None else self.seq or 0


class Ping(ClientMessage, tag="ping", frozen=True, kw_only=True):
    """Ask for a sign of life."""


class Authenticate(ClientMessage, tag="authenticate", frozen=True, kw_only=True):
    """Show a token: as the first message of a socket without credentials, or to stay longer."""

    token: Annotated[str, Meta(max_length=8 * KIB)]

    def __repr__(self) -> str:
        return f"<Authenticate {self.request_id}>"  # no log has the token


class Begun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The beginning of a subscription, as its first answer shows it."""

    workspace_id: str
    stream_id: str
    head: int
    """The stream's last number."""
    cursor: int
    """The number after which it begins."""
    chain: int | None
    """The chain at the cursor; None if that event is no longer kept."""


class Dialect(ABC):
    """The language of one kind of client: its messages, and the form of everything sent to it.

    One stateless object each, whose steps are pure.  What dialects share is here; a subclass
    provides the rest.  What a client of the dialect knows nothing of is answered with None.
    """

    name: str
    """What documents call it."""
    messages: Sequence[type[ClientMessage]] = ()
    """The messages that a client may send, beside `Ack`, `Ping` and `Authenticate`."""
    says: Sequence[type[msgspec.Struct]] = ()
    """What it may be sent, beside what every dialect has (`SHARED`), for documents."""
    follows_frames: bool = False
    """Whether what runs say is also for those who follow their workspace, and not the run alone."""
    tells_presence: bool = False
    """Whether who follows a workspace is told who is present there without asking for it."""
    ends_with_stream: bool = False
    """Whether a connection is about one stream, and is closed once that is followed no longer."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @abstractmethod
    def entity_event(self, event: Event) -> Shown:
        """Encode an event for its entity's stream.

        That may take several messages, of which only the last may bear the event's number, or
        none: then the number is among those that `hidden` tells.
        """

    @abstractmethod
    def workspace_event(self, event: Event, payload: object) -> Shown:
        """Encode an event for the workspace's stream, with the payload that its domain shows there.

        The payload is what JSON is made of; `msgspec.Raw` goes out byte for byte.  As many messages
        as in `entity_event`.
        """

    @abstractmethod
    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> bytes | None:
        """Encode the first answer of a subscription."""

    @abstractmethod
    def committed(self, asked: CommandRequest, receipt: Receipt) -> bytes | None:
        """Encode the answer to a command that was accepted."""

    @abstractmethod
    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> bytes | None:
        """Encode the answer to a command that was refused, or failed."""

    def hidden(self, stream_id: str, first: int, last: int, chain: int) -> bytes | None:
        """Encode that events are not shown, so that no number seems to be missing.

        Those in a row, of one commit or one page, are told together, before the next that is shown.
        """
        return encode_said(
            Hidden(stream_id=stream_id, first=first, last=last, chain=chain_text(chain))
        )

    def frame(self, frame: Frame) -> bytes | None:
        """Encode what a run says, for those who follow it."""
        return None

    def tail(self, tail: TailFrame) -> bytes | None:
        """Encode what a run has said and what is not durable yet, for who missed some of it."""
        return None

    def block_name(self, event: Event, shown: bytes) -> str:
        """Return what the block of an event's message is called on an event stream."""
        return event.type

    def recalled(self, event: Event, payload: object) -> Shown:
        """Encode an event of before, for who begins to view it; see `ViewRequest.recalled`."""
        return ()

    def viewed(self, asked: ViewRequest, seq: int) -> bytes | None:
        """Encode the answer to a view request: it holds for what is above a number."""
        return None

    def presence(
        self, listed: PresenceList, request_id: str | None, connection_id: str | None
    ) -> Shown:
        """Encode who is present; as an answer it has the message's id, and the connection's."""
        return ()

    def presence_diff(self, change: PresenceChange) -> Shown:
        """Encode what has changed of that."""
        return ()

    def presence_ended(self, workspace_id: str, error: DalsegnoError) -> bytes | None:
        """Encode why nothing more is told of who is present in a workspace."""
        return self.error(error, None, workspace_id=workspace_id)

    def presence_left(self, asked: LeaveRequest) -> bytes | None:
        """Encode the answer to who is present no longer."""
        return None

    def unsubscribed(self, asked: UnsubscribeRequest) -> bytes | None:
        """Encode the answer to an unsubscribe."""
        said = Unsubscribed(stream_id=asked.stream_id, request_id=asked_by(asked.request_id))
        return encode_said(said)

    def error(self, error: DalsegnoError, request_id: str | None, **context: Any) -> bytes | None:  # noqa: ANN401 - JSON
        """Encode any other error; ``context`` says what it is about."""
        return error_message(error, request_id, **context)

    def pong(self, asked: Ping, now: datetime) -> bytes | None:
        """Encode the answer to a ping."""
        return encode_said(Pong(server_ts=now, request_id=asked_by(asked.request_id)))

    def authenticated(self, asked: Authenticate, expires_in_ms: int | None) -> bytes | None:
        """Encode the answer to a token that was accepted; None: it does not expire."""
        said = Authenticated(expires_in_ms=expires_in_ms, request_id=asked_by(asked.request_id))
        return encode_said(said)

    def heartbeat(self, now: datetime) -> bytes | None:
        """Encode a sign of life."""
        return encode_said(Heartbeat(server_ts=now))

    def standing(self, stream_id: str, head: int, cursor: int, now: datetime) -> bytes | None:
        """Encode where a stream and its reader are, with each sign of life; most tell no heads."""
        return None

    def reconnect(self, after_ms: int) -> bytes | None:
        """Encode that the server shuts down, and when to come back, in milliseconds."""
        return encode_said(Reconnect(after_ms=after_ms))


SHARED: Sequence[type[msgspec.Struct]] = (
    Error,
    Unsubscribed,
    Pong,
    Authenticated,
    Heartbeat,
    Reconnect,
    Hidden,
)
"""What every dialect says, unless it says it otherwise."""
