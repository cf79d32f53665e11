"""Behind proxies with TLS, as docs/deployment.md has them, and behind some that are bad."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
import trio
from websockets.frames import Frame, Opcode

from dalsegno.actors.domains.notes import CreateNote, note_app
from dalsegno.protocol import Limits
from dalsegno.runtime._server import Ready, ServeConfig, serve
from dalsegno.runtime.client import open_client
from tests._asgi import RAW_UPGRADE, hypercorn, their_own
from tests._certificates import NAME, certified
from tests._http import PLAIN
from tests._patience import fail_after, patient
from tests._raw_client import RawClient
from tests.runtime._blocks import Blocks, following
from tests.runtime._serving import EMAIL, PASSWORD, SOON, Person, Site, serving, set_up
from tests.runtime.test_tokens_on_the_wire import UPGRADE
from tests.system._processes import free_port
from tests.system._proxies import (
    Place,
    caddy,
    documented,
    haproxy,
    nginx,
    nginx_conf,
    nginx_without_keepalive,
    running,
)

pytestmark = [pytest.mark.processes, pytest.mark.postgres]

COOKIE = "__Host-dalsegno_session"
WHO = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
CLIENT = "127.0.0.5"
"""Where the browser is: not where the proxy is."""
IDLE_S = 1.0
"""What the proxies' time-outs are here."""
LIMITS = Limits(heartbeat_interval_s=IDLE_S / 4)
"""As many heartbeats before they pass as there are, at the least, before the documented ones do."""


@asynccontextmanager
async def public(database: str, url: str) -> AsyncIterator[Ready]:
    """A server as the document starts it."""
    stop = trio.Event()
    config = ServeConfig(
        port=0,
        database=database,
        app=note_app,
        limits=LIMITS,
        public_url=url,
        proxies=(ipaddress.ip_network("127.0.0.1"),),
    )
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(partial(serve, config, stop=stop))
        try:
            yield ready
        finally:
            stop.set()


@dataclass
class Browser:
    """A client that knows the site by its public name alone."""

    place: Place
    http: httpx.AsyncClient

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.place.port}"

    @property
    def host(self) -> str:
        return f"{NAME}:{self.place.port}"

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.ask("POST", path, json=body, headers=headers)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"host": self.host, "origin": self.origin, **more.pop("headers", {})}
        extensions = {"sni_hostname": NAME}
        return await self.http.request(method, path, headers=headers, extensions=extensions, **more)

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        plain = await trio.open_tcp_stream("127.0.0.1", self.place.port, local_address=CLIENT)
        return trio.SSLStream(
            plain, certified().trust(), server_hostname=NAME, https_compatible=True
        )

    async def speaks_http_2(self) -> bool:
        """Whether it agrees to (RFC 9113 §3.2)."""
        trust = certified().trust()
        trust.set_alpn_protocols(["h2", "http/1.1"])
        plain = await trio.open_tcp_stream("127.0.0.1", self.place.port)
        stream = trio.SSLStream(plain, trust, server_hostname=NAME, https_compatible=True)
        async with stream:
            await stream.do_handshake()
            return bool(stream.selected_alpn_protocol() == "h2")

    async def upgrade(
        self, stream: trio.SSLStream[trio.SocketStream], cookie: str, origin: str | None = None
    ) -> tuple[int, RawClient]:
        """Ask for a WebSocket on a connection, whatever it was used for."""
        client = RawClient(stream)
        asked = (
            f"GET /ws HTTP/1.1\r\nHost: {self.host}\r\nOrigin: {origin or self.origin}\r\n"
            f"Cookie: {cookie}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await stream.send_all(asked.encode())
        head, early = await read_head(stream)
        client._reader.feed_data(early)
        return int(head.split()[1]), client


async def read_head(stream: trio.SSLStream[trio.SocketStream]) -> tuple[bytes, bytes]:
    head = b""
    while b"\r\n\r\n" not in head:
        more = await stream.receive_some()
        assert more, head
        head += more
    head, _, rest = head.partition(b"\r\n\r\n")
    return head, rest


@asynccontextmanager
async def browsing(place: Place) -> AsyncIterator[Browser]:
    transport = httpx.AsyncHTTPTransport(verify=certified().trust(), local_address=CLIENT)
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{place.port}", transport=transport, timeout=patient(20)
    ) as http:
        yield Browser(place, http)


