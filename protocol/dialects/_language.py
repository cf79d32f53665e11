"""The language of a connection: the messages of one or more dialects, as one tagged union.

Decoding is strict and bounded: a document is checked for depth before it is decoded, fields for
type and range while it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, Union

import msgspec

from dalsegno.protocol._errors import Reject
from dalsegno.protocol._scanning import check_nesting, check_nul, scan
from dalsegno.protocol._validation import reason_of

from ._dialect import Ack, CommandRequest, Ping, SubscribeRequest, Text, UnsubscribeRequest
from ._generic import GENERIC
from ._notes import NOTES

if TYPE_CHECKING:
    from collections.abc import Generator

    from dalsegno.protocol._limits import Limits

    from ._dialect import Dialect

AnyRequest: TypeAlias = SubscribeRequest | UnsubscribeRequest | CommandRequest | Ack | Ping


class Language:
    """The dialects of one kind of connection."""

    def __init__(self, *dialects: Dialect) -> None:
        self.default = dialects[0]
        """The dialect of what does not answer a message with a dialect of its own."""
        messages = [Ack, Ping, *(message for each in dialects for message in each.messages)]
        self._decode = msgspec.json.Decoder(Union[tuple(messages)]).decode  # noqa: UP007 - a value

    def decode(self, text: str, limits: Limits) -> AnyRequest:
        """Decode a client's message.

        Raises:
            Reject: ``BAD_REQUEST``.

        """
        document = text.encode()
        check_nesting(document, limits.nesting_max)
        if b"\\" in document:
            check_nul(document)
        return self._decoded(document)

    def decoding(self, text: str, limits: Limits) -> Generator[None, None, AnyRequest]:
        """Do what `decode` does for a long message, and yield between its steps."""
        document = text.encode()
        yield from scan(document, limits.nesting_max)
        return self._decoded(document)

    def _decoded(self, document: bytes) -> AnyRequest:
        try:
            request: AnyRequest = self._decode(document)
        except (msgspec.MsgspecError, RecursionError) as error:
            detail = {} if isinstance(error, RecursionError) else {"reason": reason_of(error)}
            raise Reject("BAD_REQUEST", "invalid websocket payload", **detail) from None
        return request


WEBSOCKET = Language(GENERIC, NOTES)
"""The language of ``/ws``; the form of each message chooses its dialect."""


class _Envelope(msgspec.Struct):
    request_id: msgspec.Raw = msgspec.Raw(b"null")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_request_id = msgspec.json.Decoder(Text).decode
_REQUEST_ID_BYTES = 256 * len("\\ud834\\udd1e")
"""As long as one can be, escaped and all."""


def request_id_of(text: str) -> str | None:
    """Return the request id of a message that cannot be decoded, if that much can be read.

    Everything else is passed over, and what cannot be an id is not decoded, whatever it is.
    """
    try:
        found = _decode_envelope(text.encode()).request_id
        return None if len(bytes(found)) > _REQUEST_ID_BYTES + 2 else _decode_request_id(found)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
