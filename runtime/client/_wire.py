"""The server's messages in the generic dialect; unknown fields and types are ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

UNTRACKED = "-"
"""The request id of messages without an answer, so that their errors can be told from others."""
RENEWING = "token"
"""The request id of what shows a token."""


class RemoteEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A committed event, as it arrived over the wire."""

    stream_id: str
    """The stream that was subscribed to."""
    seq: int
    """The event's number in that stream: 1, 2, 3 …"""
    event_seq: int
    """The event's number in the workspace."""
    entity: str
    """The entity that changed: ``{domain}:{id}``."""
    version: int
    """The entity's version after the event."""
    event_type: str
    event_id: str
    actor_id: str | None
    recorded_at: datetime
    chain: str
    payload: msgspec.Raw
    """The payload's JSON, byte for byte as it is stored; see `decode`."""

    @property
    def cursor(self) -> str:
        """The cursor after this event, with a check of the server's history: ``"seq-chain"``."""
        return f"{self.seq}-{self.chain}"

    @property
    def entity_id(self) -> str:
        """The entity's id, without its domain."""
        return self.entity.partition(":")[2]

    def decode(self, type_: type[T]) -> T:
        """Decode the payload as a type of your own, or as ``dict``.

        Raises:
            msgspec.ValidationError: it is not of that type.

        """
        return msgspec.json.decode(self.payload, type=type_)


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command that took effect, now or when its key was first used."""

    workspace_id: str
    event_seq: int
    """The number of the command's last event; if there was none, the workspace's head."""
    entity: str
    """The entity that the command was for: ``{domain}:{id}``."""
    version: int
    """The entity's version after the command."""
    idempotency_key: str
    repeated: bool = False
    """Whether it took effect before: this is the original answer."""
    request_id: str | None = None

    @property
    def entity_id(self) -> str:
        """The entity's id, without its domain."""
        return self.entity.partition(":")[2]


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a subscription, which begins after ``cursor``."""

    stream_id: str
    head: int
    cursor: int
    chain: str | None
    """The chain at the cursor; None if that event is no longer kept."""
    request_id: str | None = None


class Hidden(msgspec.Struct, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """A range of numbers whose events this reader is not shown."""

    stream_id: str
    first: int
    last: int
    chain: str
    """The chain at the last of them."""


class Reconnect(msgspec.Struct, frozen=True, kw_only=True):
    """The server shuts down; the client may reconnect this long after the connection ends."""

    after_ms: Annotated[int, Meta(ge=0)]


class Authenticated(msgspec.Struct, frozen=True, kw_only=True):
    """A token was accepted."""

    expires_in_ms: Annotated[int, Meta(ge=0)] | None = None
    """How long it is good for; None: it does not expire."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """``rejected`` and ``error``: the envelope of every failure."""

    code: str
    message: str = ""
    details: dict[str, Any] | None = None
    stream_id: str | None = None
    request_id: str | None = None


class Spoken(msgspec.Struct, frozen=True, kw_only=True):
    """A ``frame`` or a ``tail``: something that a run says."""

    stream_id: str
    message: dict[str, Any]
    """It, as it is on the wire."""


class RemoteConnection(msgspec.Struct, frozen=True, kw_only=True):
    """A connection of somebody who is present."""

    id: str
    client_id: str
    tab: str | None = None
    state: Any = None
    """What it says of itself, decoded."""


class RemoteUser(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is present."""

    user_id: str
    since: datetime
    """When the first of the connections came."""
    connections: tuple[RemoteConnection, ...]


class PresenceListed(msgspec.Struct, frozen=True, kw_only=True):
    """Who is present in a workspace."""

    workspace_id: str
    epoch: str
    rev: int
    settled: bool
    users: tuple[RemoteUser, ...]
    total: int
    connection_id: str | None = None


class PresenceChanged(msgspec.Struct, frozen=True, kw_only=True):
    """What has changed of that since the revision before."""

    workspace_id: str
    epoch: str
    rev: int
    settled: bool
    joined: tuple[RemoteUser, ...]
    changed: tuple[RemoteUser, ...]
    left: tuple[str, ...]
    total: int


class PresenceEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing more is told of a workspace, and why."""

    workspace_id: str
    code: str
    message: str = ""
    details: dict[str, Any] | None = None


Said: TypeAlias = (
    RemoteEvent
    | Committed
    | Subscribed
    | Hidden
    | Reconnect
    | Authenticated
    | Refused
    | Spoken
    | PresenceListed
    | PresenceChanged
    | PresenceEnded
)


class _Typed(msgspec.Struct):
    type: str


_decode_type = msgspec.json.Decoder(_Typed).decode
_decode_message = msgspec.json.Decoder(dict[str, Any]).decode
_decoders: dict[str, msgspec.json.Decoder[Said]] = {
    "event": msgspec.json.Decoder(RemoteEvent),
    "committed": msgspec.json.Decoder(Committed),
    "subscribed": msgspec.json.Decoder(Subscribed),
    "hidden": msgspec.json.Decoder(Hidden),
    "reconnect": msgspec.json.Decoder(Reconnect),
    "authenticated": msgspec.json.Decoder(Authenticated),
    "presence": msgspec.json.Decoder(PresenceListed),
    "presence_diff": msgspec.json.Decoder(PresenceChanged),
    "presence_ended": msgspec.json.Decoder(PresenceEnded),
    "rejected": msgspec.json.Decoder(Refused),
    "error": msgspec.json.Decoder(Refused),
}


def decode_said(text: str) -> Said | None:
    """Decode a message; None for one of a type that is ignored, such as heartbeats.

    Raises:
        msgspec.MsgspecError: it is not a message, or not of the form of its type.

    """
    type_ = _decode_type(text).type
    if type_ in {"frame", "tail"}:
        message = _decode_message(text)
        return Spoken(stream_id=str(message.get("stream_id")), message=message)
    decoder = _decoders.get(type_)
    return None if decoder is None else decoder.decode(text)


def encode(message: msgspec.Struct) -> str:
    """Encode a message to the server."""
    return msgspec.json.encode(message).decode()
