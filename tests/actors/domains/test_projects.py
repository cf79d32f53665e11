"""Projects and saved views, as a program uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
import trio

from dalsegno.actors.domains.claims import NAME_CHARS_MAX
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.notes import CreateNote, SetProject, note_domains, notes
from dalsegno.actors.domains.projects import (
    DESCRIPTION_CHARS_MAX,
    CreateProject,
    DeleteProject,
    UpdateProject,
    project_names,
    projects,
)
from dalsegno.actors.domains.saved_views import (
    VIEW_BYTES_MAX,
    CreateView,
    DeleteView,
    UpdateView,
    saved_views,
)
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Reject
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.seams import WORLD


@pytest.fixture
async def workspace() -> AsyncIterator[Workspace]:
    async with Runtime.open(domains=note_domains, store=MemoryStore(WORLD), world=WORLD) as rt:
        yield rt.workspace("w")


async def refused(sending: Awaitable[Any]) -> str:
    with pytest.raises(Reject) as caught:
        await sending
    return caught.value.code


async def names(workspace: Workspace) -> list[str | None]:
    return [item.title for item in await workspace.entities(projects)]


# ------------------------------------------------------------------------------------- projects


async def test_a_project_is_created_changed_and_deleted(workspace: Workspace) -> None:
    created = await workspace.send(CreateProject(" Engine ", "the first"))
    project_id = created.entity_id
    assert await names(workspace) == ["Engine"]
    await workspace.send(UpdateProject(project_id, description="the second", base_version=1))
    await workspace.send(UpdateProject(project_id, name="Mill", base_version=2))
    project = await workspace.get(projects, project_id)
    assert project is not None
    assert (project.name, project.description) == ("Mill", "the second")
    same = await workspace.send(UpdateProject(project_id, name="Mill", description="the second"))
    assert same.version == 3, "nothing changed"
    await workspace.send(DeleteProject(project_id, base_version=3))
    assert await workspace.get(projects, project_id) is None
    assert await refused(workspace.send(DeleteProject(project_id))) == "PROJECT_NOT_FOUND"
    assert await workspace.entities(project_names) == []


async def test_a_name_is_used_once_and_free_again_afterwards(workspace: Workspace) -> None:
    one = (await workspace.send(CreateProject("One"))).entity_id
    two = (await workspace.send(CreateProject("Two"))).entity_id
    assert await refused(workspace.send(CreateProject("One "))) == "STATE_CONFLICT"
    assert await refused(workspace.send(UpdateProject(two, name="One"))) == "STATE_CONFLICT"
    await workspace.send(UpdateProject(one, name="Three"))
    await workspace.send(UpdateProject(two, name="One"))
    await workspace.send(DeleteProject(one))
    await workspace.send(CreateProject("Three"))
    assert sorted(map(str, await names(workspace))) == ["One", "Three"]


async def test_of_twenty_projects_of_one_name_one_is_created(workspace: Workspace) -> None:
    codes = []

    async def create(number: int) -> None:
        try:
            await workspace.send(CreateProject("One", project_id=f"p{number}"))
        except Reject as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(create, number)
    assert codes == ["STATE_CONFLICT"] * 19
    assert await names(workspace) == ["One"]


async def test_two_that_rename_to_one_name_do_not_both(workspace: Workspace) -> None:
    for each in "ab":
        await workspace.send(CreateProject(each, project_id=each))
    codes = []

    async def rename(project_id: str) -> None:
        try:
            await workspace.send(UpdateProject(project_id, name="One"))
        except Reject as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rename, "a")
        nursery.start_soon(rename, "b")
    assert codes == ["STATE_CONFLICT"]
    assert (await names(workspace)).count("One") == 1


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * (NAME_CHARS_MAX + 1), "a\u202eb"])
async def test_what_is_no_name_is_refused(workspace: Workspace, name: str) -> None:
    assert await refused(workspace.send(CreateProject(name))) == "BAD_REQUEST"
    await workspace.send(CreateProject("One", project_id="p"))
    assert await refused(workspace.send(UpdateProject("p", name=name))) == "BAD_REQUEST"


async def test_a_name_may_be_longer_than_an_id_and_have_what_no_id_has(
    workspace: Workspace,
) -> None:
    for name in ("é" * NAME_CHARS_MAX, "\U0001f468\u200d\U0001f469"):
        await workspace.send(CreateProject(name))
        assert await refused(workspace.send(CreateProject(name))) == "STATE_CONFLICT"


async def test_a_description_is_bounded(workspace: Workspace) -> None:
    text = "x" * (DESCRIPTION_CHARS_MAX + 1)
    assert await refused(workspace.send(CreateProject("One", text))) == "BAD_REQUEST"
    await workspace.send(CreateProject("One", text[1:], project_id="p"))
    assert await refused(workspace.send(UpdateProject("p", description=text))) == "BAD_REQUEST"


async def test_an_id_is_used_once(workspace: Workspace) -> None:
    await workspace.send(CreateProject("One", project_id="p"))
    assert await refused(workspace.send(CreateProject("Two", project_id="p"))) == "STATE_CONFLICT"


async def test_a_deleted_projects_notes_say_its_id_until_they_are_moved(
    workspace: Workspace,
) -> None:
    await workspace.send(CreateProject("One", project_id="p"))
    await workspace.send(CreateNote("A", note_id="n", project_id="p"))
    await workspace.send(DeleteProject("p"))
    note = await workspace.get(notes, "n")
    assert note is not None
    assert note.project_id == "p"
    create = CreateNote("B", project_id="p")
    assert await refused(workspace.send(create)) == "PROJECT_SCOPE_INVALID"
    await workspace.send(SetProject("n", None))
    assert await refused(workspace.send(SetProject("n", "p"))) == "PROJECT_SCOPE_INVALID"


async def test_a_project_of_another_workspace_is_none(workspace: Workspace) -> None:
    other = Workspace(workspace._service, "other")
    await other.send(CreateProject("One", project_id="p"))
    create = CreateNote("A", project_id="p")
    assert await refused(workspace.send(create)) == "PROJECT_SCOPE_INVALID"


def test_the_workspace_stream_says_which_project_and_what_it_is_called() -> None:
    payload = '{"name":"One","description":"x","created_at":"2026-02-13T00:00:00Z"}'
    shown = projects.viewed("project_created", 1, payload, "p", 1)
    assert repr(shown).endswith("(project_id='p', version=1, name='One', description='x')")
    shown = projects.viewed("project_deleted", 1, "{}", "p", 2)
    assert "project_id='p', version=2, name=UNSET" in repr(shown)


# ---------------------------------------------------------------------------------- saved views


async def test_a_view_is_saved_changed_and_deleted(workspace: Workspace) -> None:
    view_id = (await workspace.send(CreateView({"q": "x"}, "title", [1], "Mine"))).entity_id
    await workspace.send(UpdateView(view_id=view_id, sort=None, base_version=1))
    view = await workspace.get(saved_views, view_id)
    assert view is not None
    assert (view.name, view.query_json, view.sort, view.filters, view.owner_user_id) == (
        "Mine",
        {"q": "x"},
        None,
        [1],
        None,
    )
    update = UpdateView(view_id=view_id, name=None, query_json=1, sort=True, filters="f")
    await workspace.send(update)
    view = await workspace.get(saved_views, view_id)
    assert (view.name, view.query_json, view.sort, view.filters) == (  # type: ignore[union-attr]
        None,
        1,
        True,
        "f",
    )
    assert (await workspace.send(update)).version == 3
    assert (await workspace.send(UpdateView(view_id=view_id, sort=1))).version == 4, "not True"
    await workspace.send(DeleteView(view_id))
    assert await workspace.get(saved_views, view_id) is None
    assert await refused(workspace.send(DeleteView(view_id))) == "VIEW_NOT_FOUND"


async def test_a_view_is_bounded(workspace: Workspace) -> None:
    fits = "x" * (VIEW_BYTES_MAX - len('["",null,null]'))
    await workspace.send(CreateView(fits, view_id="v"))
    assert await refused(workspace.send(CreateView(fits + "x"))) == "PAYLOAD_TOO_LARGE"
    update = UpdateView(view_id="v", filters="more")
    assert await refused(workspace.send(update)) == "PAYLOAD_TOO_LARGE"
    assert await refused(workspace.send(CreateView(1, name="\n"))) == "BAD_REQUEST"
    assert await refused(workspace.send(CreateView(1, view_id="v"))) == "STATE_CONFLICT"


async def test_whoever_made_a_view_is_its_owner(workspace: Workspace) -> None:
    await workspace.send(PutMember("ada", "editor"))
    await workspace.send(PutMember("bob", "viewer"))
    made = await workspace.acting(user_id="ada").send(CreateView({}))
    view = await workspace.get(saved_views, made.entity_id)
    assert view is not None
    assert view.owner_user_id == "ada"
    viewer = workspace.acting(user_id="bob")
    for command in (
        CreateView({}),
        UpdateView(view_id=made.entity_id, name="x"),
        DeleteView(made.entity_id),
    ):
        assert await refused(viewer.send(command)) == "ROLE_FORBIDDEN"


def test_the_workspace_stream_says_which_view_changed_and_not_what_it_says() -> None:
    shown = saved_views.viewed("view_updated", 1, '{"query_json":"x"}', "v", 2)
    assert repr(shown).endswith("(view_id='v', version=2)")
