"""What is on record, followed over real sockets: by whom, filtered, resumed, revoked (CF-7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.accounts import RegisterUser, SetUserRole
from dalsegno.actors.domains.members import GlobalRole, PutMember, RemoveMember
from dalsegno.protocol import AUDIT_WORKSPACE, Limits, Principal, Reject
from dalsegno.protocol.audit._dialect import STREAM
from dalsegno.runtime.seams import WORLD
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.runtime._blocks import Blocks, following
from tests.runtime._serving import Person, Site, _logged_in, all_collected, serving, set_up
from tests.runtime.test_project_connections import end_of, hear
from tests.runtime.test_tokens_on_the_wire import UPGRADE

pytestmark = pytest.mark.postgres

EVENTS = "/api/v1/audit/events"


@asynccontextmanager
async def sites(database: str, **given: Any) -> AsyncIterator[tuple[Site, Person]]:
    async with serving(database, **given) as site:
        yield site, await set_up(site)


@asynccontextmanager
async def connected(
    person: Person, *, url: str | None = None, **query: str
) -> AsyncIterator[WebSocketConnection]:
    target = f"{(url or person.url).replace('http', 'ws', 1)}/ws/audit?{urlencode(query)}"
    headers = [(b"cookie", person.cookie.encode())]
    async with open_websocket_url(target, extra_headers=headers) as ws:
        try:
            yield ws
        finally:
            if ws.closed:  # by the server: the library then leaves its own end open
                await trio.aclose_forcefully(ws._stream)


async def add_user(site: Site, role: GlobalRole) -> Person:
    user_id = WORLD.new_id()
    await site.runtime.system.send(
        RegisterUser(
            user_id=user_id, email=f"{user_id}@example.org", display_name="User", role=role
        )
    )
    return await _logged_in(site, user_id, "nowhere")


async def member(site: Site, person: Person, user_id: str, role: str = "viewer") -> None:
    """Put something on record of a workspace: somebody is a member there now."""
    workspace = site.runtime.workspace(person.workspace).acting(
        user_id=person.user_id, address="192.0.2.7"
    )
    await workspace.send(PutMember(user_id, role), correlation_id=f"why {user_id}")


async def next_record(ws: WebSocketConnection) -> dict[str, Any]:
    return await hear(ws, "audit_event")


async def say(ws: WebSocketConnection, **message: Any) -> None:
    await ws.send_message(msgspec.json.encode(message).decode())


# ------------------------------------------------------------------------------------- the stream


async def test_cf_7_1_an_admin_is_told_in_real_time_and_nobody_else(migrated: str) -> None:
    async with sites(migrated) as (site, owner):
        admin = await add_user(site, "admin")
        async with connected(admin) as ws:
            first = await hear(ws)
            assert (first["type"], first["stream_id"]) == ("connected", STREAM)
            found = [await next_record(ws) for _ in range(3)]
            assert {each["action"] for each in found} == {
                "SETUP_COMPLETED",
                "WORKSPACE_CREATED",
                "USER_REGISTERED",
            }
            while (found[-1]["action"], found[-1]["resource_id"]) != (
                "USER_REGISTERED",
                admin.user_id,
            ):
                found.append(await next_record(ws))
            await member(site, owner, "somebody")
            told = await next_record(ws)
        assert set(told) == {
            "type", "seq", "cursor", "id", "timestamp", "user_id", "action", "resource_type",
            "resource_id", "old_value", "new_value", "ip_address", "request_id", "workspace_id",
        }  # fmt: skip
        assert told["seq"] == found[-1]["seq"] + 1
        assert told["cursor"].startswith(f"{told['seq']}-")
        assert (told["user_id"], told["action"]) == (owner.user_id, "MEMBER_ADDED")
        assert (told["resource_type"], told["resource_id"]) == ("member", "somebody")
        assert (told["old_value"], told["new_value"]) == (None, {"role": "viewer"})
        assert (told["ip_address"], told["request_id"]) == ("192.0.2.7", "why somebody")
        assert told["workspace_id"] == owner.workspace
        assert told["id"].startswith(f"{owner.workspace}/")
        nobody = Person(site.url, "", "", "a=b")
        for who, end in (
            (await add_user(site, "editor"), (4003, "Forbidden")),
            (await add_user(site, "viewer"), (4003, "Forbidden")),
            (nobody, (4001, "Unauthorized")),
        ):
            async with connected(who) as ws:
                assert await end_of(ws) == end


async def test_x_aud_2_filters_combine_and_the_cursor_moves_all_the_same(migrated: str) -> None:
    """In the query, and live, from the next event on."""
    async with sites(migrated) as (site, owner):
        await member(site, owner, "a")
        await member(site, owner, "b")
        await member(site, owner, "a", "editor")
        await member(site, owner, "b", "editor")
        head = await all_collected(site)
        both = {"action": "MEMBER_ROLE_CHANGED", "resource_id": "a", "user_id": owner.user_id}
        async with connected(owner, resource_type="member", **both) as ws:
            first = await hear(ws)
            assert (first["head"], first["cursor"]) == (head, f"0-{'0' * 16}")
            hidden = await hear(ws)
            assert (hidden["type"], hidden["from"], hidden["to"]) == ("hidden", 1, head - 2)
            assert (await hear(ws))["resource_id"] == "a"
            hidden = await hear(ws)
            assert (hidden["from"], hidden["to"], len(hidden["chain"])) == (head, head, 16)
            await say(ws, type="filter", action="MEMBER_ADDED", request_id="r")
            said = await hear(ws)
            assert said == {"type": "filtered", "seq": head, "request_id": "r"}
            await member(site, owner, "a", "viewer")
            hidden = await hear(ws)
            assert (hidden["type"], hidden["to"]) == ("hidden", head + 1)
            await member(site, owner, "c")
            told = await hear(ws)
            assert (told["action"], told["resource_id"]) == ("MEMBER_ADDED", "c")
            await say(ws, type="ack", stream_id=STREAM, seq=told["seq"])
            await say(ws, type="filter")
            assert (await hear(ws))["seq"] == told["seq"]
            await member(site, owner, "a", "editor")
            assert (await hear(ws))["action"] == "MEMBER_ROLE_CHANGED", "all of it, now"
        at = f"{hidden['to']}-{hidden['chain']}"  # what was hidden is a place as any other
        async with connected(owner, cursor=at) as ws:
            assert (await hear(ws))["cursor"] == at
            assert (await next_record(ws))["seq"] == head + 2
        async with connected(owner, since=told["timestamp"]) as ws:  # after what was acked
            assert (await hear(ws))["cursor"] == told["cursor"]
            assert (await hear(ws))["seq"] == told["seq"] + 1


async def test_cf_7_2_only_matching_events_come(migrated: str) -> None:
    async with sites(migrated) as (site, owner):
        for user_id in ("a", "b"):
            await member(site, owner, user_id)
        await all_collected(site)
        async with connected(owner, resource_id="b") as ws:
            shown = await next_record(ws)
            assert shown["resource_id"] == "b"
        at = shown["timestamp"]
        for query, first in (
            ({"since": at, "resource_type": "member"}, "b"),
            ({"until": at, "resource_type": "member"}, "a"),
            ({"user_id": owner.user_id}, "a"),
        ):
            async with connected(owner, **query) as ws:
                assert (await next_record(ws))["resource_id"] == first


async def test_a_filter_is_taken_literally(migrated: str) -> None:
    async with sites(migrated) as (site, owner):
        texts = ["%", "_", "*", "a%", "' or '1'='1", '"', "\\", "é", "b' --"]
        for text in ("ab", *texts):
            await member(site, owner, text)
        head = await all_collected(site)
        for text in texts:
            async with connected(owner, resource_id=text, action="MEMBER_ADDED") as ws:
                assert (await next_record(ws))["resource_id"] == text
            async with connected(owner, action=text) as ws:
                await hear(ws)
                hidden = await hear(ws)
                assert (hidden["from"], hidden["to"]) == (1, head)


async def test_a_filter_that_is_none_is_refused_and_the_connection_stays(migrated: str) -> None:
    async with sites(migrated) as (site, owner):
        async with connected(owner, cursor=f"{await all_collected(site)}") as ws:
            await hear(ws)
            for wrong in (
                {"action": ""},
                {"action": "x" * 257},
                {"action": 1},
                {"since": "yesterday"},
                {"until": "2030-01-01T00:00:00"},
                {"actoin": "X"},
                {"resource_id": "a\x1fb\n"},
            ):
                await say(ws, type="filter", request_id="r", **wrong)
                refused = await hear(ws)
                assert (refused["type"], refused["code"]) == ("error", "BAD_REQUEST"), wrong
            await say(ws, type="subscribe", stream_id=STREAM)
            assert (await hear(ws))["code"] == "BAD_REQUEST", "it follows one thing"
            await member(site, owner, "a")
            assert (await hear(ws))["resource_id"] == "a", "the filter is still the first one"
        async with httpx.AsyncClient(**PLAIN) as http:
            for query in ({"since": "x"}, {"action": "\x00"}, {"cursor": "x"}):
                for path, headers in (("/ws/audit", UPGRADE), (EVENTS, {})):
                    answer = await http.get(
                        f"{site.url}{path}?{urlencode(query)}",
                        headers={**headers, "cookie": owner.cookie},
                    )
                    assert answer.status_code == 400, (path, query)


async def test_the_log_is_read_in_no_other_way(migrated: str) -> None:
    async with sites(migrated) as (site, owner):
        await all_collected(site)
        headers = [(b"cookie", owner.cookie.encode())]
        url = f"{site.url.replace('http', 'ws', 1)}/ws"
        async with open_websocket_url(url, extra_headers=headers) as ws:
            for stream_id, code in (
                (STREAM, "ROLE_FORBIDDEN"),
                ("audit_trail:main", "AUDIT_TRAIL_NOT_FOUND"),
            ):
                await say(ws, type="subscribe", stream_id=stream_id)
                assert (await hear(ws))["code"] == code
        async with httpx.AsyncClient(headers={"cookie": owner.cookie}, **PLAIN) as http:
            for path in ("workspaces/$audit/events", "streams/audit_trail:main/events"):
                assert (await http.get(f"{site.url}/api/v1/{path}")).status_code in {400, 403, 404}


# -------------------------------------------------------------------------------------- revocation


async def set_role(site: Site, by: Person, user: Person, role: str) -> httpx.Response:
    """Change a global role over HTTP."""
    async with httpx.AsyncClient(**PLAIN) as http:
        me = await http.get(f"{site.url}/api/auth/session", headers={"cookie": by.cookie})
        headers = {"cookie": by.cookie, "x-csrf-token": me.json()["csrf_token"]}
        path = f"{site.url}/api/users/{user.user_id}/role"
        return await http.patch(path, json={"role": role}, headers=headers)


async def test_a_demotion_closes_and_nothing_is_delivered_after(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the step that commits it, whatever is on its way to the log."""
    async with sites(migrated) as (site, owner), AsyncExitStack() as stack:
        admin = await add_user(site, "admin")
        other = await add_user(site, "admin")
        head = await all_collected(site)
        ws = await stack.enter_async_context(connected(admin, cursor=str(head)))
        await hear(ws)
        blocks: Blocks = await stack.enter_async_context(following(admin, EVENTS, cursor="head"))
        await blocks.hear("head")
        theirs = await stack.enter_async_context(connected(other, cursor=str(head)))
        await hear(theirs)
        monkeypatch.setattr(site.runtime.store, "may_collect", nothing_to_collect)
        answer = await set_role(site, owner, admin, "editor")
        assert answer.status_code == 200, answer.text
        assert site.runtime.statistics().connections == 1
        monkeypatch.undo()
        await member(site, owner, "later")
        said = []
        with fail_after(20):
            try:
                while True:
                    said.append(msgspec.json.decode(await ws.get_message()))
            except ConnectionClosed:
                pass
        assert ws.closed is not None
        assert (ws.closed.code, ws.closed.reason) == (4003, "ROLE_FORBIDDEN")
        assert [each["type"] for each in said] == ["error"], "nor the record of it itself"
        rest = await blocks.rest()
        assert [(each.event, each.said["code"]) for each in rest if each.event] == [
            ("problem", "ROLE_FORBIDDEN")
        ]
        assert (await next_record(theirs))["action"] == "USER_ROLE_CHANGED"
        assert (await next_record(theirs))["resource_id"] == "later"
        async with connected(admin) as again:
            assert await end_of(again) == (4003, "Forbidden")


