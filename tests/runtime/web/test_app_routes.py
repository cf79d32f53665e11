"""Routes that an app declares as values, carried out: commands, reads, errors, who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from dalsegno.protocol import App, DalsegnoError, DomainError, Receipt, Reject, Role
from dalsegno.protocol.dialects import GENERIC, Socket
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    InWorkspace,
    OfEntity,
    Paging,
    Reading,
    ReadRoute,
    found,
    page_of,
)
from tests.tasks_domain import AddTask, FinishTask, Task, tasks

from ._client import Site, User
from .conftest import open_site

OF_TASK = OfEntity(tasks, "task_id")


class Add(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str
    title: str
    idempotency_key: str | None = None


class Added(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str
    title: str
    version: int
    by: str


class TaskBody(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str
    title: str
    done: bool
    version: int


class TasksBody(msgspec.Struct, frozen=True, kw_only=True):
    tasks: list[TaskBody]
    next: str | None


class OneTask(Reading, frozen=True, kw_only=True):
    task_id: str


class Tasks(Paging, frozen=True, kw_only=True):
    team: str


class Count(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    reason: str | None


def add(asked: Asked[None, Add]) -> AddTask:
    if asked.body.title == "boom":
        raise ZeroDivisionError
    return AddTask(asked.body.task_id, asked.body.title)


def added(asked: Asked[None, Add], receipt: Receipt) -> Added:
    return Added(
        task_id=receipt.entity_id,
        title=asked.body.title,
        version=receipt.version,
        by=asked.user_id,
    )


async def read(asked: Asked[OneTask, None]) -> TaskBody:
    task_id = asked.params.task_id
    entity = await found(asked.workspace, tasks, task_id, min_seq=asked.params.min_seq)
    task: Task = entity.state
    return TaskBody(task_id=task_id, title=task.title, done=task.done, version=entity.version)


async def list_tasks(asked: Asked[Tasks, None]) -> TasksBody:
    page = await page_of(
        asked.workspace,
        tasks,
        asked.params,
        lambda each: TaskBody(
            task_id=each.entity_id,
            title=each.state.title,
            done=each.state.done,
            version=each.version,
        ),
    )
    return TasksBody(tasks=page.items, next=page.next)


calls: list[str] = []


async def count(asked: Asked[None, None]) -> Count:
    """Read from a store of the app's own."""
    calls.append(asked.user_id)
    return Count(count=len(calls), reason=asked.headers.get("x-reason"))


def as_they_know_it(error: DalsegnoError) -> DalsegnoError:
    if error.code == "TASK_EXISTS":
        return Reject("ENTITY_ALREADY_EXISTS", "there is one", status=422)
    return error


ADD = CommandRoute(
    "POST",
    "/v1/tasks",
    summary="Add a task.",
    at=InWorkspace("x-tenant-id", "header"),
    body=Add,
    command=add,
    returns=Added,
    answer=added,
    status=201,
    refusals=frozenset({422}),
    shows_error=as_they_know_it,
)
FINISH = CommandRoute(
    "POST",
    "/v1/tasks/{task_id}/finish",
    summary="Finish a task.",
    at=OF_TASK,
    command=lambda asked: FinishTask(asked.params.task_id),
    roles={"owner"},
)
READ = ReadRoute(
    "GET",
    "/v1/tasks/{task_id}",
    summary="Read a task.",
    at=OF_TASK,
    params=OneTask,
    read=read,
    returns=TaskBody,
    version_of=lambda body: body.version,
)
LIST = ReadRoute(
    "GET",
    "/v1/teams/{team}/tasks",
    summary="List a team's tasks.",
    at=InWorkspace("team"),
    params=Tasks,
    read=list_tasks,
    returns=TasksBody,
    roles={"owner", "editor"},
)
COUNT = ReadRoute(
    "GET", "/v1/count", summary="Count.", read=count, returns=Count, headers=("x-reason",)
)

