"""Workspaces that are archived, deleted, and too many."""

from __future__ import annotations

import pytest
import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.notes import CreateNote, notes
from dalsegno.actors.domains.standing import ChangeWorkspace, DeleteWorkspace
from dalsegno.protocol import Limits, Reject
from dalsegno.runtime.web import _spaces
from tests._patience import fail_after

from ._client import Site, User
from .conftest import open_site


async def test_an_archived_workspace_can_be_read_and_looked_after(site: Site, owner: User) -> None:
    note_id = await owner.write()
    editor = await site.add_member(owner, "editor")
    assert (await owner.patch(owner.space, {"state": "archived"})).status == 200
    title = {"title": "New", "base_version": 1}
    for user in (owner, editor):
        refused = await user.patch(f"/api/notes/{note_id}/title", title)
        assert (refused.status, refused.code) == (409, "WORKSPACE_ARCHIVED")
        assert (await user.get(f"/api/notes/{note_id}")).status == 200
        assert (await user.get(f"{owner.space}/events")).status == 200
        assert (await user.get(f"{owner.space}/members")).status == 200
    for body in ({"state": "active"}, {"name": "Mine"}):
        refused = await editor.patch(owner.space, body)
        assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    put = await owner.put(f"{owner.space}/members/{editor.id}", {"role": "viewer"})
    assert put.status == 200
    assert (await owner.patch(owner.space, {"name": "Old", "state": "active"})).status == 200
    assert (await owner.patch(f"/api/notes/{note_id}/title", title)).status == 200


async def test_the_program_itself_writes_nothing_to_what_is_archived_or_deleted(
    site: Site, owner: User
) -> None:
    """The state is decided in the log, whatever way a command comes."""
    workspace = site.rt.workspace(owner.workspace_id)
    await workspace.send(ChangeWorkspace(state="archived"))
    with pytest.raises(Reject, match="WORKSPACE_ARCHIVED"):
        await workspace.send(CreateNote("T", "x"))
    with pytest.raises(Reject, match="WORKSPACE_ARCHIVED"):
        await workspace.acting(user_id=owner.id, role="owner").send(CreateNote("T", "x"))
    await workspace.send(DeleteWorkspace())
    for command in (CreateNote("T", "x"), PutMember("u", "viewer"), DeleteWorkspace()):
        with pytest.raises(Reject, match="WORKSPACE_NOT_FOUND"):
            await workspace.send(command)


async def test_a_deleted_workspace_is_found_by_nobody(site: Site, owner: User) -> None:
    note_id = await owner.write()
    editor = await site.add_member(owner, "editor")
    refused = await editor.delete(owner.space)
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    assert (await owner.delete(owner.space)).status == 204
    note = {"workspace_id": owner.workspace_id, "title": "T", "markdown": ""}
    for user in (owner, editor):
        for method, path, body in (
            ("GET", f"{owner.space}/events", None),
            ("GET", f"{owner.space}/members", None),
            ("PUT", f"{owner.space}/members/{editor.id}", {"role": "viewer"}),
            ("DELETE", f"{owner.space}/members/{editor.id}", None),
            ("POST", f"{owner.space}/repair", None),
            ("PATCH", owner.space, {"state": "active"}),
            ("DELETE", owner.space, None),
            ("POST", f"{owner.space}/transfer", {"user_id": editor.id}),
            ("POST", "/api/notes", note),
        ):
            gone = await user.send(method, path, body)
            assert (gone.status, gone.code) == (404, "WORKSPACE_NOT_FOUND"), (method, path)
        for path in (f"/api/notes/{note_id}", f"/api/notes/{note_id}?workspace_id="):
            asked = f"{path}{owner.workspace_id}" if path.endswith("=") else path
            assert (await user.get(asked)).code == "NOTE_NOT_FOUND"
        assert (await user.get("/api/workspaces")).body["items"] == []
    assert (await site.login(owner.email)).identity["workspace_id"] is None
    acting = site.rt.workspace(owner.workspace_id).acting(user_id=owner.id)
    with pytest.raises(Reject, match="WORKSPACE_NOT_FOUND"):
        await acting.get(notes, note_id)


