"""Tokens of our own, for programs that log a person in: asked for, refreshed, ended; tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from quart import Response

from dalsegno.protocol import Reject
from dalsegno.protocol.routes import Access

from ._envelope import answer, nothing, read
from ._listener import SOCKET
from ._log_ins import LoginBody, check_log_in, settle_log_in
from ._own_tokens import TokenReusedError, begin_tokens, refresh_tokens, session_of
from ._route_table import RouteTable
from ._tickets import make_ticket

if TYPE_CHECKING:
    from datetime import datetime

    from ._own_tokens import Granted
    from ._route_context import RouteContext


class RefreshBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request for another pair of tokens, or for the end of them all."""

    refresh_token: str

    def __repr__(self) -> str:
        return "<RefreshBody>"


class TokensBody(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of tokens; how long each is good counts from this answer."""

    access_token: str
    expires_in_ms: int
    refresh_token: str
    refresh_expires_in_ms: int
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - no secret


class TicketRequestBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request for a ticket."""

    path: str


class TicketBody(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket; how long it is good counts from this answer."""

    ticket: str
    expires_in_ms: int


def token_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("tokens")
    rt = context.rt

    @routes.route(
        "POST",
        "/api/auth/token",
        "Log in, for an access token and a refresh token.",
        body=LoginBody,
        returns=TokensBody,
        access=Access.ANYBODY,
        refusals=[401],
    )
    async def log_in() -> Response:
        body = await read(LoginBody, bytes_max=rt.limits.login_bytes_max)
        proven = await check_log_in(context, body)
        granted = await begin_tokens(rt, proven.user_id)
        await settle_log_in(
            context,
            proven.user_id,
            granted.session_hash,
            password_hash=proven.password_hash,
        )
        return answer(_tokens_body(granted, rt.world.now()))

    @routes.route(
        "POST",
        "/api/auth/refresh",
        "Change a refresh token for the next pair of tokens.",
        body=RefreshBody,
        returns=TokensBody,
        access=Access.ANYBODY,
        refusals=[401],
    )
    async def refresh() -> Response:
        body = await read(RefreshBody, bytes_max=rt.limits.login_bytes_max)
        try:
            granted = await refresh_tokens(rt, body.refresh_token)
        except TokenReusedError as error:
            await context.end_session(error.session_hash)
            context.note("token_reused", user_id=error.user_id)
            raise
        return answer(_tokens_body(granted, rt.world.now()))

    @routes.route(
        "POST",
        "/api/auth/revoke",
        "End a log-in with all of its tokens.",
        body=RefreshBody,
        access=Access.ANYBODY,
        refusals=[401],
    )
    async def revoke() -> Response:
        body = await read(RefreshBody, bytes_max=rt.limits.login_bytes_max)
        session = await session_of(rt, body.refresh_token)
        await rt.accounts.revoke_session(session.id_hash)
        await context.end_session(session.id_hash)
        context.note("logged_out", user_id=session.user_id)
        return nothing()

    @routes.route(
        "POST",
        "/api/auth/ticket",
        "Make a ticket: a URL with it opens one socket, once.",
        body=TicketRequestBody,
        returns=TicketBody,
        status=201,
        refusals=[409],
    )
    async def ticket() -> Response:
        identity = await context.authenticate()
        body = await read(TicketRequestBody)
        if body.path != SOCKET and rt.app.socket_at(body.path) is None:
            raise Reject("BAD_REQUEST", "a ticket opens a socket, and there is none", field="path")
        made = await make_ticket(rt, identity, body.path)
        return answer(TicketBody(ticket=made, expires_in_ms=int(rt.limits.ticket_s * 1000)), 201)

    return routes


def _tokens_body(granted: Granted, now: datetime) -> TokensBody:
    return TokensBody(
        access_token=granted.access_token,
        expires_in_ms=_left_ms(granted.access_expires_at, now),
        refresh_token=granted.refresh_token,
        refresh_expires_in_ms=_left_ms(granted.refresh_expires_at, now),
    )


def _left_ms(until: datetime, now: datetime) -> int:
    return max(int((until - now).total_seconds() * 1000), 0)
