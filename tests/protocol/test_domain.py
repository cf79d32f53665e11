"""How a domain is declared, and how it folds a log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import Raw

from dalsegno.protocol import (
    SYSTEM,
    WRITERS,
    Context,
    DalsegnoError,
    Domain,
    DomainError,
    Index,
    On,
    Past,
    Principal,
    Reject,
    Touched,
    schema_of,
)
from tests.tasks_domain import AddTask, FinishTask, Task, TaskAdded, TaskFinished, tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import nowhere  # type: ignore[attr-defined]  # what an annotation cannot find


def declare(**changes: Any) -> Domain[Any, Any, Any]:
    arguments = {"state": Task, "commands": AddTask, "events": TaskAdded, **changes}
    return Domain("task", **arguments)


class Nameless(msgspec.Struct, frozen=True):
    title: str


class Listed(msgspec.Struct, frozen=True, array_like=True):
    title: str


class Added(msgspec.Struct, frozen=True, tag="task_added"):
    title: str


# ---------------------------------------------------------------------------------- declaring


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Task", {}, "lower case"),
        ("", {}, "lower case"),
        ("a:b", {}, "lower case"),
        ("task\n", {}, "lower case"),
        ("1task", {}, "lower case"),
        ("t" * 65, {}, "lower case"),
        ("workspace", {}, "not 'workspace'"),
        ("task", {"repeats": "ignore"}, "'conflict' or 'original'"),
        ("task", {"version": 0}, "count from 1"),
        ("task", {"snapshot_every": 0}, "count from 1"),
        ("task", {"commands": Nameless}, "no field 'task_id'"),
        ("task", {"id_field": "nobody"}, "no field 'nobody'"),
        ("task", {"commands": AddTask | int}, "not a msgspec.Struct"),
        ("task", {"events": dict}, "not a msgspec.Struct"),
        ("task", {"events": Listed}, "array_like"),
        ("task", {"events": TaskAdded | Added}, "share a name"),
    ],
)
def test_a_wrong_declaration_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    arguments = {"state": Task, "commands": AddTask, "events": TaskAdded, **changes}
    with pytest.raises(DomainError, match=message):
        Domain(name, **arguments)


def unannotated(task, command):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return None


def half(task: Task | None, command: AddTask, more) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return None


def short(command: AddTask) -> None:
    return None


def strange_command(task: Task | None, command: Nameless) -> None:
    return None


def union_command(task: Task | None, command: AddTask | FinishTask) -> None:
    return None


def unknown_type(task: Task | None, command: nowhere.Command) -> None:
    return None


def strange_extra(task: Task | None, command: AddTask, extra: int) -> None:
    return None


def optional_extra(task: Task | None, command: AddTask, past: Past | None) -> None:
    return None


def wants_touched(task: Task | None, command: AddTask, touched: Touched) -> None:
    return None


def wants_past(task: Task | None, command: AddTask, past: Past) -> None:
    return None


def plain(task: Task | None, command: AddTask) -> None:
    return None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unannotated, "annotate"),
        (half, "annotate"),
        (short, "annotate"),
        (strange_command, "is not a command"),
        (union_command, "is not a command"),
        (unknown_type, "nowhere.*import it at run time"),
        (strange_extra, "only Context, Touched and Past"),
        (optional_extra, "only Context, Touched and Past"),
        (wants_touched, "Touched without touches="),
        (wants_past, "Past and needs="),
    ],
)
def test_a_wrong_decider_is_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        declare().decide()(function)


def test_a_need_that_nobody_reads_is_refused() -> None:
    with pytest.raises(DomainError, match="Past and needs="):
        declare().decide(needs=lambda _: 1)(plain)


def test_a_command_has_one_decider() -> None:
    domain = declare()
    domain.decide()(plain)
    with pytest.raises(DomainError, match="already has a decider"):
        domain.decide()(plain)


def strange_event(task: Task | None, event: Nameless) -> Task:
    return Task(event.title)


def with_context(task: Task | None, event: TaskAdded, context: Context) -> Task:
    return Task(event.title)


def evolve_added(task: Task | None, event: TaskAdded) -> Task:
    return Task(event.title)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unannotated, "annotate"),
        (strange_event, "is not an event"),
        (with_context, "is not an event"),
        (plain, "is not an event"),
    ],
)
def test_a_wrong_evolver_is_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        declare().evolve(function)


def test_an_event_has_one_evolver() -> None:
    domain = declare()
    domain.evolve(evolve_added)
    with pytest.raises(DomainError, match="already has an evolver"):
        domain.evolve(evolve_added)


def test_what_is_left_out_is_found_by_check() -> None:
    domain = declare(commands=AddTask | FinishTask)
    domain.decide()(plain)
    with pytest.raises(DomainError, match="no decider for finish_task"):
        domain.check()
    domain = declare()
    domain.decide()(plain)
    with pytest.raises(DomainError, match="no evolver for task_added"):
        domain.check()
    domain.evolve(evolve_added)
    domain.check()
    tasks.check()


def test_a_domain_may_be_declared_inside_a_function() -> None:
    class Light(msgspec.Struct, frozen=True):
        on: bool

    class Switch(msgspec.Struct, frozen=True):
        light_id: str | None

    class Switched(msgspec.Struct, frozen=True):
        on: bool

    lights = Domain("light", state=Light, commands=Switch, events=Switched)

    @lights.decide
    def switch(light: Light | None, command: Switch) -> Switched:
        return Switched(on=not (light and light.on))

    @lights.evolve
    def switched(light: Light | None, event: Switched) -> Light:
        return Light(on=event.on)

    lights.check()
    assert lights.evolve_by(Light(on=True), Switched(on=False)) == Light(on=False)
    assert repr(lights) == "<Domain 'light': switch → switched>"


def test_what_was_declared_about_a_command_can_be_looked_up() -> None:
    domain = declare(commands=AddTask | FinishTask, allow={"owner"})

    @domain.decide
    def add(task: Task | None, command: AddTask) -> TaskAdded:
        return TaskAdded(command.title)

    @domain.decide(
        allow={"viewer"}, touches=lambda command: [(domain, command.task_id)], needs=lambda _: 3
    )
    def finish(
        task: Task, command: FinishTask, past: Past, context: Context, touched: Touched
    ) -> list[On[TaskAdded]]:
        return [On(domain, "t2", TaskAdded("x"))]

    bare, full = domain.decider(AddTask), domain.decider(FinishTask)
    assert (bare.takes_none, bare.extras, bare.allow) == (True, (), frozenset({"owner"}))
    assert bare.touches is None
    assert bare.needs is None
    assert (full.takes_none, full.extras) == (False, ("past", "context", "touched"))
    assert full.allow == {"viewer"}
    assert full.needs is not None
    assert full.needs(FinishTask("t1")) == 3
    assert full.touches is not None
    assert full.touches(FinishTask("t1")) == [(domain, "t1")]
    assert tasks.decider(AddTask).allow == WRITERS
    assert domain.stream_id("t1") == On(domain, "t1", TaskAdded("x")).stream_id == "task:t1"


def test_the_entity_is_named_by_a_field() -> None:
    assert tasks.id_field == "task_id"
    assert declare(commands=Nameless, id_field="title").id_field == "title"


def test_deciders_are_plain_functions() -> None:
    context = Context(
        entity_id="t1",
        principal=Principal("u1", "editor"),
        role="editor",
        now=datetime(2026, 2, 13, tzinfo=UTC),
        new_id=lambda: "id1",
    )
    domain = declare()

    @domain.decide
    def add(task: Task | None, command: AddTask, context: Context) -> TaskAdded:
        return TaskAdded(f"{command.title} {context.now.year} {context.new_id()}")

    assert add(None, AddTask("t1", "Write"), context) == TaskAdded("Write 2026 id1")
    assert Principal() == SYSTEM


def test_a_command_sees_only_the_entities_that_it_named() -> None:
    touched = Touched({"task:t1": Task("Write"), "task:t2": None})
    assert touched.get(tasks, "t1") == Task("Write")
    assert touched.get(tasks, "t2") is None
    with pytest.raises(DomainError, match="task:t3 is not in touches="):
        touched.get(tasks, "t3")


# ------------------------------------------------------------------------------------- names


class HTTPTask(msgspec.Struct, frozen=True):
    task_id: str


class Dotted(msgspec.Struct, frozen=True, tag="task.add"):
    task_id: str


class Numbered(msgspec.Struct, frozen=True, tag=7, tag_field="kind"):
    task_id: str
    at: datetime | None = None


class Fieldless(msgspec.Struct, frozen=True, tag=True, tag_field="event"):
    pass


def test_a_name_is_the_tag_or_the_class_in_snake_case() -> None:
    assert list(tasks.commands) == ["add_task", "finish_task"]
    assert list(tasks.events) == ["task_added", "task_finished"]
    domain = declare(commands=Dotted | HTTPTask, events=Numbered | Fieldless)
    assert list(domain.commands) == ["task.add", "h_t_t_p_task"]
    assert list(domain.events) == ["7", "Fieldless"]


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (TaskAdded('"é'), ("task_added", 1, '{"title":"\\"é"}')),
        (TaskFinished(), ("task_finished", 1, "{}")),
        (Numbered("t1"), ("7", 1, '{"task_id":"t1","at":null}')),
        (Fieldless(), ("Fieldless", 1, "{}")),
    ],
)
def test_a_tag_stays_out_of_the_payload(
    event: msgspec.Struct, written: tuple[str, int, str]
) -> None:
    domain = declare(events=TaskAdded | TaskFinished | Numbered | Fieldless)
    assert domain.encode(event) == written
    assert domain.decode(*written) == event


def test_the_json_schema_describes_payloads_by_name() -> None:
    domain = declare(commands=Dotted | AddTask, events=Numbered | TaskAdded)
    document = schema_of([domain])
    schema = document["domains"]["task"]
    assert schema["commands"] == {
        "task.add": {"$ref": "#/$defs/Dotted"},
        "add_task": {"$ref": "#/$defs/AddTask"},
    }
    assert list(schema["events"]) == ["7", "task_added"]
    assert schema["events"]["7"] == {"version": 1, "payload": {"$ref": "#/$defs/Numbered"}}
    assert schema["state"] == {"$ref": "#/$defs/Task"}
    assert (schema["version"], schema["id_field"]) == (1, "task_id")
    components = document["$defs"]
    assert components["Numbered"]["required"] == ["task_id"]
    assert list(components["Numbered"]["properties"]) == ["task_id", "at"]
    assert components["Dotted"]["properties"] == {"task_id": {"type": "string"}}
    assert msgspec.json.decode(msgspec.json.encode(document)) == document


# ---------------------------------------------------------------------------- reading the log


class Moved(msgspec.Struct, frozen=True):
    x: int
    y: int
    at: datetime | None = None
    seen: dict[int, str] = {}


class Move(msgspec.Struct, frozen=True):
    task_id: str


def moving() -> Domain[Any, Any, Any]:
    domain = declare(commands=Move, events=Moved)

    @domain.decide()
    def move(task: Task | None, command: Move) -> Moved:
        return Moved(0, 0)

    @domain.evolve
    def moved(task: Task | None, event: Moved) -> Task:
        return Task(str(event.x))

    return domain


def test_upcasts_lead_from_every_older_version_to_this_one() -> None:
    domain = moving()

    @domain.upcast("moved", 2)
    def with_y(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "y": 0}

    with pytest.raises(DomainError, match="no upcast of moved from version 1"):
        domain.check()

    @domain.upcast("moved", 1)
    def renamed(payload: dict[str, Any]) -> dict[str, Any]:
        return {"x": payload["left"]}

    domain.check()
    assert domain.type_version("moved") == 3
    assert domain.encode(Moved(1, 2))[1] == 3
    assert domain.decode("moved", 1, '{"left":4}') == Moved(4, 0)
    assert domain.decode("moved", 2, '{"x":4}') == Moved(4, 0)
    assert domain.decode("moved", 3, '{"x":4,"y":5}') == Moved(4, 5)
    rich = domain.decode("moved", 2, '{"x":1,"at":"2026-02-13T00:00:00Z","seen":{"7":"a"}}')
    assert rich == Moved(1, 0, datetime(2026, 2, 13, tzinfo=UTC), {7: "a"})


def test_a_wrong_upcast_is_refused() -> None:
    domain = moving()
    domain.upcast("moved", 1)(lambda payload: payload)
    for event, version, message in (
        ("moved", 1, "an upcast already"),
        ("moved", 0, "below 1"),
        ("gone", 1, "no event 'gone'"),
    ):
        with pytest.raises(DomainError, match=message):
            domain.upcast(event, version)(lambda payload: payload)


def test_an_upcast_that_is_missing_halts_rather_than_guesses() -> None:
    domain = moving()
    domain.upcast("moved", 2)(lambda payload: payload)
    with pytest.raises(DalsegnoError, match="moved version 1"):
        domain.decode("moved", 1, '{"x":1,"y":1}')


@pytest.mark.parametrize("type_version", [-1, 0, 2, 3])
def test_i11_a_version_that_this_code_does_not_know_is_no_guess(type_version: int) -> None:
    domain = moving()
    assert not domain.reads("moved", type_version)
    with pytest.raises(DalsegnoError, match="reads moved up to version 1"):
        domain.decode("moved", type_version, '{"x":1,"y":1}')


@pytest.mark.parametrize(
    "payload", ["", "{", "[]", "5", "null", '{"left":"a"}', '{"x":1}', '"\\ud800"']
)
@pytest.mark.parametrize("type_version", [1, 2])
def test_i11_a_payload_that_cannot_be_read_is_a_typed_error(
    payload: str, type_version: int
) -> None:
    domain = moving()

    @domain.upcast("moved", 1)
    def renamed(payload: dict[str, Any]) -> dict[str, Any]:
        return {"x": payload["left"] + 1, "y": 0}

    with pytest.raises(DalsegnoError, match=f"moved version {type_version}"):
        domain.decode("moved", type_version, payload)


def test_i11_an_event_of_unknown_type_is_passed_over() -> None:
    assert tasks.decode("task_painted", 9, "no JSON even") is None
    assert tasks.reads("task_painted", 9)


def test_a_field_that_was_added_since_is_passed_over() -> None:
    assert tasks.decode("task_added", 1, '{"title":"a","colour":"red"}') == TaskAdded("a")


# ----------------------------------------------------------------------------------- states


def test_the_fold_of_an_event_that_needs_an_entity_is_refused_without_one() -> None:
    assert tasks.evolve_by(None, TaskAdded("a")) == Task("a")
    assert tasks.evolve_by(Task("a"), TaskFinished()) == Task("a", done=True)
    with pytest.raises(DomainError, match="TaskFinished on a task that does not exist"):
        tasks.evolve_by(None, TaskFinished())


@pytest.mark.parametrize("state", [None, Task("é", done=True)])
def test_a_state_survives_the_store(state: Task | None) -> None:
    assert tasks.decode_state(tasks.encode_state(state)) == state


def test_index_and_view_are_a_domains_own() -> None:
    domain = declare()
    assert domain.indexed(Task("a")) == Index()
    added = TaskAdded("a")
    assert domain.viewed(*domain.encode(added), "t1", 1) == Raw(domain.encode(added)[2])

    @domain.index
    def index(task: Task) -> Index:
        return Index(title=task.title, keys=("open",))

    @domain.view
    def view(event: TaskAdded, entity_id: str, version: int) -> list[object]:
        return [event.title, entity_id, version]

    assert domain.indexed(Task("a")) == Index(title="a", keys=("open",))
    assert domain.indexed(None) == Index()
    assert domain.viewed(*domain.encode(added), "t1", 2) == ["a", "t1", 2]


class JustX(msgspec.Struct):
    x: int
    z: int = 0


def test_a_view_of_some_fields_reads_no_others_of_any_version() -> None:
    domain = moving()

    @domain.upcast("moved", 1)
    def renamed(payload: dict[str, Any]) -> dict[str, Any]:
        return {"x": payload["left"], "y": 0}

    @domain.view(of=JustX)
    def view(event: JustX, entity_id: str, version: int) -> dict[str, object]:
        return {"x": event.x, "z": event.z, "of": entity_id, "version": version}

    for type_version, payload in (2, '{"x":4,"y":"of no number"}'), (1, '{"left":4}'):
        seen = domain.viewed("moved", type_version, payload, "t1", 7)
        assert seen == {"x": 4, "z": 0, "of": "t1", "version": 7}
    assert domain.viewed("vanished", 3, '{"a": 1}', "t1", 7) == Raw('{"a": 1}')
    for type_version, payload in (2, '{"y":4}'), (3, '{"x":4}'), (1, '{"x":4}'):
        with pytest.raises(DalsegnoError, match=f"moved version {type_version}|up to version 2"):
            domain.viewed("moved", type_version, payload, "t1", 7)


def test_a_view_of_fields_that_an_event_lacks_is_refused() -> None:
    class Title(msgspec.Struct):
        title: str

    with pytest.raises(DomainError, match="view: Moved has no title"):

        @moving().view(of=Title)
        def view(event: Title, entity_id: str, version: int) -> str:
            return event.title


def test_i11_without_a_view_a_version_that_is_not_known_is_not_shown_either() -> None:
    domain = moving()
    assert domain.viewed("moved", 1, '{"x": 1}', "t1", 1) == Raw('{"x": 1}'), "byte for byte"
    with pytest.raises(DalsegnoError, match="moved version 2"):
        domain.viewed("moved", 2, '{"x":1}', "t1", 1)


def test_the_example_decides_and_folds() -> None:
    state: Task | None = None
    for command in (AddTask("t1", "Write"), FinishTask("t1")):
        event = tasks.decider(type(command)).function(state, command)
        state = tasks.evolve_by(state, event)
    assert state == Task("Write", done=True)
    assert tasks.decider(FinishTask).function(state, FinishTask("t1")) is None
    with pytest.raises(Reject, match="TASK_EXISTS"):
        tasks.decider(AddTask).function(state, AddTask("t1", "Again"))
