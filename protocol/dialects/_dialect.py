"""The requests that every dialect has, and what a dialect has to provide.

A message is decoded once, into the request that it makes: the subclass knows its dialect's fields,
everything else reads the properties of its kind.  Its ``dialect`` encodes the answers.

    SubscribeRequest      follow a stream
    UnsubscribeRequest    stop following it
    CommandRequest        change something
    Ack, Ping             the same in every dialect

Every message may carry ``request_id``, which its answer echoes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

from dalsegno.protocol._errors import Reject
from dalsegno.protocol._limits import SEQ_MAX

from ._texts import error_message, message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._errors import DalsegnoError
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._limits import Limits
    from dalsegno.protocol._receipt import Receipt

Seq: TypeAlias = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
Text: TypeAlias = Annotated[str, Meta(max_length=256)]
CursorField: TypeAlias = int | str | None


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

    @property
    @abstractmethod
    def stream_id(self) -> str:
        """The stream to follow."""


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

    One stateless object each.  What dialects share is here; a subclass provides the rest.
    """

    messages: Sequence[type[ClientMessage]] = ()
    """The messages that a client may send, beside `Ack` and `Ping`."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @abstractmethod
    def entity_event(self, event: Event) -> bytes:
        """Encode an event for its entity's stream."""

    @abstractmethod
    def workspace_event(self, event: Event, payload: object) -> bytes:
        """Encode an event for the workspace's stream, with the payload that its domain shows there.

        The payload is what JSON is made of; `msgspec.Raw` goes out byte for byte.
        """

    @abstractmethod
    def subscribed(self, asked: SubscribeRequest, begun: Begun) -> bytes:
        """Encode the first answer of a subscription."""

    @abstractmethod
    def committed(self, asked: CommandRequest, receipt: Receipt) -> bytes:
        """Encode the answer to a command that was accepted."""

    @abstractmethod
    def rejected(self, asked: CommandRequest, error: DalsegnoError) -> bytes:
        """Encode the answer to a command that was refused, or failed."""

    def unsubscribed(self, asked: UnsubscribeRequest) -> bytes:
        """Encode the answer to an unsubscribe."""
        return message("unsubscribed", asked.request_id, stream_id=asked.stream_id)

    def error(self, error: DalsegnoError, request_id: str | None, **context: Any) -> bytes:  # noqa: ANN401 - JSON
        """Encode any other error; ``context`` says what it is about."""
        return error_message(error, request_id, **context)

    def pong(self, asked: Ping, now: datetime) -> bytes:
        """Encode the answer to a ping."""
        return message("pong", asked.request_id, server_ts=now)

    def heartbeat(self, now: datetime) -> bytes:
        """Encode a sign of life."""
        return message("heartbeat", server_ts=now)