def judged(answer: httpx.Response) -> str:
    """The session's id in a cookie that is what it should be."""
    (header,) = answer.headers.get_list("set-cookie")
    cookie = SimpleCookie(header)
    assert [*cookie] == [COOKIE]
    morsel = cookie[COOKIE]
    assert morsel["secure"] is True
    assert morsel["httponly"] is True
    assert (morsel["samesite"], morsel["path"], morsel["domain"]) == ("Lax", "/", "")
    assert int(morsel["max-age"]) > 0
    return morsel.value


async def text_of(client: RawClient, *kinds: str) -> dict[str, Any]:
    """The next message of these types."""
    while True:
        opcode, payload = await client.frame()
        if opcode is Opcode.TEXT and (said := msgspec.json.decode(payload))["type"] in kinds:
            message: dict[str, Any] = said
            return message


def sent(**fields: Any) -> Frame:
    return Frame(Opcode.TEXT, msgspec.json.encode(fields))


@pytest.mark.parametrize("proxy", [nginx, nginx_without_keepalive, caddy, haproxy])
async def test_behind_a_proxy_with_tls(
    proxy: Callable[[Place], list[str]], tmp_path: Path, migrated: str
) -> None:
    port = free_port()
    origin = f"https://{NAME}:{port}"
    async with public(migrated, origin) as ready:
        place = Place(tmp_path, port, ready.port)
        async with running(proxy(place), place), browsing(place) as browser:
            assert await browser.speaks_http_2() == (proxy in {caddy, haproxy})
            forged = {"x-setup-token": "x", "x-forwarded-for": "10.9.9.9"}
            with structlog.testing.capture_logs() as logged:
                refused = await browser.post("/api/setup/register", WHO, **forged)
            assert (refused.status_code, refused.json()["code"]) == (403, "SETUP_TOKEN_INVALID")
            told = [each["address"] for each in logged if each["event"] == "setup_refused"]
            assert told == [CLIENT], "the proxy's word counts, and the client's own does not"

            token = {"x-setup-token": ready.setup_token or ""}
            made = await browser.post("/api/setup/register", WHO, **token)
            assert made.status_code == 201, made.text
            session = judged(made)
            browser.http.cookies.clear()
            cookie = f"{COOKIE}={session}"
            evil = await browser.post("/api/auth/login", {}, origin="https://evil.example")
            assert (evil.status_code, evil.json()["code"]) == (403, "ORIGIN_FORBIDDEN")
            csrf = {"x-csrf-token": made.json()["csrf_token"], "cookie": cookie}
            workspace = made.json()["workspace_id"]
            note = {"workspace_id": workspace, "title": "T", "markdown": "x" * 10**6}
            assert (await browser.post("/api/notes", note, **csrf)).status_code == 201

            with fail_after(20):
                idle_s = 0.0 if proxy is caddy else 1.3 * IDLE_S  # it has no time-outs
                await sockets_and_streams(browser, ready, cookie, workspace, idle_s)


