"""Workspaces do not meet: what belongs to one is not there for the members of another."""

from __future__ import annotations

from typing import Any

import pytest

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import Reject

from ._client import Answer, Site, User

MADE: dict[str, dict[str, Any]] = {
    "notes": {"title": "A", "markdown": "[[A]]"},
    "projects": {"name": "A"},
    "views": {"query_json": {}, "name": "A"},
}


async def tenant(site: Site, slug: str) -> tuple[User, str]:
    """A user with a workspace of their own, in which they are alone."""
    user = await site.add_user()
    made = await user.post("/api/workspaces", {"slug": slug, "name": slug})
    assert made.status == 201, made.raw
    return user, str(made.body["workspace_id"])


async def make(user: User, workspace_id: str, kind: str, **more: Any) -> str:
    made = await user.post(f"/api/{kind}", {"workspace_id": workspace_id, **MADE[kind], **more})
    assert made.status == 201, made.raw
    return str(made.body["note_id" if kind == "notes" else "id"])


async def ids(user: User, workspace_id: str, kind: str) -> list[str]:
    listed = await user.get(f"/api/{kind}?workspace_id={workspace_id}")
    assert listed.status == 200, listed.raw
    return [item["id"] for item in listed.body[kind]]


def said(answer: Answer) -> object:
    body = dict(answer.body)
    del body["request_id"]
    return answer.status, body


@pytest.mark.parametrize("kind", MADE)
async def test_x_ten_1_what_is_made_belongs_to_the_workspace_that_it_was_made_in(
    site: Site, owner: User, kind: str
) -> None:
    (ada, first), (bob, second) = await tenant(site, "first"), await tenant(site, "second")
    made = await make(ada, first, kind)
    listed = await ada.get(f"/api/{kind}?workspace_id={first}")
    assert [(item["id"], item["workspace_id"]) for item in listed.body[kind]] == [(made, first)]
    assert await ids(bob, second, kind) == []
    refused = await bob.post(f"/api/{kind}", {"workspace_id": first, **MADE[kind]})
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    assert await ids(ada, first, kind) == [made]


@pytest.mark.parametrize("kind", MADE)
async def test_x_ten_2_a_list_has_its_workspaces_own(site: Site, owner: User, kind: str) -> None:
    (ada, first), (bob, second) = await tenant(site, "first"), await tenant(site, "second")
    await site.rt.workspace(second).send(PutMember(ada.id, "viewer"))
    one, two = await make(ada, first, kind), await make(bob, second, kind)
    assert await ids(ada, first, kind) == [one]
    assert await ids(ada, second, kind) == await ids(bob, second, kind) == [two]
    refused = await bob.get(f"/api/{kind}?workspace_id={first}")
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    await site.rt.workspace(second).send(RemoveMember(ada.id))
    refused = await ada.get(f"/api/{kind}?workspace_id={second}")
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")


async def everything(user: User, kind: str, entity_id: str) -> list[object]:
    """What is answered to all that can be asked of an entity by its id."""
    path = f"/api/{kind}/{entity_id}"
    asked = [await user.get(path), await user.delete(path)]
    if kind == "notes":
        asked += [
            await user.get(f"{path}/history"),
            await user.get(f"{path}/backlinks"),
            await user.patch(path, {"base_version": 1, "patch_ops": []}),
            await user.patch(f"{path}/title", {"base_version": 1, "title": "x"}),
            await user.post(f"{path}/rollback", {"target_version": 1}),
            await user.put(f"{path}/tags", {"tags": []}),
            await user.put(f"{path}/metadata/a", 1),
            await user.delete(f"{path}/metadata/a"),
            await user.put(f"{path}/project", {"project_id": None}),
        ]
    else:
        asked.append(await user.patch(path, {"name": "x"}))
    assert {answer.status for answer in asked} == {404}
    return [said(answer) for answer in asked]


@pytest.mark.parametrize("kind", MADE)
async def test_x_ten_3_an_id_of_another_workspace_looks_as_if_it_did_not_exist(
    site: Site, owner: User, kind: str
) -> None:
    (ada, first), (bob, second) = await tenant(site, "first"), await tenant(site, "second")
    made = await make(ada, first, kind)
    assert await everything(bob, kind, made) == await everything(bob, kind, "nothing")
    inside = await bob.get(f"/api/{kind}/{made}?workspace_id={second}")
    assert inside.status == 404
    assert await ids(ada, first, kind) == [made]


async def test_x_ten_4_many_workspaces_interleaved_keep_apart(site: Site, owner: User) -> None:
    tenants = [await tenant(site, f"t{n}") for n in range(6)]
    made: dict[tuple[str, str], list[str]] = {}
    for _ in range(3):
        for user, workspace_id in tenants:
            for kind in ("notes", "views"):
                entity_id = await make(user, workspace_id, kind)
                made.setdefault((workspace_id, kind), []).append(entity_id)
    for user, workspace_id in tenants:
        for kind in ("notes", "views"):
            assert await ids(user, workspace_id, kind) == made[workspace_id, kind]
        links = await user.get(f"/api/notes/{made[workspace_id, 'notes'][0]}/backlinks")
        found = [link["note_id"] for link in links.body["backlinks"]]
        assert found == made[workspace_id, "notes"], "of three notes [[A]], here alone"


async def test_x_ten_5_what_a_note_says_of_its_tenant_has_no_effect(
    site: Site, owner: User
) -> None:
    (ada, first), (bob, second) = await tenant(site, "first"), await tenant(site, "second")
    note_id = await make(ada, first, "notes")
    for key in ("tenant_id", "workspace_id"):
        put = await ada.put(f"/api/notes/{note_id}/metadata/{key}", second)
        assert put.status == 200, put.raw
    await ada.put(f"/api/notes/{note_id}/tags", {"tags": [f"workspace:{second}"]})
    assert await ids(bob, second, "notes") == []
    assert (await bob.get(f"/api/notes/{note_id}")).status == 404
    assert await site.rt.workspace(second).head() == 0
    note = (await ada.get(f"/api/notes/{note_id}")).body
    assert (note["workspace_id"], note["metadata_json"]["tenant_id"]) == (first, second)
    with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
        async with site.rt.workspace(first).acting(user_id=bob.id).subscribe():
            pass
