"""Setup, login, logout, and what users do with their own account."""

from __future__ import annotations

from datetime import datetime

import msgspec
from quart import Response, g, request

from dalsegno.actors.domains.accounts import SetUp, setups, users
from dalsegno.actors.domains.claims import email_claim
from dalsegno.protocol import Reject
from dalsegno.protocol.routes import Access

from ._auth import open_session, same_secret
from ._envelope import answer, nothing, read
from ._identity import Person
from ._log_ins import LoginBody, check_log_in, invalid_credentials, settle_log_in
from ._membership import memberships
from ._route_context import RouteContext
from ._route_table import RouteTable
from ._user_routes import close, register_user


class RegisterBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request of setup."""

    email: str
    password: str
    display_name: str
    workspace_name: str | None = None
    workspace_slug: str = "main"
    setup_token: str | None = None


class PasswordChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change one's password."""

    current_password: str
    new_password: str


class CloseBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to close one's account."""

    current_password: str


class IdentityBody(msgspec.Struct, frozen=True, kw_only=True):
    """The user who is logged in."""

    user_id: str
    email: str
    display_name: str
    role: str | None
    csrf_token: str | None
    expires_at: datetime
    workspace_id: str | None


def account_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("accounts")
    rt = context.rt

    @routes.route(
        "POST",
        "/api/setup/register",
        "Register the first user, and log in.",
        body=RegisterBody,
        returns=IdentityBody,
        status=201,
        access=Access.ANYBODY,
        refusals=[403, 409, 429],
        headers=("x-setup-token",),
    )
    async def register() -> Response:
        context.refuse_foreign_pages()
        body = await read(RegisterBody, bytes_max=rt.limits.login_bytes_max)
        if await rt.system.get(setups, "main") is not None:
            raise Reject("SETUP_LOCKED", "setup was done already")
        given = request.headers.get("x-setup-token", body.setup_token)
        if context.setup_token is not None:
            context.setups.begin(context.address)
            if not same_secret(context.setup_token, given):
                context.note("setup_refused")
                raise Reject("SETUP_TOKEN_INVALID", "not the token that was printed at start")
            context.setups.forget(context.address)
        command = SetUp(
            user_id=rt.world.new_id(),
            email=body.email,
            display_name=body.display_name,
            workspace_id=rt.world.new_id(),
            slug=body.workspace_slug,
            name=body.workspace_name or body.display_name,
        )
        await register_user(context, rt.system, command, body.password)
        context.note("set_up", user_id=command.user_id)
        return await _logged_in(context, command.user_id, status=201)

    @routes.route(
        "POST",
        "/api/auth/login",
        "Log in.",
        body=LoginBody,
        returns=IdentityBody,
        access=Access.ANYBODY,
        refusals=[401, 403, 429],
    )
    async def login() -> Response:
        context.refuse_foreign_pages()
        body = await read(LoginBody, bytes_max=rt.limits.login_bytes_max)
        proven = await check_log_in(context, body)
        return await _logged_in(
            context, proven.user_id, status=200, password_hash=proven.password_hash
        )

    @routes.route(
        "POST",
        "/api/auth/logout",
        "Log out.",
        access=Access.PEOPLE,
    )
    async def logout() -> Response:
        identity = await context.person()
        await rt.accounts.revoke_session(identity.session_hash)
        await context.end_session(identity.session_hash)
        context.note("logged_out", user_id=identity.user_id)
        g.cookie = context.cookie.taken()
        return nothing()

    @routes.route(
        "GET",
        "/api/auth/session",
        "Read who is logged in.",
        returns=IdentityBody,
        access=Access.PEOPLE,
    )
    async def session() -> Response:
        return answer(await _identity_body(context, await context.person()))

    @routes.route(
        "POST",
        "/api/auth/password",
        "Change one's password; other sessions end.",
        body=PasswordChangeBody,
        access=Access.PEOPLE,
        refusals=[429],
    )
    async def change_password() -> Response:
        identity = await context.person()
        body = await read(PasswordChangeBody, bytes_max=rt.limits.login_bytes_max)
        await _check_password(context, identity, body.current_password)
        new_hash = await context.passwords.hash(body.new_password, address=context.address)
        await rt.accounts.put_credential(identity.user_id, new_hash)
        await context.end_sessions(identity.user_id, keep=identity.session_hash)
        context.note("password_changed", user_id=identity.user_id)
        return nothing()

    @routes.route(
        "POST",
        "/api/auth/close",
        "Close one's account.",
        body=CloseBody,
        access=Access.PEOPLE,
        refusals=[409, 429],
    )
    async def close_account() -> Response:
        identity = await context.person()
        body = await read(CloseBody, bytes_max=rt.limits.login_bytes_max)
        await _check_password(context, identity, body.current_password)
        await close(context, identity.user_id, identity.user, by=identity.user_id)
        g.cookie = context.cookie.taken()
        return nothing()

    return routes


async def _check_password(context: RouteContext, identity: Person, password: str) -> None:
    """Check the password of who is logged in, as a log-in would: guesses count together.

    Raises:
        Reject: ``INVALID_CREDENTIALS``.
        RateLimitedError: after too many wrong ones.

    """
    guess = email_claim(identity.user.email), context.address
    password_hash = await context.rt.accounts.find_credential(identity.user_id)
    context.logins.check(*guess)
    is_right = await context.passwords.verify(
        password_hash,
        password,
        address=context.address,
        begin=lambda: context.logins.begin(*guess),
    )
    if not is_right:
        context.note("password_refused", user_id=identity.user_id)
        raise Reject("INVALID_CREDENTIALS", "this is not the current password")
    context.logins.forget(*guess)


async def _logged_in(
    context: RouteContext, user_id: str, *, status: int, password_hash: str | None = None
) -> Response:
    """Begin a session in a cookie."""
    rt = context.rt
    user = await rt.system.get(users, user_id)
    if user is None:
        raise invalid_credentials()  # deleted in this moment
    token, identity = await open_session(rt, user_id, user)
    await settle_log_in(context, user_id, identity.session_hash, password_hash=password_hash)
    context.set_cookie(token, identity.expires_at)
    return answer(await _identity_body(context, identity), status)


async def _identity_body(context: RouteContext, identity: Person) -> IdentityBody:
    joined, _ = await memberships(context.rt, identity.user_id, limit=100)
    oldest = min(joined, key=lambda membership: membership.since, default=None)
    return IdentityBody(
        user_id=identity.user_id,
        email=identity.user.email,
        display_name=identity.user.display_name,
        role=identity.user.role,
        csrf_token=identity.csrf_token,
        expires_at=identity.expires_at,
        workspace_id=None if oldest is None else oldest.workspace_id,
    )
