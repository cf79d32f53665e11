"""Pages of other origins: CORS, and a key where a page can set no header of its socket."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from dalsegno.actors.domains.members import PutMember
from dalsegno.runtime._server import Ready
from dalsegno.runtime.web._key_text import KeyText
from tests._http import PLAIN

from ._site import PASSWORD
from .test_hosts import UPGRADE, started

PAGE = "https://App.example.com"
WHO = {"email": "owner@example.com", "password": PASSWORD, "display_name": "Owner"}


@asynccontextmanager
async def a_site(database: str) -> AsyncIterator[tuple[Ready, httpx.AsyncClient, str, str]]:
    """A server that knows a page, its owner's client, a workspace and a key of it."""
    async with started(database, origins=(PAGE.lower(),)) as (ready, http):
        me = (await http.post("/api/setup/register", json=WHO)).json()
        csrf = {"x-csrf-token": me["csrf_token"]}
        path = f"/api/workspaces/{me['workspace_id']}"
        body = {"name": "a page", "role": "viewer"}
        made = await http.post(f"{path}/keys", json=body, headers=csrf)
        assert made.status_code == 201, made.text
        http.cookies.clear()
        yield ready, http, path, made.json()["key"]


async def test_a_named_page_asks_and_reads(migrated: str) -> None:
    async with a_site(migrated) as (_, http, path, key):
        asks = {
            "origin": PAGE,
            "access-control-request-method": "PATCH",
            "access-control-request-headers": "authorization, content-type",
        }
        preflight = await http.options(f"{path}/events", headers=asks)
        assert preflight.status_code == 204
        allowed = preflight.headers
        assert allowed["access-control-allow-origin"] == PAGE
        assert allowed["access-control-allow-credentials"] == "true"
        assert "PATCH" in allowed["access-control-allow-methods"]
        assert "authorization" in allowed["access-control-allow-headers"]
        assert "origin" in allowed["vary"]
        shows = {"origin": PAGE, "authorization": f"Bearer {key}"}
        read = await http.get(f"{path}/events", headers=shows)
        assert read.status_code == 200
        assert read.headers["access-control-allow-origin"] == PAGE
        assert "etag" in read.headers["access-control-expose-headers"]
        refused = await http.get(f"{path}/events", headers={"origin": PAGE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == PAGE, "it may read why"


async def test_a_named_page_logs_in_and_out_with_a_cookie(migrated: str) -> None:
    """Of the same site, or its browser would not keep the cookie; others still may not."""
    async with a_site(migrated) as (_, http, path, _):
        body = {"email": WHO["email"], "password": PASSWORD}
        browser = {"origin": PAGE, "sec-fetch-site": "same-site"}
        entered = await http.post("/api/auth/login", json=body, headers=browser)
        assert entered.status_code == 200, entered.text
        assert entered.headers["access-control-allow-origin"] == PAGE
        assert (await http.get(f"{path}/events", headers=browser)).status_code == 200
        csrf = {"x-csrf-token": entered.json()["csrf_token"]}
        left = await http.post("/api/auth/logout", headers=browser | csrf)
        assert left.status_code == 204
        for others in (
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        ):
            refused = await http.post("/api/auth/login", json=body, headers=others)
            assert refused.status_code == 403
            assert refused.json()["code"] in {"CSRF_INVALID", "ORIGIN_FORBIDDEN"}


OTHERS = (
    "https://example.com",
    "https://app.example.com.evil.example",
    "http://app.example.com",
    "https://app.example.com:8443",
    "null",
    "*",
)


async def test_any_other_page_is_told_nothing(migrated: str) -> None:
    async with a_site(migrated) as (_, http, path, key):
        for origin in OTHERS:
            asks = {"origin": origin, "access-control-request-method": "GET"}
            shows = {"origin": origin, "authorization": f"Bearer {key}"}
            for answer in (
                await http.options(f"{path}/events", headers=asks),
                await http.get(f"{path}/events", headers=shows),
            ):
                assert answer.status_code in {403, 405}
                assert not {name for name in answer.headers if name.startswith("access-control-")}
                assert "origin" in answer.headers["vary"]


async def test_where_no_page_is_named_nothing_is_said_of_pages(migrated: str) -> None:
    async with started(migrated) as (_, http):
        asks = {"origin": PAGE, "access-control-request-method": "GET"}
        answer = await http.options("/api/workspaces", headers=asks)
        assert answer.status_code in {403, 405}
        assert "vary" not in answer.headers


def fresh(http: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client whose connections are new: the first request of one is served natively."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=http.base_url, limits=limits, **PLAIN)


def offered(*texts: str) -> dict[str, str]:
    encoded = [urlsafe_b64encode(text.encode()).decode().rstrip("=") for text in texts]
    names = ["dalsegno.v1", *(f"dalsegno.bearer.{each}" for each in encoded)]
    return {**UPGRADE, "origin": PAGE, "sec-websocket-protocol": ", ".join(names)}


async def test_a_page_shows_its_key_as_a_subprotocol(migrated: str) -> None:
    async with a_site(migrated) as (ready, http, path, key):
        await ready.runtime.workspace(path.rpartition("/")[2]).send(PutMember("u", "viewer"))
        for client in (http, fresh(http)):  # on a connection that was used before, and a new one
            async with client.stream("GET", "/ws", headers=offered(key)) as accepted:
                assert accepted.status_code == 101
                assert accepted.headers["sec-websocket-protocol"] == "dalsegno.v1"
        wrong = str(KeyText("0" * 16, b"x" * 32))
        for headers, status, code in [
            (offered(wrong), 401, "TOKEN_INVALID"),
            (offered(""), 401, "TOKEN_INVALID"),
            (offered("x"), 401, "TOKEN_INVALID"),
            (offered("\N{SNOWMAN}"), 401, "TOKEN_INVALID"),
            (offered(key, key), 400, "BAD_REQUEST"),
            ({**offered(key), "authorization": f"Bearer {key}"}, 400, "BAD_REQUEST"),
            ({**offered(key), "x-api-key": key}, 400, "BAD_REQUEST"),
            ({**offered(key), "origin": "https://evil.example"}, 403, "ORIGIN_FORBIDDEN"),
            (offered(), 401, "AUTH_REQUIRED"),
        ]:
            for client in (http, fresh(http)):
                answer = await client.get("/ws", headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (status, code)
