"""What the server says, in the generic dialect; what it says beyond that is passed over."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

UNTRACKED = "-"
"""The request id of what needs no answer, so that an error about it is not taken for another's."""


class RemoteEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A committed event, as it came over the wire."""

    stream_id: str
    """The stream that was subscribed to."""
    seq: int
    """Its number there: 1, 2, 3 …"""
    event_seq: int
    """Its number in the workspace."""
    entity: str
    """What it happened to: ``{domain}:{id}``."""
    version: int
    """The entity's version after it."""
    event_type: str
    event_id: str
    actor_id: str | None
    recorded_at: datetime
    chain: str
    payload: msgspec.Raw
    """JSON, byte for byte as it is stored; see `decode`."""

    @property
    def cursor(self) -> str:
        """Where to go on after it, checked against the server's history: ``"seq-chain"``."""
        return f"{self.seq}-{self.chain}"

    @property
    def entity_id(self) -> str:
        """The entity's id, without its domain."""
        return self.entity.partition(":")[2]

    def decode(self, type_: type[T]) -> T:
        """Read the payload as a type of yours, or as ``dict``.

        Raises:
            msgspec.ValidationError: it is not of that type.

        """
        return msgspec.json.decode(self.payload, type=type_)


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command that took effect, now or when its key was first used."""

    workspace_id: str
    event_seq: int
    """Of the command's last event; where it led to none, the workspace's head."""
    entity: str
    """What it was about: ``{domain}:{id}``."""
    version: int
    """The entity's version after it."""
    idempotency_key: str
    request_id: str | None = None

    @property
    def entity_id(self) -> str:
        """The entity's id, without its domain."""
        return self.entity.partition(":")[2]


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription has begun after ``cursor``."""

    stream_id: str
    head: int
    cursor: int
    chain: str | None
    """At the cursor; None where the event that tells it is not kept any more."""
    request_id: str | None = None


class Hidden(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers whose events this reader may not see."""

    stream_id: str
    to: int


class Reconnect(msgspec.Struct, frozen=True, kw_only=True):
    """The server leaves; so long after this connection's end a client may come back."""

    after_ms: Annotated[int, Meta(ge=0)]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """``rejected`` and ``error``: the envelope of every failure."""

    code: str
    message: str = ""
    details: dict[str, Any] | None = None
    stream_id: str | None = None
    request_id: str | None = None


Said: TypeAlias = RemoteEvent | Committed | Subscribed | Hidden | Reconnect | Refused


class _Typed(msgspec.Struct):
    type: str


_decode_type = msgspec.json.Decoder(_Typed).decode
_decoders: dict[str, msgspec.json.Decoder[Said]] = {
    "event": msgspec.json.Decoder(RemoteEvent),
    "committed": msgspec.json.Decoder(Committed),
    "subscribed": msgspec.json.Decoder(Subscribed),
    "hidden": msgspec.json.Decoder(Hidden),
    "reconnect": msgspec.json.Decoder(Reconnect),
    "rejected": msgspec.json.Decoder(Refused),
    "error": msgspec.json.Decoder(Refused),
}


def decode_said(text: str) -> Said | None:
    """Read a message; None for one of a type that says nothing to us, as heartbeats do.

    Raises:
        msgspec.MsgspecError: it is no message, or not what its type says.

    """
    decoder = _decoders.get(_decode_type(text).type)
    return None if decoder is None else decoder.decode(text)


def encode(message: msgspec.Struct) -> str:
    """Write a message of ours."""
    return msgspec.json.encode(message).decode()
