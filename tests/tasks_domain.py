"""The README's domain: what a host application writes, whole."""

from __future__ import annotations

import msgspec

from dalsegno.protocol import App, Domain, Reject


class Task(msgspec.Struct, frozen=True):
    title: str
    done: bool = False


class AddTask(msgspec.Struct, frozen=True):
    task_id: str
    title: str


class FinishTask(msgspec.Struct, frozen=True):
    task_id: str


class TaskAdded(msgspec.Struct, frozen=True):
    title: str


class TaskFinished(msgspec.Struct, frozen=True):
    pass


tasks = Domain("task", state=Task, commands=AddTask | FinishTask, events=TaskAdded | TaskFinished)


@tasks.decide
def add(task: Task | None, command: AddTask) -> TaskAdded:
    if task is not None:
        raise Reject("TASK_EXISTS")
    return TaskAdded(command.title)


@tasks.decide
def finish(task: Task, command: FinishTask) -> TaskFinished | None:
    return None if task.done else TaskFinished()


@tasks.evolve
def added(_task: Task | None, event: TaskAdded) -> Task:
    return Task(event.title)


@tasks.evolve
def finished(task: Task, event: TaskFinished) -> Task:
    return msgspec.structs.replace(task, done=True)


app = App([tasks])
