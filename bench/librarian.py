"""How long does a librarian take over fifty notes, with a model that answers at once?

Fifty notes are written at once, and each sets off a rule that has a model look at all of them: a
third of the answers cannot be read and is mended.  Timed from the first note to the end of the last
run, with a report and its operations for each, beside the same with a rule that does nothing.  The
seed's bounds are 90 s and two attempts (PERF-03).  Then all that one run proposes is reviewed, an
operation a commit, beside as many commands.
"""

from __future__ import annotations

import re
import time
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

import trio

from dalsegno.actors.domains.automation import (
    CreateRule,
    LaunchRule,
    UpdateRule,
    automation_app,
    run_id_of,
)
from dalsegno.actors.domains.automation.librarian import (
    Decision,
    ReviewRun,
    element,
    group,
    librarian_reports,
    librarian_reviews,
)
from dalsegno.actors.domains.notes import CreateNote, SetTitle
from dalsegno.protocol.providers import Answered, TextDelta
from dalsegno.protocol.runs import runs
from dalsegno.runtime import Runtime, Workspace

from ._harness import Report, Sample, rate, rounds
from ._processes import SUBJECT_CORE, pinned
from ._servers import postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dalsegno.protocol.providers import ChatPart, ChatRequest, ProviderSettings

    from ._harness import Options

HEADLINE = "batch"

_SOURCES = 50
_BATCH_S = 90.0
_ATTEMPTS = 2.0
_OPERATIONS = 100
_DEADLINE_S = 120.0
_WORDS = "from the sign to the end, " * 20


def _action(**plan: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {
        "kind": "librarian_structure",
        "provider": {"provider_kind": "lmstudio", "model": "at-once"},
        "protocol": "xml_attrless",
        "plan": {"goal": "tidy", "strict_mode": False, "max_operations": 128, **plan},
    }


class _Answer:
    """An answer that is there already."""

    def __init__(self, *parts: ChatPart) -> None:
        self._parts = iter(parts)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatPart:
        await trio.lowlevel.checkpoint()
        for part in self._parts:
            return part
        raise StopAsyncIteration


class _AtOnce:
    """A model that answers at once, every third time with what cannot be read."""

    def __init__(self) -> None:
        self._asked = 0
        self.proposes = 1

    def of(self, _settings: ProviderSettings) -> _AtOnce:
        return self

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[_Answer]:
        is_repair = len(request.messages) > 2
        self._asked += not is_repair
        text = "Sure!"
        if is_repair or self._asked % 3:
            found = re.search("<request_id>([^<]*)<", request.messages[1].content)
            assert found is not None
            text = _response(found[1], self.proposes)
        yield _Answer(
            TextDelta(text),
            Answered(finish_reason="stop", model=request.model, provider_kind="lmstudio"),
        )


def _response(request_id: str, count: int) -> str:
    operations = [
        group(
            "operation",
            [
                element("operation_id", f"o{number}"),
                element("kind", "create_note"),
                element("target_path", "new"),
                element("title", f"Note {number}"),
                element("body_markdown", _WORDS),
                element("reason", "more"),
                element("confidence", "1"),
            ],
        )
        for number in range(count)
    ]
    return group(
        "librarian_response",
        [
            element("request_id", request_id),
            element("status", "ok"),
            element("summary", "more notes"),
            group("operations", operations),
            group("warnings", []),
        ],
    )


async def _batch(workspace: Workspace, count: int) -> Sample:
    """Write notes at once, and wait for the ends of the runs that they set off."""
    began = time.perf_counter()
    with trio.fail_after(_DEADLINE_S):
        async with (
            workspace.subscribe(after=0) as events,
            trio.open_nursery() as nursery,
        ):
            for number in range(count):
                nursery.start_soon(workspace.send, CreateNote(f"Note {number}", _WORDS))
            ended = 0
            async for event in events:
                ended += event.type == "run_finished"
                if ended == count:
                    break
    return Sample(count=count, wall_s=time.perf_counter() - began)


async def _attempts(workspace: Workspace) -> float:
    """Return how often a model was asked for a proposal, on average."""
    page = await workspace.snapshot(librarian_reports, limit=100)
    return sum(each.state.attempts for each in page.items) / len(page.items)


async def _review(workspace: Workspace, model: _AtOnce, count: int) -> tuple[Sample, Sample]:
    """Have so many operations applied; and as many commands sent, one after the other."""
    model.proposes = count
    await workspace.send(CreateRule(rule_id="many", trigger="by-hand", action_json=_action()))
    await workspace.send(LaunchRule(rule_id="many", trigger_id="once"))
    run_id = run_id_of("many", "once")
    with trio.fail_after(_DEADLINE_S):
        async with workspace.of(runs).subscribe(run_id, after=0) as events:
            async for each in events:
                if each.record.type == "run_finished":
                    break
        decisions = [Decision(operation_id=f"o{n}", decision="accept") for n in range(count)]
        began = time.perf_counter()
        async with workspace.of(librarian_reviews).subscribe(run_id, after=0) as reviewed:
            await workspace.send(ReviewRun(run_id=run_id, decisions=decisions))
            async for event in reviewed:
                if event.record.type == "automation_run_reviewed":
                    break
        applied = Sample(count=count, wall_s=time.perf_counter() - began)
    note = await workspace.send(CreateNote("Note", _WORDS))
    began = time.perf_counter()
    for number in range(count):
        await workspace.send(SetTitle(note.entity_id, f"Note {number}", number + 1))
    return applied, Sample(count=count, wall_s=time.perf_counter() - began)


async def ask(options: Options) -> Report:
    """Measure."""
    report = Report("librarian", options)
    count = options.pick(_SOURCES, quick=3)
    operations = options.pick(_OPERATIONS, quick=3)
    structured = report.add(f"{count} notes, a librarian's run each", "run")
    nothing = report.add(f"{count} notes, a run each that does nothing", "run")
    applied = report.add(f"{operations} operations of a review", "operation")
    sent = report.add("  commands, one after the other", "operation")
    seconds = report.figure("seconds of the batch", "s", digits=2)
    attempts = report.figure("attempts at an answer", "attempts", digits=2)
    report.compare("seconds / 90", seconds, _BATCH_S, ratio_id="batch", at_most=1.0)
    report.compare("attempts / 2", attempts, _ATTEMPTS, ratio_id="attempts", at_most=1.0)
    report.compare(
        "rate of librarians' runs / of empty ones", structured, nothing, ratio_id="runs", of=rate
    )
    report.compare("rate of operations / of commands", applied, sent, ratio_id="review", of=rate)
    model = _AtOnce()
    with postgres() as database, pinned(SUBJECT_CORE):
        async with Runtime.open(
            database.dsn, app=automation_app, providers=lambda: nullcontext(model)
        ) as rt:
            for number, counts in enumerate(rounds(options)):
                model.proposes = 1
                samples = []
                for name, action in (("structured", _action()), ("noop", {"kind": "noop"})):
                    workspace = rt.workspace(f"{name}-{number}")
                    rule = CreateRule(rule_id="r", trigger="note_created", action_json=action)
                    await workspace.send(rule)
                    samples.append(await _batch(workspace, count))
                    await workspace.send(UpdateRule(rule_id="r", enabled=False))
                workspace = rt.workspace(f"structured-{number}")
                asked = await _attempts(workspace)
                samples += await _review(workspace, model, operations)
                if counts:
                    for series, sample in zip(
                        (structured, nothing, applied, sent), samples, strict=True
                    ):
                        series.samples.append(sample)
                    seconds.rounds.append(samples[0].wall_s)
                    attempts.rounds.append(asked)
    return report
