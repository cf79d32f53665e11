"""A host's own `authenticate` and `authorize` over HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

import pytest
import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import AuthRequest, Caller, Limits, Principal, Reject
from dalsegno.runtime.web._hosts import Hosts

from ._client import Answer, Site
from .conftest import open_site

NOTE = {"workspace_id": "w", "title": "A", "markdown": ""}


class Host:
    """A host that knows people by a header, and by a cookie of its own."""

    def __init__(self) -> None:
        self.asked: list[AuthRequest] = []
        self.error: Exception | None = None
        self.answer: Any = None
        """Instead of what it would say."""
        self.hangs = False
        self.may_write = True

    async def authenticate(self, asked: AuthRequest) -> Caller | None:
        self.asked.append(asked)
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return cast("Caller", self.answer)
        cookie = asked.headers.get("cookie", "")
        named = asked.headers.get("x-host-user", "")
        if cookie.startswith("host="):
            named = cookie.removeprefix("host=")
        if asked.token is not None and asked.token.startswith("host-"):
            named = asked.token.removeprefix("host-")
        return Caller(user_id=named) if named else None

    def authorize(
        self, principal: Principal, workspace_id: str, role: str, command: str | None
    ) -> bool:
        if self.error is not None:
            raise self.error
        return command is None or self.may_write


@pytest.fixture
def host() -> Host:
    return Host()


async def ask(site: Site, method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    if method == "POST":
        return await site.send("POST", "/api/notes", NOTE, headers=named)
    return await site.send("GET", "/api/notes?workspace_id=w", headers=named)


def is_refused(answer: Answer, status: int, code: str) -> bool:
    return (answer.status, answer.code) == (status, code)


async def test_whom_a_host_names_is_a_member_under_a_name_of_its_own(host: Host) -> None:
    async with open_site(authenticate=host.authenticate) as site:
        owner = await site.set_up()
        await site.rt.workspace("w").send(PutMember("host:ada", "editor"))
        await site.rt.workspace("w").send(PutMember(owner.id, "editor"))
        for shown in (
            {"x_host_user": "ada"},
            {"authorization": "Bearer host-ada"},
            {"cookie": "host=ada"},
        ):
            assert (await ask(site, **shown)).status == 200, shown
            created = await ask(site, "POST", **shown)
            assert created.status == 201, created.raw
        assert host.asked[0].peer
        assert "ada" not in repr(host.asked[0])
        # It names nobody but its own: no account, no key, nobody of an issuer.
        for named in (owner.id, "key:x", "jwt:bob", "host:ada"):
            refused = await ask(site, x_host_user=named)
            assert is_refused(refused, 403, "ROLE_FORBIDDEN"), named
        events = await site.rt.workspace("w").events()
        assert [event.actor_id for event in events][-3:] == ["host:ada"] * 3
        accounts = await site.send("GET", "/api/users", headers={"x-host-user": "ada"})
        assert is_refused(accounts, 403, "ROLE_FORBIDDEN")


async def test_whom_a_host_does_not_know_the_server_may(host: Host) -> None:
    async with open_site(authenticate=host.authenticate) as site:
        owner = await site.set_up()
        assert (await owner.get("/api/auth/session")).status == 200
        assert is_refused(await ask(site), 401, "AUTH_REQUIRED")
        assert is_refused(await ask(site, authorization="Bearer x"), 401, "TOKEN_INVALID")
        assert [asked.token for asked in host.asked[-1:]] == ["x"]
        assert is_refused(await ask(site, authorization="Basic x"), 401, "AUTH_REQUIRED")
        last = host.asked[-1]
        assert last.token is None
        assert last.headers["authorization"] == "Basic x"


async def test_a_hosts_refusal_is_the_answer(host: Host) -> None:
    async with open_site(authenticate=host.authenticate) as site:
        host.error = Reject("SUBSCRIPTION_LAPSED", "pay first", status=402)
        assert is_refused(await ask(site, x_host_user="ada"), 402, "SUBSCRIPTION_LAPSED")


@pytest.mark.parametrize(
    "answer",
    [
        ZeroDivisionError("SECRET"),
        "ada",
        Principal("ada"),
        Caller(user_id=""),
        Caller(user_id="x" * 196),
        Caller(user_id="a\nb"),
        Caller(user_id=cast("str", 7)),
        Caller(user_id="ada", expires_at=datetime(2100, 1, 1)),
    ],
    ids=repr,
)
async def test_what_a_host_gets_wrong_admits_nobody_and_is_not_told(
    host: Host, answer: object
) -> None:
    async with open_site(authenticate=host.authenticate) as site:
        await site.rt.workspace("w").send(PutMember("host:ada", "editor"))
        if isinstance(answer, Exception):
            host.error = answer
        else:
            host.answer = answer
        refused = await ask(site, x_host_user="ada")
        assert is_refused(refused, 500, "INTERNAL_ERROR")
        assert b"SECRET" not in refused.raw
        host.error = host.answer = None
        assert (await ask(site, x_host_user="ada")).status == 200


async def test_a_caller_lasts_as_long_as_the_host_says(host: Host) -> None:
    async with open_site(authenticate=host.authenticate) as site:
        await site.rt.workspace("w").send(PutMember("host:ada", "editor"))
        host.answer = Caller(user_id="ada", expires_at=site.clock.now + timedelta(seconds=1))
        assert (await ask(site)).status == 200
        site.clock.move(seconds=1)
        assert is_refused(await ask(site), 401, "TOKEN_EXPIRED")


async def test_a_host_that_takes_too_long_is_not_waited_for(host: Host) -> None:
    limits = Limits(answer_deadline_s=0.05)
    async with open_site(authenticate=host.authenticate, limits=limits) as site:
        host.hangs = True
        assert is_refused(await ask(site, x_host_user="ada"), 503, "NOT_READY")


async def test_another_sites_page_changes_nothing_with_a_cookie_of_the_hosts(host: Host) -> None:
    named = Hosts(origins=frozenset({"https://app.example.com"}))
    async with open_site(authenticate=host.authenticate, hosts=named) as site:
        await site.rt.workspace("w").send(PutMember("host:ada", "editor"))
        foreign = {"sec_fetch_site": "cross-site"}
        refused = await ask(site, "POST", cookie="host=ada", **foreign)
        assert is_refused(refused, 403, "CSRF_INVALID")
        assert (await ask(site, cookie="host=ada", **foreign)).status == 200
        own = await ask(site, "POST", cookie="host=ada", sec_fetch_site="same-origin")
        assert own.status == 201
        shown = await ask(site, "POST", authorization="Bearer host-ada", **foreign)
        assert shown.status == 201, "a page shows a token on purpose"
        for origin, status in (("https://app.example.com", 201), ("https://example.com", 403)):
            answer = await ask(site, "POST", cookie="host=ada", origin=origin, **foreign)
            assert answer.status == status


async def test_authorize_is_asked_over_http_too(host: Host) -> None:
    async with open_site(authorize=host.authorize) as site:
        owner = await site.set_up()
        note_id = await owner.write()
        host.may_write = False
        body = {"workspace_id": owner.workspace_id, "title": "B", "markdown": ""}
        assert is_refused(await owner.post("/api/notes", body), 403, "ROLE_FORBIDDEN")
        put = await owner.put(f"{owner.space}/members/x", {"role": "viewer"})
        assert put.status in {403, 404}
        by_name = await owner.post(f"{owner.space}/commands/delete_note", {"note_id": note_id})
        assert is_refused(by_name, 403, "ROLE_FORBIDDEN")
        assert (await owner.get(f"/api/notes/{note_id}")).status == 200
        host.error = ZeroDivisionError("SECRET")
        for refused in (
            await owner.get(f"/api/notes/{note_id}"),
            await owner.get(f"{owner.space}/events"),
            await owner.post("/api/notes", body),
        ):
            assert is_refused(refused, 500, "INTERNAL_ERROR")
            assert b"SECRET" not in refused.raw
        host.error = Reject("CLOSED_TODAY", "come back", status=403)
        assert is_refused(await owner.post("/api/notes", body), 403, "CLOSED_TODAY")
        assert is_refused(await owner.get(f"/api/notes/{note_id}"), 404, "NOTE_NOT_FOUND")
        host.error = None
        assert (await owner.get(f"/api/notes/{note_id}")).status == 200
