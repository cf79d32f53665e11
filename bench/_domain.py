"""A tiny domain, as a host's first one would be: the cost of a command with almost no work."""

from __future__ import annotations

import msgspec

from dalsegno.protocol import Domain, Reject


class Task(msgspec.Struct, frozen=True):
    title: str


class AddTask(msgspec.Struct, frozen=True):
    task_id: str
    title: str


class RenameTask(msgspec.Struct, frozen=True):
    task_id: str
    title: str


class RenameOften(msgspec.Struct, frozen=True):
    """Rename a task so many times at once: all of it happens, or none."""

    task_id: str
    title: str
    times: int


class TaskAdded(msgspec.Struct, frozen=True):
    title: str


class TaskRenamed(msgspec.Struct, frozen=True):
    title: str


tasks = Domain(
    "task", state=Task, commands=AddTask | RenameTask | RenameOften, events=TaskAdded | TaskRenamed
)


@tasks.decide
def add(task: Task | None, command: AddTask) -> TaskAdded:
    if task is not None:
        raise Reject("TASK_EXISTS")
    return TaskAdded(command.title)


@tasks.decide
def rename(_task: Task, command: RenameTask) -> TaskRenamed:
    return TaskRenamed(command.title)


@tasks.decide
def rename_often(_task: Task, command: RenameOften) -> list[TaskRenamed]:
    return [TaskRenamed(command.title) for _ in range(command.times)]


@tasks.evolve
def added(_task: Task | None, event: TaskAdded) -> Task:
    return Task(event.title)


@tasks.evolve
def renamed(task: Task, event: TaskRenamed) -> Task:
    return msgspec.structs.replace(task, title=event.title)
