"""Long polls of a server with a port: its end does not wait for them, nor theirs for it."""

from __future__ import annotations

import httpx
import trio

from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._serving import Site, serving, set_up


def waiting(site: Site, workspace: str) -> int:
    statistics = site.runtime.statistics().workspaces.get(workspace)
    return 0 if statistics is None else statistics.subscriptions


async def test_a_server_that_shuts_down_answers_those_that_wait(migrated: str) -> None:
    answers: list[httpx.Response] = []

    async def poll(path: str, cookie: str) -> None:
        async with httpx.AsyncClient(**PLAIN, timeout=30) as http:
            answers.append(await http.get(path, params={"wait": "30"}, headers={"cookie": cookie}))

    with fail_after(20):
        async with trio.open_nursery() as nursery, serving(migrated) as site:
            person = await set_up(site)
            path = f"{site.url}/api/workspaces/{person.workspace}/events"
            nursery.start_soon(poll, path, person.cookie)
            nursery.start_soon(poll, path, person.cookie)
            await until(lambda: waiting(site, person.workspace) == 2)
    assert [(each.status_code, each.json()["items"]) for each in answers] == [(200, [])] * 2


async def test_a_client_that_hangs_up_leaves_nothing_behind(migrated: str) -> None:
    async with serving(migrated) as site, trio.open_nursery() as nursery:
        person = await set_up(site)

        async def poll() -> None:
            async with httpx.AsyncClient(**PLAIN, timeout=30) as http:
                http.headers["cookie"] = person.cookie
                await http.get(f"{site.url}/api/workspaces/{person.workspace}/events?wait=30")

        nursery.start_soon(poll)
        await until(lambda: waiting(site, person.workspace) == 1)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), fail_after(10):
            await until(lambda: waiting(site, person.workspace) == 0)
