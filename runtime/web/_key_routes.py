"""API keys of a workspace: made, replaced and ended by the people who administer it.

A key's secret is in the answer that makes it, and nowhere else.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from quart import Response

from dalsegno.actors.domains.members import ADMINS, PutMember, RemoveMember, members
from dalsegno.protocol import DalsegnoError, OutcomeUnknownError, Reject, check_id
from dalsegno.protocol.routes import Access, Paging
from dalsegno.runtime.store import KeyRow

from ._api_keys import connection_of, member_id
from ._envelope import answer, nothing, read, request_id
from ._key_text import new_key_id, new_key_text
from ._membership import check_role, state_among
from ._route_context import RouteContext
from ._route_table import IN_WORKSPACE, RouteTable, read_params

if TYPE_CHECKING:
    from dalsegno.runtime import Runtime, Workspace

    from ._identity import Person

_NAME_CHARS_MAX = 200
_EXPIRES_S_MAX = 10 * 365 * 24 * 3600


class KeyMakeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to make a key."""

    name: str
    role: str
    """What it may do in the workspace; a key is no owner."""
    expires_in_s: Annotated[int, Meta(ge=1, le=_EXPIRES_S_MAX)] | None = None
    """None: it does not expire."""


class KeyRotateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request for another secret."""

    keep_previous: bool = True
    """Whether the present one is valid until it is dropped."""


class KeyMadeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was made, or has another secret: the only time that it is shown."""

    key_id: str
    user_id: str
    """Under which it is a member."""
    key: str
    expires_at: datetime | None


class KeyBody(msgspec.Struct, frozen=True, kw_only=True):
    """A key in a list."""

    key_id: str
    user_id: str
    name: str
    role: str | None
    """None: it is no member any more."""
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To within an hour."""
    has_previous: bool
    """Whether the secret before is valid too."""


class KeysParams(Paging, frozen=True, kw_only=True):
    """Which keys are listed."""

    workspace_id: str


class KeysBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of keys."""

    items: list[KeyBody]
    next: str | None