async def sockets_and_streams(
    browser: Browser, ready: Ready, cookie: str, workspace: str, idle_s: float
) -> None:
    async with (
        await browser.connect() as fresh,
        await browser.connect() as used,
        await browser.connect() as evil,
        await browser.connect() as streaming,
    ):
        status, _ = await browser.upgrade(evil, cookie, "https://evil.example")
        assert status == 403
        for _ in range(3):
            asked = f"GET /healthz HTTP/1.1\r\nHost: {browser.host}\r\n\r\n"
            await used.send_all(asked.encode())
            head, body = await read_head(used)
            while b"}" not in body:
                body += await used.receive_some()
            assert b"200" in head.splitlines()[0]
        clients = []
        for stream in (fresh, used):
            status, client = await browser.upgrade(stream, cookie)
            assert status == 101
            await client.send(sent(type="subscribe", stream_id=f"workspace:{workspace}"))
            await text_of(client, "subscribed")
            clients.append(client)
        blocks = Blocks(streaming)
        target = f"/api/v1/workspaces/{workspace}/events?cursor=head"
        await blocks.ask(target, {"cookie": cookie}, host=browser.host)
        assert blocks.status == 200
        assert blocks.headers["cache-control"] == "no-store, no-transform"
        await blocks.hear("head")
        until = trio.current_time() + idle_s
        while trio.current_time() < until:  # only heartbeats, for longer than the time-outs
            for client in clients:
                await text_of(client, "heartbeat")
            await blocks.hear("head")
        await ready.runtime.workspace(workspace).send(CreateNote("A note", "x"))
        seq = (await blocks.hear("note_created")).said["seq"]
        for client in clients:
            while (await text_of(client, "event"))["seq"] < seq:
                pass
            await client.send(sent(type="ping"))
            await text_of(client, "pong")


async def test_a_proxy_keeps_what_ends_a_hypercorn_of_a_programs_own_from_it(
    tmp_path: Path,
) -> None:
    """A byte behind an upgrade (docs/deployment.md); see tests/runtime/test_asgi.py without."""
    async with hypercorn(their_own) as (_, upstream):
        place = Place(tmp_path, free_port(), upstream)
        async with running(nginx(place), place), browsing(place) as browser:
            for _ in range(3):
                async with await browser.connect() as stream:
                    await stream.send_all(RAW_UPGRADE % b"/anything" + b"x")
                    with fail_after(20):
                        head, _ = await read_head(stream)
                assert b" 403" in head.splitlines()[0]
                assert (await browser.ask("GET", "/")).text == "their"


def test_the_documented_time_outs_leave_room_for_every_wait() -> None:
    """They are a second in these tests, and the heartbeats a quarter."""
    waits_s = max(Limits().heartbeat_interval_s, Limits().run_wait_max_s)
    for section, language in (("nginx", "nginx"), ("HAProxy", "haproxy")):
        for block in documented(section, language):
            minutes = re.findall(r"timeout (?:client|server|tunnel)?\s*(\d+)m;?$", block, re.M)
            assert minutes
            assert all(60 * int(each) > 1.5 * waits_s for each in minutes)
    kept_s = Limits().head_deadline_s
    blocks = documented("nginx", "nginx")[0], *documented("Caddy", "caddy")
    for block in (*blocks, *documented("HAProxy", "haproxy")):
        found = re.search(r"(?:keepalive_timeout|keepalive|pool-purge-delay) (\d+)s", block)
        assert found is not None
        assert int(found[1]) < kept_s


# ------------------------------------------------------------------------- proxies that are bad

BAD = """
server {{
    listen 127.0.0.1:{buffers};
    location / {{
        proxy_pass http://127.0.0.1:{upstream};
        proxy_http_version 1.0;
        proxy_set_header Host $http_host;
        proxy_buffering on;
        gzip on;
        gzip_types *;
    }}
    location /unheeded/ {{
        proxy_pass http://127.0.0.1:{upstream}/;
        proxy_http_version 1.0;
        proxy_set_header Host $http_host;
        proxy_buffering on;
        proxy_ignore_headers X-Accel-Buffering;
    }}
}}
server {{
    listen 127.0.0.1:{cuts};
    location / {{
        proxy_pass http://127.0.0.1:{upstream};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_read_timeout 300ms;
    }}
}}
server {{
    listen 127.0.0.1:{old};
    location / {{
        proxy_pass http://127.0.0.1:{upstream};
        proxy_http_version 1.0;
        proxy_set_header Host $http_host;
    }}
    location /told/ {{
        proxy_pass http://127.0.0.1:{upstream}/;
        proxy_http_version 1.0;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
    }}
}}
"""