async def nothing_to_collect(_node_id: str) -> bool:
    await trio.lowlevel.checkpoint()
    return False


async def test_whoever_ceases_to_be_there_is_closed_too(migrated: str) -> None:
    async with sites(migrated) as (site, owner):
        for change in ("disable", "delete"):
            admin = await add_user(site, "admin")
            async with connected(admin, cursor=str(await all_collected(site))) as ws:
                await hear(ws)
                async with httpx.AsyncClient(**PLAIN) as http:
                    me = await http.get(
                        f"{site.url}/api/auth/session", headers={"cookie": owner.cookie}
                    )
                    headers = {"cookie": owner.cookie, "x-csrf-token": me.json()["csrf_token"]}
                    path = f"{site.url}/api/users/{admin.user_id}"
                    if change == "disable":
                        answer = await http.post(f"{path}/disable", headers=headers)
                    else:
                        answer = await http.delete(path, headers=headers)
                assert answer.status_code < 300, answer.text
                code, _ = await end_of(ws)
                assert code in {4001, 4003}


async def test_another_server_closes_before_the_change_is_answered(migrated: str) -> None:
    """The accounts are one server's and the audit another's: who changes a role waits for it."""
    limits = Limits(audit_poll_s=0.1)
    async with (
        serving(migrated, limits=limits) as audits,
        audits_log(audits),
        sites(migrated, limits=limits) as (accounts, owner),
    ):
        admin = await add_user(accounts, "admin")
        head = await all_collected(accounts)
        async with connected(admin, url=audits.url, cursor=str(head)) as ws:
            await hear(ws)
            async with connected(owner) as elsewhere:
                assert (await hear(elsewhere))["code"] == "WORKSPACE_MOVED"
                assert (await end_of(elsewhere))[0] == 1013
            answer = await set_role(accounts, owner, admin, "viewer")
            assert answer.status_code == 200, answer.text
            left = await accounts.runtime.store.read_uncollected(limit=1, bytes_max=1)
            assert left == [], "it has taken in what is on record of the change"
            assert await end_of(ws) == (4003, "ROLE_FORBIDDEN")


