"""A server in this process, on a real port and a real database, and clients of the tests' own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from dalsegno.actors.domains.jobs import job_app
from dalsegno.protocol import Limits
from dalsegno.runtime import Runtime
from dalsegno.runtime._server import Ready, ServeConfig, serve
from dalsegno.runtime.serving import asgi
from dalsegno.runtime.web import Network
from tests._asgi import hypercorn

from ._site import Site


@pytest.fixture
async def site(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A server that was set up: an owner, a workspace."""
    by_asgi = getattr(request, "param", "native") == "asgi"
    async with (start_asgi if by_asgi else start)(migrated) as site:
        await site.set_up()
        yield site


EITHER = pytest.mark.parametrize("site", ["native", "asgi"], indirect=True)
"""On our own listener, and on a program's Hypercorn."""


@asynccontextmanager
async def start_asgi(database: str) -> AsyncIterator[Site]:
    async with Runtime.open(database, app=job_app) as rt, asgi(rt) as app, hypercorn(app) as at:
        site = Site(f"{at[0]}:{at[1]}", rt, app.setup_token)
        try:
            yield site
        finally:
            await site.aclose()
            await app.drain()


@asynccontextmanager
async def start(
    database: str, *, proxies: tuple[Network, ...] = (), **limits: float
) -> AsyncIterator[Site]:
    bounds = replace(Limits(), **limits)  # type: ignore[arg-type]
    config = ServeConfig(port=0, database=database, proxies=proxies, limits=bounds)
    stop = trio.Event()

    async def run(task_status: trio.TaskStatus[Ready]) -> None:
        await serve(config, stop=stop, task_status=task_status)

    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(run)
        site = Site(f"127.0.0.1:{ready.port}", ready.runtime)
        try:
            yield site
        finally:
            await site.aclose()
            stop.set()