@asynccontextmanager
async def behind_bad_ones(
    database: str, folder: Path
) -> AsyncIterator[tuple[Site, Person, dict[str, str]]]:
    """A server whose clients hear nothing for a minute but what happens, and bad proxies."""
    async with serving(database, limits=Limits(heartbeat_interval_s=60)) as site:
        ports = {name: free_port() for name in ("buffers", "cuts", "old")}
        place = Place(folder, ports["old"], site.port)
        command = nginx_conf(place, BAD.format(upstream=site.port, **ports))
        async with running(command, place):
            owner = await set_up(site)
            yield site, owner, {each: f"http://127.0.0.1:{port}" for each, port in ports.items()}


async def test_a_proxy_that_buffers_cuts_or_is_old(migrated: str, tmp_path: Path) -> None:
    async with behind_bad_ones(migrated, tmp_path) as (site, owner, at):
        await buffers(site, at["buffers"], owner)
        await cuts(site, at["cuts"], owner)
        await speaks_http_1_0(site, at["old"], owner)


async def write(site: Site, owner: Person) -> int:
    receipt = await site.runtime.workspace(owner.workspace).send(CreateNote("A note", "x"))
    return receipt.event_seq


async def buffers(site: Site, url: str, owner: Person) -> None:
    """Events pass at once, since the answer asks for it; else they would not.

    This nginx looks at every chunk as it comes, and buffers what has none.
    """
    there = msgspec.structs.replace(owner, url=url)
    async with following(there, cursor="head") as blocks:
        await blocks.hear("head")
        seq = await write(site, owner)
        assert (await blocks.hear("note_created")).said["seq"] == seq
        assert "content-encoding" not in blocks.headers
    path = f"/unheeded/api/v1/workspaces/{owner.workspace}/events"
    with trio.move_on_after(0.3) as scope:
        async with following(there, path, cursor="head") as blocks:
            await blocks.hear("head")
    assert scope.cancelled_caught, "this proxy buffers nothing"


async def cuts(site: Site, url: str, owner: Person) -> None:
    """Whoever was cut comes back and has missed nothing."""
    async with (
        open_client(url, cookie=owner.cookie, app=note_app, limits=SOON) as client,
        client.workspace(owner.workspace).subscribe(after=0) as events,
    ):
        seen: list[int] = []
        for _ in range(3):
            before = client.statistics().connections
            seq = await write(site, owner)
            with fail_after(20):
                while not seen or seen[-1] < seq:
                    seen.append((await anext(events)).seq)
                while client.statistics().connections == before:
                    await trio.sleep(0.02)
        assert seen == [*range(1, seq + 1)]


async def speaks_http_1_0(site: Site, url: str, owner: Person) -> None:
    there = msgspec.structs.replace(owner, url=url)
    async with following(there, cursor="head") as blocks:
        assert blocks.status == 200
        await blocks.hear("head")
        seq = await write(site, owner)
        assert (await blocks.hear("note_created")).said["seq"] == seq
    # What the proxy is told itself: no chunks, which HTTP/1.0 does not know (RFC 9112, 6.1).
    async with await trio.open_tcp_stream("127.0.0.1", site.port) as stream:
        path = f"/api/v1/workspaces/{owner.workspace}/events?cursor=0"
        await stream.send_all(
            f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nCookie: {owner.cookie}\r\n\r\n".encode()
        )
        said = b""
        with fail_after(20):
            while b"note_created" not in said:
                said += await stream.receive_some()
        head, _, body = said.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        assert body.startswith((b"retry: ", b"event: ", b"id: ", b": "))
    async with httpx.AsyncClient(base_url=url, **PLAIN) as http:
        codes = []
        for path in ("/ws", "/told/ws"):
            refused = await http.get(path, headers=UPGRADE | {"cookie": owner.cookie})
            codes.append((refused.status_code, refused.json()["code"]))
        assert codes == [(426, "UPGRADE_REQUIRED"), (505, "BAD_REQUEST")]
