"""The security log of a process: who came and went, and no secret in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests._http import PLAIN
from tests._patience import patient
from tests._raw_client import RawClient
from tests.system._processes import EMAIL, PASSWORD, Processes, Server

OTHER = "other@example.org"
NEW = "yet another long password"


@pytest.mark.processes
async def test_the_log_says_who_came_and_went_and_holds_no_secret(
    processes: Processes, tmp_path: Path, migrated: str
) -> None:
    server = Server(processes, tmp_path / "data", database=migrated)
    process = await server.start("--log-format", "json")
    secrets: list[str] = [PASSWORD, NEW, "a wrong guess", EMAIL, OTHER, "nobody@example.org"]
    async with httpx.AsyncClient(base_url=server.url, **PLAIN, timeout=patient(20)) as http:

        async def ask(
            method: str, path: str, body: Any = None, csrf: str = "", status: int = 200
        ) -> Any:
            answer = await http.request(
                method, path, json=body, headers={"x-csrf-token": csrf, "x-request-id": path}
            )
            assert answer.status_code == status, answer.text
            secrets.extend(answer.cookies.values())
            found = answer.json() if answer.content else {}
            secrets.extend(value for key, value in found.items() if key == "csrf_token")
            return found

        async def log_in(email: str, password: str, status: int = 200) -> Any:
            body = {"email": email, "password": password}
            return await ask("POST", "/api/auth/login", body, status=status)

        who = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
        owner = await ask("POST", "/api/setup/register", who, status=201)
        csrf, owner_id = owner["csrf_token"], owner["user_id"]
        await log_in("nobody@example.org", PASSWORD, 401)
        await log_in(EMAIL, "a wrong guess", 401)
        body = {"email": OTHER, "password": PASSWORD, "display_name": "Other", "role": "viewer"}
        user_id = (await ask("POST", "/api/users", body, csrf, 201))["user_id"]
        space = f"/api/workspaces/{owner['workspace_id']}"
        await ask("PATCH", f"/api/users/{user_id}/role", {"role": "editor"}, csrf)
        await ask("PUT", f"{space}/members/{user_id}", {"role": "admin"}, csrf)
        await ask("PATCH", space, {"state": "archived"}, csrf)
        change = {"current_password": PASSWORD, "new_password": NEW}
        await ask("POST", "/api/auth/password", change, csrf, 204)
        await ask("POST", "/api/auth/logout", None, csrf, 204)
        http.cookies.clear()
        other = await log_in(OTHER, PASSWORD)
        await use_tokens(http, secrets)
        close = {"current_password": PASSWORD}
        await ask("POST", "/api/auth/close", close, other["csrf_token"], 204)
    assert await server.stop() == 0

    lines = [msgspec.json.decode(line) for line in process.err.splitlines()]
    ours = [line for line in lines if line.get("logger") == "dalsegno.security"]
    assert {line["level"] for line in ours} == {"info"}
    told = [(line["event"], line.get("user_id") or line.get("stream_id")) for line in ours]
    assert told == [
        ("user_registered", f"user:{owner_id}"),
        ("set_up", owner_id),
        ("logged_in", owner_id),
        ("login_refused", None),
        ("login_refused", owner_id),
        ("user_registered", f"user:{user_id}"),
        ("user_role_updated", f"user:{user_id}"),
        ("member_added", f"member:{user_id}"),
        ("workspace_archived", "standing:main"),
        ("password_changed", owner_id),
        ("logged_out", owner_id),
        ("logged_in", user_id),
        ("logged_in", user_id),
        ("token_reused", user_id),
        ("logged_in", user_id),
        ("logged_out", user_id),
        ("user_deleted", f"user:{user_id}"),
    ]
    assert all(line["request_id"].startswith("/api/") for line in ours)
    assert {line["address"] for line in ours if "address" in line} == {"127.0.0.1"}
    roles = {line["event"]: (line["role"], line["actor_id"]) for line in ours if "actor_id" in line
             and "role" in line}  # fmt: skip
    assert roles["user_role_updated"] == ("editor", owner_id)
    assert roles["member_added"] == ("admin", owner_id)
    text = process.err + process.out
    assert not [secret for secret in secrets if secret in text]


async def use_tokens(http: httpx.AsyncClient, secrets: list[str]) -> None:
    """Log in by tokens, refresh until one is found to be used, come in with tickets, log out."""

    async def ask(name: str, token: str = "", **body: str) -> Any:
        path = f"/api/auth/{name}"
        headers = {"x-request-id": path} | ({"authorization": f"Bearer {token}"} if token else {})
        answer = await http.post(path, json=body, headers=headers)
        found = answer.json() if answer.content else {}
        secrets.extend(found[key] for key in found if key.endswith(("_token", "ticket")))
        return found

    first = await ask("token", email=OTHER, password=PASSWORD)
    for _ in range(2):
        again = await ask("refresh", refresh_token=first["refresh_token"])
    await ask("refresh", refresh_token=again["refresh_token"])
    reused = await ask("refresh", refresh_token=first["refresh_token"])
    assert reused["code"] == "TOKEN_REUSE_DETECTED"
    pair = await ask("token", email=OTHER, password=PASSWORD)
    ticket = (await ask("ticket", pair["access_token"], path="/ws"))["ticket"]
    host, port = http.base_url.host, http.base_url.port or 80
    stream = await trio.open_tcp_stream(host, port)
    async with stream:
        await RawClient(stream).upgrade(f"{host}:{port}", path=f"/ws?ticket={ticket}")
    used = await http.get(f"/api/auth/session?ticket={ticket}")
    assert used.status_code in {200, 401}
    await ask("revoke", refresh_token=pair["refresh_token"])
