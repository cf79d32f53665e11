"""What a server is called and whose pages talk to it: DNS rebinding, a public URL, JSON bodies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import open_websocket_url

from dalsegno.protocol import Reject
from dalsegno.runtime._server import Ready, ServeConfig, serve
from dalsegno.runtime.web import Hosts, hosts_of
from tests._http import PLAIN
from tests._patience import patient

from ._site import PASSWORD, Site

WHO = {"email": "owner@example.com", "password": PASSWORD, "display_name": "Owner"}
UPGRADE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
REBOUND = "rebound.example:8000"


@asynccontextmanager
async def started(database: str, **settings: Any) -> AsyncIterator[tuple[Ready, httpx.AsyncClient]]:
    stop = trio.Event()
    config = replace(ServeConfig(port=0, database=database), **settings)

    async def run(task_status: trio.TaskStatus[Ready]) -> None:
        await serve(config, stop=stop, task_status=task_status)

    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(run)
        url = f"http://127.0.0.1:{ready.port}"
        async with httpx.AsyncClient(base_url=url, timeout=patient(20), **PLAIN) as http:
            yield ready, http
        stop.set()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_page_whose_name_was_rebound_to_loopback_sets_up_nothing(migrated: str) -> None:
    async with started(migrated) as (_, http):
        for headers in ({"host": REBOUND}, {"host": REBOUND, "origin": f"http://{REBOUND}"}):
            answer = await http.post("/api/setup/register", json=WHO, headers=headers)
            assert refusal(answer) == (403, "HOST_FORBIDDEN")
            answer = await http.get("/", headers=headers)
            assert refusal(answer) == (403, "HOST_FORBIDDEN"), "nor is there anything else"
        # What a browser adds to a page's request, whatever name the page's server was reached by.
        answer = await http.post(
            "/api/setup/register", json=WHO, headers={"origin": f"http://{REBOUND}"}
        )
        assert refusal(answer) == (403, "ORIGIN_FORBIDDEN")
        made = await http.post(
            "/api/setup/register", json=WHO, headers={"origin": str(http.base_url).rstrip("/")}
        )
        assert made.status_code == 201, made.text
        cookie = {"cookie": f"dalsegno_session={made.cookies['dalsegno_session']}"}
        for headers, code in (
            ({"host": REBOUND}, "HOST_FORBIDDEN"),
            ({"host": REBOUND, "origin": f"http://{REBOUND}"}, "HOST_FORBIDDEN"),
            ({"origin": f"http://{REBOUND}"}, "ORIGIN_FORBIDDEN"),
        ):
            for used in (False, True):
                async with httpx.AsyncClient(base_url=http.base_url, **PLAIN) as fresh:
                    if used:
                        assert (await fresh.get("/healthz")).status_code == 200
                    answer = await fresh.get("/ws", headers={**UPGRADE, **cookie, **headers})
                assert refusal(answer) == (403, code), (headers, used)


async def test_loopbacks_names_are_taken_and_probes_name_what_they_like(migrated: str) -> None:
    async with started(migrated) as (ready, http):
        for name in ("127.0.0.1", "localhost", "[::1]", "LOCALHOST.", "127.0.0.2"):
            for host in (name, f"{name}:{ready.port}", f"{name}:1"):
                answer = await http.get("/api/auth/session", headers={"host": host})
                assert refusal(answer) == (401, "AUTH_REQUIRED"), host
        for path in ("/healthz", "/readyz"):
            assert (await http.get(path, headers={"host": "10.0.0.5"})).status_code == 200


async def test_a_public_url_marks_cookies_names_hosts_and_wants_the_token(migrated: str) -> None:
    public = "https://board.example"
    async with started(migrated, public_url=public) as (ready, http):
        assert ready.setup_token is not None, "a proxy here lets others in"
        through = {"host": "board.example", "origin": public}
        answer = await http.post("/api/setup/register", json=WHO, headers=through)
        assert refusal(answer) == (403, "SETUP_TOKEN_INVALID")
        token = {"x-setup-token": ready.setup_token}
        for headers in ({"origin": "https://evil.example"}, {"origin": "http://board.example"}):
            answer = await http.post(
                "/api/setup/register", json=WHO, headers={**token, "host": "127.0.0.1", **headers}
            )
            assert refusal(answer) == (403, "ORIGIN_FORBIDDEN")
        made = await http.post("/api/setup/register", json=WHO, headers={**through, **token})
        assert made.status_code == 201, made.text
        name_and_value, *attributes = made.headers["set-cookie"].split("; ")
        assert name_and_value.startswith("__Host-dalsegno_session=")
        assert set(attributes) == {
            *("Path=/", "Max-Age=604800", "HttpOnly", "Secure", "SameSite=Lax")
        }
        value = name_and_value.partition("=")[2]
        for name, origin, status in (
            ("__Host-dalsegno_session", "https://evil.example", 403),
            ("dalsegno_session", public, 401),
        ):
            asked = {"cookie": f"{name}={value}", "origin": origin}
            async with httpx.AsyncClient(base_url=http.base_url, **PLAIN) as fresh:
                answer = await fresh.get("/ws", headers={**UPGRADE, **asked})
            assert answer.status_code == status, (name, origin)
        url = f"ws://127.0.0.1:{ready.port}/ws"
        cookie = f"__Host-dalsegno_session={value}".encode()
        sent = [(b"cookie", cookie), (b"origin", public.encode())]
        async with open_websocket_url(url, extra_headers=sent) as ws:
            await ws.send_message('{"type":"ping"}')
            assert '"pong"' in await ws.get_message()


async def test_without_tls_a_public_url_leaves_cookies_as_they_are(migrated: str) -> None:
    async with started(migrated, public_url="http://board.example") as (ready, http):
        token = {"x-setup-token": ready.setup_token or "", "host": "board.example"}
        made = await http.post("/api/setup/register", json=WHO, headers=token)
        assert made.headers["set-cookie"].startswith("dalsegno_session=")
        assert "Secure" not in made.headers["set-cookie"].split("; ")


async def test_a_form_of_another_page_is_no_body(site: Site) -> None:
    """Such a form needs no permission of ours, which `application/json` does (CORS)."""
    url, body = f"http://{site.address}", b'{"email":"a@b","password":"x"}'
    forms = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None)
    async with httpx.AsyncClient(base_url=url, **PLAIN) as http:
        for path in ("/api/auth/login", "/api/setup/register"):
            for said in forms:
                headers = {} if said is None else {"content-type": said}
                answer = await http.post(path, content=body, headers=headers)
                assert refusal(answer) == (415, "UNSUPPORTED_MEDIA_TYPE"), (path, said)
    answer = await site.http(
        "POST",
        "/api/auth/login",
        {"email": "owner@example.com", "password": PASSWORD},
        **{"content-type": "Application/JSON; charset=utf-8"},
    )
    assert answer.status_code == 200


LOOPBACK = hosts_of(only_loopback=True, public_url=None, also=(), origins=())
PUBLIC = hosts_of(
    only_loopback=False,
    public_url="https://Board.example:443/",
    also=["http://10.0.0.5:8000"],
    origins=["https://Friend.example"],
)
OPEN = hosts_of(only_loopback=False, public_url=None, also=(), origins=())
SECURE = hosts_of(
    only_loopback=False,
    public_url=None,
    also=(),
    origins=["http://friend.example"],
    has_tls=True,
)
"""What speaks TLS itself."""


@pytest.mark.parametrize(
    ("hosts", "host", "is_taken"),
    [
        (LOOPBACK, "localhost:8000", True),
        (LOOPBACK, "[::1]", True),
        (LOOPBACK, "10.0.0.5", False),
        (LOOPBACK, "localhost.evil.example", False),
        (LOOPBACK, "127.0.0.1.evil.example", False),
        (LOOPBACK, "127.0.0.1@evil.example", False),
        (LOOPBACK, "evil.example:80@localhost", False),
        (LOOPBACK, "1.0.0.127", False),
        (LOOPBACK, "", False),
        (LOOPBACK, "[::1", False),
        (PUBLIC, "board.example", True),
        (PUBLIC, "BOARD.example:443", True),
        (PUBLIC, "10.0.0.5:8000", True),
        (PUBLIC, "127.0.0.1:8000", True),
        (PUBLIC, "friend.example", False),
        (PUBLIC, "evil.example", False),
        (OPEN, "evil.example", True),
    ],
)
def test_which_hosts_are_taken(hosts: Hosts, host: str, is_taken: bool) -> None:
    with nullcontext() if is_taken else pytest.raises(Reject, match="HOST_FORBIDDEN"):
        hosts.check_host([host])


@pytest.mark.parametrize(
    ("hosts", "origin", "host", "is_taken"),
    [
        (LOOPBACK, "http://localhost:8000", "localhost:8000", True),
        (LOOPBACK, "http://localhost:3000", "localhost:8000", False),
        (PUBLIC, "https://board.example", "127.0.0.1:8000", True),
        (PUBLIC, "https://friend.example", "board.example", True),
        (PUBLIC, "http://friend.example", "board.example", False),
        (PUBLIC, "null", "board.example", False),
        (OPEN, "https://board.example", "board.example", True),
        (OPEN, "http://board.example", "board.example", True),
        (OPEN, "https://evil.example", "board.example", False),
        (SECURE, "https://board.example", "board.example", True),
        (SECURE, "HTTPS://board.example:443", "board.example", True),
        (SECURE, "http://friend.example", "board.example", True),
        (SECURE, "http://board.example", "board.example", False),
        (SECURE, "https://evil.example", "board.example", False),
    ],
)
def test_which_origins_are_taken(hosts: Hosts, origin: str, host: str, is_taken: bool) -> None:
    with nullcontext() if is_taken else pytest.raises(Reject, match="ORIGIN_FORBIDDEN"):
        hosts.check_origin([origin], [host])
