"""Coordination served without a port, and its tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from dalsegno.actors.domains.coordination import coordination_app
from dalsegno.runtime import Limits
from tests._coordination import API, Answered, Tenant
from tests._patience import fail_after

from ._client import Site, User
from .conftest import open_site


@asynccontextmanager
async def coordinating(*, limits: Limits | None = None) -> AsyncIterator[tuple[Site, Member]]:
    """Open a server of coordination with one tenant."""
    async with open_site(app=coordination_app, limits=limits) as site:
        owner = await site.set_up()
        yield site, Member(owner, owner.workspace_id)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something has become true."""
    with fail_after(20.0):
        while not await check():
            await trio.sleep(0.01)


async def another(site: Site, owner: User, slug: str = "other") -> Member:
    """Another user with a tenant of their own."""
    user = await site.add_user("editor")
    made = await user.post("/api/workspaces", {"slug": slug, "name": slug})
    assert made.status == 201, made.raw
    return Member(user, str(made.body["workspace_id"]))


class Member(Tenant):
    """A tenant, as one of its members."""

    def __init__(self, user: User, tenant_id: str) -> None:
        self.user = user
        self.id = tenant_id

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Answered:
        named = {"x_tenant_id": self.id, **headers}
        answer = await self.user.send(method, f"{API}{path}", body, **named)
        return Answered(answer.status, {**answer.headers}, answer.raw)

    async def types(self, after: int = 0) -> list[str]:
        """The types of all events of the tenant behind a number, in their order."""
        events = await self.user.site.rt.workspace(self.id).events(after=after, limit=1000)
        return [event.type for event in events]

    async def head(self) -> int:
        return await self.user.site.rt.workspace(self.id).head()
