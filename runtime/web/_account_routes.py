"""Setup, login, logout, users."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from quart import Blueprint, Response, g, request

from dalsegno.actors.domains.accounts import RegisterUser, SetUp, User, setups, users
from dalsegno.actors.domains.claims import claims, email_claim
from dalsegno.actors.domains.members import Role
from dalsegno.protocol import DalsegnoError, OutcomeUnknownError, Reject

from ._auth import Identity, clear_cookie, open_session, same_secret
from ._envelope import answer, following, nothing, number, read, request_id
from ._membership import memberships
from ._site import Site, check_global_admin, refuse_foreign_pages

if TYPE_CHECKING:
    from dalsegno.actors import Receipt
    from dalsegno.runtime import Workspace


class RegisterBody(msgspec.Struct, frozen=True, kw_only=True):
    """What setup is asked with."""

    email: str
    password: str
    display_name: str
    workspace_name: str | None = None
    workspace_slug: str = "main"
    setup_token: str | None = None


class LoginBody(msgspec.Struct, frozen=True, kw_only=True):
    """What login is asked with."""

    email: str
    password: str


class UserCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """Whom an administrator registers."""

    email: str
    display_name: str
    password: str
    role: Role


class IdentityBody(msgspec.Struct, frozen=True, kw_only=True):
    """Who is logged in."""

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


def account_routes(site: Site) -> Blueprint:
    """Make the routes."""
    routes = Blueprint("accounts", __name__)
    rt = site.rt

    @routes.post("/api/setup/register")
    async def register() -> Response:
        refuse_foreign_pages()
        body = await read(RegisterBody)
        if await rt.system.get(setups, "main") is not None:
            raise Reject("SETUP_LOCKED", "setup has happened")
        given = request.headers.get("x-setup-token", body.setup_token)
        if site.setup_token is not None and not same_secret(site.setup_token, given):
            raise Reject("SETUP_TOKEN_INVALID", "not the token that was printed at start")
        command = SetUp(
            user_id=rt.world.new_id(),
            email=body.email,
            display_name=body.display_name,
            workspace_id=rt.world.new_id(),
            slug=body.workspace_slug,
            name=body.workspace_name or body.display_name,
        )
        await _with_credential(site, rt.system, command, body.password)
        return await _logged_in(site, command.user_id, status=201)

    @routes.post("/api/auth/login")
    async def login() -> Response:
        refuse_foreign_pages()
        body = await read(LoginBody)
        claim = await rt.system.get(claims, email_claim(body.email))
        user_id = "" if claim is None else claim.by
        password_hash = await rt.accounts.find_credential(user_id)
        is_right = await site.passwords.verify(password_hash, body.password)
        user = await rt.system.get(users, user_id) if is_right else None
        if user is None or user.role is None:
            raise Reject("INVALID_CREDENTIALS", "unknown e-mail address or wrong password")
        return await _logged_in(site, user_id, status=200)

    @routes.post("/api/auth/logout")
    async def logout() -> Response:
        identity = await site.enter()
        await rt.accounts.revoke_session(identity.session_hash)
        await site.close_session(identity.session_hash)
        g.cookie = clear_cookie(secure=site.secure_cookies)
        return nothing()

    @routes.get("/api/auth/session")
    async def session() -> Response:
        return answer(await _identity_body(site, await site.enter()))

    @routes.get("/api/users")
    async def list_users() -> Response:
        check_global_admin(await site.enter())
        limit = number("limit", 100, least=1, most=rt.limits.list_limit_max)
        page = await rt.system.entities(users, after=users.stream_id(following()), limit=limit)
        ids = [item.stream_id.partition(":")[2] for item in page]
        found = [(user_id, await rt.system.get(users, user_id)) for user_id in ids]
        items = [_user_body(user_id, user) for user_id, user in found if user is not None]
        return answer(UsersBody(items=items, next=ids[-1] if len(ids) == limit else None))

    @routes.post("/api/users")
    async def create_user() -> Response:
        identity = await site.enter()
        check_global_admin(identity)
        body = await read(UserCreateBody)
        command = RegisterUser(
            user_id=rt.world.new_id(),
            email=body.email,
            display_name=body.display_name,
            role=body.role,
        )
        acting = rt.system.acting(user_id=identity.user_id)
        await _with_credential(site, acting, command, body.password)
        user = await rt.system.get(users, command.user_id)
        assert user is not None, "just registered"
        return answer(_user_body(command.user_id, user), 201)

    return routes


async def _with_credential(
    site: Site, system: Workspace, command: SetUp | RegisterUser, password: str
) -> Receipt:
    """Make an account that has its password from the first moment on.

    The password's row comes first: one without an account does nothing, an account without its
    password would lock its user out.
    """
    accounts = site.rt.accounts
    await accounts.put_credential(command.user_id, await site.passwords.hash(password))
    try:
        return await system.send(command, correlation_id=request_id())
    except OutcomeUnknownError:
        raise
    except DalsegnoError:
        await accounts.delete_credential(command.user_id)
        raise


async def _logged_in(site: Site, user_id: str, *, status: int) -> Response:
    user = await site.rt.system.get(users, user_id)
    assert user is not None, "checked by whoever logs in"
    token, identity = await open_session(site.rt, user_id, user)
    site.keep(token)
    return answer(await _identity_body(site, identity), status)


async def _identity_body(site: Site, identity: Identity) -> IdentityBody:
    joined, _ = await memberships(site.rt, identity.user_id, limit=100)
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
