"""A tiny domain, as a host's first one would be: the cost of a command with next to no work."""

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


class TaskAdded(msgspec.Struct, frozen=True):
    title: str


class TaskRenamed(msgspec.Struct, frozen=True):
    title: str


tasks = Domain("task", state=Task, commands=AddTask | RenameTask, events=TaskAdded | TaskRenamed)


@tasks.decide
def add(task: Task | None, command: AddTask) -> TaskAdded:
    if task is not None:
        raise Reject("TASK_EXISTS")
    return TaskAdded(command.title)


@tasks.decide
def rename(_task: Task, command: RenameTask) -> TaskRenamed:
    return TaskRenamed(command.title)


@tasks.evolve
def added(_task: Task | None, event: TaskAdded) -> Task:
    return Task(event.title)


@tasks.evolve
def renamed(task: Task, event: TaskRenamed) -> Task:
    return msgspec.structs.replace(task, title=event.title)
