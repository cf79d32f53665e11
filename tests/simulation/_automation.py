"""Schedules of automation: rules, librarians whose models are unreliable, reviews of all that, and
exports of what has come of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import msgspec
import trio

from dalsegno.actors._service import Service
from dalsegno.actors.domains.automation import (
    CreateRule,
    DeleteRule,
    LaunchRule,
    UpdateRule,
    automation_app,
    automation_domains,
    automation_workers,
    run_id_of,
)
from dalsegno.actors.domains.automation.librarian import (
    Decision,
    LibrarianReport,
    LibrarianReview,
    ReviewRun,
    librarian_operations,
    librarian_reports,
    librarian_reviews,
)
from dalsegno.actors.domains.jobs import export_worker, write_markdown
from dalsegno.actors.domains.notes import ApplyPatch, CreateNote, DeleteNote, SetTitle, notes
from dalsegno.actors.testing import OPERATIONS, Ask, Choices, SeededChoices, Simulated, simulate
from dalsegno.actors.testing.simulation._invariant import fold_into
from dalsegno.protocol import App, Cursor, Event, PatchOp, Role
from dalsegno.protocol.providers import (
    Answered,
    ChatPart,
    ChatRequest,
    ProviderError,
    ProviderSettings,
    Restarted,
    TextDelta,
)
from dalsegno.protocol.runs import EntityAt, PageAt, RequestRun
from tests._librarian import operation, response, structuring

from ._answer import Answer
from ._disk import SimDisk

NOTES, RULES, TRIGGERS = "abc", "rs", "xy"
OPERATION_IDS = ("o0", "o1", "o2", "o3")
_SENT = frozenset(name for domain in automation_app.domains for name in domain.offered)
_EXPORT = msgspec.structs.replace(
    export_worker,
    deadline_s=8.0,
    allow=frozenset({"owner", "editor"}),
    retry=msgspec.structs.replace(export_worker.retry, first_s=0.2, max_s=1.0),
)
_APP = App(
    automation_app.domains,
    workers=[*automation_workers, _EXPORT],
    roles={"editor": Role(commands=_SENT)},
)
"""Every client may do everything: how access ends is other schedules' to show."""

# --------------------------------------------------------------------------------- the models


