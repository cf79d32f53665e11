"""Routes that are about a workspace of their caller's: named, or the only one; and all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from werkzeug.datastructures import Headers

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.standing import ChangeWorkspace, DeleteWorkspace
from dalsegno.protocol import App, Limits
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    OfCaller,
    OfEntity,
    Paging,
    Reading,
    ReadRoute,
    found,
)
from tests.tasks_domain import AddTask, FinishTask, tasks

from ._client import JSON, Answer, Site, User
from .conftest import open_site
from .test_keys import make

TEAM = OfCaller("x-team", param="team")


class Add(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str


class AddedBody(msgspec.Struct, frozen=True, kw_only=True):
    team: str


class TaskBody(msgspec.Struct, frozen=True, kw_only=True):
    team: str
    done: bool


class TeamBody(msgspec.Struct, frozen=True, kw_only=True):
    team: str
    name: str
    role: str
    is_old: bool


class TeamsBody(msgspec.Struct, frozen=True, kw_only=True):
    teams: list[TeamBody]
    next: str | None


class OneTask(Reading, frozen=True, kw_only=True):
    task_id: str


class OneTeam(msgspec.Struct, frozen=True, kw_only=True):
    team: str


async def read(asked: Asked[OneTask, None]) -> TaskBody:
    entity = await found(asked.workspace, tasks, asked.params.task_id)
    return TaskBody(team=asked.workspace.id, done=entity.state.done)


def shown(each: Any) -> TeamBody:
    is_old = each.since.year < 2030
    return TeamBody(team=each.workspace_id, name=each.name, role=each.role, is_old=is_old)


async def list_teams(asked: Asked[Paging, None]) -> TeamsBody:
    page, after = await asked.own.page(after=asked.params.after or "", limit=asked.params.limit)
    return TeamsBody(teams=[shown(each) for each in page], next=after)


async def list_many(asked: Asked[None, None]) -> TeamsBody:
    page, after = await asked.own.page(limit=10**9)
    return TeamsBody(teams=[shown(each) for each in page], next=after)


async def read_team(asked: Asked[OneTeam, None]) -> TeamBody:
    return shown(await asked.own.of(asked.params.team))


def add(asked: Asked[None, Add]) -> AddTask:
    if asked.body.task_id == "own":
        assert asked.own is not None
    return AddTask(asked.body.task_id, "One")


ADD = CommandRoute(
    "POST",
    "/v1/tasks",
    summary="Add a task.",
    at=TEAM,
    body=Add,
    command=add,
    returns=AddedBody,
    answer=lambda _asked, receipt: AddedBody(team=receipt.workspace_id),
)
FINISH = CommandRoute(
    "POST",
    "/v1/tasks/{task_id}/finish",
    summary="Finish a task.",
    at=TEAM,
    command=lambda asked: FinishTask(asked.params.task_id),
    roles={"owner"},
)
READ = ReadRoute(
    "GET",
    "/v1/tasks/{task_id}",
    summary="Read a task.",
    at=TEAM,
    params=OneTask,
    read=read,
    returns=TaskBody,
    roles={"owner", "editor"},
)
TEAMS = ReadRoute(
    "GET", "/v1/teams", summary="List.", params=Paging, read=list_teams, returns=TeamsBody
)
MANY = ReadRoute("GET", "/v1/many", summary="List.", read=list_many, returns=TeamsBody)
ONE = ReadRoute(
    "GET", "/v1/teams/{team}", summary="Read.", params=OneTeam, read=read_team, returns=TeamBody
)
OTHERS = [
    replace(READ, path="/v1/own/{task_id}", read=list_many, returns=TeamsBody),
    replace(READ, path="/v1/of/{task_id}", at=OfEntity(tasks, "task_id"), read=list_many),
    replace(MANY, path="/v1/here", at=TEAM, read=read),
    replace(MANY, path="/v1/there", at=OfCaller("x-team", param="other-team"), read=read),
]
APP = App([tasks], routes=[ADD, FINISH, READ, TEAMS, MANY, ONE, *OTHERS])


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(app=APP) as site:
        yield site


async def create(user: User, slug: str) -> str:
    made = await user.post("/api/workspaces", {"slug": slug, "name": slug.title()})
    assert made.status == 201, made.raw
    return str(made.body["workspace_id"])


async def where(user: User, query: str = "", **headers: str) -> str:
    """Add a task, and read it; return where that was."""
    task_id = user.site.rt.world.new_id()
    made = await user.post(f"/v1/tasks{query}", {"task_id": task_id}, **headers)
    assert made.status == 200, made.raw
    got = await user.get(f"/v1/tasks/{task_id}{query}", **headers)
    assert got.body["team"] == made.body["team"]
    return str(made.body["team"])


def refused(answer: Answer) -> tuple[int, str, str]:
    return answer.status, answer.code, answer.body["message"]


async def both_refused(user: User, query: str = "", **headers: str) -> tuple[int, str, str]:
    """Return how a command and a read are refused, which is the same."""
    sent = refused(await user.post(f"/v1/tasks{query}", {"task_id": "t"}, **headers))
    assert sent == refused(await user.get(f"/v1/tasks/t{query}", **headers))
    return sent


# --------------------------------------------------------------------------- which one is meant


async def test_the_workspace_is_named_or_the_only_one(site: Site, owner: User) -> None:
    first = owner.workspace_id
    assert await where(owner) == first
    second = await create(owner, "two")
    for each in (first, second):
        assert await where(owner, x_team=each) == each
        assert await where(owner, f"?team={each}") == each
        assert await where(owner, f"?team={each}", x_team=each) == each
    assert (await owner.get("/v1/tasks/none", x_team=second)).code == "TASK_NOT_FOUND"
    member = await site.add_member(owner, "editor")
    assert await where(member) == first


async def test_none_is_meant_where_there_are_several_or_none(owner: User) -> None:
    await create(owner, "two")
    several = "x-team is missing, and who asks is a member of several"
    assert await both_refused(owner) == (400, "BAD_REQUEST", several)
    nobody = await owner.site.add_user()
    none = "x-team is missing, and who asks is a member of none"
    assert await both_refused(nobody) == (400, "BAD_REQUEST", none)
    answer = await nobody.get("/v1/tasks/t")
    assert answer.body["details"] == {"field": "x-team"}


async def test_two_names_are_refused(site: Site, owner: User) -> None:
    second = await create(owner, "two")
    answer = await both_refused(owner, f"?team={second}", x_team=owner.workspace_id)
    assert answer == (400, "BAD_REQUEST", "x-team and team differ")
    twice = [("x-team", owner.workspace_id), ("x-team", second)]
    response = await site.app.test_client(use_cookies=False).get(
        "/v1/tasks/t", headers=Headers([*(JSON | owner.headers).items(), *twice])
    )
    assert (response.status_code, (await response.get_json())["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("named", ["", "a b", "$system", "x" * 65])
async def test_what_names_no_workspace_is_refused(owner: User, named: str) -> None:
    for how in ((f"?team={named}", {}), ("", {"x_team": named})):
        assert (await both_refused(owner, how[0], **how[1]))[:2] == (400, "BAD_REQUEST")


async def test_strangers_are_refused_as_everywhere(site: Site, owner: User) -> None:
    stranger = await site.add_user()
    for named, status, code in (
        (owner.workspace_id, 403, "ROLE_FORBIDDEN"),
        ("nowhere", 404, "WORKSPACE_NOT_FOUND"),
    ):
        assert (await both_refused(stranger, x_team=named))[:2] == (status, code)
        assert (await both_refused(stranger, f"?team={named}"))[:2] == (status, code)
    assert (await site.send("GET", "/v1/tasks/t")).status == 401


async def test_the_routes_roles_count_in_the_one_that_is_meant(site: Site, owner: User) -> None:
    await owner.post("/v1/tasks", {"task_id": "t"})
    viewer, editor = [await site.add_member(owner, role) for role in ("viewer", "editor")]
    assert (await viewer.get("/v1/tasks/t")).code == "ROLE_FORBIDDEN"
    assert (await editor.get("/v1/tasks/t")).status == 200
    assert (await editor.post("/v1/tasks/t/finish")).code == "ROLE_FORBIDDEN"
    assert (await owner.post("/v1/tasks/t/finish")).status == 204


async def test_one_that_was_left_or_deleted_is_none_of_them(site: Site, owner: User) -> None:
    second = await create(owner, "two")
    await site.rt.workspace("left").send(PutMember(owner.id, "editor"))
    await site.rt.workspace("left").send(RemoveMember(owner.id))
    await site.rt.workspace(second).send(DeleteWorkspace())
    assert await where(owner) == owner.workspace_id
    await site.rt.workspace(owner.workspace_id).send(ChangeWorkspace(state="archived"))
    assert (await owner.get("/v1/tasks/none")).code == "TASK_NOT_FOUND", "it can be read"
    answer = await owner.post("/v1/tasks", {"task_id": "t"})
    assert (answer.status, answer.code) == (409, "WORKSPACE_ARCHIVED")


async def test_they_are_counted_over_pages() -> None:
    async with open_site(app=APP, limits=Limits(list_limit_max=1)) as site:
        owner = await site.set_up()
        for name in "abc":  # before the one that is left: whole pages of none
            await site.rt.workspace(name).send(PutMember(owner.id, "editor"))
            await site.rt.workspace(name).send(DeleteWorkspace())
        assert await where(owner) == owner.workspace_id
        await site.rt.workspace("z").send(PutMember(owner.id, "editor"))
        assert (await both_refused(owner))[:2] == (400, "BAD_REQUEST")


async def test_a_program_means_the_workspace_of_its_key(owner: User) -> None:
    program = await make(owner)
    made = await program.post("/v1/tasks", {"task_id": "t"})
    assert (made.status, made.body["team"]) == (200, owner.workspace_id)
    assert (await program.get("/v1/tasks/t")).status == 200


async def test_i5_a_repeat_that_names_it_is_answered_whoever_has_left(
    site: Site, owner: User
) -> None:
    member = await site.add_member(owner, "editor")
    how = {"x_team": owner.workspace_id, "idempotency_key": "k"}
    first = await member.post("/v1/tasks", {"task_id": "t"}, **how)
    await site.rt.workspace(owner.workspace_id).send(RemoveMember(member.id))
    again = await member.post("/v1/tasks", {"task_id": "t"}, **how)
    assert (again.status, again.body["team"]) == (200, first.body["team"])
    assert again.headers["x-idempotency-replay"] == "true"
    other = await member.post("/v1/tasks", {"task_id": "u"}, **(how | {"idempotency_key": "l"}))
    assert (other.status, other.code) == (403, "ROLE_FORBIDDEN")


async def test_header_and_parameter_are_in_the_document(owner: User) -> None:
    document = (await owner.get("/api/openapi.json")).body
    for path, name in (("/v1/tasks/{task_id}", "team"), ("/v1/there", "other-team")):
        operation = document["paths"][path]["get"]
        parameters = {each["name"]: each["in"] for each in operation["parameters"]}
        assert parameters.items() >= {"x-team": "header", name: "query"}.items()
        assert {"403", "404", "409", "504"} <= operation["responses"].keys()
    (team,) = [
        each
        for each in document["paths"]["/v1/tasks/{task_id}/finish"]["post"]["parameters"]
        if each["name"] == "team"
    ]
    assert team == {"name": "team", "in": "query", "schema": {"type": "string"}}


# ------------------------------------------------------------------------------- all of them


async def test_a_read_lists_its_callers_workspaces(site: Site, owner: User) -> None:
    member = await site.add_member(owner, "editor")
    own = await create(member, "two")
    await site.rt.workspace(own).send(ChangeWorkspace(name="Renamed"))
    page = (await member.get("/v1/teams")).body
    assert page["next"] is None
    assert {each["team"]: each for each in page["teams"]} == {
        owner.workspace_id: {
            "team": owner.workspace_id,
            "name": "Main",
            "role": "editor",
            "is_old": True,
        },
        own: {"team": own, "name": "Renamed", "role": "owner", "is_old": True},
    }
    seen, after = [], ""
    while after is not None:
        page = (await member.get(f"/v1/teams?limit=1&after={after}")).body
        seen += [each["team"] for each in page["teams"]]
        after = page["next"]
    assert seen == sorted([own, owner.workspace_id])
    assert (await (await site.add_user()).get("/v1/teams")).body["teams"] == []


async def test_a_page_of_them_is_bounded() -> None:
    async with open_site(app=APP, limits=Limits(list_limit_max=2)) as site:
        owner = await site.set_up()
        for slug in ("two", "three"):
            await create(owner, slug)
        page = (await owner.get("/v1/many")).body
        assert len(page["teams"]) == 2
        assert page["next"] == page["teams"][-1]["team"]


async def test_a_read_shows_one_of_them(site: Site, owner: User) -> None:
    answer = await owner.get(f"/v1/teams/{owner.workspace_id}")
    assert (answer.body["name"], answer.body["role"]) == ("Main", "owner")
    stranger = await site.add_user()
    answer = await stranger.get(f"/v1/teams/{owner.workspace_id}")
    assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
    answer = await owner.get("/v1/teams/nowhere")
    assert (answer.status, answer.code) == (404, "WORKSPACE_NOT_FOUND")


async def test_only_a_read_about_no_workspace_has_them(owner: User) -> None:
    await owner.post("/v1/tasks", {"task_id": "t"})
    for path in ("/v1/own/t", "/v1/of/t"):
        assert (await owner.get(path)).code == "INTERNAL_ERROR"
    assert (await owner.post("/v1/tasks", {"task_id": "own"})).code == "INTERNAL_ERROR"
