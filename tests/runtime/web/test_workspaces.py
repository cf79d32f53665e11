"""Workspaces, members, the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.accounts import CreateSpace
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import CreateNote
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import SEQ_MAX, Event, chain_text
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after

from ._client import Answer, Site, User
from .conftest import open_site

# -------------------------------------------------------------------------------- workspaces


async def test_a_workspace_is_created_and_its_log_is_empty(site: Site, owner: User) -> None:
    created = await owner.post("/api/workspaces", {"slug": "two", "name": "Two"})
    assert created.status == 201
    assert {k: created.body[k] for k in ("slug", "name", "state", "role")} == {
        "slug": "two",
        "name": "Two",
        "state": "active",
        "role": "owner",
    }
    space = f"/api/workspaces/{created.body['workspace_id']}"
    page = await owner.get(f"{space}/events")
    assert (page.status, page.body["items"], page.body["next"], page.body["head"]) == (
        200,
        [],
        None,
        0,
    )
    (member,) = (await owner.get(f"{space}/members")).body["items"]
    assert (member["user_id"], member["role"], member["email"]) == (owner.id, "owner", owner.email)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"slug": "main", "name": "x"}, 409, "STATE_CONFLICT"),
        ({"slug": "Main", "name": "x"}, 400, "BAD_REQUEST"),
        ({"slug": "x", "name": ""}, 400, "BAD_REQUEST"),
        ({"slug": "x"}, 400, "BAD_REQUEST"),
    ],
)
async def test_a_workspace_that_cannot_be_is_refused(
    owner: User, body: object, status: int, code: str
) -> None:
    answer = await owner.post("/api/workspaces", body)
    assert (answer.status, answer.code) == (status, code)


async def test_workspaces_are_those_of_the_caller_page_by_page(site: Site, owner: User) -> None:
    user = await site.add_user()
    mine = [
        (await user.post("/api/workspaces", {"slug": f"s{n}", "name": "x"})).body["workspace_id"]
        for n in range(3)
    ]
    joined = [owner.workspace_id, "acme", "Zoo"]
    for workspace_id in (*joined, "left"):
        await site.rt.workspace(workspace_id).send(PutMember(user.id, "viewer"))
    await site.rt.workspace("left").send(RemoveMember(user.id))
    await site.rt.workspace("elsewhere").send(PutMember(owner.id, "owner"))

    seen, after = [], ""
    while True:
        page = (await user.get(f"/api/workspaces?limit=2&after={after}")).body
        assert len(page["items"]) <= 2
        seen += page["items"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [item["workspace_id"] for item in seen] == sorted([*mine, *joined])
    acme = next(item for item in seen if item["workspace_id"] == "acme")
    assert (acme["slug"], acme["name"], acme["role"]) == (None, "acme", "viewer")


async def test_a_founder_who_was_removed_has_lost_the_workspace(site: Site, owner: User) -> None:
    other = await site.add_member(owner, "owner")
    removed = await other.delete(f"{owner.space}/members/{owner.id}")
    assert removed.status == 204
    assert (await owner.get("/api/workspaces")).body["items"] == []
    assert (await owner.get("/api/auth/session")).body["workspace_id"] is None
    answer = await owner.get(f"{owner.space}/events")
    assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
    listed = (await other.get(f"{owner.space}/members")).body["items"]
    assert [item["user_id"] for item in listed] == [other.id]


@pytest.mark.parametrize("page", ["events", "members"])
async def test_x_ten_an_unknown_workspace_is_404_and_a_foreign_one_403(
    site: Site, owner: User, page: str
) -> None:
    user = await site.add_user()
    for workspace_id, status, code in (
        ("nowhere", 404, "WORKSPACE_NOT_FOUND"),
        (owner.workspace_id, 403, "ROLE_FORBIDDEN"),
        ("$system", 400, "BAD_REQUEST"),
        ("x" * 65, 400, "BAD_REQUEST"),
    ):
        answer = await user.get(f"/api/workspaces/{workspace_id}/{page}")
        assert (answer.status, answer.code) == (status, code)
    assert await site.rt.store.read_head("nowhere") is None


async def test_a_workspace_of_nobody_is_there(site: Site, owner: User) -> None:
    command = CreateSpace(workspace_id="w", slug="w", name="W", owner_id="somebody")
    await site.rt.system.send(command)
    answer = await owner.get("/api/workspaces/w/events")
    assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")


# ----------------------------------------------------------------------------------- members


async def test_a_member_is_put_once_and_removed_once(site: Site, owner: User) -> None:
    user = await site.add_user()
    path = f"{owner.space}/members/{user.id}"
    first = await owner.put(path, {"role": "editor"})
    assert first.status == 200
    assert {k: first.body[k] for k in ("workspace_id", "user_id", "role", "event_seq")} == {
        "workspace_id": owner.workspace_id,
        "user_id": user.id,
        "role": "editor",
        "event_seq": 1,
    }
    again = await owner.put(path, {"role": "editor"})
    assert (again.status, again.body["event_seq"]) == (200, 1)
    assert (await user.get(f"{owner.space}/events")).status == 200
    assert [(await owner.delete(path)).status for _ in range(2)] == [204, 204]
    assert (await user.get(f"{owner.space}/events")).status == 403
    items = (await owner.get(f"{owner.space}/events")).body["items"]
    assert [item["type"] for item in items] == ["member_added", "member_removed"]
    assert {item["actor_id"] for item in items} == {owner.id}


async def test_members_are_listed_in_pages_with_the_founder(site: Site, owner: User) -> None:
    users = [await site.add_member(owner, role) for role in ("admin", "editor", "viewer")]
    await site.rt.workspace(owner.workspace_id).send(PutMember("stranger", "viewer"))
    seen: dict[str, dict[str, object]] = {}
    after = ""
    while True:
        page = (await owner.get(f"{owner.space}/members?limit=2&after={after}")).body
        assert len(page["items"]) <= 2
        seen |= {item["user_id"]: item for item in page["items"]}
        if page["next"] is None:
            break
        after = page["next"]
    assert list(seen) == sorted([owner.id, *(user.id for user in users), "stranger"])
    assert seen[owner.id]["role"] == "owner"
    assert seen["stranger"]["email"] is None


async def test_an_unknown_or_disabled_user_is_no_member(site: Site, owner: User) -> None:
    answer = await owner.put(f"{owner.space}/members/nobody", {"role": "editor"})
    assert (answer.status, answer.code) == (404, "USER_NOT_FOUND")


@pytest.mark.parametrize("body", [{}, {"role": "king"}, {"role": None}])
async def test_a_member_needs_a_role(owner: User, body: object) -> None:
    answer = await owner.put(f"{owner.space}/members/{owner.id}", body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_the_last_owner_stays(site: Site, owner: User) -> None:
    path = f"{owner.space}/members/{owner.id}"
    for answer in (await owner.put(path, {"role": "admin"}), await owner.delete(path)):
        assert (answer.status, answer.code) == (409, "MEMBERSHIP_CONFLICT")


@pytest.mark.parametrize(
    ("role", "may_read", "may_change"),
    [
        ("owner", True, True),
        ("admin", True, True),
        ("editor", True, False),
        ("viewer", True, False),
        (None, False, False),
    ],
)
async def test_x_rbac_1_workspace_routes(
    site: Site, owner: User, role: str | None, may_read: bool, may_change: bool
) -> None:
    user = await (site.add_member(owner, role) if role else site.add_user())
    other = await site.add_user()
    member = f"{owner.space}/members/{other.id}"
    answers = [
        (await user.get(f"{owner.space}/events"), may_read),
        (await user.get(f"{owner.space}/members"), may_read),
        (await user.put(member, {"role": "viewer"}), may_change),
        (await user.delete(member), may_change),
    ]
    for answer, may in answers:
        if may:
            assert answer.status in {200, 204}
        else:
            assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
    owners = await user.put(member, {"role": "owner"})
    assert owners.status == (200 if role == "owner" else 403)


async def test_an_idempotency_key_is_used_once(site: Site, owner: User) -> None:
    user = await site.add_user()
    path = f"{owner.space}/members/{user.id}"
    for expected in (200, 200):
        answer = await owner.put(path, {"role": "editor"}, idempotency_key="k")
        assert answer.status == expected
    answer = await owner.put(path, {"role": "viewer"}, idempotency_key="k")
    assert (answer.status, answer.code) == (409, "STATE_CONFLICT")
    for key in ("", "x" * 257):
        answer = await owner.put(path, {"role": "viewer"}, idempotency_key=key)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_text_that_postgres_cannot_hold_is_refused_at_the_door(database: str) -> None:
    async with open_site(database=database) as site:
        owner = await site.set_up()
        for method, path in (
            ("GET", "/api/users?after=%00"),
            ("GET", "/api/workspaces?after=%00"),
            ("GET", "/api/workspaces/%00/events"),
            ("GET", f"{owner.space}/members?after=a%00b"),
            ("GET", f"{owner.space}/members?after={'x' * 201}"),
            ("PUT", f"{owner.space}/members/%00"),
            ("DELETE", f"{owner.space}/members/%00"),
            ("GET", "/api/notes/%00"),
            ("GET", "/api/notes/x?workspace_id=%00"),
        ):
            answer = await owner.send(method, path, {"role": "viewer"})
            assert (answer.status, answer.code) == (400, "BAD_REQUEST"), path
        body = {"email": "\x01@x", "password": "x" * 8}
        assert (await site.send("POST", "/api/auth/login", body)).code == "INVALID_CREDENTIALS"


# ----------------------------------------------------------------------------------- the log


async def test_x_rep_7_pages_together_are_the_log(site: Site, owner: User) -> None:
    workspace = site.rt.workspace(owner.workspace_id)
    for number in range(7):
        await workspace.send(CreateNote(f"note {number}", 'ä\\" \u2028'))
    log = await workspace.events()
    seen: list[dict[str, object]] = []
    after = 0
    while True:
        page = await owner.get(f"{owner.space}/events?limit=3&after={after}")
        assert page.body["head"] == 7
        assert "request_id" in page.body
        for event in log[len(seen) :][:3]:
            assert event.payload.encode() in page.raw
        seen += page.body["items"]
        if page.body["next"] is None:
            break
        after = page.body["next"]
        assert after == seen[-1]["event_seq"]
    assert [item["event_seq"] for item in seen] == list(range(1, 8))
    for item, event in zip(seen, log, strict=True):
        assert item == {
            "event_seq": event.event_seq,
            "stream_id": event.stream_id,
            "stream_seq": event.stream_seq,
            "event_id": event.event_id,
            "type": event.type,
            "type_version": event.type_version,
            "payload": msgspec.json.decode(event.payload),
            "actor_id": None,
            "recorded_at": event.recorded_at.isoformat().replace("+00:00", "Z"),
            "chain": chain_text(event.chain),
        }


async def test_a_cursor_may_carry_its_chain(site: Site, owner: User) -> None:
    await owner.write()
    await owner.write()
    (first, second) = (await owner.get(f"{owner.space}/events")).body["items"]
    page = await owner.get(f"{owner.space}/events?after=1-{first['chain']}")
    assert page.body["items"] == [second]
    assert (await owner.get(f"{owner.space}/events?after=0-{'0' * 16}")).status == 200
    for cursor in (f"1-{second['chain']}", f"0-{first['chain']}"):
        answer = await owner.get(f"{owner.space}/events?after={cursor}")
        assert (answer.status, answer.code) == (409, "CURSOR_DIVERGED")


async def test_a_cursor_of_the_future_is_refused(owner: User) -> None:
    await owner.write()
    assert (await owner.get(f"{owner.space}/events?after=1")).body["items"] == []
    for after in (2, SEQ_MAX):
        answer = await owner.get(f"{owner.space}/events?after={after}")
        assert (answer.status, answer.code) == (409, "CURSOR_AHEAD")


@pytest.mark.parametrize(
    "query",
    ["after=-1", "after=x", "after=", "after=1-2", f"after={SEQ_MAX + 1}", "after=1.0",
     "limit=0", "limit=1001", "limit=x", "limit=", "limit=-1", "limit=%D9%A1"],
)  # fmt: skip
async def test_a_malformed_query_is_refused(owner: User, query: str) -> None:
    answer = await owner.get(f"{owner.space}/events?{query}")
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


# ------------------------------------------------------------------------------------ repair


async def _halt(site: Site, workspace_id: str) -> None:
    head = await site.rt.store.read_head(workspace_id)
    assert head is not None
    code = site.rt.service.node.code
    assert await site.rt.store.halt(workspace_id, head.epoch, "a test", code=code, actor="test")


async def test_x_per_9_an_admin_opens_what_was_halted_and_nobody_else(
    site: Site, owner: User
) -> None:
    note_id = await owner.write()
    editor, stranger = await site.add_member(owner, "editor"), await site.add_user()
    admin = await site.add_member(owner, "admin")
    await _halt(site, owner.workspace_id)
    repair, title = f"{owner.space}/repair", {"title": "New", "base_version": 1}
    with fail_after(10):
        while (answer := await owner.patch(f"/api/notes/{note_id}/title", title)).status != 503:
            title["base_version"] = 2
    assert answer.code == "WORKSPACE_HALTED"
    for user in (editor, stranger):
        refused = await user.post(repair)
        assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    refused = await admin.post(repair, x_csrf_token="another")
    assert (refused.status, refused.code) == (403, "CSRF_INVALID")
    assert (await admin.post("/api/workspaces/nowhere/repair")).code == "WORKSPACE_NOT_FOUND"
    done = await admin.post(repair)
    assert done.status == 200, done.raw
    assert done.body["halted_reason"] == "a test"
    assert done.body["events"] == len((await owner.get(f"{owner.space}/events")).body["items"])
    assert (await owner.patch(f"/api/notes/{note_id}/title", title)).status == 200
    entries = await site.rt.store.read_audit(owner.workspace_id, limit=10)
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("resumed", admin.id),
        ("halted", "test"),
    ]
    again = await admin.post(repair)
    assert (again.status, again.body["halted_reason"]) == (200, None)


class SlowStore(MemoryStore):
    """A store that reads events when it is allowed to."""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.reading = trio.Event()
        self.let = trio.Event()
        self.let.set()

    async def read_events(self, *arguments: Any, **named: Any) -> list[Event]:
        self.reading.set()
        await self.let.wait()
        return await super().read_events(*arguments, **named)


async def test_one_repair_at_a_time() -> None:
    store = SlowStore()
    async with open_site(store=store) as site:
        owner = await site.set_up()
        await owner.write()
        answers: list[Answer] = []

        async def repair() -> None:
            answers.append(await owner.post(f"{owner.space}/repair"))

        store.let, store.reading = trio.Event(), trio.Event()
        with fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(repair)
                await store.reading.wait()
                refused = await owner.post(f"{owner.space}/repair")
                assert (refused.status, refused.code) == (503, "OVERLOADED")
                store.let.set()
        assert [answer.status for answer in answers] == [200]
        assert (await owner.post(f"{owner.space}/repair")).status == 200
