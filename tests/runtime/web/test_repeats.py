"""A used key means one command with one content: its answer again, or a conflict, never another's.

DESIGN §4, *command result*; X-IDEM-1 and 7 are in `test_notes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from dalsegno.actors.domains.notes import CreateNote, DeleteNote, SetTitle
from dalsegno.protocol import Reject

from ._client import Answer, Site, User

Ask: TypeAlias = Callable[[User, str], Awaitable[Answer]]

REPLAYED = "x-idempotency-replay"
DELETED = {"base_version": 1, "patch_ops": [{"delete": 1}]}


def patching(**change: object) -> Ask:
    return lambda user, note: user.patch(note, DELETED | change, idempotency_key="k")


def titled(title: str, **change: object) -> Ask:
    body = {"base_version": 1, "title": title} | change
    return lambda user, note: user.patch(f"{note}/title", body, idempotency_key="k")


def rolling_back(target_version: int) -> Ask:
    body = {"target_version": target_version}
    return lambda user, note: user.post(f"{note}/rollback", body, idempotency_key="k")


def deleting(query: str = "") -> Ask:
    return lambda user, note: user.delete(note + query, idempotency_key="k")


ONES = {
    "patch": patching(),
    "title": titled("Other"),
    "rollback": rolling_back(1),
    "delete": deleting(),
}


@pytest.mark.parametrize("second", ONES)
@pytest.mark.parametrize("first", ONES)
async def test_a_key_of_one_command_is_a_conflict_for_every_other(
    site: Site, owner: User, first: str, second: str
) -> None:
    note = f"/api/notes/{await owner.write()}"
    answered = await ONES[first](owner, note)
    assert answered.status in {200, 204}
    assert REPLAYED not in answered.headers
    head = await site.rt.workspace(owner.workspace_id).head()
    again = await ONES[second](owner, note)
    if first == second:
        assert again.status == answered.status
        assert again.headers[REPLAYED] == "true"
        if answered.raw:
            kept = ("note_id", "version", "event_seq", "idempotency_key")
            assert [again.body[k] for k in kept] == [answered.body[k] for k in kept]
    else:
        assert (again.status, again.code) == (409, "STATE_CONFLICT")
    assert await site.rt.workspace(owner.workspace_id).head() == head


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (titled("Other"), titled("Third")),
        (titled("Other"), titled("Other", base_version=2)),
        (rolling_back(1), rolling_back(2)),
        (deleting(), deleting("?base_version=1")),
    ],
    ids=["title", "base", "rollback", "delete"],
)
async def test_other_content_under_a_key_is_a_conflict(owner: User, first: Ask, other: Ask) -> None:
    note = f"/api/notes/{await owner.write()}"
    assert (await first(owner, note)).status in {200, 204}
    again = await other(owner, note)
    assert (again.status, again.code) == (409, "STATE_CONFLICT")


@pytest.mark.parametrize("in_body", [False, True])
async def test_a_patch_that_was_rebased_gets_the_original_answer(
    owner: User, in_body: bool
) -> None:
    path = f"/api/notes/{await owner.write()}"
    first = await owner.patch(path, DELETED, idempotency_key="k")
    rebased: dict[str, object] = {"base_version": 9, "patch_ops": [{"retain": 1}]}
    if in_body:
        again = await owner.patch(path, rebased | {"idempotency_key": "k"})
    else:
        again = await owner.patch(path, rebased, idempotency_key="k")
    assert (again.status, again.headers[REPLAYED]) == (200, "true")
    assert (again.body["version"], again.body["event_seq"]) == (first.body["version"], 2)


async def test_the_key_of_a_note_that_was_named_is_no_key_for_what_happens_to_it(
    site: Site, owner: User
) -> None:
    """`create_note` with an id of the client's own has its key where its changes have theirs."""
    workspace = site.rt.workspace(owner.workspace_id).acting(user_id=owner.id)
    await workspace.send(CreateNote("A", note_id="n"), key="k")
    for command in (SetTitle("n", "B", 1), DeleteNote("n"), CreateNote("B", note_id="n")):
        with pytest.raises(Reject, match="STATE_CONFLICT"):
            await workspace.send(command, key="k")
    assert (await workspace.send(CreateNote("A", note_id="n"), key="k")).repeated
    assert (await owner.get("/api/notes/n")).body["title"] == "A"
    assert (await owner.delete("/api/notes/n", idempotency_key="k")).code == "STATE_CONFLICT"


async def test_what_had_nothing_to_do_is_remembered(owner: User) -> None:
    note_id = await owner.write()
    path = f"/api/notes/{note_id}"
    assert (await owner.delete(path)).status == 204
    assert (await owner.delete(path, idempotency_key="k")).status == 204  # already gone
    assert (await owner.post(f"{path}/rollback", {"target_version": 1})).status == 200
    again = await owner.delete(path, idempotency_key="k")
    assert (again.status, again.headers[REPLAYED]) == (204, "true")
    assert (await owner.get(path)).body["deleted_at"] is None


async def test_a_refusal_is_not_remembered(owner: User) -> None:
    path = f"/api/notes/{await owner.write()}"
    early = {"base_version": 2, "title": "Early"}
    refused = await owner.patch(f"{path}/title", early, idempotency_key="k")
    assert refused.code == "VERSION_CONFLICT"
    assert (await owner.patch(path, DELETED)).status == 200
    decided = await owner.patch(f"{path}/title", early, idempotency_key="k")
    assert (decided.status, decided.body["version"]) == (200, 3)
    assert REPLAYED not in decided.headers


