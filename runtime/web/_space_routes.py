"""How a workspace stands: its name, its state, its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from quart import Response

from dalsegno.actors.domains.members import ADMINS, TransferOwnership
from dalsegno.actors.domains.standing import ChangeWorkspace, DeleteWorkspace
from dalsegno.protocol import Reject, check_id
from dalsegno.protocol.routes import Access

from ._envelope import answer, nothing, read, replayed, request_id
from ._membership import check_sender, membership_of
from ._route_context import RouteContext, idempotency_key
from ._route_table import IN_WORKSPACE, KEYED, RouteTable
from ._spaces import retire
from ._workspace_routes import WorkspaceBody, workspace_body

if TYPE_CHECKING:
    from collections.abc import Collection

    from dalsegno.actors import Receipt

    from ._identity import Identity

OWNERS = frozenset({"owner"})


class WorkspaceChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to rename a workspace, to archive it or to open it again."""

    name: str | None = None
    state: Literal["active", "archived"] | None = None


class TransferBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to make another member the owner in one's place."""

    user_id: str


def space_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("workspaces")
    rt = context.rt

    async def send(
        identity: Identity, workspace_id: str, command: msgspec.Struct, allow: Collection[str]
    ) -> Receipt:
        workspace = identity.acting(rt.workspace(workspace_id))
        key = idempotency_key()
        await check_sender(rt, workspace, command, key, allow=allow)
        return await workspace.send(command, key=key, correlation_id=request_id())

    async def as_it_stands(identity: Identity, receipt: Receipt) -> Response:
        """Show the workspace; to a repeat of whoever has left since only that it took effect."""
        try:
            membership = await membership_of(rt, receipt.workspace_id, identity.user_id)
        except Reject:
            if not receipt.repeated:
                raise
            return replayed(nothing(), receipt)
        return replayed(answer(workspace_body(membership)), receipt)

    @routes.route(
        "PATCH",
        "/api/workspaces/{workspace_id}",
        "Rename, archive or reopen a workspace.",
        body=WorkspaceChangeBody,
        returns=WorkspaceBody,
        also={204: None},
        refusals=[*IN_WORKSPACE, 409],
        headers=KEYED,
    )
    async def change_workspace(workspace_id: str) -> Response:
        identity = await context.authenticate()
        body = await read(WorkspaceChangeBody)
        if body.name is None and body.state is None:
            raise Reject("BAD_REQUEST", "name, state or both are needed")
        command = ChangeWorkspace(name=body.name, state=body.state)
        receipt = await send(identity, workspace_id, command, ADMINS)
        return await as_it_stands(identity, receipt)

    @routes.route(
        "DELETE",
        "/api/workspaces/{workspace_id}",
        "Delete a workspace.",
        refusals=[*IN_WORKSPACE, 409],
        headers=KEYED,
    )
    async def delete_workspace(workspace_id: str) -> Response:
        identity = await context.authenticate()
        receipt = await send(identity, workspace_id, DeleteWorkspace(), ADMINS)
        await retire(rt, workspace_id)
        return replayed(nothing(), receipt)

    @routes.route(
        "POST",
        "/api/workspaces/{workspace_id}/transfer",
        "Make another member the owner in one's place.",
        body=TransferBody,
        returns=WorkspaceBody,
        also={204: None},
        access=Access.PEOPLE,
        refusals=[*IN_WORKSPACE, 409],
        headers=KEYED,
    )
    async def transfer(workspace_id: str) -> Response:
        identity = await context.person()
        body = await read(TransferBody)
        check_id(body.user_id, chars_max=rt.limits.id_chars_max, what="user_id")
        command = TransferOwnership(body.user_id, identity.user_id)
        receipt = await send(identity, workspace_id, command, OWNERS)
        return await as_it_stands(identity, receipt)

    return routes
