"""The ETag of an entity of any domain: ``"version-chain8"``.

A version alone lies after a restore, where another history has another event under the same number;
so the tag has the end of the event's chain as well, and a client's copy of what is no longer true
is neither confirmed (304) nor built upon (412).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import msgspec
from quart import Response, request

from dalsegno.protocol import SEQ_MAX, Reject, chain_text

if TYPE_CHECKING:
    from dalsegno.protocol import Event

_TAG = re.compile(r'"([1-9][0-9]{0,18})-([0-9a-f]{8})"', re.ASCII)
_ANY_TAG = re.compile(r'(?:W/)?("[^"]*")')
_CHARS = 8
"""Of the chain: an accident of one in four thousand million, and no secret."""


@dataclass(frozen=True, slots=True)
class EntityTag:
    """A version of an entity in one history."""

    version: int
    chain: str
    """The last digits of its event's chain."""

    def __str__(self) -> str:
        return f'"{self.version}-{self.chain}"'

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return the tag of the version that an event made."""
        return cls(event.stream_seq, chain_text(event.chain)[-_CHARS:])

    @classmethod
    def asked_for(cls) -> Self | None:
        """Return what the request's ``If-Match`` says; None without one.

        Raises:
            Reject: ``BAD_REQUEST`` for what no answer of ours had.

        """
        header = ",".join(request.headers.getlist("if-match")).strip()
        if not header:
            return None
        tag = _TAG.fullmatch(header)
        if tag is None or int(tag[1]) > SEQ_MAX:
            raise Reject("BAD_REQUEST", "if-match is one ETag, as it was given", field="if-match")
        return cls(int(tag[1]), tag[2])

    @property
    def is_known(self) -> bool:
        """Whether the client says that it has this, by ``If-None-Match``."""
        said = ",".join(request.headers.getlist("if-none-match")).strip()
        return said == "*" or str(self) in _ANY_TAG.findall(said)

    def not_modified(self) -> Response:
        """Return the answer that says so: 304, with nothing in it."""
        return self.put_on(Response(b"", status=304))

    def put_on(self, response: Response) -> Response:
        """Return a response with the tag on it."""
        response.headers["etag"] = str(self)
        return response

    def put_into(self, document: bytes) -> bytes:
        """Return a command's payload with the version as its ``base_version``.

        Raises:
            Reject: ``BAD_REQUEST`` if it is no object, or says otherwise.

        """
        try:
            fields = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        except msgspec.MsgspecError:
            raise Reject("BAD_REQUEST", "a command's payload is a JSON object") from None
        version = msgspec.Raw(str(self.version).encode())
        said = fields.setdefault("base_version", version)
        if bytes(said) not in {bytes(version), b"null"}:
            raise Reject("BAD_REQUEST", "base_version and if-match differ", field="if-match")
        fields["base_version"] = version
        return msgspec.json.encode(fields)
