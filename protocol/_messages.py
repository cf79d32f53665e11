"""What a client says: the seed's messages and the generic ones, as one tagged union.

Every message may carry ``request_id``, which its answer echoes.  Decoding is strict and bounded: a
document is checked for depth before it is decoded, fields for type and range while it is.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Raw

from ._door import check_nesting, check_nul, refusal
from ._errors import Reject
from ._limits import SEQ_MAX, Limits

Seq: TypeAlias = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
Text: TypeAlias = Annotated[str, Meta(max_length=256)]
CursorField: TypeAlias = int | str | None


class ClientMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What every message may carry."""

    request_id: Text | None = None


class SubscribeNote(ClientMessage, tag="subscribe_note", frozen=True, kw_only=True):
    """Follow a note, in the seed's dialect (REQUIREMENTS §1.2.2)."""

    note_id: Text
    workspace_id: Text | None = None
    cursor: CursorField = None
    client_id: Text = "default"


class UnsubscribeNote(ClientMessage, tag="unsubscribe_note", frozen=True, kw_only=True):
    """Stop following a note."""

    note_id: Text


class SubscribeWorkspace(ClientMessage, tag="subscribe_workspace", frozen=True, kw_only=True):
    """Follow a workspace, in the seed's dialect."""

    workspace_id: Text
    cursor: CursorField = None
    client_id: Text = "default"


class UnsubscribeWorkspace(ClientMessage, tag="unsubscribe_workspace", frozen=True, kw_only=True):
    """Stop following a workspace."""

    workspace_id: Text


class ApplyPatch(ClientMessage, tag="apply_patch", frozen=True, kw_only=True):
    """Change a note's text; the note domain's ``apply_patch`` command in the seed's shape."""

    note_id: Text
    base_version: Seq
    patch_ops: Raw
    workspace_id: Text | None = None
    idempotency_key: str | None = None
    client_ts: Any = None


class Ack(ClientMessage, tag="ack", frozen=True, kw_only=True):
    """Say "I have seen up to here"; silent where it is accepted (I7)."""

    stream_id: Text
    event_seq: Seq | None = None
    seq: Seq | None = None

    @property
    def number(self) -> int:
        """The number in the stream.

        Raises:
            Reject: ``BAD_REQUEST`` unless exactly one of the two fields is there.

        """
        if (self.event_seq is None) == (self.seq is None):
            raise Reject("BAD_REQUEST", "an ack has event_seq or seq")
        return self.event_seq if self.event_seq is not None else self.seq or 0


class Ping(ClientMessage, tag="ping", frozen=True, kw_only=True):
    """Ask for a sign of life."""

    client_ts: Any = None


class Subscribe(ClientMessage, tag="subscribe", frozen=True, kw_only=True):
    """Follow a stream, in the generic dialect (DESIGN §5, the wire)."""

    stream_id: Text
    workspace_id: Text | None = None
    cursor: CursorField = None
    client_id: Text = "default"


class Unsubscribe(ClientMessage, tag="unsubscribe", frozen=True, kw_only=True):
    """Stop following a stream."""

    stream_id: Text


class CommandMessage(ClientMessage, tag="command", frozen=True, kw_only=True):
    """Ask for a change by a command's name."""

    workspace_id: Text
    name: Text
    payload: Raw
    idempotency_key: str | None = None


AnyMessage: TypeAlias = (
    SubscribeNote
    | UnsubscribeNote
    | SubscribeWorkspace
    | UnsubscribeWorkspace
    | ApplyPatch
    | Ack
    | Ping
    | Subscribe
    | Unsubscribe
    | CommandMessage
)


class _Envelope(msgspec.Struct):
    request_id: Any = None


_decode = msgspec.json.Decoder(AnyMessage).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decoders: dict[int, msgspec.json.Decoder[Any]] = {}


def decode_message(text: str, limits: Limits) -> AnyMessage:
    """Read a client's message.

    Raises:
        Reject: ``BAD_REQUEST``; ``details.request_id`` where one could still be read.

    """
    document = text.encode()
    check_nesting(document, limits.nesting_max)
    try:
        message: AnyMessage = _decode(document)
    except (msgspec.MsgspecError, RecursionError) as error:
        detail = {} if isinstance(error, RecursionError) else {"reason": str(error)}
        raise Reject("BAD_REQUEST", "invalid websocket payload", **detail) from None
    if "\\" in text:
        check_nul(document)
    return message


def request_id_of(text: str) -> str | None:
    """Find the request id of a message that could not be read, if that much can be."""
    try:
        request_id = _decode_envelope(text.encode()).request_id
    except (msgspec.MsgspecError, RecursionError):
        return None
    return request_id if isinstance(request_id, str) and len(request_id) <= 256 else None


def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - any type
    """Make a type's decoder, once: there are as many as commands.

    They are found by identity, as `typing` takes a fiftieth of a command's time to hash an
    `Annotated`; the decoder keeps its type, so no other gets its identity.
    """
    decoder = _decoders.get(id(type_))
    if decoder is None:
        decoder = _decoders[id(type_)] = msgspec.json.Decoder(type_)
    return decoder


def decode_payload(document: bytes, type_: Any, limits: Limits) -> Any:  # noqa: ANN401 - the type's
    """Read a command's payload into its struct.

    Raises:
        Reject: ``BAD_REQUEST``, a field's own code (`refusal`) or ``PAYLOAD_TOO_LARGE``.

    """
    if len(document) > limits.command_bytes_max:
        raise Reject("PAYLOAD_TOO_LARGE", f"a command has at most {limits.command_bytes_max} bytes")
    try:
        return _decoder(type_).decode(document)
    except msgspec.ValidationError as error:
        raise refusal(error, type_) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = "" if isinstance(error, RecursionError) else str(error)
        raise Reject("BAD_REQUEST", f"invalid payload: {reason}") from None
