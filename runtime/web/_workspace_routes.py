"""Workspaces and their members."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from quart import Response

from dalsegno.actors.domains.accounts import CreateSpace, users
from dalsegno.actors.domains.members import ADMINS, KEY_PREFIX, PutMember, RemoveMember
from dalsegno.protocol import Reject, check_id
from dalsegno.protocol.routes import Access, Paging

from ._envelope import answer, nothing, read, replayed, request_id
from ._membership import (
    Membership,
    check_role,
    check_sender,
    members_of,
    membership_of,
    memberships,
)
from ._route_context import RouteContext, idempotency_key
from ._route_table import IN_WORKSPACE, KEYED, RouteTable, read_params
from ._spaces import create_space
from ._tokens import TOKEN_PREFIX

if TYPE_CHECKING:
    from dalsegno.actors.domains.accounts import User


class WorkspaceCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to create a workspace."""

    slug: str
    name: str


class MemberPutBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to set a member's role."""

    role: str


class WorkspaceBody(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace, as one of its members sees it."""

    workspace_id: str
    slug: str | None
    """None for a workspace that the embedding program never recorded."""
    name: str
    state: str
    role: str
    created_at: datetime | None


class WorkspacesBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of workspaces."""

    items: list[WorkspaceBody]
    next: str | None


class MemberBody(msgspec.Struct, frozen=True, kw_only=True):
    """A member; one without an account here has only an id.

    Addresses are for the owners and admins of the workspace, and everybody's own.
    """

    user_id: str
    role: str
    email: str | None
    display_name: str | None


class MembersParams(Paging, frozen=True, kw_only=True):
    """Which members are listed."""

    workspace_id: str


class MembersBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of members."""

    items: list[MemberBody]
    next: str | None


class MemberPutAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A user's new role, and the number of the event that set it."""

    workspace_id: str
    user_id: str
    role: str
    event_seq: int


class RepairBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair verified, and what it did."""

    workspace_id: str
    events: int
    entities: int
    states_rewritten: int
    halted_reason: str | None
    """Why the workspace had been halted; None if it was not."""


def workspace_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("workspaces")
    rt = context.rt

    @routes.route(
        "GET",
        "/api/workspaces",
        "List one's workspaces.",
        params=Paging,
        returns=WorkspacesBody,
    )
    async def list_workspaces() -> Response:
        identity = await context.authenticate()
        paging = read_params(Paging)
        page, last = await memberships(
            rt, identity.user_id, after=paging.after or "", limit=paging.limit
        )
        return answer(WorkspacesBody(items=[workspace_body(m) for m in page], next=last))

    @routes.route(
        "POST",
        "/api/workspaces",
        "Create a workspace.",
        body=WorkspaceCreateBody,
        returns=WorkspaceBody,
        status=201,
        access=Access.PEOPLE,
        refusals=[409],
    )
    async def create_workspace() -> Response:
        identity = await context.person()
        body = await read(WorkspaceCreateBody)
        command = CreateSpace(
            workspace_id=rt.world.new_id(),
            slug=body.slug,
            name=body.name,
            owner_id=identity.user_id,
        )
        await create_space(rt, command, address=context.address)
        created = await membership_of(rt, command.workspace_id, identity.user_id)
        return answer(workspace_body(created), 201)

    @routes.route(
        "GET",
        "/api/workspaces/{workspace_id}/members",
        "List a workspace's members.",
        params=MembersParams,
        returns=MembersBody,
        refusals=IN_WORKSPACE,
    )
    async def list_members(workspace_id: str) -> Response:
        identity = await context.authenticate()
        paging = read_params(MembersParams)
        page, last, reader_role = await members_of(
            rt,
            workspace_id,
            reader_id=identity.user_id,
            after=paging.after or "",
            limit=paging.limit,
        )
        items = [
            _member_body(*each, shows_email=reader_role in ADMINS or each[0] == identity.user_id)
            for each in page
        ]
        return answer(MembersBody(items=items, next=last))

    @routes.route(
        "PUT",
        "/api/workspaces/{workspace_id}/members/{user_id}",
        "Make a user a member, or give a member another role.",
        body=MemberPutBody,
        returns=MemberPutAnswer,
        refusals=[*IN_WORKSPACE, 409],
        headers=KEYED,
    )
    async def put_member(workspace_id: str, user_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(MemberPutBody)
        check_id(user_id, chars_max=rt.limits.id_chars_max, what="user_id")
        workspace = identity.acting(rt.workspace(workspace_id))
        command, key = PutMember(user_id, body.role), idempotency_key()
        await check_sender(rt, workspace, command, key, allow=ADMINS)
        if key is None or not await workspace.has_answered(command, key=key):
            await _check_can_join(context, workspace_id, user_id)
        receipt = await workspace.send(command, key=key, correlation_id=request_id())
        put = MemberPutAnswer(
            workspace_id=workspace_id,
            user_id=user_id,
            role=body.role,
            event_seq=receipt.event_seq,
        )
        return replayed(answer(put), receipt)

    @routes.route(
        "DELETE",
        "/api/workspaces/{workspace_id}/members/{user_id}",
        "Remove a member, or leave.",
        refusals=[*IN_WORKSPACE, 409],
        headers=KEYED,
    )
    async def remove_member(workspace_id: str, user_id: str) -> Response:
        identity = await context.authenticate()
        workspace = identity.acting(rt.workspace(workspace_id))
        command, key = RemoveMember(user_id), idempotency_key()
        await check_sender(rt, workspace, command, key, allow=ADMINS)
        receipt = await workspace.send(command, key=key, correlation_id=request_id())
        context.tell_everywhere(0)  # the log decides, wherever it is read (I8)
        return replayed(nothing(), receipt)

    @routes.route(
        "POST",
        "/api/workspaces/{workspace_id}/repair",
        "Verify a log, and clear a halt.",
        returns=RepairBody,
        refusals=[*IN_WORKSPACE, 503],
    )
    async def repair(workspace_id: str) -> Response:
        identity = await context.authenticate()
        await check_role(rt, workspace_id, identity.user_id, allow=ADMINS)
        with context.repairing():
            report = await rt.service.repair(workspace_id, actor=identity.user_id)
        body = RepairBody(
            workspace_id=workspace_id,
            events=report.events,
            entities=report.entities,
            states_rewritten=report.states_rewritten,
            halted_reason=report.halted_reason,
        )
        return answer(body)

    return routes


async def _check_can_join(context: RouteContext, workspace_id: str, user_id: str) -> None:
    """Raise unless there is such a user, a key of this workspace, or one whom tokens may name.

    Raises:
        Reject: ``USER_NOT_FOUND``.

    """
    rt = context.rt
    if user_id.startswith(TOKEN_PREFIX):
        is_there = context.gate.tokens is not None
    elif user_id.startswith(KEY_PREFIX):
        row = await rt.accounts.find_key(user_id.removeprefix(KEY_PREFIX))
        is_there = row is not None and row.workspace_id == workspace_id and row.revoked_at is None
    else:
        user = await rt.system.get(users, user_id)
        is_there = user is not None and user.role is not None
    if not is_there:
        raise Reject("USER_NOT_FOUND", "no such user")


def workspace_body(membership: Membership) -> WorkspaceBody:
    """Show a workspace to one of its members."""
    space = membership.space
    return WorkspaceBody(
        workspace_id=membership.workspace_id,
        slug=None if space is None else space.slug,
        name=membership.name,
        state=membership.standing.state,
        role=membership.role,
        created_at=None if space is None else space.created_at,
    )


def _member_body(user_id: str, role: str, user: User | None, *, shows_email: bool) -> MemberBody:
    return MemberBody(
        user_id=user_id,
        role=role,
        email=user.email if shows_email and user is not None else None,
        display_name=None if user is None else user.display_name,
    )
