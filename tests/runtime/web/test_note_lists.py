"""Lists of notes, a note's history, and the notes that link to it."""

from __future__ import annotations

from typing import Any

import pytest

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import CreateNote
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits
from dalsegno.runtime.seams import WORLD

from ._client import Answer, Site, User
from .conftest import open_site
from .test_lists import Reads, as_store


async def write(owner: User, title: str, markdown: str = "", **more: str) -> str:
    body = {"workspace_id": owner.workspace_id, "title": title, "markdown": markdown, **more}
    created = await owner.post("/api/notes", body)
    assert created.status == 201, created.raw
    return str(created.body["note_id"])


async def titles(user: User, query: str = "", *, workspace_id: str | None = None) -> list[str]:
    path = f"/api/notes?workspace_id={workspace_id or user.workspace_id}{query}"
    answer = await user.get(path)
    assert answer.status == 200, answer.raw
    return [note["title"] for note in answer.body["notes"]]


async def every_page(user: User, path: str, name: str) -> list[Any]:
    """The items of all pages of one item each."""
    found, after = [], ""
    while True:
        answer = await user.get(f"{path}limit=1{after}")
        assert answer.status == 200, answer.raw
        found += answer.body[name]
        if answer.body["next"] is None:
            return found
        after = f"&after={answer.body['next']}"


# ----------------------------------------------------------------------------------------- notes


async def test_a_note_in_a_list(owner: User) -> None:
    note_id = await write(owner, "First", "a text")
    await owner.put(f"/api/notes/{note_id}/tags", {"tags": ["a"]})
    answer = await owner.get(f"/api/notes?workspace_id={owner.workspace_id}")
    (note,) = answer.body["notes"]
    assert answer.body["next"] is None
    assert note == {
        "id": note_id,
        "workspace_id": owner.workspace_id,
        "project_id": None,
        "title": "First",
        "note_kind": "markdown",
        "access_scope": "workspace",
        "tags": ["a"],
        "current_version": 2,
        "deleted_at": None,
        "created_at": "2026-02-13T12:00:00Z",
        "updated_at": "2026-02-13T12:00:00Z",
    }


async def test_api_note_04_a_deleted_note_is_listed_where_it_is_asked_for(owner: User) -> None:
    kept, gone = await write(owner, "Kept"), await write(owner, "Gone")
    assert (await owner.delete(f"/api/notes/{gone}")).status == 204
    assert await titles(owner) == ["Kept"]
    assert await titles(owner, "&include_deleted=false") == ["Kept"]
    path = f"/api/notes?workspace_id={owner.workspace_id}&include_deleted=true"
    both = (await owner.get(path)).body["notes"]
    assert {note["id"]: note["deleted_at"] is not None for note in both} == {
        kept: False,
        gone: True,
    }
    await owner.post(f"/api/notes/{gone}/rollback", {"target_version": 1})
    assert await titles(owner) == ["Kept", "Gone"]


async def test_notes_are_listed_by_tag_and_by_project(owner: User) -> None:
    made = {"workspace_id": owner.workspace_id, "name": "P"}
    project_id = (await owner.post("/api/projects", made)).body["id"]
    one = await write(owner, "One", project_id=project_id)
    two = await write(owner, "Two", project_id=project_id)
    three = await write(owner, "Three")
    for note_id, tags in ((one, ["a", "b"]), (two, ["b"]), (three, ["a"])):
        await owner.put(f"/api/notes/{note_id}/tags", {"tags": tags})
    assert await titles(owner, "&tag=a") == ["One", "Three"]
    assert await titles(owner, "&tag=%20b%20") == ["One", "Two"]
    assert await titles(owner, "&tag=c") == []
    assert await titles(owner, f"&project_id={project_id}") == ["One", "Two"]
    assert await titles(owner, f"&project_id={project_id}&tag=a") == ["One"]
    await owner.delete(f"/api/notes/{one}")
    assert await titles(owner, "&tag=a") == ["Three"]
    assert await titles(owner, f"&project_id={project_id}") == ["Two"]
    both = "&include_deleted=true"
    assert await titles(owner, f"&tag=a{both}") == ["One", "Three"]
    assert await titles(owner, f"&project_id={project_id}{both}") == ["One", "Two"]
    moved = await owner.put(f"/api/notes/{two}/project", {"project_id": None})
    assert (moved.status, moved.body["version"], moved.body["project_id"]) == (200, 3, None)
    assert await titles(owner, f"&project_id={project_id}") == []


