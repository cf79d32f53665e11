"""Tags, metadata and projects of notes over HTTP; versions as ETags; keys of what is changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from ._client import Answer, Site, User

REPLAYED = "x-idempotency-replay"

Ask: TypeAlias = Callable[[User, str, dict[str, str]], Awaitable[Answer]]


async def project(owner: User, name: str = "P") -> str:
    body = {"workspace_id": owner.workspace_id, "name": name}
    created = await owner.post("/api/projects", body)
    assert created.status == 201, created.raw
    return str(created.body["id"])


async def test_tags_are_replaced(owner: User) -> None:
    path = f"/api/notes/{await owner.write()}"
    answer = await owner.put(f"{path}/tags", {"tags": ["b", "a", " b"], "base_version": 1})
    assert answer.status == 200
    assert {k: answer.body[k] for k in ("tags", "version", "event_seq")} == {
        "tags": ["b", "a"],
        "version": 2,
        "event_seq": 2,
    }
    assert (await owner.get(path)).body["tags"] == ["b", "a"]
    again = await owner.put(f"{path}/tags", {"tags": ["b", "a"]})
    assert (again.status, again.body["version"]) == (200, 2)
    assert (await owner.put(f"{path}/tags", {"tags": []})).body["tags"] == []


async def test_api_rec_01_metadata_is_put_and_removed(owner: User) -> None:
    path = f"/api/notes/{await owner.write()}"
    for value in ({"due": [1, None]}, None, "x", 0, True):
        put = await owner.put(f"{path}/metadata/a.b", value if value is not None else None)
        if value is None:
            assert put.code == "BAD_REQUEST", "no body is no JSON"
            put = await owner.site.send(
                "PUT", f"{path}/metadata/a.b", raw=b"null", headers=owner.headers
            )
        assert (put.status, put.body["key"]) == (200, "a.b"), put.raw
        assert put.body["note_id"] in path
        assert (await owner.get(path)).body["metadata_json"] == {"a.b": value}
    for _ in range(2):
        removed = await owner.delete(f"{path}/metadata/a.b")
        assert (removed.status, removed.raw) == (204, b"")
    assert (await owner.get(path)).body["metadata_json"] == {}


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("system.a", 422, "RULE_INVALID"),
        ("A", 400, "BAD_REQUEST"),
        ("x" * 65, 400, "BAD_REQUEST"),
    ],
)
async def test_a_key_that_cannot_be_is_refused(
    owner: User, key: str, status: int, code: str
) -> None:
    path = f"/api/notes/{await owner.write()}/metadata/{key}"
    for answer in (await owner.put(path, 1), await owner.delete(path)):
        assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b'"\\u0000"', 400),
        (b"1e400", 400),
        (b"[" * 65 + b"]" * 65, 400),
        (b"[" * 63 + b"]" * 63, 200),
        (b"123456789012345678901234567890", 200),
        (b'"' + b"x" * 70_000 + b'"', 413),
    ],
)
async def test_metadata_is_json_within_its_bounds(owner: User, raw: bytes, status: int) -> None:
    note = f"/api/notes/{await owner.write()}"
    path = f"{note}/metadata/a"
    answer = await owner.site.send("PUT", path, raw=raw, headers=owner.headers)
    assert answer.status == status, answer.raw
    assert (await owner.get(note)).body["version"] == (2 if status == 200 else 1)


async def test_a_note_is_put_into_a_project_of_its_workspace(site: Site, owner: User) -> None:
    project_id = await project(owner)
    path = f"/api/notes/{await owner.write()}"
    moved = await owner.put(f"{path}/project", {"project_id": project_id})
    assert (moved.status, moved.body["project_id"]) == (200, project_id)
    assert (await owner.get(path)).body["project_id"] == project_id
    other = await site.add_user()
    made = await other.post("/api/workspaces", {"slug": "other", "name": "O"})
    theirs = await other.post(
        "/api/projects", {"workspace_id": made.body["workspace_id"], "name": "P"}
    )
    body = {"workspace_id": owner.workspace_id, "title": "x"}
    for refused in (
        await owner.put(f"{path}/project", {"project_id": theirs.body["id"]}),
        await owner.put(f"{path}/project", {"project_id": "nothing"}),
        await owner.post("/api/notes", {**body, "project_id": theirs.body["id"]}),
        await owner.post("/api/notes", {**body, "access_scope": "project"}),
    ):
        assert (refused.status, refused.code) == (422, "PROJECT_SCOPE_INVALID")
    scoped = {**body, "access_scope": "project", "project_id": project_id}
    created = await owner.post("/api/notes", scoped)
    assert (created.status, created.body["access_scope"]) == (201, "workspace")
    assert created.body["project_id"] == project_id


# ----------------------------------------------------------------------------------------- ETags


def patched(**more: Any) -> Ask:
    body = {"patch_ops": [{"insert": "x"}]} | more
    return lambda user, note, headers: user.patch(note, body, **headers)


def titled(**more: Any) -> Ask:
    return lambda user, note, headers: user.patch(f"{note}/title", {"title": "T"} | more, **headers)


def rolled_back(**more: Any) -> Ask:
    body = {"target_version": 1} | more
    return lambda user, note, headers: user.post(f"{note}/rollback", body, **headers)


def tagged(**more: Any) -> Ask:
    return lambda user, note, headers: user.put(f"{note}/tags", {"tags": ["a"]} | more, **headers)


def moved(**more: Any) -> Ask:
    return lambda user, note, headers: user.put(
        f"{note}/project", {"project_id": None} | more, **headers
    )


def put_metadata(query: str = "") -> Ask:
    return lambda user, note, headers: user.put(f"{note}/metadata/a{query}", 1, **headers)


def removed(query: str = "") -> Ask:
    return lambda user, note, headers: user.delete(f"{note}/metadata/b{query}", **headers)


def deleted(query: str = "") -> Ask:
    return lambda user, note, headers: user.delete(note + query, **headers)


WITH_BODY = {
    "patch": patched,
    "title": titled,
    "rollback": rolled_back,
    "tags": tagged,
    "project": moved,
}
WITHOUT = {"metadata": put_metadata, "no metadata": removed, "delete": deleted}
EVERY: dict[str, Ask] = {
    **{name: make() for name, make in WITH_BODY.items()},
    **{name: make() for name, make in WITHOUT.items()},
}
STALE: dict[str, Ask] = {
    **{name: make(base_version=1) for name, make in WITH_BODY.items()},
    **{name: make("?base_version=1") for name, make in WITHOUT.items()},
}
FRESH: dict[str, Ask] = {
    **{name: make(base_version=2) for name, make in WITH_BODY.items()},
    **{name: make("?base_version=2") for name, make in WITHOUT.items()},
}


async def at_version_2(owner: User) -> str:
    note_id = await owner.write()
    assert (await owner.put(f"/api/notes/{note_id}/metadata/b", 1)).status == 200
    return f"/api/notes/{note_id}"


@pytest.mark.parametrize("name", EVERY)
async def test_x_occ_3_every_change_over_http_obeys_its_base_version(
    owner: User, name: str
) -> None:
    note = await at_version_2(owner)
    for answer in (
        await STALE[name](owner, note, {}),
        await EVERY[name](owner, note, {"if_match": '"1"'}),
    ):
        assert (answer.status, answer.code) == (409, "VERSION_CONFLICT")
        assert answer.body["details"] == {
            "expected_version": 1,
            "current_version": 2,
            "resource_id": note.rpartition("/")[2],
        }
    for tag in ('W/"2"', '"2", "3"', "2", '"x"', '"0"', '"99999999999999999999"'):
        answer = await EVERY[name](owner, note, {"if_match": tag})
        assert (answer.status, answer.code) == (400, "BAD_REQUEST"), tag
    answer = await FRESH[name](owner, note, {"if_match": '"3"'})
    assert (answer.status, answer.code) == (400, "BAD_REQUEST"), "which of the two?"
    assert (await owner.get(note)).body["version"] == 2
    answer = await EVERY[name](owner, note, {"if_match": '"2"'})
    assert answer.status in {200, 204}, answer.raw
    if answer.status == 200:
        assert answer.headers["etag"] == f'"{answer.body["version"]}"'


@pytest.mark.parametrize("name", EVERY)
async def test_a_base_version_may_be_left_out_but_for_text_and_title(
    owner: User, name: str
) -> None:
    note = await at_version_2(owner)
    answer = await EVERY[name](owner, note, {"if_match": "*"})
    if name in {"patch", "title"}:
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
        assert answer.body["details"]["field"] == "base_version"
    else:
        assert answer.status in {200, 204}


async def test_api_note_02_of_two_changes_of_one_version_the_second_is_a_conflict(
    owner: User,
) -> None:
    note = f"/api/notes/{await owner.write()}"
    tag = (await owner.get(note)).headers["etag"]
    answers = [
        await owner.patch(note, {"patch_ops": [{"insert": text}]}, if_match=tag) for text in "ab"
    ]
    assert [answer.status for answer in answers] == [200, 409]
    assert answers[1].code == "VERSION_CONFLICT"
    assert (await owner.get(note)).body["markdown"] == "aHello world"


async def test_what_a_client_has_is_not_sent_again(owner: User) -> None:
    created = await owner.post(
        "/api/notes", {"workspace_id": owner.workspace_id, "title": "A", "markdown": "a"}
    )
    note = f"/api/notes/{created.body['note_id']}"
    assert created.headers["etag"] == (await owner.get(note)).headers["etag"] == '"1"'
    for header in ('"1"', 'W/"1"', '"7", "1"', "*"):
        same = await owner.get(note, if_none_match=header)
        assert (same.status, same.raw, same.headers["etag"]) == (304, b"", '"1"'), header
    changed = await owner.put(f"{note}/tags", {"tags": ["a"]})
    assert changed.headers["etag"] == '"2"'
    for header in ('"1"', "1", "x", ""):
        assert (await owner.get(note, if_none_match=header)).status == 200
    for path in (
        f"/api/projects/{await project(owner)}",
        f"/api/views/{(await save(owner)).body['id']}",
    ):
        assert (await owner.get(path)).headers["etag"] == '"1"'
        assert (await owner.get(path, if_none_match='"1"')).status == 304


async def test_a_stranger_does_not_learn_that_nothing_was_modified(site: Site, owner: User) -> None:
    note_id, stranger = await owner.write(), await site.add_user()
    answer = await stranger.get(f"/api/notes/{note_id}", if_none_match="*")
    assert (answer.status, answer.code) == (404, "NOTE_NOT_FOUND")


# ------------------------------------------------------------------------------------------ keys


async def save(owner: User, **more: Any) -> Answer:
    body = {"workspace_id": owner.workspace_id, "query_json": {"q": "x"}} | more
    return await owner.post("/api/views", body)


def identity(answer: Answer) -> object:
    """What a success says of what happened."""
    return answer.status, {k: v for k, v in answer.body.items() if k != "request_id"} if (
        answer.raw
    ) else None


@pytest.mark.parametrize("name", EVERY)
async def test_x_idem_7_a_key_repeats_the_answer_of_every_change(
    site: Site, owner: User, name: str
) -> None:
    note = await at_version_2(owner)
    ask = FRESH[name] if name in {"patch", "title"} else EVERY[name]
    first = await ask(owner, note, {"idempotency_key": "k"})
    assert first.status in {200, 204}, first.raw
    assert REPLAYED not in first.headers
    head = await site.rt.workspace(owner.workspace_id).head()
    again = await ask(owner, note, {"idempotency_key": "k"})
    assert identity(again) == identity(first)
    assert again.headers[REPLAYED] == "true"
    if name != "patch":  # whose repeat may have been rebased (C1)
        other = await STALE[name](owner, note, {"idempotency_key": "k"})
        assert (other.status, other.code) == (409, "STATE_CONFLICT")
    for key in ("", "x" * 257):
        refused = await ask(owner, note, {"idempotency_key": key})
        assert (refused.status, refused.code) == (400, "BAD_REQUEST")
    assert await site.rt.workspace(owner.workspace_id).head() == head


async def test_x_idem_7_projects_and_views_have_keys_too(site: Site, owner: User) -> None:
    space = {"workspace_id": owner.workspace_id}
    for path, body, changed in (
        ("/api/projects", {"name": "P"}, {"name": "Q"}),
        ("/api/views", {"query_json": 1}, {"name": "Q"}),
    ):
        created = await owner.post(path, space | body, idempotency_key="c")
        again = await owner.post(path, space | body, idempotency_key="c")
        assert identity(again) == identity(created)
        assert (created.status, again.headers[REPLAYED]) == (201, "true")
        other = await owner.post(path, space | body | {"name": "R"}, idempotency_key="c")
        assert (other.status, other.code) == (409, "STATE_CONFLICT")
        one = f"{path}/{created.body['id']}"
        first = await owner.patch(one, changed, idempotency_key="k")
        again = await owner.patch(one, changed, idempotency_key="k")
        assert (first.status, identity(again)) == (200, identity(first))
        assert again.headers[REPLAYED] == "true"
        head = await site.rt.workspace(owner.workspace_id).head()
        assert (await owner.delete(one, idempotency_key="d")).status == 204
        again = await owner.delete(one, idempotency_key="d")
        assert (again.status, again.headers[REPLAYED]) == (204, "true")
        assert await site.rt.workspace(owner.workspace_id).head() > head
        gone = await owner.delete(one)
        assert gone.status == 404


# ------------------------------------------------------------------------------------------- who


@pytest.mark.parametrize("role", ["viewer", None])
@pytest.mark.parametrize("name", EVERY)
async def test_x_rbac_1_labels_are_for_writers(
    site: Site, owner: User, role: str | None, name: str
) -> None:
    user = await (site.add_member(owner, role) if role else site.add_user())
    note = await at_version_2(owner)
    ask = FRESH[name] if name in {"patch", "title"} else EVERY[name]
    answer = await ask(user, note, {})
    expected = (403, "ROLE_FORBIDDEN") if role else (404, "NOTE_NOT_FOUND")
    assert (answer.status, answer.code) == expected
    assert (await owner.get(note)).body["version"] == 2


async def test_x_rbac_2_a_change_of_role_counts_at_once(site: Site, owner: User) -> None:
    user = await site.add_member(owner, "editor")
    note = f"/api/notes/{await owner.write()}"
    member = f"{owner.space}/members/{user.id}"
    for role, status in (("viewer", 403), ("admin", 200), ("viewer", 403), ("editor", 200)):
        assert (await owner.put(member, {"role": role})).status == 200
        assert (await user.put(f"{note}/tags", {"tags": [role]})).status == status
    assert (await owner.delete(member)).status == 204
    assert (await user.put(f"{note}/tags", {"tags": ["x"]})).status == 404
    assert (await user.get(note)).status == 404
    assert (await owner.get(note)).body["tags"] == ["editor"]
