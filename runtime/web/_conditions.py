"""Preconditions of a request (RFC 9110 §13): an entity's version is its strong ``ETag``.

``If-Match`` says for any change what ``base_version`` says in a body or a query, and a change that
it does not fit is refused in the same way, 409 with the current version.
"""

from __future__ import annotations

import re

from quart import Response, request

from dalsegno.protocol import SEQ_MAX, Reject

_STRONG = re.compile(r'"([0-9]{1,19})"', re.ASCII)
_ANY_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def tagged(response: Response, version: int) -> Response:
    """Return a response with an entity's version as its ``ETag``."""
    response.headers["etag"] = _tag(version)
    return response


def is_known(version: int) -> bool:
    """Return whether the client says that it has this version already, by ``If-None-Match``."""
    said = ",".join(request.headers.getlist("if-none-match")).strip()
    return said == "*" or str(version) in _ANY_TAG.findall(said)


def not_modified(version: int) -> Response:
    """Return the response that says so: 304, with nothing in it."""
    return tagged(Response(b"", status=304), version)


def base_version() -> int | None:
    """Return the version that a change is based on, of ``If-Match``.

    Raises:
        Reject: ``BAD_REQUEST`` for a header that no answer of ours had.

    """
    header = ",".join(request.headers.getlist("if-match")).strip()
    if header in {"", "*"}:
        return None
    tag = _STRONG.fullmatch(header)
    if tag is None or not 1 <= int(tag[1]) <= SEQ_MAX:
        raise Reject("BAD_REQUEST", "if-match is one ETag, as it was given", field="if-match")
    return int(tag[1])


def _tag(version: int) -> str:
    return f'"{version}"'