async def test_pages_together_are_the_list(owner: User) -> None:
    written = [await write(owner, f"N{n}") for n in range(5)]
    path = f"/api/notes?workspace_id={owner.workspace_id}&"
    assert [note["id"] for note in await every_page(owner, path, "notes")] == written


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "BAD_REQUEST"),
        ("?workspace_id=nowhere", 404, "WORKSPACE_NOT_FOUND"),
        ("?workspace_id=a/b", 400, "BAD_REQUEST"),
        ("?workspace_id={w}&limit=0", 400, "BAD_REQUEST"),
        ("?workspace_id={w}&limit=1001", 400, "BAD_REQUEST"),
        ("?workspace_id={w}&include_deleted=maybe", 400, "BAD_REQUEST"),
        ("?workspace_id={w}&tag=", 400, "BAD_REQUEST"),
        ("?workspace_id={w}&project_id=", 400, "BAD_REQUEST"),
        ("?workspace_id={w}&after=a%00", 400, "BAD_REQUEST"),
    ],
)
async def test_what_is_no_list_is_refused(owner: User, query: str, status: int, code: str) -> None:
    answer = await owner.get("/api/notes" + query.replace("{w}", owner.workspace_id))
    assert (answer.status, answer.code) == (status, code)


async def test_lists_are_those_of_postgresql_too(database: str) -> None:
    async with open_site(database=database) as site:
        owner = await site.set_up()
        made = {"workspace_id": owner.workspace_id, "name": "P"}
        project_id = (await owner.post("/api/projects", made)).body["id"]
        one = await write(owner, "One", "to [[Two]]", project_id=project_id)
        two = await write(owner, "Two")
        await owner.put(f"/api/notes/{one}/tags", {"tags": ['a"b', "{c}"]})
        assert await titles(owner, "&tag=a%22b") == await titles(owner, "&tag={c}") == ["One"]
        assert await titles(owner, f"&project_id={project_id}") == ["One"]
        (link,) = (await owner.get(f"/api/notes/{two}/backlinks")).body["backlinks"]
        assert (link["note_id"], link["target_title"]) == (one, "Two")
        await owner.delete(f"/api/notes/{one}")
        assert await titles(owner) == ["Two"]
        assert (await owner.get(f"/api/notes/{two}/backlinks")).body["backlinks"] == []


async def test_a_page_is_one_read_and_bounded_by_its_states() -> None:
    store = as_store(reads := Reads(MemoryStore(WORLD)))
    async with open_site(store=store, limits=Limits(list_bytes_max=10_000)) as site:
        owner = await site.set_up()
        workspace = site.rt.workspace(owner.workspace_id)
        for n in range(70):
            await workspace.send(CreateNote(f"N{n}", "x" * 1_000, note_id=f"n{n:02}"))
        reads.calls.clear()
        page = (await owner.get(f"/api/notes?workspace_id={owner.workspace_id}")).body
        assert reads.calls["list_entities"] == 1
        assert 1 < len(page["notes"]) < 10
        assert page["next"] == page["notes"][-1]["id"]
        path = f"/api/notes?workspace_id={owner.workspace_id}&"
        assert len(await every_page(owner, path, "notes")) == 70


async def test_i8_a_page_that_was_read_after_a_removal_is_not_given() -> None:
    async with open_site(store=as_store(reads := Reads(MemoryStore(WORLD)))) as site:
        owner = await site.set_up()
        member = await site.add_member(owner, "editor")
        workspace = site.rt.workspace(owner.workspace_id)
        note_id = await write(owner, "One", "[[One]]")

        async def remove() -> None:
            await workspace.send(RemoveMember(member.id))
            await workspace.send(CreateNote("Secret"))

        path = f"/api/notes?workspace_id={owner.workspace_id}"
        for asked, refused in (
            (path, (403, "ROLE_FORBIDDEN")),
            (f"/api/notes/{note_id}/backlinks", (404, "NOTE_NOT_FOUND")),
        ):
            assert (await member.get(asked)).status == 200
            reads.behind["list_entities"] = remove
            answer = await member.get(asked)
            assert (answer.status, answer.code) == refused
            await workspace.send(PutMember(member.id, "editor"))


async def test_the_tags_of_a_workspace_are_listed_once_each(site: Site, owner: User) -> None:
    for n, tags in enumerate((["b", "a"], ["a", "é"], ["gone"], [])):
        note_id = await write(owner, f"N{n}")
        await owner.put(f"/api/notes/{note_id}/tags", {"tags": tags})
        if "gone" in tags:
            await owner.delete(f"/api/notes/{note_id}")
    path = f"/api/tags?workspace_id={owner.workspace_id}"
    answer = await owner.get(path)
    assert (answer.body["tags"], answer.body["next"]) == (["a", "b", "é"], None)
    answer = await owner.get(f"{path}&limit=2")
    assert (answer.body["tags"], answer.body["next"]) == (["a", "b"], "b")
    assert (await owner.get(f"{path}&limit=2&after=b")).body["tags"] == ["é"]
    viewer, stranger = await site.add_member(owner, "viewer"), await site.add_user()
    assert (await viewer.get(path)).status == 200
    assert (await stranger.get(path)).code == "ROLE_FORBIDDEN"
    assert (await owner.get("/api/tags")).code == "BAD_REQUEST"


# --------------------------------------------------------------------------------------- history


