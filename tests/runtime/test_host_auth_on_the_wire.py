"""A host's own `authenticate` on a server with a port: upgrades, first messages, renewals."""

from __future__ import annotations

from datetime import timedelta

import httpx
import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.notes import note_domains
from dalsegno.protocol import App, AuthRequest, Caller, Limits
from dalsegno.runtime.seams import WORLD
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests._raw_client import RawClient
from tests.runtime._serving import Site, serving
from tests.runtime.test_first_message import authenticate, hear, hear_end, knocking, text
from tests.runtime.test_tokens_on_the_wire import UPGRADE


class Host:
    def __init__(self) -> None:
        self.asked: list[AuthRequest] = []
        self.fails = False

    async def authenticate(self, asked: AuthRequest) -> Caller | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(asked)
        if self.fails:
            raise ZeroDivisionError
        shown = asked.token or asked.headers.get("cookie", "").removeprefix("host=")
        if not shown.startswith("pass-"):
            return None
        until = WORLD.now() + timedelta(seconds=300)
        return Caller(user_id=shown.removeprefix("pass-"), expires_at=until)


def app_of(host: Host) -> App:
    return App(note_domains, authenticate=host.authenticate)


async def upgraded(site: Site, stream: trio.SocketStream, cookie: str) -> RawClient:
    client = RawClient(stream)
    await client.upgrade(f"127.0.0.1:{site.port}", cookie)
    return client


async def test_whom_a_host_names_has_a_socket_and_keeps_it(migrated: str) -> None:
    host, limits = Host(), Limits(heartbeat_interval_s=0.2)
    async with serving(migrated, app=app_of(host), limits=limits) as site:
        await site.runtime.workspace("w").send(PutMember("host:ada", "editor"))
        stream = await trio.open_tcp_stream("127.0.0.1", site.port)
        with fail_after(20):
            async with stream:
                client = await upgraded(site, stream, "host=pass-ada")
                await client.send(text("subscribe", stream_id="workspace:w", cursor=1))
                assert (await hear(client))["type"] == "subscribed"
                (connection,) = site.runtime.service.connections
                assert connection.user_id == "host:ada"
                connection._signs.expires_at = site.runtime.world.now()
                await until(lambda: connection.writer.is_held)
                await client.send(authenticate("pass-ada"))
                assert 290_000 < (await hear(client))["expires_in_ms"] <= 300_000
                assert host.asked[-1].token == "pass-ada"
                assert not {"cookie", "authorization"} & host.asked[-1].headers.keys()
                assert host.asked[-1].headers["upgrade"] == "websocket"
                await client.send(authenticate("pass-bob"))
                assert (await hear_end(client))[1] == 4003


async def test_a_first_message_is_shown_to_the_host(migrated: str) -> None:
    host = Host()
    async with serving(migrated, app=app_of(host)) as site:
        with fail_after(20):
            async with knocking(site, cookie="host=pass-eve") as client:
                assert host.asked == [], "a cookie is not looked at"
                await client.send(authenticate("pass-ada"))
                assert (await hear(client))["type"] == "authenticated"
                assert [each.user_id for each in site.runtime.service.connections] == ["host:ada"]
            async with knocking(site) as client:
                await client.send(authenticate("nobody's"))
                assert await hear_end(client) == ([], 4001, "TOKEN_INVALID")


async def test_a_host_that_fails_admits_nobody_and_ends_nobody_else(migrated: str) -> None:
    host = Host()
    async with serving(migrated, app=app_of(host)) as site:
        with fail_after(20):
            async with knocking(site) as client, knocking(site) as other:
                await client.send(authenticate("pass-ada"))
                await hear(client)
                host.fails = True
                await other.send(authenticate("pass-bob"))
                assert await hear_end(other) == ([], 1011, "INTERNAL_ERROR")
                async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
                    refused = await http.get("/ws", headers={**UPGRADE, "cookie": "host=pass-bob"})
                assert (refused.status_code, refused.json()["code"]) == (500, "INTERNAL_ERROR")
                await client.send(authenticate("pass-ada"), text("ping"))
                assert (await hear(client))["code"] == "INTERNAL_ERROR"
                assert (await hear(client))["type"] == "pong"
