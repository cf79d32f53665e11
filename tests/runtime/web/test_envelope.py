"""What every request and answer has in common, and health."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing
from quart.testing.connections import WebsocketResponseError
from quart_trio.testing import connections
from structlog.testing import capture_logs
from werkzeug.routing import Map

from dalsegno.actors.domains.accounts import RegisterUser
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits, OverloadedError, StoreUnavailableError, UnavailableError
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.web._health_routes import PROBE_DEADLINE_S, PROBE_VALID_S
from dalsegno.runtime.web._paths import MatchedRule
from tests._patience import fail_after, lasted

from ._client import JSON, PASSWORD, Site, User
from .conftest import open_site

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dalsegno.actors import Batch, Head


async def test_the_root_says_what_there_is(site: Site) -> None:
    answer = await site.send("GET", "/")
    assert answer.status == 200
    assert (answer.body["name"], answer.body["version"]) == ("dalsegno", version("dalsegno"))
    links = answer.body["links"]
    assert links == {"health": "/healthz", "ready": "/readyz", "api": "/api/", "websocket": "/ws"}
    for path in (links["health"], links["ready"]):
        assert (await site.send("GET", path)).status == 200
    assert (await site.send("POST", "/")).status == 405


async def test_a_request_id_is_echoed_or_made(site: Site) -> None:
    for asked in ("r-1", "a b", "x" * 128):
        answer = await site.send("GET", "/healthz", headers={"x-request-id": asked})
        assert answer.headers["x-request-id"] == asked
        assert answer.body == {"status": "ok", "request_id": asked}
    for asked in ("", "x" * 129, "é"):
        answer = await site.send("GET", "/healthz", headers={"x-request-id": asked})
        assert len(answer.headers["x-request-id"]) == 36
        assert answer.headers["x-request-id"] == answer.body["request_id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api", 404, "NOT_FOUND"),
        ("GET", "/api/nothing", 404, "NOT_FOUND"),
        ("GET", "/api//users", 404, "NOT_FOUND"),
        ("DELETE", "/api/auth/login", 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", "/api/auth/login", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/healthz", 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_what_is_no_route_has_the_envelope_too(
    site: Site, method: str, path: str, status: int, code: str
) -> None:
    answer = await site.send(method, path)
    assert (answer.status, answer.code) == (status, code)
    if status == 405:
        assert answer.headers["allow"] == ("GET, HEAD" if path == "/healthz" else "POST")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b'"x"',
        b"\xff",
        b'{"email": "\xff", "password": "x"}',
        b'{"email": "a\\u0000", "password": "x"}',
        b'{"email": "\\ud800", "password": "x"}',
        b'{"email": 1, "password": "x"}',
        b'{"email": "a"}',
        b'{"email": "a", "password": "x", "more": ' + b"[" * 65 + b"]" * 65 + b"}",
        b"[" * 10_000,
    ],
)
async def test_what_is_not_the_json_that_was_asked_for_is_400(site: Site, raw: bytes) -> None:
    answer = await site.send("POST", "/api/auth/login", raw=raw)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_unknown_fields_are_passed_over(site: Site, owner: User) -> None:
    body = {"email": owner.email, "password": PASSWORD, "remember": True}
    assert (await site.send("POST", "/api/auth/login", body)).status == 200


async def test_a_body_above_the_bound_is_413() -> None:
    async with open_site(limits=Limits(body_bytes_max=100)) as site:
        answer = await site.send("POST", "/api/auth/login", raw=b"x" * 101)
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
        assert answer.headers["connection"] == "close"
        answer = await site.send("POST", "/api/auth/login", raw=b"x" * 100)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
        assert "connection" not in answer.headers


async def test_what_is_refused_early_is_still_read_to_the_end(site: Site) -> None:
    client = site.app.test_client(use_cookies=False)
    async with client.request("/api/notes", method="POST") as connection:
        assert isinstance(connection, connections.TestHTTPConnection)
        await connection.send(b"{")
        await trio.testing.wait_all_tasks_blocked()
        assert connection.status_code is None
        await connection.send_complete()
        response = await connection.as_response()
    assert response.status_code == 401
    assert "connection" not in response.headers


async def test_an_announced_body_above_the_bound_is_not_read() -> None:
    async with open_site(limits=Limits(body_bytes_max=100)) as site:
        headers = {**JSON, "content-length": str(2**40)}
        client = site.app.test_client(use_cookies=False)
        async with client.request("/api/auth/login", method="POST", headers=headers) as connection:
            await connection.send(b"x")
            with fail_after(5):
                response = await connection.as_response()
        assert response.status_code == 413


async def test_answers_are_neither_cached_nor_guessed_at(owner: User) -> None:
    for answer in (await owner.get("/api/workspaces"), await owner.get("/nowhere")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == "application/json"


async def test_an_upgrade_where_there_is_none_has_the_envelope_too(site: Site) -> None:
    client = site.app.test_client(use_cookies=False)
    for path, status, code in (("/nowhere", 404, "NOT_FOUND"), ("/healthz", 400, "BAD_REQUEST")):
        async with client.websocket(path, headers={"x-request-id": "r-1"}) as connection:
            with pytest.raises(WebsocketResponseError) as caught:
                await connection.receive()
        response = caught.value.response
        body = msgspec.json.decode(await response.get_data(as_text=False))
        assert (response.status_code, body["code"], body["request_id"]) == (status, code, "r-1")
        assert response.headers["x-request-id"] == "r-1"


BAD_HOSTS = ["x" * 300, "x" * 7_000, "a..b", "x" * 64 + ".example"]


@pytest.mark.parametrize("host", BAD_HOSTS, ids=lambda host: f"{host[:4]}_{len(host)}")
async def test_a_host_that_can_be_none_is_400(site: Site, host: str) -> None:
    with capture_logs() as logged:
        for method, path in (("GET", "/healthz"), ("GET", "/nowhere"), ("POST", "/healthz")):
            answer = await site.send(method, path, headers={"host": host, "x-request-id": "r-1"})
            assert (answer.status, answer.code) == (400, "BAD_REQUEST")
            assert answer.headers["x-request-id"] == "r-1"
            assert answer.headers["cache-control"] == "no-store"
    assert not logged
    assert (await site.send("GET", "/healthz")).status == 200


@pytest.mark.parametrize("host", BAD_HOSTS, ids=lambda host: f"{host[:4]}_{len(host)}")
async def test_an_upgrade_with_a_host_that_can_be_none_is_400(site: Site, host: str) -> None:
    client = site.app.test_client(use_cookies=False)
    headers = {"host": host, "x-request-id": "r-1"}
    with capture_logs() as logged:
        async with client.websocket("/ws", headers=headers) as connection:
            with pytest.raises(WebsocketResponseError) as caught:
                await connection.receive()
    response = caught.value.response
    body = msgspec.json.decode(await response.get_data(as_text=False))
    assert (response.status_code, body["code"], body["request_id"]) == (400, "BAD_REQUEST", "r-1")
    assert response.headers["x-request-id"] == "r-1"
    assert not logged


async def test_a_bug_is_logged_under_the_requests_id_and_tells_nothing(site: Site) -> None:
    async def fail() -> str:
        async with trio.open_nursery():
            raise ZeroDivisionError("secret")

    site.app.add_url_rule("/fail", "fail", fail)
    with capture_logs() as logged:
        answer = await site.send("GET", "/fail", headers={"x-request-id": "r-1"})
    assert (answer.status, answer.code) == (500, "INTERNAL_ERROR")
    assert b"secret" not in answer.raw
    assert b"Traceback" not in answer.raw
    (line,) = logged
    assert (line["request_id"], line["log_level"]) == ("r-1", "error")
    assert "ZeroDivisionError: secret" in line["exception"]


async def test_too_much_at_once_says_when_to_come_back(site: Site) -> None:
    async def refuse() -> str:
        raise OverloadedError("full", retry_after_s=1.5)

    site.app.add_url_rule("/refuse", "refuse", refuse)
    answer = await site.send("GET", "/refuse")
    assert (answer.status, answer.code) == (503, "OVERLOADED")
    assert answer.headers["retry-after"] == "2"


class AbsentStore(MemoryStore):
    """A store that can be away, or silent."""

    mode = "there"
    appends = 0

    async def read_head(self, workspace_id: str) -> Head | None:
        if self.mode == "away":
            raise StoreUnavailableError("connection refused")
        if self.mode == "silent":
            await trio.sleep_forever()
        return await super().read_head(workspace_id)

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        self.appends += 1
        if self.mode == "read only" or (self.mode == "full" and any(b.events for b in batches)):
            raise StoreUnavailableError("cannot execute INSERT")
        if self.mode == "locked":
            await trio.sleep_forever()
        return await super().append(batches)

    async def beat(
        self, node_id: str, incarnation: str, *, address: str | None, lease_s: float, first: bool
    ) -> float | None:
        if self.mode == "without leases":
            raise StoreUnavailableError("connection refused")
        return await super().beat(
            node_id, incarnation, address=address, lease_s=lease_s, first=first
        )


FAILURES = {
    "away": "be read",
    "silent": "be read",
    "read only": "be written to",
    "locked": "be written to",
}


async def test_readiness_is_the_databases(autojump_clock: trio.testing.MockClock) -> None:
    store = AbsentStore(WORLD)
    async with open_site(store=store) as site:
        assert (await site.send("GET", "/readyz")).status == 200
        for mode, what in FAILURES.items():
            store.mode = mode
            await trio.sleep(PROBE_VALID_S)
            began = trio.current_time()
            answer = await site.send("GET", "/readyz")
            assert (answer.status, answer.code) == (503, "DB_UNAVAILABLE")
            assert what in answer.body["message"]
            assert lasted(began) <= PROBE_DEADLINE_S + 1
            assert (await site.send("GET", "/healthz")).status == 200
            store.mode = "there"
            await trio.sleep(site.rt.limits.commit_deadline_s + 10)
            assert (await site.send("GET", "/readyz")).status == 200


async def test_a_full_disk_shows_in_readiness_until_a_commit_succeeds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A statement that writes nothing succeeds there, and says nothing."""
    store = AbsentStore(WORLD)
    async with open_site(store=store) as site:
        workspace = site.rt.workspace("w")
        await workspace.send(PutMember("ada", "owner"))
        store.mode = "full"
        assert (await site.send("GET", "/readyz")).status == 200
        with pytest.raises(UnavailableError):
            await workspace.send(PutMember("bob", "editor"))
        await trio.sleep(PROBE_VALID_S)
        assert (await site.send("GET", "/readyz")).code == "DB_UNAVAILABLE"
        store.mode = "there"
        # Another one: this one waits, for a random while, before it tries again.
        await site.rt.workspace("v").send(PutMember("ada", "owner"))
        await trio.sleep(PROBE_VALID_S)
        assert (await site.send("GET", "/readyz")).status == 200


