"""The WebSocket opening handshake, from a request's head to 101 or a refusal (RFC 6455 §4.2).

Refusals are plain HTTP with the error envelope, so that a client learns the reason.
"""

from __future__ import annotations

import email.utils
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from dalsegno.protocol import DalsegnoError, OverloadedError, Reject, http_status

from ._credentials import OFFERS, TICKET, Credentials, is_deferred, offered_in
from ._error_body import ErrorBody, challenge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hypercorn.typing import WebsocketScope

    from ._hosts import Hosts

SUBPROTOCOL = Subprotocol("dalsegno.v1")
"""The protocol's version in ``Sec-WebSocket-Protocol``."""

_REQUEST_ID_CHARS_MAX = 128
_QUERY_FIELDS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeRequest:
    """A client's request for an upgrade."""

    path: str
    """The target up to the question mark."""
    query: Mapping[str, Sequence[str]]
    """The parameters after it, each with all its values."""
    headers: Mapping[str, str]
    """By lower-case name; repeated ones are joined by RFC 9110 §5.3, cookies by ``; ``."""
    peer: str
    """The client's address; empty if it is unknown."""
    request_id: str
    """The client's ``x-request-id``, or a new one."""
    credentials: Credentials
    """What says who asks."""
    is_deferred: bool
    """Whether its first message does; a cookie beside that is not looked at."""
    takes_batches: bool
    """Whether several messages may come as one, an array of them (``?batch=1``)."""


class HandshakeRefusedError(Exception):
    """The handshake is answered with this status and the error envelope."""

    def __init__(self, status: int, error: DalsegnoError, *headers: tuple[str, str]) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error
        self.headers = headers


def parse_upgrade(
    head: bytes, *, peer: str, new_request_id: str, hosts: Hosts
) -> tuple[UpgradeRequest, bytes]:
    """Check a handshake.

    Args:
        head: The request's head with its empty line.
        peer: The client's address.
        new_request_id: The request's id unless the client gives one.
        hosts: What this server is called, and whose pages may connect.

    Returns:
        The request, and the 101 that accepts it.

    Raises:
        HandshakeRefusedError: It violates a rule.

    """
    protocol = ServerProtocol(select_subprotocol=_choose)
    protocol.receive_data(head)
    events = protocol.events_received()
    if not events:
        raise _bad_request("this request cannot be upgraded")
    (request,) = events
    assert isinstance(request, Request)
    _check_version(request)
    _check_names(request, hosts)
    response = protocol.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        error = Reject("BAD_REQUEST", str(protocol.handshake_exc))
        raise HandshakeRefusedError(response.status_code, error)
    return _read(request, peer, new_request_id), response.serialize()


def upgrade_of(
    scope: WebsocketScope, *, new_request_id: str, hosts: Hosts
) -> tuple[UpgradeRequest, str | None]:
    """Check a handshake that an ASGI server has begun.

    Args:
        scope: What the server tells of it.
        new_request_id: The request's id unless the client gives one.
        hosts: What this server is called, and whose pages may connect.

    Returns:
        The request, and the subprotocol that accepts it.

    Raises:
        HandshakeRefusedError: It violates a rule.

    """
    headers = Headers()
    for name, value in scope["headers"]:
        headers[name.decode("latin-1")] = value.decode("latin-1")
    target = (scope["raw_path"] + b"?" + scope["query_string"]).decode("latin-1")
    request = Request(target, headers)
    _check_names(request, hosts)
    peer, *_ = scope["client"] or ("",)
    chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
    return _read(request, peer, new_request_id), chosen


def _read(request: Request, peer: str, new_request_id: str) -> UpgradeRequest:
    headers = _joined(request)
    offers = request.headers.get_all(OFFERS)
    path, _, query_text = request.path.partition("?")
    query = _parsed(query_text)
    credentials = Credentials(
        headers.get("cookie"),
        [*request.headers.get_all("Authorization"), *offered_in(offers)],
        request.headers.get_all("X-API-Key"),
        [each for each in query.get(TICKET, ()) if each],
    )
    return UpgradeRequest(
        path=path,
        query=query,
        headers=headers,
        peer=peer,
        request_id=_named(headers.get("x-request-id", "")) or new_request_id,
        credentials=credentials,
        is_deferred=is_deferred(credentials, offers),
        takes_batches=_takes_batches(query),
    )


def refusal(
    status: int, error: DalsegnoError, request_id: str, now: datetime, *headers: tuple[str, str]
) -> bytes:
    """Return a refusal as bytes: the error envelope, with ``Connection: close``."""
    fields, body = refusal_of(error, request_id, *headers)
    fields = [
        ("Date", email.utils.format_datetime(now, usegmt=True)),
        ("Connection", "close"),
        *fields,
    ]
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def refusal_of(
    error: DalsegnoError, request_id: str, *headers: tuple[str, str]
) -> tuple[list[tuple[str, str]], bytes]:
    """Return a refusal as fields and body: the error envelope."""
    body = msgspec.json.encode(
        ErrorBody(
            code=error.code,
            message=error.message,
            details=error.details or None,
            request_id=request_id,
        )
    )
    fields = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Request-Id", request_id),
        *headers,
    ]
    return fields, body


def refused(error: DalsegnoError) -> HandshakeRefusedError:
    """Return the refusal for an error, with the HTTP status of its code."""
    headers, status = [], http_status(error)
    if isinstance(error, OverloadedError):
        headers.append(("Retry-After", str(math.ceil(error.retry_after_s))))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", challenge(error)))
    return HandshakeRefusedError(status, error, *headers)


def _bad_request(message: str) -> HandshakeRefusedError:
    return HandshakeRefusedError(HTTPStatus.BAD_REQUEST, Reject("BAD_REQUEST", message))


def _choose(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def _check_version(request: Request) -> None:
    """Refuse other versions, and name the supported one (RFC 6455 §4.4)."""
    if request.headers.get_all("Sec-WebSocket-Version") != ["13"]:
        error = Reject("BAD_REQUEST", "only WebSocket version 13 is supported")
        headers = ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")
        raise HandshakeRefusedError(HTTPStatus.UPGRADE_REQUIRED, error, *headers)


def _check_names(request: Request, hosts: Hosts) -> None:
    """Refuse pages of other sites, which would send our user's cookies (RFC 6455 §10.2)."""
    named = request.headers.get_all("Host")
    if len(named) != 1:
        raise _bad_request("exactly one Host header is needed")  # RFC 9112 §3.2
    try:
        hosts.check_host(named)
        hosts.check_origin(request.headers.get_all("Origin"), named)
    except Reject as error:
        raise refused(error) from None


def _parsed(query: str) -> Mapping[str, Sequence[str]]:
    """Return the parameters of a query, of which there may be few."""
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError:
        raise _bad_request("too many parameters") from None


def _takes_batches(query: Mapping[str, Sequence[str]]) -> bool:
    asked = query.get("batch", ["0"])
    if len(asked) > 1 or asked[0] not in {"0", "1"}:
        raise _bad_request("batch is 0 or 1")
    return asked[0] == "1"


def _joined(request: Request) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in request.headers.raw_items():
        name = name.lower()
        if name in joined:
            value = joined[name] + ("; " if name == "cookie" else ", ") + value
        joined[name] = value
    return joined


def _named(request_id: str) -> str:
    """Return a client's id for its request if it is safe in headers and logs, else ``""``."""
    fits = len(request_id) <= _REQUEST_ID_CHARS_MAX and request_id.isascii()
    return request_id if fits and request_id.isprintable() else ""