class Models:
    """Model providers that answer, mostly; what they say is as repeatable as the schedule."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def of(self, settings: ProviderSettings) -> _Model:
        return _Model(self._random, settings)


class _Model:
    def __init__(self, random: Random, settings: ProviderSettings) -> None:
        self._random = random
        self._settings = settings

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[Answer]:
        yield Answer(self._parts(request))

    def _parts(self, request: ChatRequest) -> list[ChatPart | float | ProviderError]:
        random = self._random
        text = request.messages[1].content
        (request_id,) = re.findall(r"<request_id>([^<]*)<", text)
        shown = re.findall(r"<source_id>([^<]*)<", text)
        said = response(request_id, *self._operations(shown))
        if random.random() < 0.2:
            said = random.choice(["Sure!", said[:-10], said.replace(request_id, "other")])
        parts: list[ChatPart | float | ProviderError] = [random.choice([0.0, 0.1, 1.0, 3.0])]
        cut = random.randint(0, len(said))
        if random.random() < 0.2:  # it is asked again, by whoever asks it
            parts += [TextDelta(said[:cut] or "x"), Restarted(2, request.model, "timeout")]
        parts += [TextDelta(said[:cut]), random.choice([0.0, 0.2, 2.0]), TextDelta(said[cut:])]
        parts = [part for part in parts if not (isinstance(part, TextDelta) and not part.text)]
        if random.random() < 0.1:
            return [*parts[:-1], ProviderError("timeout", "silent for too long")]
        kind = self._settings.provider_kind
        return [
            *parts,
            Answered(finish_reason="stop", model=request.model, provider_kind=kind),
        ]

    def _operations(self, shown: Sequence[str]) -> list[dict[str, Any]]:
        random, proposed = self._random, []
        for name in OPERATION_IDS[: random.randint(2, len(OPERATION_IDS))]:
            target = random.choice([*shown, *shown, *shown, "elsewhere"])
            kind = random.choice(
                [
                    "create_note",
                    "rewrite_note",
                    "retitle_note",
                    "relink_note",
                    "retag_note",
                    "defer",
                ]
            )
            text = random.choice(["text", "[[text]]", "text [[T]]", "other text"])
            said: dict[str, Any] = {"body_markdown": text, "title": random.choice("TU")}
            if kind != "create_note":
                said["target_note_id"] = target
            proposed.append(operation(name, kind, **said))
        return proposed


# ------------------------------------------------------------------------------- the schedules


class Drawing:
    """Draws commands of people who write notes, make rules, and review what came of them."""

    def __init__(self) -> None:
        self._runs: list[str] = []
        """That were launched, or may have been."""

    def __call__(self, choices: Choices) -> Ask:
        drawn = choices.integer(0, 19)
        if drawn <= 3:
            note_id = choices.pick(NOTES)
            return Ask(CreateNote(f"Note {note_id}", "text", note_id=note_id))
        if drawn <= 5:
            return Ask(self._write(choices))
        if drawn <= 8:
            return Ask(
                CreateRule(
                    rule_id=choices.pick(RULES),
                    trigger=choices.pick(["note_created", "note_patched", "by-hand"]),
                    action_json=_action(choices),
                )
            )
        if drawn == 9:
            rule_id = choices.pick(RULES)
            return Ask(
                DeleteRule(rule_id=rule_id)
                if choices.chance(0.3)
                else UpdateRule(rule_id=rule_id, enabled=choices.chance(0.7))
            )
        if drawn == 10:
            run_id = f"export-{choices.pick(TRIGGERS)}{choices.pick(NOTES)}"
            return Ask(RequestRun(run_id=run_id, worker=_EXPORT.name))
        return Ask(
            self._launch(choices) if drawn <= 12 or not self._runs else self._review(choices)
        )

    def _write(self, choices: Choices) -> msgspec.Struct:
        note_id, base = choices.pick(NOTES), choices.integer(1, 4)
        if choices.chance(0.1):
            return DeleteNote(note_id)
        if choices.chance(0.5):
            return SetTitle(note_id, f"Titled {base}", base)
        return ApplyPatch(note_id, [PatchOp(insert="x")], base)

    def _launch(self, choices: Choices) -> LaunchRule:
        rule_id, trigger_id = choices.pick(RULES), choices.pick(TRIGGERS)
        self._runs.append(run_id_of(rule_id, trigger_id))
        return LaunchRule(rule_id=rule_id, trigger_id=trigger_id, note_id=choices.pick(NOTES))

    def _review(self, choices: Choices) -> ReviewRun:
        decisions = [
            Decision(operation_id=name, decision=choices.pick(["accept"] * 5 + ["reject"]))
            for name in OPERATION_IDS[: choices.integer(1, 2)]
        ]
        return ReviewRun(
            run_id=choices.pick(self._runs), apply=choices.chance(0.8), decisions=decisions
        )


def _action(choices: Choices) -> dict[str, Any]:
    if choices.chance(0.7):
        return structuring("http://models", plan={"max_operations": 3})
    return choices.pick([{"kind": "noop"}, {"kind": "tag_note", "tag": "seen"}])


def simulated_automation(seed: int, **more: Any) -> Simulated:
    """Run one schedule."""
    disk = SimDisk(seed)
    done = simulate(
        SeededChoices(seed),
        _APP,
        commands=Drawing(),
        make_service=partial(Service, providers=Models(seed), artifacts=disk),
        operations=(*OPERATIONS, *("burst",) * 4),
        until="settled",
        **{"steps": 60, "workspaces": 1, **more},
    )
    done.bugs.extend(automation_faults(done.log))
    done.bugs.extend(export_faults(done.log, disk.files))
    return done


def happened(done: Simulated) -> Counter[str]:
    """Count what happened, by type."""
    return Counter(event.type for events in done.log.values() for event in events)


# ------------------------------------------------------------------------------------ the judge


def automation_faults(log: dict[str, list[Event]]) -> list[str]:
    """Return what may not be said of any workspace where rules, librarians and reviews act."""
    return [
        f"{workspace_id}: {wrong}" for workspace_id, events in log.items() for wrong in _of(events)
    ]


def export_faults(log: dict[str, list[Event]], files: Mapping[str, bytes]) -> list[str]:
    """Return the exports that have not what the notes were when they were asked for."""
    wrong: list[str] = []
    for workspace_id, events in log.items():
        asked = {event.stream_id: event for event in events if event.type == "run_requested"}
        for event in events:
            if event.type != "run_finished":
                continue
            result = msgspec.json.decode(event.payload)["result"]
            if not isinstance(result, dict) or "artifact" not in result:
                continue
            at = asked[event.stream_id]
            expected = trio.run(_exported, workspace_id, events, Cursor(at.event_seq, at.chain))
            if files.get(result["artifact"]["name"]) != expected:
                wrong.append(f"{workspace_id}: {event.stream_id} is not the notes of then")
    return wrong


async def _exported(workspace_id: str, events: Sequence[Event], at: Cursor) -> bytes:
    """Export from the log alone."""
    states: dict[str, Any] = {}
    for event in events[: at.seq]:
        fold_into({notes.name: notes}, states, event)
    out = _Written()
    await write_markdown(_Folded(workspace_id, states), at, out)
    return out.data


class _Written:
    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data


class _Folded:
    """The notes of a moment, as one page."""

    def __init__(self, workspace_id: str, states: Mapping[str, Any]) -> None:
        self.workspace_id = workspace_id
        self._states = states

    async def pause(self) -> None:
        """Hold up nobody."""

    async def count_at(self, _domain: object, _event_seq: int) -> int:
        return len(self._states)

    async def page_at(
        self, domain: object, event_seq: int, *, after: str = "", limit: int = 100
    ) -> PageAt:
        assert (after, len(self._states) <= limit) == ("", True)
        items = [
            EntityAt(entity_id=name.partition(":")[2], version=state.version, state=state)
            for name, state in sorted(self._states.items())
        ]
        return PageAt(items=tuple(items), next=None)


def _of(events: Sequence[Event]) -> list[str]:
    domains = {domain.name: domain for domain in automation_domains}
    states: dict[str, Any] = {}
    wrong: list[str] = []
    settled: Counter[str] = Counter()
    left: dict[tuple[str, str], int] = {}  # how a run's operations have left a note
    for number, event in enumerate(events):
        fold_into(domains, states, event)
        name, _, entity_id = event.stream_id.partition(":")
        if name != librarian_operations.name or event.type == "operation_proposed":
            continue
        settled[entity_id] += 1
        if event.type != "operation_applied":
            continue
        operation = states[event.stream_id]
        if operation.reject_reason is not None:
            wrong.append(f"{entity_id} was applied, and is rejected")
        run_id, note_id, version = operation.run_id, operation.note_id, operation.version
        beside = [each for each in events[max(0, number - 2) : number] if _is_with(each, event)]
        changed = [each for each in beside if each.stream_id == f"note:{note_id}"]
        if (operation.result != "no_change") is not bool(changed):
            wrong.append(f"{entity_id} is {operation.result}, and its note has {len(changed)}")
        base = 0 if operation.kind == "create_note" else operation.seen_version
        base = left.get((run_id, note_id), base)
        if version != base + len(changed):
            wrong.append(f"{entity_id} was applied to version {version} after {base}")
        left[run_id, note_id] = version
    wrong += _without_report(events, states)
    wrong += [f"{entity_id} was settled {n} times" for entity_id, n in settled.items() if n > 1]
    for stream_id, state in states.items():
        run_id = stream_id.partition(":")[2]
        if isinstance(state, LibrarianReport):
            wrong += _miscounted(run_id, state, states)
        if isinstance(state, LibrarianReview):
            wrong += _left_open(run_id, state, events)
    return wrong


def _without_report(events: Sequence[Event], states: dict[str, Any]) -> list[str]:
    """Return the runs that say that they propose what their reports do not have."""
    wrong: list[str] = []
    for event in events:
        if event.type != "run_finished":
            continue
        result = msgspec.json.decode(event.payload)["result"]
        if not isinstance(result, dict) or result.get("kind") != "librarian_structure":
            continue
        run_id = event.stream_id.partition(":")[2]
        report = states.get(librarian_reports.stream_id(run_id))
        said = len(result["operation_preview"]) + len(result["operation_rejected"])
        if report is None or report.parsed_operations != said:
            wrong.append(f"{event.stream_id} says {said} operations, its report {report}")
    return wrong


def _is_with(one: Event, other: Event) -> bool:
    return (one.causation, one.command_id) == (other.causation, other.command_id)


def _miscounted(run_id: str, report: LibrarianReport, states: dict[str, Any]) -> list[str]:
    kept = [
        states.get(f"{librarian_operations.name}:{run_id}.{index}")
        for index in range(report.parsed_operations)
    ]
    statuses = Counter(None if each is None else each.status for each in kept)
    counted = {"applied": report.applied_operations, "rejected": report.rejected_operations}
    if statuses[None] or any(statuses[name] != count for name, count in counted.items()):
        return [f"{librarian_reports.stream_id(run_id)} counts {counted}, there are {statuses}"]
    return []


def _left_open(run_id: str, review: LibrarianReview, events: Sequence[Event]) -> list[str]:
    """Return what was accepted and is neither applied nor refused, though its run has succeeded."""
    if review.applied_by is None:
        return []
    ends = [
        msgspec.json.decode(event.payload)["outcome"]
        for event in events
        if event.stream_id == f"run:{review.applied_by}" and event.type == "run_finished"
    ]
    if ends == ["succeeded"] and review.is_applying:
        return [f"{librarian_reviews.stream_id(run_id)} is not done, though its run is"]
    return []
