"""Routes that an app declares as values, carried out: commands, reads, errors, who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from dalsegno.actors import StoredEntity
from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.domains.standing import ChangeWorkspace, DeleteWorkspace
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import (
    App,
    DalsegnoError,
    Domain,
    DomainError,
    Index,
    OverloadedError,
    Receipt,
    Reject,
    Role,
    StoreUnavailableError,
    place_of,
    renamed,
    token_of,
)
from dalsegno.protocol.dialects import GENERIC, Socket
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    InWorkspace,
    Limited,
    OfEntity,
    Paging,
    Reading,
    ReadRoute,
    found,
    page_of,
)
from dalsegno.runtime.seams import WORLD
from tests.tasks_domain import AddTask, FinishTask, Task, tasks

from ._client import Site, User
from .conftest import open_site

OF_TASK = OfEntity(tasks, "task_id")


class Draft(msgspec.Struct, frozen=True):
    text: str


class Write(msgspec.Struct, frozen=True):
    draft_id: str | None
    text: str


class Drop(msgspec.Struct, frozen=True):
    draft_id: str


class Written(msgspec.Struct, frozen=True):
    text: str


class Dropped(msgspec.Struct, frozen=True):
    pass


drafts = Domain("draft", state=Draft, commands=Write | Drop, events=Written | Dropped)


@drafts.decide
def write(_draft: Draft | None, command: Write) -> Written:
    return Written(command.text)


@drafts.decide
def drop(_draft: Draft, _command: Drop) -> Dropped:
    return Dropped()


@drafts.evolve
def written(_draft: Draft | None, event: Written) -> Draft:
    return Draft(event.text)


@drafts.evolve
def dropped(_draft: Draft, _event: Dropped) -> Draft | None:
    return None


@drafts.index
def index(draft: Draft) -> Index:
    return Index(keys=("all",), sort=draft.text)


class Forgetful(MemoryStore):
    """A store that at times cannot say what was."""

    is_away = False

    async def load_entity_at(
        self, workspace_id: str, stream_id: str, version: int, domain_version: int
    ) -> StoredEntity | None:
        if self.is_away:
            raise StoreUnavailableError("the database is away")
        return await super().load_entity_at(workspace_id, stream_id, version, domain_version)


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    text: str


Title = Annotated[str, Meta(max_length=20, extra={"code": "TITLE_NOT_FOUND"})]


class Add(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str
    title: Title
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


class Sorted(Limited, frozen=True, kw_only=True):
    team: str
    after: str | None = None


class DraftsBody(msgspec.Struct, frozen=True, kw_only=True):
    texts: list[str]
    next: str | None


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


async def list_sorted(asked: Asked[Sorted, None]) -> DraftsBody:
    params = asked.params
    page = await asked.workspace.snapshot(
        drafts, key="all", after=place_of(params.after), limit=params.limit
    )
    after = None if page.next is None else token_of(page.next)
    return DraftsBody(texts=[each.state.text for each in page.items], next=after)


calls: list[str] = []


async def count(asked: Asked[None, None]) -> Count:
    """Read from a store of the app's own."""
    calls.append(asked.user_id)
    return Count(count=len(calls), reason=asked.headers.get("x-reason"))


async def busy(asked: Asked[None, None]) -> Count:
    raise OverloadedError("come back", retry_after_s=2.5)


def as_they_know_it(error: DalsegnoError) -> DalsegnoError:
    if error.code == "TASK_EXISTS":
        return Reject("ENTITY_ALREADY_EXISTS", "there is one", status=422)
    return error


def in_their_words(error: DalsegnoError) -> DalsegnoError:
    status = {"TASK_NOT_FOUND": 410, "OVERLOADED": 429}.get(error.code)
    return renamed(error, f"THEIR_{error.code}", status)


