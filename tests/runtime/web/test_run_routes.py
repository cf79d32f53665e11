"""Routes that ask for runs: what is answered at once, after a wait, and again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.effects import Done, Run
from dalsegno.protocol import App, Limits, Role, WorkspaceMovedError
from dalsegno.protocol.routes import Asked, InWorkspace, OfEntity, RunRoute
from dalsegno.protocol.runs import RequestRun, Retry, runs, worker
from tests._patience import fail_after
from tests.tasks_domain import AddTask, tasks

from ._client import Answer, Site, User
from .conftest import open_site

WAIT_MAX_S = 0.05
"""Of a run that is not to end: no test waits for long in vain."""


class Text(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    idempotency_key: str | None = None


@worker("shout", allow={"owner", "editor", "asker"})
async def shout(run: Run) -> Done:
    return Done(result=run.input.upper())


@worker("fail", retry=Retry(attempts_max=1))
async def fail(_run: Run) -> None:
    raise ZeroDivisionError


@worker("hang")
async def hang(_run: Run) -> None:
    await trio.sleep_forever()


def shouted(asked: Asked[Any, Text]) -> RequestRun:
    return RequestRun(worker="shout", input=asked.body.text, labels={"by": asked.user_id[:8]})


def route(name: str, **more: Any) -> RunRoute:
    given: dict[str, Any] = {
        "summary": "Work.",
        "at": InWorkspace("space"),
        "command": lambda _: RequestRun(worker=name),
    }
    return RunRoute("POST", f"/v1/{{space}}/{name}", **(given | more))


ROUTES = [
    route("shout", command=shouted, body=Text),
    route("hang"),
    route("fail", waits_s=30.0, roles={"owner", "editor"}),
    RunRoute(
        "POST",
        "/v1/tasks/{task_id}/shout",
        summary="Shout of a task.",
        at=OfEntity(tasks, "task_id"),
        command=lambda asked: RequestRun(worker="shout", input=asked.params.task_id),
    ),
]
APP = App(
    [tasks],
    routes=ROUTES,
    workers=[shout, fail, hang],
    roles={"asker": Role(commands=frozenset({"request_run"}), reads=False)},
)


@asynccontextmanager
async def hasty() -> AsyncIterator[tuple[Site, User]]:
    """A site where nobody waits for long."""
    async with open_site(app=APP, limits=Limits(run_wait_max_s=WAIT_MAX_S)) as site:
        yield site, await site.set_up()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(app=APP) as site:
        yield site


def at(owner: User, name: str) -> str:
    return f"/v1/{owner.workspace_id}/{name}"


async def ended(user: User, answer: Answer) -> Answer:
    """Read a run at its place until it has ended."""
    with fail_after(10):
        while True:
            read = await user.get(answer.headers["location"])
            assert read.status == 200, read.raw
            if read.body["state"]["status"] not in {"requested", "running", "released"}:
                return read
            await trio.sleep(0.005)


async def test_a_request_that_does_not_wait_is_told_where_the_run_is(owner: User) -> None:
    asked = await owner.post(at(owner, "shout"), {"text": "da capo"})
    assert asked.status == 202, asked.raw
    run_id = asked.body["run_id"]
    assert asked.headers["location"] == f"{owner.space}/entities/run/{run_id}"
    assert (asked.body["worker"], asked.body["kind"]) == ("shout", "agent")
    assert asked.body["labels"] == {"by": owner.id[:8]}
    assert "preference-applied" not in asked.headers
    read = await ended(owner, asked)
    assert (read.body["state"]["status"], read.body["state"]["result"]) == ("succeeded", "DA CAPO")


@pytest.mark.parametrize(
    ("query", "headers", "applied"),
    [
        ("?wait=30", {}, None),
        ("", {"prefer": "wait=30"}, "wait=30"),
        ("", {"prefer": 'respond-async, Wait="30"; foo'}, "wait=30"),
        ("?wait=30", {"prefer": "wait=0"}, None),
        ("", {"prefer": "wait=4000"}, "wait=60"),
    ],
)
async def test_a_request_that_waits_gets_the_run_once_it_has_ended(
    owner: User, query: str, headers: dict[str, str], applied: str | None
) -> None:
    asked = await owner.post(at(owner, "shout") + query, {"text": "fine"}, **headers)
    assert asked.status == 200, asked.raw
    assert (asked.body["status"], asked.body["result"]) == ("succeeded", "FINE")
    assert (asked.body["attempt"], asked.body["error"]) == (1, None)
    assert asked.headers.get("preference-applied") == applied
    assert "location" not in asked.headers


async def test_the_route_may_say_how_long_it_waits_and_the_client_may_not_want_to(
    owner: User,
) -> None:
    failed = await owner.post(at(owner, "fail"))
    assert (failed.status, failed.body["status"]) == (200, "failed")
    assert failed.body["error"]["code"] == "WORKER_FAILED"
    at_once = await owner.post(at(owner, "fail"), prefer="respond-async")
    assert at_once.status == 202
    assert at_once.headers["preference-applied"] == "respond-async"
    assert (await owner.post(at(owner, "fail") + "?wait=0")).status == 202


async def test_nobody_waits_longer_than_is_allowed() -> None:
    async with hasty() as (site, owner):
        asked = await owner.post(at(owner, "hang"), prefer="wait=30")
        assert (asked.status, asked.headers["preference-applied"]) == (202, "wait=0.05")
        assert asked.body["status"] == "running"
        assert not len(site.rt.service.node.connection_ids), "its worker lets it continue"
        await owner.post(f"{owner.space}/commands/cancel_run", {"run_id": asked.body["run_id"]})
        assert (await ended(owner, asked)).body["state"]["status"] == "cancelled"


async def test_a_repeat_of_a_key_is_the_same_run_as_it_is_now(owner: User) -> None:
    body = {"text": "da capo", "idempotency_key": "k"}
    first = await owner.post(at(owner, "shout"), body)
    second = await owner.post(at(owner, "shout") + "?wait=30", body)
    assert (first.status, second.status) == (202, 200)
    assert first.body["run_id"] == second.body["run_id"]
    assert second.body["result"] == "DA CAPO"
    assert "x-idempotency-replay" not in first.headers
    assert second.headers["x-idempotency-replay"] == "true"
    header = await owner.post(at(owner, "shout"), {"text": "da capo"}, idempotency_key="k")
    assert (header.status, header.body["run_id"]) == (200, first.body["run_id"])
    other = await owner.post(at(owner, "shout"), {**body, "text": "al fine"})
    assert (other.status, other.code) == (409, "STATE_CONFLICT")


async def test_i5_i8_who_has_left_is_shown_what_they_asked_for_and_no_more(
    site: Site, owner: User
) -> None:
    member = await site.add_member(owner, "editor")
    body = {"text": "da capo", "idempotency_key": "k"}
    first = await member.post(at(owner, "shout") + "?wait=30", body)
    assert first.status == 200
    await site.rt.workspace(owner.workspace_id).send(RemoveMember(member.id))
    again = await member.post(at(owner, "shout") + "?wait=30", body)
    assert (again.status, again.body["status"], again.body["result"]) == (202, "requested", None)
    other = await member.post(at(owner, "shout"), {"text": "al fine"})
    assert (other.status, other.code) == (403, "ROLE_FORBIDDEN")


async def test_i8_who_may_ask_and_not_read_waits_for_nothing(site: Site, owner: User) -> None:
    asker = await site.add_member(owner, "asker")
    asked = await asker.post(at(owner, "shout") + "?wait=30", {"text": "da capo"})
    assert (asked.status, asked.body["status"], asked.body["result"]) == (202, "requested", None)


async def test_who_may_and_what_is_refused(site: Site, owner: User) -> None:
    viewer = await site.add_member(owner, "viewer")
    refused = await viewer.post(at(owner, "shout"), {"text": "x"})
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    asker = await site.add_member(owner, "asker")
    refused = await asker.post(at(owner, "fail"))
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    stranger = await site.add_user()
    refused = await stranger.post(at(owner, "shout"), {"text": "x"})
    assert refused.status == 403
    for wrong in ("-1", "x", "1.5"):
        refused = await owner.post(at(owner, "shout") + f"?wait={wrong}", {"text": "x"})
        assert (refused.status, refused.code) == (400, "BAD_REQUEST")
    assert not len(site.rt.service.node.connection_ids)


async def test_a_run_is_asked_for_where_its_entity_is(site: Site, owner: User) -> None:
    await site.rt.workspace(owner.workspace_id).send(AddTask(task_id="t", title="One"))
    asked = await owner.post("/v1/tasks/t/shout?wait=30")
    assert (asked.status, asked.body["result"]) == (200, "T")
    missing = await owner.post("/v1/tasks/none/shout?wait=30")
    assert (missing.status, missing.code) == (404, "TASK_NOT_FOUND")


async def test_where_too_many_wait_the_run_is_asked_for_all_the_same() -> None:
    async with open_site(app=APP, limits=Limits(polls_max=0)) as site:
        owner = await site.set_up()
        asked = await owner.post(at(owner, "hang") + "?wait=30")
        assert asked.status == 202
        assert await site.rt.workspace(owner.workspace_id).get(runs, asked.body["run_id"])


async def test_a_workspace_that_leaves_ends_the_wait(site: Site, owner: User) -> None:
    hub = site.rt.service.directory.activate(owner.workspace_id).hub

    async def move() -> None:
        with fail_after(10):
            while not hub.statistics().streams:
                await trio.sleep(0.005)
        hub.end(WorkspaceMovedError("elsewhere"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        asked = await owner.post(at(owner, "hang") + "?wait=30")
    assert asked.status == 202


async def test_documents_say_what_is_answered(owner: User) -> None:
    document = (await owner.get("/api/openapi.json")).body
    post = document["paths"]["/v1/{space}/shout"]["post"]
    assert {"200", "202"} <= post["responses"].keys()
    assert "Location" in post["responses"]["202"]["headers"]
    parameters = {(each["in"], each["name"]) for each in post["parameters"]}
    assert parameters == {
        ("path", "space"),
        ("query", "wait"),
        ("header", "idempotency-key"),
        ("header", "prefer"),
    }
