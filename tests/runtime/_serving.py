"""A server in this process, with real sockets, and what it takes to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import trio

from dalsegno.actors.domains.accounts import RegisterUser, SetUp, users
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.notes import note_app
from dalsegno.protocol import AUDIT_WORKSPACE, App, Limits
from dalsegno.protocol.providers import Providers
from dalsegno.runtime import Runtime
from dalsegno.runtime._server import ServeConfig, serve
from dalsegno.runtime.client import ClientLimits
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.web import TokenIssuer
from dalsegno.runtime.web._auth import COOKIE, open_session
from tests._http import PLAIN
from tests._patience import fail_after

EMAIL, PASSWORD = "owner@example.org", "a long enough password"

SOON = ClientLimits(
    backoff_first_s=0.05, backoff_max_s=0.1, at_once_s=0.01, attempts_max=100, looks_max=100
)


class Person(msgspec.Struct, frozen=True):
    url: str
    user_id: str
    workspace: str
    cookie: str


class Site(msgspec.Struct, frozen=True):
    url: str
    port: int
    runtime: Runtime


@asynccontextmanager
async def serving(
    database: str,
    *,
    port: int = 0,
    limits: Limits | None = None,
    advertise: str | None = None,
    tokens: TokenIssuer | None = None,
    app: App | None = None,
    providers: Callable[[], AbstractAsyncContextManager[Providers]] | None = None,
    artifacts: Path | None = None,
    node_id: str | None = None,
) -> AsyncIterator[Site]:
    stop = trio.Event()
    config = ServeConfig(
        port=port,
        database=database,
        data_dir=Path("unused"),
        limits=limits or Limits(),
        advertise=advertise,
        tokens=tokens,
        app=note_app if app is None else app,
        providers=providers,
        artifacts=artifacts,
        node_id=node_id,
    )
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(partial(serve, config, stop=stop))
        try:
            yield Site(f"http://127.0.0.1:{ready.port}", ready.port, ready.runtime)
        finally:
            stop.set()


async def register(url: str) -> str:
    """Make the first account over HTTP, with its password; return its workspace."""
    body = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
    async with httpx.AsyncClient(**PLAIN) as http:
        response = await http.post(f"{url}/api/setup/register", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["workspace_id"])


async def set_up(site: Site) -> Person:
    """Make the first account behind the server's back: a password takes its time to hash."""
    rt = site.runtime
    user_id, workspace_id = WORLD.new_id(), WORLD.new_id()
    command = SetUp(
        user_id=user_id,
        email=EMAIL,
        display_name="Owner",
        workspace_id=workspace_id,
        slug="main",
        name="Main",
    )
    await rt.system.send(command)
    return await _logged_in(site, user_id, workspace_id)


async def add_member(site: Site, workspace_id: str) -> Person:
    """Make a second account, an editor in the workspace."""
    rt = site.runtime
    user_id = WORLD.new_id()
    email = f"{user_id}@example.org"
    await rt.system.send(
        RegisterUser(user_id=user_id, email=email, display_name="Editor", role="editor")
    )
    await rt.workspace(workspace_id).send(PutMember(user_id, "editor"))
    return await _logged_in(site, user_id, workspace_id)


async def _logged_in(site: Site, user_id: str, workspace_id: str) -> Person:
    user = await site.runtime.system.get(users, user_id)
    assert user is not None
    token, _ = await open_session(site.runtime, user_id, user)
    return Person(site.url, user_id, workspace_id, f"{COOKIE}={token}")


async def all_collected(site: Site) -> int:
    """Wait until everything is in the audit's log; its head."""
    store = site.runtime.store
    with fail_after(20):
        while await store.read_uncollected(limit=1, bytes_max=1):
            await trio.sleep(0.01)
    head = await store.read_head(AUDIT_WORKSPACE)
    return 0 if head is None else head.head_seq


class Proxy:
    """A TCP proxy before one server or several in turn; connections can be cut, or go silent."""

    def __init__(self, ports: tuple[int, ...], nursery: trio.Nursery) -> None:
        self.targets = ports
        self._nursery = nursery
        self._scopes: list[trio.CancelScope] = []
        self._flow = trio.Event()
        self._flow.set()
        self.url = ""
        self.connections = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._serve, [listener], handler_nursery=self._nursery)

    def cut(self) -> None:
        """End every connection without a close handshake."""
        for scope in self._scopes:
            scope.cancel()
        self._scopes.clear()

    def silence(self) -> None:
        """Hold back everything on the existing connections."""
        self._flow = trio.Event()

    def relent(self) -> None:
        """Resume the existing connections."""
        self._flow.set()

    async def _serve(self, client: trio.SocketStream) -> None:
        target = self.targets[self.connections % len(self.targets)]
        self.connections += 1
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                server = await trio.open_tcp_stream("127.0.0.1", target)
            except OSError:
                return
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, client, server, nursery.cancel_scope)
                nursery.start_soon(self._copy, server, client, nursery.cancel_scope)

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some():
                await self._flow.wait()
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()


@asynccontextmanager
async def proxied(*ports: int) -> AsyncIterator[Proxy]:
    async with trio.open_nursery() as nursery:
        proxy = Proxy(ports, nursery)
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()