async def test_a_history_is_the_log_of_the_note(owner: User) -> None:
    note_id = await write(owner, "First", "x")
    await write(owner, "Another")
    await owner.patch(f"/api/notes/{note_id}/title", {"base_version": 1, "title": "Second"})
    await owner.put(f"/api/notes/{note_id}/tags", {"tags": ["a"]})
    await owner.delete(f"/api/notes/{note_id}")
    answer = await owner.get(f"/api/notes/{note_id}/history")
    events = answer.body["events"]
    assert [(e["seq"], e["event_type"]) for e in events] == [
        (1, "note_created"),
        (2, "note_title_updated"),
        (3, "note_tags_updated"),
        (4, "note_deleted"),
    ]
    assert events[1]["payload"] == {"title": "Second", "version": 2}
    assert {e["actor_id"] for e in events} == {owner.id}
    assert set(events[0]) == {
        "event_id",
        "seq",
        "event_type",
        "payload",
        "actor_id",
        "created_at",
    }
    assert answer.body["next"] is None
    path = f"/api/notes/{note_id}/history?"
    assert await every_page(owner, path, "events") == events
    beyond = await owner.get(f"{path}after=9")
    assert (beyond.body["events"], beyond.body["next"]) == ([], None)
    assert (await owner.get(f"{path}after=-1")).code == "BAD_REQUEST"


async def test_c22_who_is_removed_while_a_history_is_read_sees_none() -> None:
    async with open_site(store=as_store(reads := Reads(MemoryStore(WORLD)))) as site:
        owner = await site.set_up()
        member = await site.add_member(owner, "editor")
        workspace = site.rt.workspace(owner.workspace_id)
        note_id = await write(owner, "One")
        path = f"/api/notes/{note_id}/history"
        assert (await member.get(path)).status == 200

        async def remove() -> None:
            await workspace.send(RemoveMember(member.id))

        reads.behind["locate"] = remove
        answer = await member.get(path)
        assert (answer.status, answer.code) == (404, "NOTE_NOT_FOUND")


# ------------------------------------------------------------------------------------- backlinks


async def test_backlinks_are_the_notes_that_link_to_a_title(owner: User) -> None:
    home = await write(owner, "Home")
    one = await write(owner, "One", "to [[HOME]] and [[home]]")
    await write(owner, "Two", "[[Home]] [[One]]")
    await write(owner, "Three", "Home")

    async def linking(note_id: str) -> list[str]:
        answer = await owner.get(f"/api/notes/{note_id}/backlinks")
        return [link["title"] for link in answer.body["backlinks"]]

    assert await linking(home) == ["One", "Two"]
    answer = await owner.get(f"/api/notes/{home}/backlinks?limit=1")
    assert answer.body["backlinks"] == [
        {
            "note_id": one,
            "title": "One",
            "target_title": "Home",
            "updated_at": "2026-02-13T12:00:00Z",
        }
    ]
    assert answer.body["next"] == one
    cut = {"base_version": 1, "patch_ops": [{"retain": 3}, {"delete": 2}]}
    assert (await owner.patch(f"/api/notes/{one}", cut)).status == 200
    assert await linking(home) == ["One", "Two"], "the other link is left"
    await owner.delete(f"/api/notes/{one}")
    assert await linking(home) == ["Two"]
    await owner.patch(f"/api/notes/{home}/title", {"base_version": 1, "title": "House"})
    assert await linking(home) == []


# ------------------------------------------------------------------------------------------ who


async def ask_for_all(user: User, workspace_id: str, note_id: str) -> tuple[Answer, list[Answer]]:
    """The list of a workspace, and what is asked of one note."""
    listed = await user.get(f"/api/notes?workspace_id={workspace_id}")
    path = f"/api/notes/{note_id}"
    return listed, [await user.get(f"{path}/{what}") for what in ("history", "backlinks")]


@pytest.mark.parametrize("role", ["owner", "admin", "editor", "viewer"])
async def test_x_rbac_1_every_member_reads_lists(site: Site, owner: User, role: str) -> None:
    user = await site.add_member(owner, role)
    listed, others = await ask_for_all(user, owner.workspace_id, await owner.write())
    assert [answer.status for answer in (listed, *others)] == [200] * 3


async def test_x_ten_3_to_a_stranger_a_note_does_not_exist(site: Site, owner: User) -> None:
    stranger, note_id = await site.add_user(), await owner.write()
    listed, others = await ask_for_all(stranger, owner.workspace_id, note_id)
    assert (listed.status, listed.code) == (403, "ROLE_FORBIDDEN")
    _, unknown = await ask_for_all(stranger, owner.workspace_id, "nothing")
    for answer, absent in zip(others, unknown, strict=True):
        assert (answer.status, answer.code) == (absent.status, absent.code)
        assert (answer.status, answer.code) == (404, "NOTE_NOT_FOUND")
        assert answer.body["message"] == absent.body["message"]
