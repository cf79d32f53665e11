"""Projects and saved views over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from ._client import Site, User


async def create(user: User, kind: str, **more: Any) -> str:
    body = {"workspace_id": user.workspace_id, **SAMPLES[kind], **more}
    answer = await user.post(f"/api/{kind}", body)
    assert answer.status == 201, answer.raw
    return str(answer.body["id"])


SAMPLES: dict[str, dict[str, Any]] = {
    "projects": {"name": "Engine", "description": "the first"},
    "views": {"query_json": {"q": "x"}, "sort": "title", "filters": [{"tag": "a"}], "name": "V"},
}
CHANGES: dict[str, dict[str, Any]] = {
    "projects": {"name": "Mill"},
    "views": {"name": None, "sort": {"by": "title"}},
}
MISSING = {"projects": "PROJECT_NOT_FOUND", "views": "VIEW_NOT_FOUND"}
KINDS = [*SAMPLES]


async def life_of(owner: User, kind: str) -> None:
    """Make one, list it, change it, delete it."""
    entity_id = await create(owner, kind)
    path, listing = f"/api/{kind}/{entity_id}", f"/api/{kind}?workspace_id={owner.workspace_id}"
    listed = await owner.get(listing)
    (item,) = listed.body[kind]
    assert listed.body["next"] is None
    assert item.items() >= SAMPLES[kind].items()
    assert (item["id"], item["workspace_id"], item["version"]) == (
        entity_id,
        owner.workspace_id,
        1,
    )
    read = await owner.get(path)
    assert read.body.items() >= item.items()
    changed = await owner.patch(path, {**CHANGES[kind], "base_version": 1})
    assert (changed.status, changed.body["id"], changed.body["version"]) == (200, entity_id, 2)
    for stale in (
        await owner.patch(path, {**CHANGES[kind], "base_version": 1}),
        await owner.patch(path, CHANGES[kind], if_match='"1"'),
        await owner.delete(f"{path}?base_version=1"),
        await owner.delete(path, if_match='"1"'),
    ):
        assert (stale.status, stale.code) == (409, "VERSION_CONFLICT")
    read = await owner.get(f"{path}?min_seq={changed.body['event_seq']}")
    assert read.body.items() >= {**SAMPLES[kind], **CHANGES[kind]}.items()
    assert (await owner.delete(path, if_match='"2"')).status == 204
    for gone in (
        await owner.delete(path),
        await owner.get(path),
        await owner.patch(path, CHANGES[kind]),
        await owner.get(f"/api/{kind}/nothing"),
    ):
        assert (gone.status, gone.code) == (404, MISSING[kind])
    assert (await owner.get(listing)).body[kind] == []


async def test_api_proj_01_a_project_from_its_making_to_its_end(owner: User) -> None:
    await life_of(owner, "projects")


async def test_api_view_01_a_view_from_its_making_to_its_end(owner: User) -> None:
    await life_of(owner, "views")


async def test_api_proj_01_a_name_is_used_once_in_its_workspace(site: Site, owner: User) -> None:
    await create(owner, "projects")
    other = await create(owner, "projects", name="Other")
    body = {"workspace_id": owner.workspace_id, **SAMPLES["projects"]}
    for taken in (
        await owner.post("/api/projects", body),
        await owner.patch(f"/api/projects/{other}", {"name": "Engine"}),
    ):
        assert (taken.status, taken.code) == (409, "STATE_CONFLICT")
        assert taken.body["details"]["field"] == "name"
    made = await owner.post("/api/workspaces", {"slug": "two", "name": "Two"})
    elsewhere = {**body, "workspace_id": made.body["workspace_id"]}
    assert (await owner.post("/api/projects", elsewhere)).status == 201


@pytest.mark.parametrize("kind", KINDS)
async def test_pages_together_are_the_list(owner: User, kind: str) -> None:
    made = [await create(owner, kind, name=f"N{n}") for n in range(3)]
    path, found, after = f"/api/{kind}?workspace_id={owner.workspace_id}&limit=2", [], ""
    while True:
        page = (await owner.get(path + after)).body
        found += [item["id"] for item in page[kind]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["owner", "admin", "editor", "viewer", None])
async def test_x_rbac_1_projects_and_views_are_for_writers(
    site: Site, owner: User, kind: str, role: str | None
) -> None:
    user = await (site.add_member(owner, role) if role else site.add_user())
    entity_id = await create(owner, kind)
    path = f"/api/{kind}/{entity_id}"
    body = {"workspace_id": owner.workspace_id, **SAMPLES[kind], "name": "Another"}
    reads = [await user.get(f"/api/{kind}?workspace_id={owner.workspace_id}"), await user.get(path)]
    writes = [
        await user.post(f"/api/{kind}", body),
        await user.patch(path, CHANGES[kind]),
        await user.delete(path),
    ]
    may_write = role in {"owner", "admin", "editor"}
    assert [answer.status for answer in reads] == ([200, 200] if role else [403, 404])
    if may_write:
        assert [answer.status for answer in writes] == [201, 200, 204]
    else:
        assert [answer.code for answer in writes] == [
            "ROLE_FORBIDDEN",
            *(["ROLE_FORBIDDEN"] if role else [MISSING[kind]]) * 2,
        ]
        assert (await owner.get(path)).body["version"] == 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("projects", {"name": ""}),
        ("projects", {"name": 1}),
        ("projects", {"name": "x", "descripton": ""}),
        ("projects", {}),
        ("views", {}),
        ("views", {"query_json": 1, "nmae": "x"}),
        ("views", {"query_json": 1, "name": "\n"}),
    ],
)
async def test_what_cannot_be_is_refused(owner: User, kind: str, body: dict[str, Any]) -> None:
    answer = await owner.post(f"/api/{kind}", {"workspace_id": owner.workspace_id, **body})
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    listed = await owner.get(f"/api/{kind}?workspace_id={owner.workspace_id}")
    assert listed.body[kind] == []


async def test_a_view_says_who_made_it(site: Site, owner: User) -> None:
    editor = await site.add_member(owner, "editor")
    body = {"workspace_id": owner.workspace_id, "query_json": None}
    made = await editor.post("/api/views", body)
    assert made.body["owner_user_id"] == editor.id
    read = await owner.get(f"/api/views/{made.body['id']}")
    assert (read.body["owner_user_id"], read.body["query_json"]) == (editor.id, None)
