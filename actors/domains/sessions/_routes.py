"""The replay over HTTP: three reads, each as a GET and as a method of JSON-RPC 2.0 (§3.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dalsegno.protocol import DalsegnoError, Reject
from dalsegno.protocol.routes import Asked, Limit, ReadRoute

from ._replay import (
    EventsSince,
    LatestCursor,
    ReplayCursor,
    SessionLog,
    SessionScope,
    SnapshotAt,
    latest_cursor,
    list_since,
    snapshot,
)

if TYPE_CHECKING:
    from dalsegno.protocol.routes import At, Route

LogOf = Callable[[Asked[Any, Any], str], Awaitable[SessionLog]]
"""Returns a session's log as who asks may read it; raises ``SESSION_NOT_FOUND``."""

_REFUSED = frozenset({400, 404, 409, 503})
_BASE = "/api/v1/sessions/{session_id}"


class OneSession(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a read of a session."""

    session_id: str


class Since(OneSession, frozen=True, kw_only=True):
    """The parameters of a page of a session's events."""

    cursor: (
        Annotated[str, Meta(description="the number that was seen last, or a cursor as JSON")]
        | None
    ) = None
    limit: Limit = 100


class RpcRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of JSON-RPC 2.0; a notification would have no answer, and is none."""

    jsonrpc: Literal["2.0"]
    id: int | str | None
    method: str
    params: Any = None


class RpcError(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    code: int
    message: str
    data: dict[str, Any]


class RpcAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request: a result or an error."""

    jsonrpc: Literal["2.0"] = "2.0"
    id: int | str | None
    result: Any = UNSET
    """What the GET of the same name answers."""
    error: RpcError | UnsetType = UNSET


class _ScopeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scope: SessionScope


class _SinceParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scope: SessionScope
    cursor: ReplayCursor | None = None
    limit: Limit | None = None


INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32600, -32601, -32602, -32603
SESSION_NOT_FOUND = -32001

_KNOWN = {
    "BAD_REQUEST": (INVALID_PARAMS, None),
    "CURSOR_SCOPE_MISMATCH": (INVALID_PARAMS, "scope_mismatch"),
    "CURSOR_AHEAD": (INVALID_PARAMS, "ahead_of_latest"),
    "CURSOR_OVERFLOW": (INVALID_PARAMS, "sequence_overflow"),
    "STALE_CURSOR": (INVALID_PARAMS, "stale"),
    "SESSION_NOT_FOUND": (SESSION_NOT_FOUND, None),
    "SESSION_HALTED": (INTERNAL_ERROR, None),
    "SESSION_STORE_ERROR": (INTERNAL_ERROR, None),
}
"""The errors that are answers of JSON-RPC, by their codes here; all others are those of HTTP."""


def replay_routes(log_of: LogOf, *, at: At | None = None) -> tuple[Route, ...]:
    """Return the routes of the replay.

    Args:
        log_of: returns a session's log as who asks may read it.
        at: where the three that name their session in the path are about one of a workspace.

    """

    async def read_cursor(asked: Asked[OneSession, None]) -> LatestCursor:
        session_id = asked.params.session_id
        return await latest_cursor(await log_of(asked, session_id), SessionScope(session_id))

    async def read_since(asked: Asked[Since, None]) -> EventsSince:
        scope = SessionScope(asked.params.session_id)
        cursor = _cursor_of(scope, asked.params.cursor)
        limit = _limit_of(asked, asked.params.limit)
        return await list_since(await log_of(asked, scope.session_id), scope, cursor, limit)

    async def read_snapshot(asked: Asked[OneSession, None]) -> SnapshotAt:
        session_id = asked.params.session_id
        return await snapshot(await log_of(asked, session_id), SessionScope(session_id))

    async def call(asked: Asked[None, Any]) -> RpcAnswer:
        return await _call(log_of, asked)

    return (
        _get("latest_cursor", OneSession, read_cursor, LatestCursor, at, "Read where it ends."),
        _get("list_since", Since, read_since, EventsSince, at, "Read the events after a cursor."),
        _get("snapshot", OneSession, read_snapshot, SnapshotAt, at, "Read what it is now."),
        ReadRoute(
            "POST",
            "/api/v1/rpc",
            summary="Read a session by JSON-RPC 2.0.",
            group="sessions",
            body=Any,
            read=call,
            returns=RpcAnswer,
            refusals=frozenset({400, 503}),
            adds_request_id=False,
        ),
    )


def _get(
    name: str,
    params: type[msgspec.Struct],
    read: Callable[[Asked[Any, None]], Awaitable[msgspec.Struct]],
    returns: type[msgspec.Struct],
    at: At | None,
    summary: str,
) -> ReadRoute:
    return ReadRoute(
        "GET",
        f"{_BASE}/{name}",
        summary=f"Session: {summary[0].lower()}{summary[1:]}",
        group="sessions",
        at=at,
        params=params,
        read=read,
        returns=returns,
        refusals=_REFUSED,
    )


def _cursor_of(scope: SessionScope, text: str | None) -> ReplayCursor | None:
    """Read a cursor of a query: a number in the session of the path, or one that names its own.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    if text is None:
        return None
    if text.isdecimal() and text.isascii():
        return ReplayCursor(scope=scope, sequence=int(text[:_DIGITS_MAX]))
    try:
        return msgspec.json.decode(text, type=ReplayCursor)
    except (msgspec.MsgspecError, RecursionError):
        raise Reject("BAD_REQUEST", "no cursor", field="cursor") from None


_DIGITS_MAX = 100
"""Far more than any number of an event has."""


def _limit_of(asked: Asked[Any, Any], limit: int | None) -> int:
    most = asked.limits.list_limit_max
    if limit is not None and limit > most:
        raise Reject("BAD_REQUEST", f"limit is at most {most}", field="limit")
    return min(100, most) if limit is None else limit


# ------------------------------------------------------------------------------------ JSON-RPC


async def _call(log_of: LogOf, asked: Asked[None, Any]) -> RpcAnswer:
    """Carry out a request; what is wrong with it is in the answer, as JSON-RPC has it.

    Raises:
        DalsegnoError: what is wrong with the server, or with who asks.

    """
    try:
        request = msgspec.convert(asked.body, RpcRequest)
    except msgspec.ValidationError as error:
        return _refused(None, INVALID_REQUEST, str(error), {"code": "BAD_REQUEST"})
    try:
        return RpcAnswer(id=request.id, result=await _result(log_of, asked, request))
    except msgspec.ValidationError as error:
        return _refused(request.id, INVALID_PARAMS, str(error), {"code": "BAD_REQUEST"})
    except DalsegnoError as error:
        if error.code == "UNKNOWN_METHOD":
            return _refused(request.id, METHOD_NOT_FOUND, error.message, {"code": error.code})
        if error.code not in _KNOWN:
            raise
        code, type_ = _KNOWN[error.code]
        named = {} if type_ is None else {"type": type_}
        return _refused(
            request.id, code, error.message, {**named, "code": error.code, **error.details}
        )


async def _result(
    log_of: LogOf, asked: Asked[None, Any], request: RpcRequest
) -> LatestCursor | EventsSince | SnapshotAt:
    match request.method:
        case "events/latest_cursor":
            scope = msgspec.convert(request.params, _ScopeParams).scope
            return await latest_cursor(await log_of(asked, scope.session_id), scope)
        case "events/list_since":
            params = msgspec.convert(request.params, _SinceParams)
            scope, limit = params.scope, _limit_of(asked, params.limit)
            return await list_since(
                await log_of(asked, scope.session_id), scope, params.cursor, limit
            )
        case "events/snapshot":
            scope = msgspec.convert(request.params, _ScopeParams).scope
            return await snapshot(await log_of(asked, scope.session_id), scope)
    raise Reject("UNKNOWN_METHOD", "no such method", status=400)


def _refused(id_: int | str | None, code: int, message: str, data: dict[str, Any]) -> RpcAnswer:
    return RpcAnswer(id=id_, error=RpcError(code=code, message=message, data=data))