async def test_a_repeat_under_a_key_gets_the_original_answer(site: Site, owner: User) -> None:
    """Also from who may not do it any more, and of what is there no more (I5)."""
    user = await site.add_member(owner, "viewer")
    asked: list[tuple[str, str, object]] = [
        ("PATCH", owner.space, {"state": "archived"}),
        ("POST", f"{owner.space}/transfer", {"user_id": user.id}),
    ]
    for number, (method, path, body) in enumerate(asked):
        answers = [
            await owner.send(method, path, body, idempotency_key=f"k{number}") for _ in range(2)
        ]
        assert [answer.status for answer in answers] == [200, 200], path
        replays = [answer.headers.get("x-idempotency-replay") for answer in answers]
        assert replays == [None, "true"], path
    deleted = [await user.delete(owner.space, idempotency_key="k") for _ in range(2)]
    assert [answer.status for answer in deleted] == [204, 204]
    assert deleted[1].headers["x-idempotency-replay"] == "true"
    assert (await user.delete(owner.space)).code == "WORKSPACE_NOT_FOUND"


async def test_a_users_loop_ends_with_the_workspace_and_the_programs_goes_on(
    site: Site, owner: User
) -> None:
    workspace = site.rt.workspace(owner.workspace_id)
    with fail_after(10):
        async with (
            workspace.acting(user_id=owner.id).subscribe(after=0) as users,
            workspace.subscribe(after=0) as programs,
        ):
            await owner.write()
            await workspace.send(DeleteWorkspace())
            seen = ["note_created", "workspace_deleted"]
            for followed in (users, programs):
                assert [(await followed.__anext__()).type for _ in seen] == seen
            with pytest.raises(Reject, match="WORKSPACE_NOT_FOUND"):
                await users.__anext__()
            with trio.move_on_after(0.05) as waiting:
                await programs.__anext__()
            assert waiting.cancelled_caught
        with pytest.raises(Reject, match="WORKSPACE_NOT_FOUND"):
            async with workspace.acting(user_id=owner.id).subscribe(after=0):
                pass


@pytest.mark.parametrize(
    "body", [{}, {"state": "deleted"}, {"name": ""}, {"name": "a\u202eb"}, {"name": 1}, []]
)
async def test_what_a_workspace_cannot_become_is_refused(owner: User, body: object) -> None:
    answer = await owner.patch(owner.space, body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_a_user_creates_so_many_workspaces(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_site(limits=Limits(workspaces_per_user_max=2)) as site:
        owner = await site.set_up()
        made = await owner.post("/api/workspaces", {"slug": "two", "name": "Two"})
        assert made.status == 201
        refused = await owner.post("/api/workspaces", {"slug": "three", "name": "Three"})
        assert (refused.status, refused.code) == (409, "QUOTA_EXCEEDED")
        assert refused.body["details"] == {"limit": 2}
        assert (await owner.delete(f"/api/workspaces/{made.body['workspace_id']}")).status == 204

        async def ended_before(*_: object) -> None:
            """A server that ends before it has told `$system`."""

        third = await owner.post("/api/workspaces", {"slug": "two", "name": "Two again"})
        assert third.status == 201
        with monkeypatch.context() as patched:
            patched.setattr("dalsegno.runtime.web._space_routes.retire", ended_before)
            path = f"/api/workspaces/{third.body['workspace_id']}"
            assert (await owner.delete(path)).status == 204
        fourth = await owner.post("/api/workspaces", {"slug": "two", "name": "Once more"})
        assert fourth.status == 201, "it is made up for when it is wanted"
        other = await site.add_user()
        assert (await other.post("/api/workspaces", {"slug": "x", "name": "X"})).status == 201
    assert _spaces.retire is not ended_before


async def test_no_bound_is_no_bound() -> None:
    async with open_site(limits=Limits(workspaces_per_user_max=0)) as site:
        owner = await site.set_up()
        for number in range(3):
            body = {"slug": f"s{number}", "name": "S"}
            assert (await owner.post("/api/workspaces", body)).status == 201
