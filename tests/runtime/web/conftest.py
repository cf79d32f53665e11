from __future__ import annotations

from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING

import pytest

from dalsegno.actors.domains.notes import note_app
from dalsegno.actors.testing import MemoryStore
from dalsegno.runtime import App, Limits, Runtime
from dalsegno.runtime._revocation import Revocation
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.store import MemoryAccounts
from dalsegno.runtime.web import create_app

from ._client import Clock, Site, User

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from dalsegno.actors import Artifacts, Store
    from dalsegno.protocol import Authenticator, Authorize
    from dalsegno.protocol.providers import Providers
    from dalsegno.runtime.web import TokenIssuer
    from dalsegno.runtime.web._hosts import Hosts


def hooked(app: App, authenticate: Authenticator | None, authorize: Authorize | None) -> App:
    """Return an app with a host's own functions, if it has any."""
    if authenticate is None and authorize is None:
        return app
    app = copy(app)
    app.authenticate, app.authorize = authenticate, authorize
    return app


@asynccontextmanager
async def open_site(
    *,
    database: str | None = None,
    secure_cookies: bool = False,
    setup_token: str | None = None,
    limits: Limits | None = None,
    store: Store | None = None,
    app: App = note_app,
    tokens: TokenIssuer | None = None,
    authenticate: Authenticator | None = None,
    authorize: Authorize | None = None,
    providers: Callable[[], AbstractAsyncContextManager[Providers]] | None = None,
    artifacts: Path | Artifacts | None = None,
    node_id: str | None = None,
    address: str | None = None,
    hosts: Hosts | None = None,
) -> AsyncIterator[Site]:
    """Open an application, on a store in memory unless a database is named."""
    clock = Clock()
    world = WORLD if database else clock.world()  # a database has a clock of its own
    if database is None and store is None:
        store = MemoryStore(world)
    closed: list[bytes] = []
    closed_users: list[tuple[str, bytes | None]] = []

    class Noting(Revocation):
        async def end_session(self, session_hash: bytes) -> None:
            closed.append(session_hash)
            await super().end_session(session_hash)

        async def end_user(self, user_id: str, *, keep: bytes | None = None) -> None:
            closed_users.append((user_id, keep))
            await super().end_user(user_id, keep=keep)

    async with Runtime.open(
        database,
        app=hooked(app, authenticate, authorize),
        store=store,
        accounts=None if store is None else MemoryAccounts(world),
        world=world,
        limits=limits,
        providers=providers,
        artifacts=artifacts,
        node_id=node_id,
        address=address,
    ) as rt:
        rt.revocation = Noting(rt.service, rt.accounts)
        web = create_app(
            rt,
            secure_cookies=secure_cookies,
            hosts=hosts,
            setup_token=setup_token,
            tokens=tokens,
        )
        yield Site(web, rt, clock, closed, closed_users)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site


@pytest.fixture
async def owner(site: Site) -> User:
    return await site.set_up()
