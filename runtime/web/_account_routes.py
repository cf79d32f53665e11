"""Setup, login, logout, users."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from quart import Blueprint, Response, g, request

from dalsegno.actors.domains.accounts import RegisterUser, SetUp, User, setups, users
from dalsegno.actors.domains.claims import claims, email_claim
from dalsegno.actors.domains.members import Role
from dalsegno.protocol import SYSTEM_WORKSPACE, DalsegnoError, OutcomeUnknownError, Reject

from ._auth import Identity, open_session, same_secret
from ._envelope import answer, nothing, query_after, query_int, read, request_id
from ._membership import memberships, state_among
from ._route_context import RouteContext, check_global_admin, refuse_foreign_pages

if TYPE_CHECKING:
    from dalsegno.actors import Receipt
    from dalsegno.runtime import Workspace


class RegisterBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request of setup."""

    email: str
    password: str
    display_name: str
    workspace_name: str | None = None
    workspace_slug: str = "main"
    setup_token: str | None = None


class LoginBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request of a login."""

    email: str
    password: str


class UserCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request of an administrator to register a user."""

    email: str
    display_name: str
    password: str
    role: Role


class IdentityBody(msgspec.Struct, frozen=True, kw_only=True):
    """The user who is logged in."""

    user_id: str
    email: str
    display_name: str
    role: str | None
    csrf_token: str
    expires_at: datetime
    workspace_id: str | None


class UserBody(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    user_id: str
    email: str
    display_name: str
    role: str | None
    status: str
    created_at: datetime


class UsersBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of accounts."""

    items: list[UserBody]
    next: str | None


def account_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("accounts", __name__)
    rt = context.rt

    @routes.post("/api/setup/register")
    async def register() -> Response:
        refuse_foreign_pages()
        body = await read(RegisterBody, bytes_max=rt.limits.login_bytes_max)
        if await rt.system.get(setups, "main") is not None:
            raise Reject("SETUP_LOCKED", "setup was done already")
        given = request.headers.get("x-setup-token", body.setup_token)
        if context.setup_token is not None:
            context.setups.begin(context.address)
            if not same_secret(context.setup_token, given):
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
        await _with_credential(context, rt.system, command, body.password)
        return await _logged_in(context, command.user_id, status=201)

    @routes.post("/api/auth/login")
    async def login() -> Response:
        refuse_foreign_pages()
        body = await read(LoginBody, bytes_max=rt.limits.login_bytes_max)
        # The claim and not the account: one that does not exist is guarded as well.
        claim_id = email_claim(body.email)
        guess = claim_id, context.address
        context.logins.check(*guess)
        claim = await rt.system.get(claims, claim_id)
        user_id = "" if claim is None else claim.by
        password_hash = await rt.accounts.find_credential(user_id)
        is_right = await context.passwords.verify(
            password_hash,
            body.password,
            address=context.address,
            begin=lambda: context.logins.begin(*guess),
        )
        user = await rt.system.get(users, user_id) if is_right else None
        if user is None or user.role is None:
            raise Reject("INVALID_CREDENTIALS", "unknown e-mail address or wrong password")
        context.logins.forget(*guess)
        return await _logged_in(context, user_id, status=200)

    @routes.post("/api/auth/logout")
    async def logout() -> Response:
        identity = await context.authenticate()
        await rt.accounts.revoke_session(identity.session_hash)
        await context.close_session(identity.session_hash)
        g.cookie = context.cookie.taken()
        return nothing()

    @routes.get("/api/auth/session")
    async def session() -> Response:
        return answer(await _identity_body(context, await context.authenticate()))

    @routes.get("/api/users")
    async def list_users() -> Response:
        identity = await context.authenticate()
        check_global_admin(identity.user)
        limit = query_int("limit", 100, least=1, most=rt.limits.list_limit_max)
        page = await rt.system.entities(users, after=users.stream_id(query_after()), limit=limit)
        ids = [item.stream_id.partition(":")[2] for item in page]
        found = await rt.service.catalog.look_many(
            (SYSTEM_WORKSPACE, users, user_id) for user_id in (identity.user_id, *ids)
        )
        check_global_admin(state_among(found, SYSTEM_WORKSPACE, users, identity.user_id))
        states = (
            (user_id, state_among(found, SYSTEM_WORKSPACE, users, user_id)) for user_id in ids
        )
        items = [_user_body(user_id, user) for user_id, user in states if user is not None]
        return answer(UsersBody(items=items, next=ids[-1] if len(ids) == limit else None))

    @routes.post("/api/users")
    async def create_user() -> Response:
        identity = await context.authenticate()
        check_global_admin(identity.user)
        body = await read(UserCreateBody)
        command = RegisterUser(
            user_id=rt.world.new_id(),
            email=body.email,
            display_name=body.display_name,
            role=body.role,
        )
        acting = rt.system.acting(user_id=identity.user_id)
        await _with_credential(context, acting, command, body.password)
        user = await rt.system.get(users, command.user_id)
        assert user is not None, "just registered"
        return answer(_user_body(command.user_id, user), 201)

    return routes


async def _with_credential(
    context: RouteContext, system: Workspace, command: SetUp | RegisterUser, password: str
) -> Receipt:
    """Create an account whose password is set before it exists.

    The password's row is written first: without an account it has no effect, while an account
    without a password would lock its user out.
    """
    accounts = context.rt.accounts
    password_hash = await context.passwords.hash(password, address=context.address)
    await accounts.put_credential(command.user_id, password_hash)
    try:
        return await system.send(command, correlation_id=request_id())
    except OutcomeUnknownError:
        raise
    except DalsegnoError:
        await accounts.delete_credential(command.user_id)
        raise


async def _logged_in(context: RouteContext, user_id: str, *, status: int) -> Response:
    user = await context.rt.system.get(users, user_id)
    assert user is not None, "checked by the caller"
    token, identity = await open_session(context.rt, user_id, user)
    context.set_cookie(token)
    return answer(await _identity_body(context, identity), status)


async def _identity_body(context: RouteContext, identity: Identity) -> IdentityBody:
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


def _user_body(user_id: str, user: User) -> UserBody:
    return UserBody(
        user_id=user_id,
        email=user.email,
        display_name=user.display_name,
        role=user.role,
        status=user.status,
        created_at=user.created_at,
    )