APP = App(
    [tasks],
    routes=[ADD, FINISH, READ, LIST, COUNT],
    roles={"adder": Role(commands=frozenset({"add_task"}))},
)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(app=APP) as site:
        yield site


async def test_a_request_becomes_a_command_and_its_receipt_an_answer(owner: User) -> None:
    body = {"task_id": "t", "title": "One"}
    made = await owner.post("/v1/tasks", body, x_tenant_id=owner.workspace_id)
    assert made.status == 201, made.raw
    shown = {"task_id": "t", "title": "One", "version": 1, "by": owner.id}
    assert made.body == {**shown, "request_id": made.headers["x-request-id"]}
    assert made.headers["etag"] == '"1"'
    got = await owner.get("/v1/tasks/t")
    assert (got.status, got.body["title"], got.headers["etag"]) == (200, "One", '"1"')
    known = await owner.get("/v1/tasks/t", if_none_match='"1"')
    assert (known.status, known.raw) == (304, b"")
    done = await owner.post("/v1/tasks/t/finish")
    assert (done.status, done.raw) == (204, b"")
    again = await owner.get("/v1/tasks/t?min_seq=2", if_none_match='"1"')
    assert (again.status, again.body["done"]) == (200, True)
    page = (await owner.get(f"/v1/teams/{owner.workspace_id}/tasks?limit=1")).body
    assert [each["task_id"] for each in page["tasks"]] == ["t"]
    assert page["next"] is None


async def test_keys_repeats_and_audit_come_with_it(owner: User) -> None:
    body = {"task_id": "t", "title": "One", "idempotency_key": "k"}
    first = await owner.post("/v1/tasks", body, x_tenant_id=owner.workspace_id)
    second = await owner.post("/v1/tasks", body, x_tenant_id=owner.workspace_id)
    assert (first.status, second.status) == (201, 201)
    assert first.body["version"] == second.body["version"]
    assert second.headers["x-idempotency-replay"] == "true"
    other = await owner.post("/v1/tasks", {**body, "title": "Two"}, x_tenant_id=owner.workspace_id)
    assert (other.status, other.code) == (409, "STATE_CONFLICT")
    log = (await owner.get(f"{owner.space}/events")).body["items"]
    assert [each["type"] for each in log] == ["task_added"]
    assert log[0]["actor_id"] == owner.id