def key_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("keys")
    rt = context.rt

    async def admin(workspace_id: str) -> tuple[Person, Workspace]:
        person = await context.person()
        await check_role(rt, workspace_id, person.user_id, allow=ADMINS)
        return person, person.acting(rt.workspace(workspace_id))

    @routes.route(
        "POST",
        "/api/workspaces/{workspace_id}/keys",
        "Make an API key.",
        body=KeyMakeBody,
        returns=KeyMadeBody,
        status=201,
        access=Access.PEOPLE,
        refusals=[*IN_WORKSPACE, 409],
    )
    async def make_key(workspace_id: str) -> Response:
        person, workspace = await admin(workspace_id)
        body = await read(KeyMakeBody, known=True)
        check_id(body.name, chars_max=_NAME_CHARS_MAX, what="name")
        text = new_key_text(new_key_id())
        now = rt.world.now()
        lifetime_s = body.expires_in_s
        row = KeyRow(
            key_id=text.key_id,
            workspace_id=workspace_id,
            name=body.name,
            created_by=person.user_id,
            created_at=now,
            expires_at=None if lifetime_s is None else now + timedelta(seconds=lifetime_s),
            last_used_at=None,
            revoked_at=None,
            digest=text.digest,
            previous=None,
            connection=connection_of(text.key_id),
        )
        await _put(rt, workspace, row, body.role)
        context.note("key_made", user_id=person.user_id, key_id=text.key_id)
        return answer(_made_body(row, str(text)), 201)

    @routes.route(
        "GET",
        "/api/workspaces/{workspace_id}/keys",
        "List a workspace's API keys.",
        params=KeysParams,
        returns=KeysBody,
        access=Access.PEOPLE,
        refusals=IN_WORKSPACE,
    )
    async def list_keys(workspace_id: str) -> Response:
        person, _ = await admin(workspace_id)
        paging = read_params(KeysParams)
        limit = paging.limit
        page = await rt.accounts.list_keys(workspace_id, after=paging.after or "", limit=limit)
        found = await rt.service.catalog.look_many(
            (workspace_id, members, member_id(row.key_id)) for row in page
        )
        items = []
        for row in page:
            member = state_among(found, workspace_id, members, member_id(row.key_id))
            items.append(_key_body(row, None if member is None else member.role))
        await check_role(rt, workspace_id, person.user_id, allow=ADMINS)  # as it was then (I8)
        return answer(KeysBody(items=items, next=page[-1].key_id if len(page) == limit else None))

    @routes.route(
        "POST",
        "/api/workspaces/{workspace_id}/keys/{key_id}/rotate",
        "Give a key another secret.",
        body=KeyRotateBody,
        returns=KeyMadeBody,
        access=Access.PEOPLE,
        refusals=IN_WORKSPACE,
    )
    async def rotate_key(workspace_id: str, key_id: str) -> Response:
        person, _ = await admin(workspace_id)
        body = await read(KeyRotateBody, known=True)
        row = await _key(rt, workspace_id, key_id)
        text = new_key_text(key_id)
        if not await rt.accounts.rotate_key(key_id, text.digest, keep=body.keep_previous):
            raise _no_key()
        context.note("key_rotated", user_id=person.user_id, key_id=key_id)
        return answer(_made_body(row, str(text)))

    @routes.route(
        "DELETE",
        "/api/workspaces/{workspace_id}/keys/{key_id}/previous",
        "End a key's secret before the present one.",
        access=Access.PEOPLE,
        refusals=IN_WORKSPACE,
    )
    async def drop_previous(workspace_id: str, key_id: str) -> Response:
        person, _ = await admin(workspace_id)
        await _key(rt, workspace_id, key_id)
        await rt.accounts.drop_previous_key(key_id)
        context.note("key_previous_dropped", user_id=person.user_id, key_id=key_id)
        return nothing()

    @routes.route(
        "DELETE",
        "/api/workspaces/{workspace_id}/keys/{key_id}",
        "End a key.",
        access=Access.PEOPLE,
        refusals=[*IN_WORKSPACE, 409],
    )
    async def end_key(workspace_id: str, key_id: str) -> Response:
        person, workspace = await admin(workspace_id)
        row = await _key(rt, workspace_id, key_id)
        # In this order: what fails in between can be asked for once more.
        await workspace.send(RemoveMember(member_id(key_id)), correlation_id=request_id())
        await rt.accounts.revoke_key(key_id)
        await context.end_session(row.connection)
        context.note("key_ended", user_id=person.user_id, key_id=key_id)
        return nothing()

    return routes


async def _put(rt: Runtime, workspace: Workspace, row: KeyRow, role: str) -> None:
    """Record a key and make it a member; a key that is none proves somebody who may do nothing.

    Raises:
        Reject: ``QUOTA_EXCEEDED``; what giving a role raises.

    """
    if not await rt.accounts.put_key(row, keys_max=rt.limits.keys_per_workspace_max):
        bound = rt.limits.keys_per_workspace_max
        raise Reject("QUOTA_EXCEEDED", f"a workspace has at most {bound} keys", limit=bound)
    try:
        command = PutMember(member_id(row.key_id), role)
        await workspace.send(command, correlation_id=request_id())
    except OutcomeUnknownError:
        raise
    except DalsegnoError:
        await rt.accounts.revoke_key(row.key_id)
        raise


async def _key(rt: Runtime, workspace_id: str, key_id: str) -> KeyRow:
    """Return a key of a workspace that was not revoked.

    Raises:
        Reject: ``KEY_NOT_FOUND``, also for another workspace's.

    """
    row = await rt.accounts.find_key(check_id(key_id, chars_max=64, what="key_id"))
    if row is None or row.workspace_id != workspace_id or row.revoked_at is not None:
        raise _no_key()
    return row


def _no_key() -> Reject:
    return Reject("KEY_NOT_FOUND", "no such key in this workspace")


def _made_body(row: KeyRow, key: str) -> KeyMadeBody:
    return KeyMadeBody(
        key_id=row.key_id, user_id=member_id(row.key_id), key=key, expires_at=row.expires_at
    )


def _key_body(row: KeyRow, role: str | None) -> KeyBody:
    return KeyBody(
        key_id=row.key_id,
        user_id=member_id(row.key_id),
        name=row.name,
        role=role,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        has_previous=row.previous is not None,
    )
