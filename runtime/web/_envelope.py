"""What all requests and all responses have in common.

A response carries ``x-request-id``, the caller's own or a new one; a JSON body repeats it as
``request_id``.  Every error, in a route, before one was found, or in our own code, has the same
envelope: ``{code, message, details, request_id}``.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from traceback import format_exception
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
from quart import Response, g, has_websocket_context, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import BadHost, HTTPException

from dalsegno.actors import in_turns
from dalsegno.protocol import (
    DalsegnoError,
    InternalError,
    KnownFields,
    OverloadedError,
    Reject,
    WorkspaceMovedError,
    http_status,
    reason_of,
    refusal,
    scan,
)

from ._admission import overloaded
from ._body import TimedRequest, read_body
from ._error_body import ErrorBody, challenge
from ._paths import MatchedRule, Segment, routed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
    from quart.typing import ResponseTypes
    from quart.wrappers.base import BaseRequestWebsocket
    from werkzeug.routing import MapAdapter

    from dalsegno.actors import World
    from dalsegno.protocol import Limits, Receipt

    from ._documents import Documents

T = TypeVar("T", bound=msgspec.Struct)
DecodedT = TypeVar("DecodedT")

_log = structlog.get_logger("dalsegno.web")

REPLAYED = "x-idempotency-replay"
"""The header that marks a repeated answer (X-IDEM-7)."""

EVERYWHERE = "x-effective-everywhere-within-ms"
"""The header that says how long other nodes may take to apply a revocation."""

ALIVE = "/healthz"
"""The path that is answered however many requests there are: a busy server is alive."""

_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,128}")
_SAFE = frozenset({"GET", "HEAD"})
_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE"}


_held: ContextVar[ExitStack] = ContextVar("held")


class Application(QuartTrio):
    """Quart with five changes.

    Its hooks also see a request with an impossible ``Host``; it counts its requests; a body has to
    arrive in time; an id in a path may have slashes; and its rules are cheap to make.
    """

    request_class = TimedRequest
    url_rule_class = MatchedRule  # type: ignore[assignment]  # as Quart has it
    requests = 0
    """HTTP requests that are being read, worked on or answered."""
    streams = 0
    """… and those of them whose answers are event streams, which have a bound of their own."""
    documents: Documents
    """What it says of itself."""

    async def asgi_app(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve a request, counting it until its answer is sent; or a WebSocket."""
        is_request = scope["type"] == "http"
        self.requests += is_request
        try:
            with ExitStack() as held:
                _held.set(held)
                await super().asgi_app(routed(scope), receive, send)
        finally:
            self.requests -= is_request

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Count an answer as a stream for the length of a block."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Return the adapter that routes this request; None if its ``Host`` is no host's name."""
        try:
            return super().create_url_adapter(request)
        except BadHost:
            return None


def install(app: Application, *, world: World, limits: Limits) -> None:
    """Install the envelope for an application's requests, including refused upgrades."""
    app.config["MAX_CONTENT_LENGTH"] = limits.body_bytes_max
    app.config["BODY_TIMEOUT"] = None  # `read_body` has its own
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.converters["default"] = Segment
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False

    @app.before_request
    @app.before_websocket
    async def begin() -> None:
        asked = _asked().headers.get("x-request-id", "")
        g.request_id = asked if _REQUEST_ID.fullmatch(asked) else world.new_id()
        g.limits = limits
        g.refused = app.requests - app.streams > limits.requests_max and _asked().path != ALIVE
        if g.refused:
            raise overloaded("too many requests", world.random)
        if _asked().url_rule is None and _asked().routing_exception is None:
            raise Reject("BAD_REQUEST", "the host header is not a host's name")

    def finish(response: ResponseTypes) -> ResponseTypes:
        response.headers["x-request-id"] = g.request_id
        response.headers.setdefault("cache-control", "no-store")
        response.headers["x-content-type-options"] = "nosniff"
        if cookie := g.get("cookie"):
            response.headers["set-cookie"] = cookie
        return response

    @app.after_request
    async def finish_request(response: ResponseTypes) -> ResponseTypes:
        response = _if_it_may_still(response)
        if not await _drained():
            response.headers["connection"] = "close"
        if "everywhere_within_ms" in g:
            response.headers[EVERYWHERE] = str(g.everywhere_within_ms)
        return finish(response)

    @app.after_websocket
    async def finish_refused(response: ResponseTypes | None) -> ResponseTypes | None:
        return None if response is None else finish(response)

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        return _failed(error)


def _if_it_may_still(response: ResponseTypes) -> ResponseTypes:
    """Return the answer of a read, or a refusal where the access of who asks has ended meanwhile.

    What was changed is answered all the same: it was done.
    """
    if request.method in _SAFE and "asking" in g:
        try:
            g.asking.check()
        except Reject as error:
            return _failed(error)
    return response


def _asked() -> BaseRequestWebsocket:
    """Return the current request, or the current upgrade to WebSocket."""
    return websocket if has_websocket_context() else request


def held() -> ExitStack:
    """Return what is given back once the current request is answered, or its client is gone: also
    where an answer was made and not a byte of it was sent.
    """
    return _held.get()