async def test_who_asks_often_asks_the_database_once_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = AbsentStore(WORLD)
    async with open_site(store=store) as site:
        asked = store.appends
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(site.send, "GET", "/readyz")
        assert store.appends == asked + 1


async def test_readiness_is_the_leases_too(autojump_clock: trio.testing.MockClock) -> None:
    store = AbsentStore(WORLD)
    async with open_site(store=store) as site:
        store.mode = "without leases"
        limits = site.rt.limits
        assert (await site.send("GET", "/readyz")).status == 200
        await trio.sleep(limits.lease_s)
        answer = await site.send("GET", "/readyz")
        assert (answer.status, answer.code) == (503, "NOT_READY")
        assert (await site.send("GET", "/healthz")).status == 200
        store.mode = "there"
        await trio.sleep(2 * limits.lease_beat_s)
        assert (await site.send("GET", "/readyz")).status == 200


async def test_who_drains_is_not_ready(site: Site) -> None:
    await site.rt.drain()
    answer = await site.send("GET", "/readyz")
    assert (answer.status, answer.code) == (503, "DRAINING")
    assert (await site.send("GET", "/healthz")).status == 200


async def test_what_another_node_serves_is_misdirected_here() -> None:
    store = MemoryStore(WORLD)
    body = {"email": "ada@example.com", "password": PASSWORD, "display_name": "Ada"}
    async with open_site(store=store) as north, open_site(store=store) as south:
        await north.rt.system.send(
            RegisterUser(user_id="u", email="u@example.com", display_name="U", role="viewer")
        )
        answer = await south.send("POST", "/api/setup/register", body)
        assert (answer.status, answer.code) == (421, "WORKSPACE_MOVED")
        left_s = answer.body["details"]["retry_after"]
        assert 0 < left_s <= south.rt.limits.lease_s
        assert answer.headers["retry-after"] == str(math.ceil(left_s))


async def test_readiness_on_postgres(database: str) -> None:
    async with open_site(database=database) as site:
        assert (await site.send("GET", "/readyz")).body["status"] == "ready"


def test_no_url_is_built_of_a_rule() -> None:
    rule = MatchedRule("/notes/<note_id>", endpoint="note")
    adapter = Map([rule]).bind("localhost")
    assert adapter.match("/notes/n") == ("note", {"note_id": "n"})
    with pytest.raises(NotImplementedError, match="<note_id>"):
        adapter.build("note", {"note_id": "n"})
