"""What mypy must accept and must refuse: `warn_unused_ignores` makes each ignore an assertion."""

from __future__ import annotations

from typing import assert_type

import msgspec
import pytest

from dalsegno.protocol import Context, Domain, DomainError, On, Past, PatchOp, Touched
from tests.tasks_domain import AddTask, FinishTask, Task, TaskAdded, TaskFinished, tasks


class Stranger(msgspec.Struct, frozen=True):
    task_id: str


def test_types_reach_from_the_declaration_to_the_log() -> None:
    assert_type(tasks, Domain[Task, AddTask | FinishTask, TaskAdded | TaskFinished])
    assert_type(tasks.decode("task_added", 1, '{"title":"a"}'), TaskAdded | TaskFinished | None)
    assert_type(tasks.evolve_by(None, TaskAdded("a")), Task | None)
    assert_type(tasks.decode_state("null"), Task | None)
    assert_type(Touched({"task:t1": None}).get(tasks, "t1"), Task | None)


def test_a_value_of_another_domain_is_a_type_error() -> None:
    with pytest.raises(KeyError):
        tasks.encode(Stranger("t1"))  # type: ignore[arg-type]  # no event of this domain
    with pytest.raises(KeyError):
        tasks.evolve_by(None, AddTask("t1", "a"))  # type: ignore[arg-type]  # a command
    On(tasks, "t1", Stranger("t1"))  # type: ignore[misc]  # no event of this domain
    with pytest.raises(TypeError):
        AddTask("t1", titel="a")  # type: ignore[call-arg]  # a slip of the pen
    with pytest.raises(AttributeError):
        TaskAdded("a").title = "b"  # type: ignore[misc]  # events are frozen


def test_deciders_of_every_form_are_accepted_as_they_are() -> None:
    domain = Domain("task", state=Task, commands=AddTask | FinishTask, events=TaskAdded)

    @domain.decide
    def add(task: Task | None, command: AddTask, context: Context) -> list[TaskAdded]:
        return [TaskAdded(command.title)]

    @domain.decide(allow={"owner"}, needs=lambda _: 1)
    def finish(task: Task, command: FinishTask, past: Past) -> On[TaskAdded] | None:
        return None

    assert finish(Task("a"), FinishTask("t1"), Past(version=1, state=None)) is None
    with pytest.raises(TypeError):
        finish(Task("a"), FinishTask("t1"))  # type: ignore[call-arg]  # it keeps its parameters


def test_a_decider_is_checked_against_its_domain() -> None:
    domain = Domain("task", state=Task, commands=AddTask | FinishTask, events=TaskAdded)

    @domain.decide  # type: ignore[arg-type]  # an event of another domain
    def wrong_event(task: Task | None, command: FinishTask) -> TaskFinished:
        return TaskFinished()

    @domain.decide  # type: ignore[arg-type]  # a state of another type
    def wrong_state(task: Stranger | None, command: AddTask) -> TaskAdded:
        return TaskAdded("a")

    # Which command it is, only running it tells: the overloads bind any struct.
    with pytest.raises(DomainError, match="not a command"):

        @domain.decide
        def wrong_command(task: Task | None, command: Stranger) -> TaskAdded:
            return TaskAdded("a")


def test_an_evolver_is_checked_against_its_domain() -> None:
    domain = Domain("task", state=Task, commands=AddTask, events=TaskAdded | TaskFinished)

    @domain.evolve  # type: ignore[arg-type]  # what it returns is no state
    def wrong_state(task: Task | None, event: TaskAdded) -> AddTask:
        return AddTask("t1", "a")

    @domain.evolve
    def gone(task: Task, event: TaskFinished) -> None:
        return None


def test_an_operation_of_a_patch_is_typed() -> None:
    PatchOp(retain="1")  # type: ignore[arg-type]  # a count is a number