def request_id() -> str:
    """Return the id of the current request."""
    return str(g.request_id)


def answer(body: msgspec.Struct, status: int = 200) -> Response:
    """Return a response with a body, to which the request's id is added."""
    encoded = msgspec.json.encode(body)
    encoded = b'%b,"request_id":%b}' % (encoded[:-1], msgspec.json.encode(request_id()))
    return _json(encoded, status)


def answer_json(document: bytes) -> Response:
    """Return a response with a document that is sent as it is, without the request's id in it."""
    return _json(document, 200)


def replayed(response: Response, receipt: Receipt) -> Response:
    """Return a response to a command, marked where it is the answer of an earlier one."""
    if receipt.repeated:
        response.headers[REPLAYED] = "true"
    return response


def nothing() -> Response:
    """Return a response without a body: 204."""
    return Response(b"", status=204)


async def read(type_: type[T], *, bytes_max: int | None = None, known: bool = False) -> T:
    """Read the request's body, letting others run amid the look at a long one.

    Args:
        type_: what it has to be.
        bytes_max: how long it may be, if that is less than for other requests.
        known: refuse fields that the type has not.

    Raises:
        Reject: ``UNSUPPORTED_MEDIA_TYPE`` if it is not said to be JSON, ``BAD_REQUEST`` if it is
            not, or not of this type.
        HTTPException: it is too long or too slow.

    """
    _check_content_type()
    document = await read_body(g.limits, bytes_max)
    body = await in_turns(_decoding(document, type_))
    if known:
        _known_fields(type_).check(body, document)
    return body


async def read_document(*, bytes_max: int | None = None) -> bytes:
    """Read the request's body, JSON that is decoded later; see `read`.

    Raises:
        Reject: ``UNSUPPORTED_MEDIA_TYPE``; ``BAD_REQUEST`` for what cannot be stored.
        HTTPException: it is too long or too slow.

    """
    _check_content_type()
    document = await read_body(g.limits, bytes_max)
    await in_turns(scan(document, g.limits.nesting_max))
    return document


async def read_any() -> Any:  # noqa: ANN401 - any JSON
    """Read the request's body, whatever JSON it is; see `read`.

    Raises:
        Reject: ``UNSUPPORTED_MEDIA_TYPE``, ``BAD_REQUEST``.
        HTTPException: it is too long or too slow.

    """
    _check_content_type()
    return await in_turns(_decoding(await read_body(g.limits), object))


@cache
def _known_fields(type_: type[msgspec.Struct]) -> KnownFields:
    return KnownFields(type_)


def _check_content_type() -> None:
    """Refuse a body that a form of another site's page could have sent as it is."""
    if request.mimetype != "application/json":
        message = "a body is JSON, with content-type: application/json"
        raise Reject("UNSUPPORTED_MEDIA_TYPE", message)


async def _drained() -> bool:
    """Read the rest of the body; return whether the connection can serve another request.

    A body that is too long or too slow is not read to its end, nor that of a request that was
    refused unread; the connection then ends with the response, which must say so, or the client's
    next request would be lost.
    """
    if g.refused:
        return False
    try:
        await read_body(g.limits)
    except HTTPException:
        return False
    return True


def _decoding(document: bytes, type_: type[DecodedT]) -> Generator[None, None, DecodedT]:
    """Decode JSON from outside, refusing what cannot be stored or is nested too deeply."""
    yield from scan(document, g.limits.nesting_max)
    try:
        return msgspec.json.decode(document, type=type_)
    except msgspec.ValidationError as error:
        raise refusal(error, type_) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Reject("BAD_REQUEST", reason_of(error)) from None


def _failed(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        response = _refused(_of_http(error), error.code or 500)
        if error.code == 405:
            response.headers["allow"] = ", ".join(
                sorted(getattr(error, "valid_methods", None) or ())
            )
        return response
    if isinstance(error, DalsegnoError):
        status = http_status(error)
        g.failed_with = error.code
        if status == 500:
            _report(error)
        response = _refused(error, status)
        if status == 401:
            response.headers["www-authenticate"] = challenge(error)
        if isinstance(error, (OverloadedError, WorkspaceMovedError)):
            response.headers["retry-after"] = str(math.ceil(error.retry_after_s))
        return response
    _report(error)
    return _refused(InternalError("an internal error; it is logged under this request's id"), 500)


def _report(error: Exception) -> None:
    """Log an error; formatted here, since a log that shows locals would show passwords."""
    _log.error(
        "a request failed",
        request_id=request_id(),
        method=_asked().method,
        path=_asked().path,
        exception="".join(format_exception(error)),
    )


def _of_http(error: HTTPException) -> Reject:
    """Return an error of the web framework as one of ours."""
    status = error.code or 500
    code = _CODES.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR")
    return Reject(code, error.name.lower())


def _refused(error: DalsegnoError, status: int) -> Response:
    body = ErrorBody(
        code=error.code,
        message=error.message,
        details=error.details or None,
        request_id=request_id(),
    )
    return _json(msgspec.json.encode(body), status)


def _json(encoded: bytes, status: int) -> Response:
    return Response(encoded, status=status, content_type="application/json")
