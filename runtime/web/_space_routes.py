"""How a workspace stands: its name, its state, its owner."""

from __future__ import annotations

from typing import Literal

import msgspec
from quart import Blueprint, Response

from dalsegno.actors.domains.members import ADMINS, TransferOwnership
from dalsegno.actors.domains.standing import ChangeWorkspace, DeleteWorkspace
from dalsegno.protocol import Reject, check_id

from ._envelope import answer, nothing, read, request_id
from ._membership import check_role, membership_of
from ._route_context import RouteContext, idempotency_key
from ._spaces import retire
from ._workspace_routes import workspace_body

OWNERS = frozenset({"owner"})


class WorkspaceChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to rename a workspace, to archive it or to open it again."""

    name: str | None = None
    state: Literal["active", "archived"] | None = None


class TransferBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to make another member the owner in one's place."""

    user_id: str


def space_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("spaces", __name__)
    rt = context.rt

    @routes.patch("/api/workspaces/<workspace_id>")
    async def change_workspace(workspace_id: str) -> Response:
        identity = await context.authenticate()
        await check_role(rt, workspace_id, identity.user_id, allow=ADMINS)
        body = await read(WorkspaceChangeBody)
        if body.name is None and body.state is None:
            raise Reject("BAD_REQUEST", "name, state or both are needed")
        await (
            rt.workspace(workspace_id)
            .acting(user_id=identity.user_id)
            .send(
                ChangeWorkspace(name=body.name, state=body.state),
                key=idempotency_key(),
                correlation_id=request_id(),
            )
        )
        return answer(workspace_body(await membership_of(rt, workspace_id, identity.user_id)))

    @routes.delete("/api/workspaces/<workspace_id>")
    async def delete_workspace(workspace_id: str) -> Response:
        identity = await context.authenticate()
        await check_role(rt, workspace_id, identity.user_id, allow=ADMINS)
        await (
            rt.workspace(workspace_id)
            .acting(user_id=identity.user_id)
            .send(DeleteWorkspace(), key=idempotency_key(), correlation_id=request_id())
        )
        await retire(rt, workspace_id)
        return nothing()

    @routes.post("/api/workspaces/<workspace_id>/transfer")
    async def transfer(workspace_id: str) -> Response:
        identity = await context.authenticate()
        await check_role(rt, workspace_id, identity.user_id, allow=OWNERS)
        body = await read(TransferBody)
        check_id(body.user_id, chars_max=rt.limits.id_chars_max, what="user_id")
        await (
            rt.workspace(workspace_id)
            .acting(user_id=identity.user_id)
            .send(
                TransferOwnership(body.user_id, identity.user_id),
                key=idempotency_key(),
                correlation_id=request_id(),
            )
        )
        return answer(workspace_body(await membership_of(rt, workspace_id, identity.user_id)))

    return routes