@asynccontextmanager
async def audits_log(site: Site) -> AsyncIterator[None]:
    """Have a server own the audit's log, and keep it."""
    refusals = site.runtime.service.audit.refusals
    assert refusals is not None
    refusals.note(
        "X", resource_type="x", resource_id="x", code="X", user_id=None, workspace_id=None,
        request_id=None, address=None,
    )  # fmt: skip
    with fail_after(20):
        await until(lambda: site.runtime.service.directory.is_active(AUDIT_WORKSPACE))
    yield


async def test_an_export_that_loses_its_reader_is_not_whole(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client can tell that it breaks off, by the answer's framing."""
    async with sites(migrated, limits=Limits(page_events=2)) as (site, owner):
        await add_user(site, "viewer")
        assert await all_collected(site) > 2
        catalog = site.runtime.service.catalog
        original, judged = type(catalog).check_member, Counter[str]()

        async def check(self: Any, workspace_id: str, principal: Principal, **more: str) -> None:
            judged[workspace_id] += 1
            if judged[AUDIT_WORKSPACE] == 3:
                raise Reject("ROLE_FORBIDDEN", "no longer")
            await original(self, workspace_id, principal, **more)

        monkeypatch.setattr(type(catalog), "check_member", check)
        async with httpx.AsyncClient(headers={"cookie": owner.cookie}, **PLAIN) as http:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(f"{site.url}/api/audit/export")
            assert (await http.get(f"{site.url}/api/audit/export")).status_code == 200


# ----------------------------------------------------------------------------------- event streams


async def test_an_event_stream_resumes_over_what_was_filtered(migrated: str) -> None:
    async with sites(migrated) as (site, owner):
        for number in range(3):
            await member(site, owner, f"u{number}")
        head = await all_collected(site)
        async with following(owner, EVENTS, cursor="0", resource_id="u0") as blocks:
            shown = await blocks.hear("audit_event")
            assert shown.said["resource_id"] == "u0"
            with fail_after(20):
                while blocks.last_id is None or not blocks.last_id.startswith(f"{head}-"):
                    await blocks.next()
            last = blocks.last_id
        await member(site, owner, "u0", "editor")
        async with following(owner, EVENTS, last_event_id=last, resource_id="u0") as blocks:
            assert (await blocks.hear("head")).said["cursor"] == head
            again = await blocks.hear("audit_event")
            assert (again.said["action"], again.said["seq"]) == ("MEMBER_ROLE_CHANGED", head + 1)
            assert again.id == again.said["cursor"]
        async with httpx.AsyncClient(**PLAIN) as http:
            stranger = await add_user(site, "viewer")
            answer = await http.get(site.url + EVENTS, headers={"cookie": stranger.cookie})
        assert (answer.status_code, answer.json()["code"]) == (403, "ROLE_FORBIDDEN")


# -------------------------------------------------------------------------------------- refusals


async def test_what_is_refused_is_on_record_without_secrets(migrated: str) -> None:
    async with sites(migrated) as (site, owner), httpx.AsyncClient(**PLAIN) as http:
        stranger = await add_user(site, "viewer")
        head = await all_collected(site)
        async with connected(owner, cursor=str(head)) as ws:
            await hear(ws)
            body = {"email": "owner@example.org", "password": "wrong secret"}
            answer = await http.post(f"{site.url}/api/auth/login", json=body)
            assert answer.status_code == 401
            told = await next_record(ws)
            assert (told["action"], told["resource_id"]) == ("LOGIN_FAILED", "POST /api/auth/login")
            assert (told["resource_type"], told["user_id"]) == ("route", owner.user_id)
            assert told["new_value"] == {"code": "INVALID_CREDENTIALS"}
            assert (told["ip_address"], told["workspace_id"]) == ("127.0.0.1", None)
            path = f"/api/workspaces/{owner.workspace}/members?token=hush"
            answer = await http.get(site.url + path, headers={"cookie": stranger.cookie})
            assert answer.status_code == 403
            told = await next_record(ws)
            assert told["resource_id"] == "GET /api/workspaces/{workspace_id}/members"
            assert (told["action"], told["user_id"]) == ("REQUEST_REFUSED", stranger.user_id)
            assert told["workspace_id"] == owner.workspace
            assert told["request_id"] == answer.headers["x-request-id"]
            async with connected(stranger) as theirs:
                await end_of(theirs)
            told = await next_record(ws)
            assert (told["resource_type"], told["resource_id"]) == ("message", "/ws/audit")
            everything = str(told)
        page = await http.get(f"{site.url}/api/audit/export", headers={"cookie": owner.cookie})
        assert "hush" not in page.text + everything
        assert "wrong secret" not in page.text


async def test_removed_members_are_of_their_workspace(migrated: str) -> None:
    """What is on record of each workspace is there, in its order."""
    async with sites(migrated) as (site, owner):
        await member(site, owner, "a")
        await site.runtime.workspace(owner.workspace).send(RemoveMember("a"))
        await site.runtime.system.send(SetUserRole(owner.user_id, "owner"))
        await all_collected(site)
        async with connected(owner, resource_type="member") as ws:
            shown = [await next_record(ws) for _ in range(2)]
        assert [each["action"] for each in shown] == ["MEMBER_ADDED", "MEMBER_REMOVED"]
        assert shown[1]["user_id"] is None
