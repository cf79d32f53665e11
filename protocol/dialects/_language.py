"""The language of a connection: the messages of one or more dialects, as one tagged union.

Decoding is strict and bounded: a document is checked for depth before it is decoded, fields for
type and range while it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Union

import msgspec

from dalsegno.protocol._errors import Reject
from dalsegno.protocol._validation import check_nesting, check_nul

from ._dialect import Ack, CommandRequest, Ping, SubscribeRequest, UnsubscribeRequest
from ._generic import GENERIC
from ._notes import NOTES

if TYPE_CHECKING:
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
        try:
            request: AnyRequest = self._decode(document)
        except (msgspec.MsgspecError, RecursionError) as error:
            detail = {} if isinstance(error, RecursionError) else {"reason": str(error)}
            raise Reject("BAD_REQUEST", "invalid websocket payload", **detail) from None
        if "\\" in text:
            check_nul(document)
        return request


WEBSOCKET = Language(GENERIC, NOTES)
"""The language of ``/ws``; the form of each message chooses its dialect."""


class _Envelope(msgspec.Struct):
    request_id: Any = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def request_id_of(text: str) -> str | None:
    """Return the request id of a message that cannot be decoded, if that much can be read."""
    try:
        request_id = _decode_envelope(text.encode()).request_id
    except (msgspec.MsgspecError, RecursionError):
        return None
    return request_id if isinstance(request_id, str) and len(request_id) <= 256 else None
