"""Routes as values: what is complete, what documents say of them, how parameters are read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Meta

from dalsegno.protocol import App, DomainError, Principal, Reject
from dalsegno.protocol.dialects import GENERIC, GenericDialect, Socket, Subscribe
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    EventStreamRoute,
    InWorkspace,
    OfCaller,
    OfEntity,
    Operation,
    Params,
    ReadRoute,
    Route,
    operation_of,
)
from tests.actors._locks import locks
from tests.tasks_domain import AddTask, FinishTask, tasks


class Body(msgspec.Struct, frozen=True):
    title: str


class Shown(msgspec.Struct, frozen=True):
    title: str


class Which(msgspec.Struct, frozen=True):
    task_id: str


async def _read(_asked: Asked[Any, Any]) -> Shown:
    raise AssertionError


def command(path: str = "/api/tasks", **fields: Any) -> CommandRoute:
    given: dict[str, Any] = {
        "summary": "Add a task.",
        "at": InWorkspace(place="header", name="x-space"),
        "command": lambda _: AddTask("t", "x"),
    }
    return CommandRoute("POST", path, **(given | fields))


def reading(path: str, **fields: Any) -> ReadRoute:
    return ReadRoute("GET", path, summary="Read.", read=_read, returns=Shown, **fields)


def streaming(path: str) -> EventStreamRoute:
    return EventStreamRoute(
        "GET",
        path,
        summary="Follow.",
        at=InWorkspace("x"),
        follows=lambda _, cursor: Subscribe(stream_id="workspace:w", cursor=cursor),
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: [command("tasks")], "no path of a route"),
        (lambda: [command("/api/{Task}")], "no path of a route"),
        (lambda: [reading("/a/{x}/{x}")], "has a parameter twice"),
        (lambda: [reading("/a/{x}"), reading("/a/{y}")], "two routes are one: GET /a/{y} and GET"),
        (lambda: [reading("/a/{x}", params=Which)], "its params= has no field 'x'"),
        (lambda: [streaming("/a/{x}")], "its params= derive from Following"),
        (lambda: [reading("/a", at=InWorkspace())], "neither path nor params= has 'workspace_id'"),
        (lambda: [reading("/a", at=OfEntity(tasks, "task_id"))], "neither path nor params="),
        (
            lambda: [command(at=InWorkspace(place="body"), body=Body)],
            "its body has no field 'workspace_id'",
        ),
        (lambda: [reading("/{task_id}", at=OfEntity(locks, "task_id"))], "'lock', which is not in"),
        (
            lambda: [command(returns=Shown)],
            "returns= and one of answer= and shows= belong together",
        ),
        (lambda: [command(shows=lambda *_: Shown("x"))], "returns= and one of answer= and shows="),
        (
            lambda: [
                command(returns=Shown, answer=lambda *_: Shown("x"), shows=lambda *_: Shown("x"))
            ],
            "returns= and one of answer= and shows= belong together",
        ),
        (
            lambda: [command(returns=Shown, shows=lambda *_: Shown("x"), status=204)],
            "no status of an answer with a body: 204",
        ),
        (
            lambda: [command(returns=Shown, answer=lambda *_: Shown("x"), status=204)],
            "no status of an answer with a body: 204",
        ),
        (
            lambda: [command(returns=Shown, answer=lambda *_: Shown("x"), status=404)],
            "no status of an answer with a body: 404",
        ),
        (
            lambda: [command(status_found=200)],
            "status_found= goes with of=",
        ),
        (
            lambda: [
                command(returns=Shown, answer=lambda *_: Shown("x"), of=lambda *_: (tasks, "t"))
            ],
            "and of= with shows=",
        ),
    ],
)
def test_what_is_no_route_is_told_when_the_app_is_checked(
    make: Callable[[], list[Route]], says: str
) -> None:
    with pytest.raises(DomainError) as caught:
        App([tasks], routes=make()).check()
    assert says in str(caught.value)


class Twice(GenericDialect):
    messages = (Subscribe,)


@pytest.mark.parametrize(
    ("dialects", "says"),
    [
        ([Twice()], "two messages of the dialects are named 'subscribe'"),
        ([Socket("/ws", GENERIC)], "two sockets have one path: /ws"),
        ([Socket("/a/{x}", GENERIC), Socket("/a/{y}", GENERIC)], "two sockets have one path"),
        ([Socket("a", GENERIC)], "no path of a socket: 'a'"),
        ([Socket("/{x}/{x}", GENERIC)], "no path of a socket"),
    ],
)
def test_what_is_no_dialect_is_told_too(dialects: list[Any], says: str) -> None:
    with pytest.raises(DomainError) as caught:
        App([tasks], dialects=dialects).check()
    assert says in str(caught.value)


def test_a_command_says_what_it_answers_and_looks_at() -> None:
    route = command(
        "/api/tasks/{task_id}/done",
        at=OfEntity(tasks, "task_id"),
        command=lambda asked: FinishTask(asked.params.task_id),
        returns=Shown,
        answer=lambda *_: Shown("x"),
        status=202,
        headers=("x-reason",),
        refusals=frozenset({418}),
    )
    operation = operation_of(route)
    assert operation.answers == {202: Shown}
    assert operation.headers == ("x-reason", "idempotency-key", "if-match")
    assert operation.group == "tasks"
    assert operation.refusals == {418}
    assert operation.path_params == ["task_id"]
    assert operation.shape == "/api/tasks/{}/done"
    assert operation.operation_id == "post_api_tasks_task_id_done"
    assert operation.params is not None
    # An entity is found by its id; where that is ambiguous, the query says where.
    assert {*operation.params.__struct_fields__} == {"task_id", "workspace_id"}
    assert operation.sends_command
    assert operation.is_of_workspace
    deleting = operation_of(command())
    assert deleting.answers == {204: None}
    assert deleting.headers == ("idempotency-key", "if-match", "x-space")


def test_a_command_that_finds_what_it_would_make_has_two_answers() -> None:
    route = command(
        returns=Shown,
        shows=lambda *_: Shown("x"),
        of=lambda *_: (tasks, "t"),
        status=201,
        status_found=200,
    )
    App([tasks], routes=[route]).check()
    assert operation_of(route).answers == {201: Shown, 200: Shown}


def test_a_read_with_a_version_may_answer_that_it_is_known() -> None:
    operation = operation_of(reading("/a", version_of=lambda _: 1))
    assert operation.answers == {200: Shown, 304: None}
    assert operation.headers == ("if-none-match",)
    assert not operation.sends_command
    assert not operation.is_of_workspace


# -------------------------------------------------------------------------------------- parameters


class Query(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    count: Annotated[int, Meta(ge=0, le=9)] = 0
    flag: bool = False
    kind: Literal["a", "b"] | None = None
    since: Annotated[datetime, Meta(tz=True)] | None = None
    either: int | str = 0


def test_texts_are_read_as_their_fields_say() -> None:
    params = Params(Query)
    assert params.read({"name": "7"}) == Query(name="7")
    read = params.read(
        {
            "name": "true",
            "count": "9",
            "flag": "true",
            "kind": "b",
            "since": "2030-01-02T03:04:05Z",
            "either": "x",
            "unknown": "passed over",
        }
    )
    assert read == Query(
        name="true",
        count=9,
        flag=True,
        kind="b",
        since=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        either="x",
    )
    assert params.read({"name": "x", "either": "12"}).either == 12


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "name"),
        ({"count": "10"}, "count"),
        ({"count": "-1"}, "count"),
        ({"count": "1.0"}, "count"),
        ({"count": "\u0661"}, "count"),  # a digit, but not one of ours
        ({"count": "9" * 30}, "count"),
        ({"count": ""}, "count"),
        ({"flag": "1"}, "flag"),
        ({"flag": "True"}, "flag"),
        ({"kind": "c"}, "kind"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2030-01-02T03:04:05"}, "since"),
        ({"name": "a\0b"}, "name"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(said: dict[str, str], field: str) -> None:
    given = {} if field == "name" and not said else {"name": "x"}
    with pytest.raises(Reject) as caught:
        Params(Query).read({**given, **said})
    assert (caught.value.code, caught.value.details["field"]) == ("BAD_REQUEST", field)


@given(st.dictionaries(st.sampled_from([*Query.__struct_fields__, "x"]), st.text(), max_size=8))
def test_any_texts_are_read_or_refused(said: dict[str, str]) -> None:
    read: Query | None = None
    with suppress(Reject):
        read = Params(Query).read(said)
    assert read is None or read.name == said["name"]


# ------------------------------------------------------------------------------------ what is asked


def asked(**fields: Any) -> Asked[Any, Any]:
    return Asked(params=None, body=None, principal=Principal("u"), **fields)


def test_the_version_that_a_change_is_based_on_is_said_once() -> None:
    assert asked().based_on() is None
    assert asked(if_match=3).based_on() == 3
    assert asked(if_match=3).needs_base(3) == 3
    assert asked().needs_base(2) == 2
    with pytest.raises(Reject, match="BAD_REQUEST"):
        asked(if_match=3).based_on(2)
    with pytest.raises(Reject, match="BAD_REQUEST"):
        asked().needs_base(None)


def test_a_route_about_no_workspace_has_none() -> None:
    with pytest.raises(DomainError, match="at="):
        _ = asked().workspace


def test_a_route_about_one_has_not_all_of_its_callers() -> None:
    with pytest.raises(DomainError, match="only a read without at="):
        _ = asked().own


# ------------------------------------------------------------------------ the caller's workspace


OURS = OfCaller("x-team", param="team-id")


def test_a_workspace_is_named_by_header_or_parameter() -> None:
    assert OURS.named({"x-team": "a"}, {}) == "a"
    assert OURS.named({}, {"team-id": "a"}) == "a"
    assert OURS.named({"x-team": "a"}, {"team-id": "a"}) == "a"
    assert OURS.named({"x-other": "a"}, {"team": "a"}) is None
    assert OURS.named({"x-team": ""}, {}) == "", "which no workspace has"
    assert OfCaller("x-team").named({}, {"team-id": "a"}) is None
    for other in ("b", ""):
        with pytest.raises(Reject, match="BAD_REQUEST: x-team and team-id differ"):
            OURS.named({"x-team": "a"}, {"team-id": other})


def test_the_header_that_names_it_is_written_in_lower_case() -> None:
    """Else it would be passed over where a request has it, and another workspace be meant."""
    with pytest.raises(DomainError, match="lower case: 'X-Team'"):
        OfCaller("X-Team")


def test_documents_have_the_header_and_the_parameter() -> None:
    class Having(msgspec.Struct):
        team: str = msgspec.field(name="team-id")

    both = operation_of(reading("/a", at=OURS))
    assert both.headers == ("x-team",)
    assert both.refusals == {409, 504}
    assert fields_of(both) == ["team-id"]
    assert fields_of(operation_of(reading("/a/{task_id}", at=OURS))) == ["task_id", "team-id"]
    assert fields_of(operation_of(reading("/a/{task_id}", params=Which, at=OURS))) == [
        "task_id",
        "team-id",
    ]
    assert operation_of(reading("/a", params=Having, at=OURS)).params is Having
    assert operation_of(reading("/a", at=OfCaller("x-team"))).params is None
    assert operation_of(command(at=OURS)).headers == ("idempotency-key", "if-match", "x-team")
    App([tasks], routes=[reading("/a", at=OURS), command(at=OURS)]).check()


def fields_of(operation: Operation) -> list[str]:
    assert operation.params is not None
    return [each.encode_name for each in msgspec.structs.fields(operation.params)]