@pytest.mark.parametrize("role", [None, "viewer"])
async def test_whoever_has_left_gets_the_answer_to_what_took_effect(
    site: Site, owner: User, role: str | None
) -> None:
    """The key is looked up before the role; nothing else is given away."""
    user = await site.add_member(owner, "editor")
    note_id = await owner.write()
    path = f"/api/notes/{note_id}"
    body = {"workspace_id": owner.workspace_id, "title": "Mine"}
    created = await user.post("/api/notes", body, idempotency_key="c")
    patched = await user.patch(path, DELETED, idempotency_key="k")
    assert (created.status, patched.status) == (201, 200)
    member = f"{owner.space}/members/{user.id}"
    if role is None:
        assert (await owner.delete(member)).status == 204
    else:
        assert (await owner.put(member, {"role": role})).status == 200
    head = await site.rt.workspace(owner.workspace_id).head()

    again = await user.patch(path, DELETED, idempotency_key="k")
    assert (again.status, again.headers[REPLAYED]) == (200, "true")
    assert again.body["version"] == patched.body["version"]
    again = await user.post("/api/notes", body, idempotency_key="c")
    assert (again.status, again.body["note_id"]) == (201, created.body["note_id"])
    for refused in (
        await user.patch(path, DELETED, idempotency_key="another"),
        await user.patch(path, DELETED),
        await user.delete(path, idempotency_key="another"),
        await user.delete(path),
    ):
        expected = (404, "NOTE_NOT_FOUND") if role is None else (403, "ROLE_FORBIDDEN")
        assert (refused.status, refused.code) == expected
    for refused in (
        await user.post("/api/notes", body, idempotency_key="another"),
        await user.post("/api/notes", body),
    ):
        assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    assert await site.rt.workspace(owner.workspace_id).head() == head


async def test_so_does_an_admin_who_was_demoted(site: Site, owner: User) -> None:
    admin, user = await site.add_member(owner, "admin"), await site.add_user()
    path = f"{owner.space}/members/{user.id}"
    put = await admin.put(path, {"role": "editor"}, idempotency_key="k")
    assert (await owner.put(f"{owner.space}/members/{admin.id}", {"role": "viewer"})).status == 200
    again = await admin.put(path, {"role": "editor"}, idempotency_key="k")
    assert (again.status, again.body["event_seq"]) == (200, put.body["event_seq"])
    assert again.headers[REPLAYED] == "true"
    refused = await admin.put(path, {"role": "editor"})
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    removed = await owner.delete(path, idempotency_key="r")
    assert (removed.status, REPLAYED in removed.headers) == (204, False)
    again = await owner.delete(path, idempotency_key="r")
    assert (again.status, again.headers[REPLAYED]) == (204, "true")


@pytest.mark.parametrize(
    ("method", "rest", "body", "field", "nearest"),
    [
        ("POST", None, {"title": "A", "mardown": "b"}, "mardown", "markdown"),
        ("PATCH", "", {"base_version": 1, "patch_opps": [], "patch_ops": []}, "patch_opps", None),
        ("PATCH", "/title", {"base_version": 1, "title": "A", "colour": 1}, "colour", None),
        ("POST", "/rollback", {"target_version": 1, "baseversion": 1}, "baseversion", None),
    ],
)
async def test_a_misspelt_field_is_refused_by_name(
    site: Site,
    owner: User,
    method: str,
    rest: str | None,
    body: dict[str, object],
    field: str,
    nearest: str | None,
) -> None:
    note_id = await owner.write()
    if rest is None:
        path, body = "/api/notes", body | {"workspace_id": owner.workspace_id}
    else:
        path = f"/api/notes/{note_id}{rest}"
    answer = await owner.send(method, path, body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert answer.body["details"]["field"] == field
    if nearest is not None:
        assert answer.body["details"]["nearest"] == nearest
    assert field in answer.body["message"]
    assert await site.rt.workspace(owner.workspace_id).head() == 1


async def test_a_workspace_that_was_deleted_answers_the_repeat_of_that_alone(
    site: Site, owner: User
) -> None:
    made = await owner.post("/api/workspaces", {"slug": "two", "name": "Two"})
    space = f"/api/workspaces/{made.body['workspace_id']}"
    renamed = await owner.patch(space, {"name": "Three"}, idempotency_key="n")
    assert (renamed.status, renamed.body["name"], REPLAYED in renamed.headers) == (
        200,
        "Three",
        False,
    )
    again = await owner.patch(space, {"name": "Three"}, idempotency_key="n")
    assert (again.status, again.body["name"], again.headers[REPLAYED]) == (200, "Three", "true")
    other = await owner.patch(space, {"name": "Four"}, idempotency_key="n")
    assert (other.status, other.code) == (409, "STATE_CONFLICT")
    assert (await owner.delete(space, idempotency_key="d")).status == 204
    for key, path in (("d", space), ("n", space)):
        again = await (
            owner.delete(path, idempotency_key=key)
            if key == "d"
            else owner.patch(path, {"name": "Three"}, idempotency_key=key)
        )
        assert (again.status, again.raw, again.headers[REPLAYED]) == (204, b"", "true")
    gone = await owner.delete(space)
    assert (gone.status, gone.code) == (404, "WORKSPACE_NOT_FOUND")
