"""API keys: programs that are members of a workspace."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.members import RemoveMember, members
from dalsegno.protocol import Limits, Reject
from dalsegno.runtime.store import MemoryAccounts
from dalsegno.runtime.web._key_text import KeyText, new_key_id, new_key_text, read_key_text

from ._client import Answer, Site, User
from .conftest import open_site

NOTES = "/api/notes"


class Program:
    """Somebody with an API key."""

    def __init__(self, site: Site, made: Answer) -> None:
        assert made.status in {200, 201}, made.raw
        self._site = site
        self.key: str = made.body["key"]
        self.key_id: str = made.body["key_id"]
        self.user_id: str = made.body["user_id"]

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        given = {"authorization": f"Bearer {self.key}", **headers}
        return await self._site.send(method, path, body, headers=given)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.send("GET", path, **headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return await self.send("POST", path, body, **headers)

    async def refused(self, path: str) -> tuple[int, str]:
        answer = await self.get(path)
        return answer.status, answer.code


async def make(owner: User, role: str = "editor", **more: Any) -> Program:
    body = {"name": "a program", "role": role, **more}
    return Program(owner.site, await owner.post(f"{owner.space}/keys", body))


async def test_a_program_writes_and_reads_with_its_key(site: Site, owner: User) -> None:
    program = await make(owner)
    note = {"workspace_id": owner.workspace_id, "title": "By a program"}
    made = await program.post(NOTES, note)
    assert made.status == 201, "without a token of a session"
    path = f"{owner.space}/events"
    event = (await program.get(f"{path}?after=1")).body["items"][-1]
    assert event["actor_id"] == program.user_id == f"key:{program.key_id}"
    by_header = {"x-api-key": program.key}
    assert (await site.send("GET", path, headers=by_header)).status == 200
    assert (await program.get(path, cookie="dalsegno_session=x")).status == 200
    lower = {"authorization": f"bearer  {program.key}"}
    assert (await site.send("GET", path, headers=lower)).status == 200
    workspaces = (await program.get("/api/workspaces")).body["items"]
    assert [(each["workspace_id"], each["role"]) for each in workspaces] == [
        (owner.workspace_id, "editor")
    ]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": "Basic x"}, 401, "AUTH_REQUIRED"),
        ({"authorization": "Bearer"}, 401, "TOKEN_INVALID"),
        ({"authorization": "Bearer x"}, 401, "TOKEN_INVALID"),
        ({"authorization": ""}, 401, "AUTH_REQUIRED"),
        ({"x-api-key": ""}, 401, "TOKEN_INVALID"),
        ({"x-api-key": "ds_" + "a" * 9_000}, 401, "TOKEN_INVALID"),
        ({"x-api-key": "x", "authorization": "Bearer x"}, 400, "BAD_REQUEST"),
    ],
)
async def test_what_is_no_key_is_refused_without_a_query(
    site: Site, owner: User, monkeypatch: pytest.MonkeyPatch, headers: Any, status: int, code: str
) -> None:
    async def asked(*_: object) -> None:
        raise AssertionError("the database was asked")

    program = await make(owner)
    monkeypatch.setattr(MemoryAccounts, "find_key", asked)
    typo = {"x-api-key": program.key[:-1] + ("1" if program.key[-1] == "0" else "0")}
    path = f"{owner.space}/events"
    for shown in (headers, {**owner.headers, **headers}):
        answer = await site.send("GET", path, headers=shown)
        assert (answer.status, answer.code) == (status, code)
    answer = await site.send("GET", path, headers=typo)
    assert (answer.status, answer.code) == (401, "TOKEN_INVALID")


async def test_another_secret_and_an_unknown_id_are_refused_alike(site: Site, owner: User) -> None:
    program = await make(owner)
    for text in (new_key_text(program.key_id), new_key_text(new_key_id())):
        answer = await site.send("GET", f"{owner.space}/events", headers={"x-api-key": str(text)})
        assert (answer.status, answer.code) == (401, "TOKEN_INVALID")
        assert answer.body["message"] == "this API key is not valid, or no longer"


async def test_a_key_does_what_its_role_may_and_only_in_its_workspace(owner: User) -> None:
    reader = await make(owner, "viewer")
    note = {"workspace_id": owner.workspace_id, "title": "x"}
    assert (await reader.get(f"{owner.space}/events")).status == 200
    answer = await reader.post(NOTES, note)
    assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
    other = (await owner.post("/api/workspaces", {"slug": "two", "name": "Two"})).body
    elsewhere = f"/api/workspaces/{other['workspace_id']}"
    assert await reader.refused(f"{elsewhere}/events") == (403, "ROLE_FORBIDDEN")
    path = f"{elsewhere}/members/{reader.user_id}"
    joins = await owner.put(path, {"role": "editor"})
    assert (joins.status, joins.code) == (404, "USER_NOT_FOUND"), "a key is of one workspace"
    raised = await owner.put(f"{owner.space}/members/{reader.user_id}", {"role": "editor"})
    assert raised.status == 200
    assert (await reader.post(NOTES, note)).status == 201


async def test_what_takes_a_person_is_refused_to_a_key(owner: User) -> None:
    program = await make(owner, "admin")
    space = owner.space
    for method, path, body in [
        ("POST", "/api/workspaces", {"slug": "x", "name": "x"}),
        ("POST", f"{space}/transfer", {"user_id": program.user_id}),
        ("GET", f"{space}/keys", None),
        ("POST", f"{space}/keys", {"name": "x", "role": "admin"}),
        ("POST", f"{space}/keys/{program.key_id}/rotate", {}),
        ("DELETE", f"{space}/keys/{program.key_id}", None),
        ("GET", "/api/auth/session", None),
        ("POST", "/api/auth/logout", {}),
        ("POST", "/api/auth/password", {"current_password": "x", "new_password": "y"}),
        ("POST", "/api/auth/close", {"current_password": "x"}),
        ("GET", "/api/users", None),
        ("GET", "/api/audit", None),
        ("DELETE", f"{space}/members/{owner.id}", None),
    ]:
        answer = await program.send(method, path, body)
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN"), path
    command = {"user_id": program.user_id, "role": "owner"}
    for answer in (
        await owner.post(f"{space}/transfer", {"user_id": program.user_id}),
        await owner.put(f"{space}/members/{program.user_id}", {"role": "owner"}),
        await owner.post(f"{space}/commands/put_member", command),
    ):
        assert (answer.status, answer.code) == (409, "MEMBERSHIP_CONFLICT")


async def test_a_key_is_replaced_while_both_work(site: Site, owner: User) -> None:
    old = await make(owner)
    path, keys = f"{owner.space}/events", f"{owner.space}/keys"
    new = Program(site, await owner.post(f"{keys}/{old.key_id}/rotate", {}))
    assert new.key_id == old.key_id
    assert new.key != old.key
    assert [(await each.get(path)).status for each in (old, new)] == [200, 200]
    (item,) = (await owner.get(keys)).body["items"]
    assert item["has_previous"] is True
    assert (await owner.delete(f"{keys}/{old.key_id}/previous")).status == 204
    assert await old.refused(path) == (401, "TOKEN_INVALID")
    assert (await new.get(path)).status == 200
    at_once = {"keep_previous": False}
    newest = Program(site, await owner.post(f"{keys}/{old.key_id}/rotate", at_once))
    assert await new.refused(path) == (401, "TOKEN_INVALID")
    assert (await newest.get(path)).status == 200


async def test_a_key_that_is_ended_or_has_expired_is_refused(site: Site, owner: User) -> None:
    path, keys = f"{owner.space}/events", f"{owner.space}/keys"
    ended, soon = await make(owner), await make(owner, expires_in_s=60)
    assert (await owner.delete(f"{keys}/{ended.key_id}")).status == 204
    assert await ended.refused(path) == (401, "TOKEN_INVALID")
    row = await site.rt.accounts.find_key(ended.key_id)
    assert row is not None
    assert site.closed == [row.connection], "its sockets are closed"
    member = await site.rt.workspace(owner.workspace_id).get(members, ended.user_id)
    assert member is None
    for again in ("", "/previous"):
        answer = await owner.delete(f"{keys}/{ended.key_id}{again}")
        assert (answer.status, answer.code) == (404, "KEY_NOT_FOUND")
    assert (await owner.post(f"{keys}/{ended.key_id}/rotate", {})).code == "KEY_NOT_FOUND"
    assert (await soon.get(path)).status == 200
    site.clock.move(seconds=60)
    assert await soon.refused(path) == (401, "TOKEN_EXPIRED")


async def test_a_key_whose_membership_ended_may_do_nothing(site: Site, owner: User) -> None:
    program = await make(owner)
    await site.rt.workspace(owner.workspace_id).send(RemoveMember(program.user_id))
    assert await program.refused(f"{owner.space}/events") == (403, "ROLE_FORBIDDEN")
    (item,) = (await owner.get(f"{owner.space}/keys")).body["items"]
    assert item["role"] is None


async def test_keys_are_listed_without_their_secrets(site: Site, owner: User) -> None:
    programs = [await make(owner, role, name=role) for role in ("viewer", "editor", "admin")]
    await programs[0].get(f"{owner.space}/events")
    site.clock.move(minutes=30)
    await programs[0].get(f"{owner.space}/events")
    page = await owner.get(f"{owner.space}/keys")
    items = {item["key_id"]: item for item in page.body["items"]}
    assert [items[p.key_id]["role"] for p in programs] == ["viewer", "editor", "admin"]
    used = items[programs[0].key_id]
    assert used["last_used_at"] == used["created_at"], "to within an hour"
    assert used["created_by"] == owner.id
    assert items[programs[1].key_id]["last_used_at"] is None
    assert not any(p.key[-40:].encode() in page.raw for p in programs)
    first = (await owner.get(f"{owner.space}/keys?limit=2")).body
    rest = (await owner.get(f"{owner.space}/keys?limit=2&after={first['next']}")).body
    assert len(first["items"]) == 2
    assert (len(rest["items"]), rest["next"]) == (1, None)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "x"}, 400, "BAD_REQUEST"),
        ({"name": "", "role": "editor"}, 400, "BAD_REQUEST"),
        ({"name": "x" * 201, "role": "editor"}, 400, "BAD_REQUEST"),
        ({"name": "a\0b", "role": "editor"}, 400, "BAD_REQUEST"),
        ({"name": "x", "role": "ghost"}, 400, "BAD_REQUEST"),
        ({"name": "x", "role": "owner"}, 409, "MEMBERSHIP_CONFLICT"),
        ({"name": "x", "role": "editor", "expires_in_s": 0}, 400, "BAD_REQUEST"),
        ({"name": "x", "role": "editor", "expires_in_s": 10**12}, 400, "BAD_REQUEST"),
        ({"name": "x", "role": "editor", "scopes": []}, 400, "BAD_REQUEST"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_and_leaves_nothing(
    owner: User, body: object, status: int, code: str
) -> None:
    answer = await owner.post(f"{owner.space}/keys", body)
    assert (answer.status, answer.code) == (status, code)
    assert (await owner.get(f"{owner.space}/keys")).body["items"] == []


async def test_only_those_who_administer_it_have_keys_of_a_workspace(
    site: Site, owner: User
) -> None:
    program = await make(owner)
    body = {"name": "x", "role": "viewer"}
    for role in ("editor", "viewer"):
        user = await site.add_member(owner, role)
        answer = await user.post(f"{owner.space}/keys", body)
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
        assert (await user.get(f"{owner.space}/keys")).code == "ROLE_FORBIDDEN"
        assert (await user.delete(f"{owner.space}/keys/{program.key_id}")).code == "ROLE_FORBIDDEN"
    admin = await site.add_member(owner, "admin")
    assert (await admin.post(f"{owner.space}/keys", body)).status == 201
    assert (await admin.post("/api/workspaces/nowhere/keys", body)).code == "WORKSPACE_NOT_FOUND"
    other = (await owner.post("/api/workspaces", {"slug": "two", "name": "Two"})).body
    path = f"/api/workspaces/{other['workspace_id']}/keys/{program.key_id}"
    assert (await owner.delete(path)).code == "KEY_NOT_FOUND"
    assert (await owner.post(f"{path}/rotate", {})).code == "KEY_NOT_FOUND"


async def test_the_keys_of_a_workspace_are_bounded() -> None:
    async with open_site(limits=Limits(keys_per_workspace_max=2)) as site:
        owner = await site.set_up()
        first = await make(owner)
        await make(owner)
        answer = await owner.post(f"{owner.space}/keys", {"name": "x", "role": "viewer"})
        assert (answer.status, answer.code) == (409, "QUOTA_EXCEEDED")
        await owner.delete(f"{owner.space}/keys/{first.key_id}")
        await make(owner)


async def test_who_makes_a_key_is_on_record(owner: User) -> None:
    program = await make(owner)
    page = await owner.get(f"/api/audit?workspace_id={owner.workspace_id}")
    (record,) = page.body["items"]
    assert record["user_id"] == owner.id
    assert record["resource_id"] == program.user_id


# ---------------------------------------------------------------------------------- the text


def test_the_text_of_a_key_is_read_back() -> None:
    text = new_key_text(new_key_id())
    assert read_key_text(str(text)) == text
    assert str(text).startswith("ds_")


@given(st.text(max_size=120) | st.from_regex(r"ds_[0-9a-f]{16}_[0-9a-f]{64}_[0-9a-f]{8}\n?"))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    with suppress(Reject):
        assert str(read_key_text(text)) == text


@given(st.binary(min_size=32, max_size=32), st.integers(0, 91), st.sampled_from("0123456789abcdef"))
def test_a_key_with_a_typo_is_told_by_itself(secret: bytes, at: int, typed: str) -> None:
    text = str(KeyText("0123456789abcdef", secret))
    mistyped = text[:at] + typed + text[at + 1 :]
    if mistyped != text:
        with pytest.raises(Reject, match="mistyped"):
            read_key_text(mistyped)
    assert crc32(text[:-9].encode()) == int(text[-8:], 16)