def as_it_was(receipt: Receipt, task: Task) -> TaskBody:
    version = receipt.version
    return TaskBody(task_id=receipt.entity_id, title=task.title, done=task.done, version=version)


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
BUSY = ReadRoute(
    "GET", "/v1/busy", summary="Wait.", read=busy, returns=Count, shows_error=in_their_words
)
SHOWN = CommandRoute(
    "POST",
    "/v2/tasks",
    summary="Add a task.",
    at=InWorkspace("x-tenant-id", "header"),
    body=Add,
    command=add,
    returns=TaskBody,
    shows=as_it_was,
    status=201,
)
SHOWN_FINISHED = CommandRoute(
    "POST",
    "/v2/tasks/{task_id}/finish",
    summary="Finish a task.",
    at=OF_TASK,
    command=lambda asked: FinishTask(asked.params.task_id),
    returns=TaskBody,
    shows=as_it_was,
    is_tagged=False,
    shows_error=in_their_words,
)

APP = App(
    [tasks],
    routes=[ADD, FINISH, READ, LIST, COUNT, BUSY, SHOWN, SHOWN_FINISHED],
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


# ---------------------------------------------------------------------- what a command has made


async def test_an_answer_is_made_of_what_the_command_has_made(site: Site, owner: User) -> None:
    body = {"task_id": "t", "title": "One"}
    made = await owner.post("/v2/tasks", body, x_tenant_id=owner.workspace_id)
    assert (made.status, made.headers["etag"]) == (201, '"1"')
    shown = {"task_id": "t", "title": "One", "done": False, "version": 1}
    assert made.body == {**shown, "request_id": made.headers["x-request-id"]}
    for _ in range(2):  # the second one changes nothing, and shows what there is
        done = await owner.post("/v2/tasks/t/finish")
        assert (done.status, done.body["done"], done.body["version"]) == (200, True, 2)
        assert "etag" not in done.headers


async def test_i5_a_repeat_shows_the_same_whatever_has_happened_since(
    site: Site, owner: User
) -> None:
    """Changes, a removal, the end of its memory, of writing, and of the whole workspace."""
    member = await site.add_member(owner, "editor")
    workspace = site.rt.workspace(owner.workspace_id)
    body = {"task_id": "t", "title": "One"}
    how = {"x_tenant_id": owner.workspace_id, "idempotency_key": "k"}
    first = await member.post("/v2/tasks", body, **how)
    assert (first.status, first.body["done"]) == (201, False)

    async def check_repeat() -> None:
        again = await member.post("/v2/tasks", body, **how)
        assert again.status == 201, again.raw
        assert {**again.body, "request_id": ""} == {**first.body, "request_id": ""}
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["x-idempotency-replay"] == "true"

    await check_repeat()
    await owner.post("/v2/tasks/t/finish")
    await check_repeat()
    await workspace.send(RemoveMember(member.id))
    await check_repeat()
    other = await member.post("/v2/tasks", {**body, "task_id": "u"}, **how)
    assert (other.status, other.code) == (403, "ROLE_FORBIDDEN")
    await workspace.send(ChangeWorkspace(state="archived"))
    await check_repeat()
    await workspace.send(DeleteWorkspace())
    await check_repeat()


async def test_i5_so_does_one_of_an_entity_that_was_found_by_its_id(
    site: Site, owner: User
) -> None:
    member = await site.add_member(owner, "editor")
    await owner.post("/v2/tasks", {"task_id": "t", "title": "One"}, x_tenant_id=owner.workspace_id)
    first = await member.post("/v2/tasks/t/finish", idempotency_key="k")
    await site.rt.workspace(owner.workspace_id).send(RemoveMember(member.id))
    again = await member.post("/v2/tasks/t/finish", idempotency_key="k")
    assert (again.status, again.body["done"], again.body["version"]) == (200, True, 2)
    assert again.body["version"] == first.body["version"]
    other = await member.post("/v2/tasks/t/finish", idempotency_key="l")
    assert (other.status, other.code) == (410, "THEIR_TASK_NOT_FOUND")


async def test_i5_a_repeat_shows_what_has_ended_since() -> None:
    """What its command ends itself, a route cannot show: the app's fault, after the command."""
    drop = replace(
        SHOWN_FINISHED,
        path="/v2/drafts/{draft_id}/drop",
        at=OfEntity(drafts, "draft_id"),
        command=lambda asked: Drop(asked.params.draft_id),
        returns=Shown,
        shows=lambda _receipt, draft: Shown(text=draft.text),
    )
    write = replace(
        drop,
        path="/v2/teams/{team}/drafts",
        at=InWorkspace("team"),
        body=Shown,
        command=lambda asked: Write(None, asked.body.text),
    )
    async with open_site(app=App([drafts], routes=[write, drop])) as site:
        owner = await site.set_up()
        path = f"/v2/teams/{owner.workspace_id}/drafts"
        first = await owner.post(path, {"text": "one"}, idempotency_key="k")
        assert (first.status, first.body["text"]) == (200, "one")
        (made,) = (await site.rt.workspace(owner.workspace_id).snapshot(drafts)).items
        dropped = await owner.post(f"/v2/drafts/{made.entity_id}/drop")
        assert (dropped.status, dropped.code) == (500, "INTERNAL_ERROR")
        assert await site.rt.workspace(owner.workspace_id).get(drafts, made.entity_id) is None
        again = await owner.post(path, {"text": "one"}, idempotency_key="k")
        assert (again.status, again.body["text"]) == (200, "one")


async def test_i4_what_cannot_be_shown_now_may_have_been_applied() -> None:
    """That the database is away says that nothing was; a repeat shows what there is."""
    store = Forgetful(WORLD)
    async with open_site(app=APP, store=store) as site:
        owner = await site.set_up()
        body = {"task_id": "t", "title": "One"}
        how = {"x_tenant_id": owner.workspace_id, "idempotency_key": "k"}
        await owner.post("/v2/tasks", body, **how)
        await owner.post("/v2/tasks/t/finish")
        store.is_away = True
        away = await owner.post("/v2/tasks", body, **how)
        assert (away.status, away.code) == (504, "OUTCOME_UNKNOWN")
        store.is_away = False
        again = await owner.post("/v2/tasks", body, **how)
        assert (again.status, again.body["done"]) == (201, False)


# ------------------------------------------------------------------------ how errors are called


async def test_an_error_under_another_code_keeps_what_comes_with_it(
    site: Site, owner: User
) -> None:
    busy = await owner.get("/v1/busy")
    assert (busy.status, busy.code) == (429, "THEIR_OVERLOADED")
    assert busy.headers["retry-after"] == "3"
    assert (busy.body["message"], busy.body["details"]) == ("come back", {"retry_after": 2.5})
    unknown = await site.send("GET", "/v1/busy")
    assert (unknown.status, unknown.code) == (401, "THEIR_AUTH_REQUIRED")
    assert unknown.headers["www-authenticate"].startswith("Bearer ")
    gone = await owner.post("/v2/tasks/none/finish")
    assert (gone.status, gone.code) == (410, "THEIR_TASK_NOT_FOUND")


# ---------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/tasks", {"task_id": "t"}, 400, "BAD_REQUEST"),
        ("POST", "/v1/tasks", {"task_id": "t", "title": "x", "titel": 1}, 400, "BAD_REQUEST"),
        ("POST", "/v1/tasks", {"task_id": "t", "title": "boom"}, 500, "INTERNAL_ERROR"),
        ("POST", "/v1/tasks", {"task_id": "t", "title": "x" * 21}, 400, "TITLE_NOT_FOUND"),
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


async def test_a_list_in_an_order_of_its_own_is_read_page_by_page() -> None:
    listing = ReadRoute(
        "GET",
        "/v1/teams/{team}/drafts",
        summary="List drafts.",
        at=InWorkspace("team"),
        params=Sorted,
        read=list_sorted,
        returns=DraftsBody,
    )
    async with open_site(app=App([drafts], routes=[listing])) as site:
        owner = await site.set_up()
        path = f"/v1/teams/{owner.workspace_id}/drafts?limit=2"
        for text in "dbaecb":
            await site.rt.workspace(owner.workspace_id).send(Write(None, text))
        seen, after = "", ""
        while after is not None:
            page = (await owner.get(f"{path}{after and '&after='}{after}")).body
            seen, after = seen + "".join(page["texts"]), page["next"]
        assert seen == "abbcde"
        for wrong in ("x", "", "W10", "%E2%82%AC"):
            answer = await owner.get(f"{path}&after={wrong}")
            assert (answer.status, answer.code) == (400, "BAD_REQUEST")
            assert answer.body["details"] == {"field": "after"}


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
