"""Who carries out the actions of rules.

A kind of action is a coroutine of the run and its task, in `ACTIONS`; what it raises is what the
run fails with, and what it returns takes effect with the run's end, or not at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec

from dalsegno.actors.domains.notes import TAGS_MAX, Note, SetTags, notes
from dalsegno.protocol import Reject
from dalsegno.protocol.runs import AUTOMATION, Done, Retry, Work, Worker

from ._actions import LIBRARIAN_STRUCTURE, NOOP, TAG_NOTE, tag_of
from ._librarian import structure
from ._runs import WORKER, Task

Act: TypeAlias = Callable[[Work, Task], Awaitable[Done]]

_CONCURRENCY = 8
"""Runs at a time in a workspace: most wait for a model, and hold up none that asks for nothing."""
_TRIED_AGAIN = frozenset({"VERSION_CONFLICT", "WORKER_FAILED"})
"""What may go well the next time: somebody else changed the note meanwhile, as they may."""


async def _do_nothing(_run: Work, _task: Task) -> Done:
    return Done(result={"kind": NOOP, "applied": False})


async def _tag_note(run: Work, task: Task) -> Done:
    tag = tag_of(task.action)
    if task.note_id is None:
        raise _failed("what set the rule off names no note")
    note: Note | None = await run.get(notes, task.note_id)
    if note is None or note.deleted_at is not None:
        raise _failed("the note is gone")
    result = {"kind": TAG_NOTE, "tag": tag, "note_id": task.note_id}
    if tag in note.tags:
        return Done(result={**result, "applied": False})
    if len(note.tags) >= TAGS_MAX:
        raise _failed(f"the note has {TAGS_MAX} tags already")
    # Based on what was read, as a user's write is: one in between is not lost.
    tags = SetTags(task.note_id, (*note.tags, tag), note.version)
    return Done(result={**result, "applied": True}, commands=(tags,))


ACTIONS: Mapping[str, Act] = {
    NOOP: _do_nothing,
    TAG_NOTE: _tag_note,
    LIBRARIAN_STRUCTURE: structure,
}
"""What is carried out, by the kind of action."""


async def _act(run: Work, _event: msgspec.Struct | None = None) -> Done:
    task = msgspec.convert(run.input, Task)
    if task.is_limited:
        raise Reject("RATE_LIMITED", "the rule was set off too often")
    act = ACTIONS.get(task.action["kind"])
    if act is None:
        raise Reject("RULE_ACTION_INVALID", "nothing carries out actions of this kind")
    return await act(run, task)


def _failed(reason: str) -> Reject:
    return Reject("RULE_ACTION_FAILED", reason)


automation_worker = Worker(
    name=WORKER,
    function=_act,
    kind=AUTOMATION,
    concurrency=_CONCURRENCY,
    retry=Retry(attempts_max=5, first_s=0.1, max_s=2.0, on=_TRIED_AGAIN),
    is_reactor=True,
)
"""Carries out what rules ask for.  Nobody asks it otherwise: a rule is launched (`LaunchRule`)."""
