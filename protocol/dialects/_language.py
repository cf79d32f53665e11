"""The language of a connection: the messages of one or more dialects, as one tagged union.

Decoding is strict and bounded: a document is checked for depth before it is decoded, fields for
type and range while it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

import msgspec
from msgspec import Raw

from dalsegno.protocol._errors import DomainError, Reject
from dalsegno.protocol._scanning import check_nesting, check_nul, scan
from dalsegno.protocol._validation import reason_of

from ._dialect import (
    Ack,
    AttendRequest,
    Authenticate,
    ClientMessage,
    CommandRequest,
    Dialect,
    LeaveRequest,
    Ping,
    StateRequest,
    SubscribeRequest,
    UnsubscribeRequest,
    ViewRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from dalsegno.protocol._close import Close
    from dalsegno.protocol._limits import Limits

AnyRequest: TypeAlias = (
    SubscribeRequest
    | UnsubscribeRequest
    | ViewRequest
    | CommandRequest
    | AttendRequest
    | StateRequest
    | LeaveRequest
    | Ack
    | Ping
    | Authenticate
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How a connection begins."""

    state: Any = None
    """What the steps after it are given: small, one a connection."""
    says: Sequence[bytes] = ()
    """What is sent first."""
    follows: Sequence[SubscribeRequest] = ()
    """What it follows from the start."""


class Language:
    """The dialects of one kind of connection; the form of each message chooses its dialect."""

    beginning = Beginning()
    """What is said and followed before the client says anything."""

    def __init__(self, *dialects: Dialect) -> None:
        """Join dialects.

        Raises:
            DomainError: two of their messages have one name.

        """
        self.dialects = dialects
        self.default = dialects[0]
        """The dialect of what does not answer a message with a dialect of its own."""
        messages: list[type[ClientMessage]] = [Ack, Ping, Authenticate]
        for each in dialects:
            messages += each.messages
        tags = [struct.__struct_config__.tag for struct in messages]
        if twice := [tag for tag in tags if tags.count(tag) > 1]:
            raise DomainError(f"two messages of the dialects are named {twice[0]!r}")
        self._decode = msgspec.json.Decoder(Union[tuple(messages)]).decode  # noqa: UP007 - a value

    def take_back(self) -> None:
        """Forget the message that was decoded last: what it asked was refused."""

    def decode(self, received: str | bytes, limits: Limits) -> AnyRequest | None:
        """Decode a client's message; None: it asks nothing.

        Raises:
            Reject: ``BAD_REQUEST``.

        """
        if isinstance(received, bytes):
            raise Reject("BAD_REQUEST", "binary payloads are unsupported")
        document = received.encode()
        check_nesting(document, limits.nesting_max)
        if b"\\" in document:
            check_nul(document)
        return self._decoded(document)

    def decoding(self, received: str, limits: Limits) -> Generator[None, None, AnyRequest | None]:
        """Do what `decode` does for a long message, and yield between its steps."""
        document = received.encode()
        yield from scan(document, limits.nesting_max)
        return self._decoded(document)

    def farewell(self, _code: Close, _reason: str) -> bytes | None:
        """Return what is sent before the close; nothing."""
        return None

    def _decoded(self, document: bytes) -> AnyRequest | None:
        try:
            request: AnyRequest = self._decode(document)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _unreadable(error) from None  # no name keeps it: that would be a cycle
        return request


def _unreadable(error: Exception) -> Reject:
    is_deep = isinstance(error, RecursionError)
    reason: dict[str, Any] = {} if is_deep else {"reason": reason_of(error)}
    return Reject("BAD_REQUEST", "invalid websocket payload", **reason)


class Addressed(NamedTuple):
    """By what the sender of a message recognises its answer."""

    request_id: str | None
    idempotency_key: str | None


NOWHERE = Addressed(None, None)
"""Nobody recognises it."""


class _Envelope(msgspec.Struct):
    request_id: Raw = Raw(b"null")
    idempotency_key: Raw = Raw(b"null")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_text = msgspec.json.Decoder(str).decode
_TEXT_CHARS = 256
_TEXT_BYTES = _TEXT_CHARS * len("\\ud834\\udd1e")
"""As long as one can be, escaped and all."""


_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
_BACKSLASH = "\u0378"
"""Stands for an escaped backslash: unassigned (Unicode 17), and as long in UTF-8 as that is."""


def address_of(text: str) -> Addressed:
    """Return the address in a message that cannot be decoded, as far as that much can be read.

    Everything else is passed over, half a character in it (a lone surrogate) too, and what cannot
    be an id is not decoded, whatever it is.
    """
    document = text.encode()
    try:
        return _addressed(_decode_envelope(document), _decode_text)
    except _UNREADABLE:
        if _BACKSLASH in text:
            return NOWHERE  # it might be the address's own
    try:
        return _addressed(_decode_envelope(_without_surrogates(document)), _decode_moved)
    except _UNREADABLE:
        return NOWHERE


def _addressed(envelope: _Envelope, decode: Callable[[Raw], str]) -> Addressed:
    return Addressed(
        _text_of(envelope.request_id, decode), _text_of(envelope.idempotency_key, decode)
    )


def _text_of(found: Raw, decode: Callable[[Raw], str]) -> str | None:
    if len(bytes(found)) > _TEXT_BYTES + 2:
        return None
    try:
        text = decode(found)
    except _UNREADABLE:
        return None
    return text if len(text) <= _TEXT_CHARS else None


def _without_surrogates(document: bytes) -> bytes:
    """Return JSON, as long as before, with each escaped surrogate moved to where one may be alone.

    That is U+E800 to U+EFFF, of the area for private use (Unicode 23.5).  What is left of
    backslashes once those that are escaped have gone begins an escape.
    """
    plain = document.replace(rb"\\", _BACKSLASH.encode())
    return plain.replace(rb"\ud", rb"\ue").replace(rb"\uD", rb"\uE")


def _decode_moved(found: Raw) -> str:
    """Decode a text of such a document as it was before.

    Raises:
        UnicodeDecodeError: one of its surrogates is half a character.

    """
    text = _decode_text(found).replace(_BACKSLASH, "\\")
    moved = "".join(chr(ord(c) - 0x1000) if "\ue800" <= c <= "\uefff" else c for c in text)
    return moved.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