async def test_an_error_is_shown_as_its_callers_know_it(owner: User) -> None:
    for _ in range(2):
        again = await owner.post(
            "/v1/tasks", {"task_id": "t", "title": "One"}, x_tenant_id=owner.workspace_id
        )
    assert (again.status, again.code) == (422, "ENTITY_ALREADY_EXISTS")
    generic = await owner.post(f"{owner.space}/commands/add_task", {"task_id": "t", "title": "One"})
    assert (generic.status, generic.code) == (409, "TASK_EXISTS")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/tasks", {"task_id": "t"}, 400, "BAD_REQUEST"),
        ("POST", "/v1/tasks", {"task_id": "t", "title": "x", "titel": 1}, 400, "BAD_REQUEST"),
        ("POST", "/v1/tasks", {"task_id": "t", "title": "boom"}, 500, "INTERNAL_ERROR"),
        ("POST", "/v1/tasks/none/finish", None, 404, "TASK_NOT_FOUND"),
        ("GET", "/v1/tasks/none", None, 404, "TASK_NOT_FOUND"),
        ("GET", "/v1/tasks/a%00b", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/tasks/" + "x" * 201, None, 400, "BAD_REQUEST"),
        ("GET", "/v1/tasks/t?min_seq=x", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/teams/none/tasks", None, 404, "WORKSPACE_NOT_FOUND"),
        ("GET", "/v1/teams/$system/tasks", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/teams/x/tasks?limit=0", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/teams/x/tasks?limit=1001", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/teams/x/tasks?after=" + "x" * 201, None, 400, "BAD_REQUEST"),
        ("DELETE", "/v1/tasks/t", None, 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_what_is_wrong_is_refused(
    owner: User, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = await owner.send(method, path, body, x_tenant_id=owner.workspace_id)
    assert (answer.status, answer.code) == (status, code)
    assert (await owner.get("/v1/count")).status == 200, "and nothing else is affected"


async def test_a_header_that_names_the_workspace_has_to_be_there(owner: User) -> None:
    answer = await owner.post("/v1/tasks", {"task_id": "t", "title": "One"})
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert answer.body["details"] == {"field": "x-tenant-id"}


async def test_who_may_is_what_the_role_and_the_route_say(site: Site, owner: User) -> None:
    body = {"task_id": "t", "title": "One"}
    adder, viewer = await site.add_member(owner, "adder"), await site.add_member(owner, "viewer")
    stranger = await site.add_user()
    refused = await viewer.post("/v1/tasks", body, x_tenant_id=owner.workspace_id)
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    refused = await stranger.post("/v1/tasks", body, x_tenant_id=owner.workspace_id)
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    assert (await adder.post("/v1/tasks", body, x_tenant_id=owner.workspace_id)).status == 201
    # An editor may send it, but this way is for owners.
    editor = await site.add_member(owner, "editor")
    refused = await editor.post("/v1/tasks/t/finish")
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    assert (await stranger.get("/v1/tasks/t")).status == 404
    assert (await stranger.post("/v1/tasks/t/finish")).status == 404
    assert (await viewer.get(f"/v1/teams/{owner.workspace_id}/tasks")).status == 403
    assert (await viewer.get("/v1/tasks/t")).status == 200
    assert (await owner.post("/v1/tasks/t/finish")).status == 204


async def test_a_read_of_the_apps_own_needs_no_workspace(site: Site, owner: User) -> None:
    before = len(calls)
    answer = await owner.get("/v1/count", x_reason="curious", x_other="unseen")
    assert answer.body["reason"] == "curious"
    assert len(calls) == before + 1
    assert (await site.send("GET", "/v1/count")).status == 401
    assert len(calls) == before + 1


async def test_a_route_over_the_servers_own_is_refused_at_the_start() -> None:
    over = replace(COUNT, path="/api/workspaces/{anything}/events", params=None)
    with pytest.raises(DomainError, match="is over the server's own /api/workspaces/"):
        async with open_site(app=App([tasks], routes=[over])):
            pytest.fail("it was served")


async def test_a_socket_over_a_route_is_refused_too() -> None:
    for path, routes in (("/v1/count", [COUNT]), ("/api/schema", []), ("/healthz", [])):
        app = App([tasks], routes=routes, dialects=[Socket(path, GENERIC)])
        with pytest.raises(DomainError, match=f"the socket {path} is over the route {path}"):
            async with open_site(app=app):
                pytest.fail("it was served")


async def test_paths_that_are_nearly_one_are_two() -> None:
    nearly = [replace(COUNT, path=path) for path in ("/v1/a/b", "/v1/a-b", "/v1/a_b")]
    async with open_site(app=App([tasks], routes=nearly)) as site:
        owner = await site.set_up()
        for route in nearly:
            assert (await owner.get(route.path)).status == 200
        document = (await owner.get("/api/openapi.json")).body
        ids = [document["paths"][route.path]["get"]["operationId"] for route in nearly]
        assert ids == ["get_v1_a_b", "get_v1_a_b_2", "get_v1_a_b_3"]


async def test_it_is_in_the_document(owner: User) -> None:
    document = (await owner.get("/api/openapi.json")).body
    operation = document["paths"]["/v1/tasks"]["post"]
    assert {each["name"] for each in operation["parameters"]} == {
        "x-tenant-id",
        "idempotency-key",
        "if-match",
    }
    assert {"201", "400", "401", "403", "404", "422", "4XX"} <= operation["responses"].keys()

    assert "Task" in document["components"]["schemas"]
