"""Users, as global owners and admins see and change them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from quart import Response

from dalsegno.actors import Place
from dalsegno.actors.domains.accounts import (
    DeleteUser,
    DisableUser,
    EnableUser,
    RegisterUser,
    SetUp,
    SetUserRole,
    User,
    users,
)
from dalsegno.actors.domains.members import ROSTER_ID, GlobalRole, members, rosters
from dalsegno.protocol import SYSTEM_WORKSPACE, DalsegnoError, OutcomeUnknownError, Reject, check_id
from dalsegno.protocol.routes import Access, Paging

from ._envelope import answer, nothing, read, request_id
from ._membership import memberships, state_among
from ._route_context import RouteContext, check_global_admin
from ._route_table import RouteTable, read_params

if TYPE_CHECKING:
    from dalsegno.actors import Receipt
    from dalsegno.runtime import Runtime, Workspace

    from ._identity import Identity


class UserCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request of an administrator to register a user."""

    email: str
    display_name: str
    password: str
    role: GlobalRole


class UserRoleBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to give a user another global role."""

    role: GlobalRole


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


def user_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("users")
    rt = context.rt

    @routes.route(
        "GET",
        "/api/users",
        "List accounts.",
        params=Paging,
        returns=UsersBody,
        access=Access.PEOPLE,
        refusals=[403],
    )
    async def list_users() -> Response:
        identity = await _admin(context)
        paging = read_params(Paging)
        limit = paging.limit
        page = await rt.system.entities(
            users, after=Place("", users.stream_id(paging.after or "")), limit=limit
        )
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

    @routes.route(
        "POST",
        "/api/users",
        "Register a user.",
        body=UserCreateBody,
        returns=UserBody,
        status=201,
        access=Access.PEOPLE,
        refusals=[403, 409, 429],
    )
    async def create_user() -> Response:
        identity = await _admin(context)
        body = await read(UserCreateBody)
        command = RegisterUser(
            user_id=rt.world.new_id(),
            email=body.email,
            display_name=body.display_name,
            role=body.role,
        )
        acting = identity.acting(rt.system)
        await register_user(context, acting, command, body.password)
        return answer(_user_body(command.user_id, await _user(rt, command.user_id)), 201)

    @routes.route(
        "PATCH",
        "/api/users/{user_id}/role",
        "Give a user another global role.",
        body=UserRoleBody,
        returns=UserBody,
        access=Access.PEOPLE,
        refusals=[403, 404, 409],
    )
    async def set_role(user_id: str) -> Response:
        identity = await _admin(context)
        body = await read(UserRoleBody)
        return await _change(context, identity, SetUserRole(_checked(rt, user_id), body.role))

    @routes.route(
        "POST",
        "/api/users/{user_id}/disable",
        "Disable an account; its sessions end.",
        returns=UserBody,
        access=Access.PEOPLE,
        refusals=[403, 404, 409],
    )
    async def disable(user_id: str) -> Response:
        identity = await _admin(context)
        command = DisableUser(_checked(rt, user_id))
        return await _change(context, identity, command, ends_sessions=True)

    @routes.route(
        "POST",
        "/api/users/{user_id}/enable",
        "Enable an account again.",
        returns=UserBody,
        access=Access.PEOPLE,
        refusals=[403, 404, 409],
    )
    async def enable(user_id: str) -> Response:
        identity = await _admin(context)
        return await _change(context, identity, EnableUser(_checked(rt, user_id)))

    @routes.route(
        "DELETE",
        "/api/users/{user_id}",
        "Delete an account.",
        access=Access.PEOPLE,
        refusals=[403, 404, 409],
    )
    async def delete(user_id: str) -> Response:
        identity = await _admin(context)
        user = await _user(rt, _checked(rt, user_id))
        await close(context, user_id, user, by=identity.user_id)
        return nothing()

    return routes


async def _admin(context: RouteContext) -> Identity:
    """Authenticate a global owner or admin; nobody else learns anything of accounts."""
    person = await context.person()
    check_global_admin(person.user)
    return person


def _checked(rt: Runtime, user_id: str) -> str:
    return check_id(user_id, chars_max=rt.limits.id_chars_max, what="user_id")


async def _user(rt: Runtime, user_id: str) -> User:
    user = await rt.system.get(users, user_id)
    if user is None:
        raise Reject("USER_NOT_FOUND", "no such user")
    return user


async def _change(
    context: RouteContext,
    identity: Identity,
    command: SetUserRole | DisableUser | EnableUser,
    *,
    ends_sessions: bool = False,
) -> Response:
    """Change an account, and answer once nobody is shown what they may see no longer (I8)."""
    system = identity.acting(context.rt.system)
    receipt = await system.send(command, correlation_id=request_id())
    if ends_sessions:
        await context.end_sessions(command.user_id)
    await context.rt.service.audit.confirm(SYSTEM_WORKSPACE, receipt.event_seq)
    return answer(_user_body(command.user_id, await _user(context.rt, command.user_id)))


async def register_user(
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


async def close(context: RouteContext, user_id: str, user: User, *, by: str) -> None:
    """Delete an account, end its sessions and close its sockets.

    Raises:
        Reject: ``MEMBERSHIP_CONFLICT`` for the last global owner, and for the only owner of
            workspaces that have other members, which ``details`` then name.

    """
    rt = context.rt
    await _check_may_leave(rt, user_id)
    system = rt.system.acting(user_id=by, address=context.address)
    receipt = await system.send(DeleteUser(user_id, user.email), correlation_id=request_id())
    await context.end_sessions(user_id)
    await rt.service.audit.confirm(SYSTEM_WORKSPACE, receipt.event_seq)
    await rt.accounts.delete_credential(user_id)


async def _check_may_leave(rt: Runtime, user_id: str) -> None:
    """Raise where others would be left in a workspace that nobody owns.

    Each workspace decides by itself who owns it, so this is as of when it was read: one that
    somebody joins in this very moment may still be left without an owner.
    """
    alone: list[str] = []
    after: str | None = ""
    while after is not None:
        page, after = await memberships(rt, user_id, after=after, limit=rt.limits.list_limit_max)
        for membership in page:
            workspace_id = membership.workspace_id
            if membership.role == "owner" and await _is_needed(rt, workspace_id, user_id):
                alone.append(workspace_id)
    if alone:
        message = "the only owner of workspaces with other members: transfer or delete them first"
        raise Reject("MEMBERSHIP_CONFLICT", message, workspaces=alone)


async def _is_needed(rt: Runtime, workspace_id: str, user_id: str) -> bool:
    """Return whether an owner is the only one of a workspace that has other members."""
    workspace = rt.workspace(workspace_id)
    roster = await workspace.get(rosters, ROSTER_ID)
    if roster is not None and set(roster.owners) != {user_id}:
        return False
    two = await workspace.entities(members, limit=2)
    return any(item.stream_id != members.stream_id(user_id) for item in two)


def _user_body(user_id: str, user: User) -> UserBody:
    return UserBody(
        user_id=user_id,
        email=user.email,
        display_name=user.display_name,
        role=user.role,
        status=user.status,
        created_at=user.created_at,
    )
