"""The runs of rules in the notes dialect: the seed's words, of the events that there are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from dalsegno.actors.domains.notes import note_dialect
from dalsegno.protocol import Event
from dalsegno.protocol.runs import (
    RunCancelRequested,
    RunFinished,
    RunProblem,
    RunReleased,
    RunRequested,
    RunStarted,
)

NOW = datetime(2026, 2, 13, tzinfo=UTC)
LABELS = {"rule_id": "rule", "triggering_event_id": "note:n:2"}
OF_RULE: dict[str, Any] = {"kind": "automation", "labels": LABELS}
COMMON = {
    "run_id": "r",
    "rule_id": "rule",
    "triggering_event_id": "note:n:2",
    "provider_kind": None,
    "model": None,
}
NOTHING: dict[str, Any] = {
    "operation_preview": [],
    "operation_applied": [],
    "operation_rejected": [],
    "operation_preview_count": 0,
    "operation_applied_count": 0,
    "operation_rejected_count": 0,
}
REQUESTED: dict[str, Any] = {
    "worker": "automation",
    "deadline": NOW,
    "attempts_max": 5,
    "on_disconnect": "continue",
}


def shown(event: msgspec.Struct, type_: str) -> dict[str, Any]:
    payload = msgspec.json.encode(event)
    one = Event(
        workspace_id="w",
        event_seq=7,
        stream_id="run:r",
        stream_seq=3,
        event_id="e",
        type=type_,
        type_version=1,
        payload=payload.decode(),
        actor_id="ada",
        command_id="c",
        recorded_at=NOW,
        chain=0,
    )
    seen: dict[str, Any] = msgspec.json.decode(
        bytes(note_dialect.workspace_event(one, msgspec.Raw(payload)))
    )
    assert (seen["event_seq"], seen["stream_id"]) == (7, "workspace:w")
    return seen


def finished(outcome: Any = "succeeded", **more: Any) -> RunFinished:
    return RunFinished(**OF_RULE, outcome=outcome, attempt=1, **more)


@pytest.mark.parametrize(
    ("event", "type_", "status"),
    [
        (RunRequested(**OF_RULE, **REQUESTED), "run_requested", "queued"),
        (RunStarted(**OF_RULE, attempt=1, attempt_id="a"), "run_started", "running"),
    ],
)
def test_x_auto_2_a_run_is_shown_as_queued_and_running(
    event: msgspec.Struct, type_: str, status: str
) -> None:
    seen = shown(event, type_)
    assert (seen["type"], seen["event_type"]) == ("automation_event", f"automation_run_{status}")
    assert (seen["run_id"], seen["status"]) == ("r", status)
    code = f"LIBRARIAN_RUN_{status.upper()}"
    assert seen["payload"] == {"event_code": code, "status": status, **COMMON}


@pytest.mark.parametrize(
    ("event", "status", "error"),
    [
        (finished(result={"kind": "noop", "applied": False}), "succeeded", (None, None)),
        (finished("failed", error=RunProblem(code="X", message="y")), "failed", ("X", "y")),
        (finished("cancelled"), "failed", ("RUN_CANCELLED", None)),
        (finished("interrupted"), "failed", ("RUN_INTERRUPTED", None)),
    ],
)
def test_x_auto_2_the_end_of_a_run_has_its_operations_though_there_be_none(
    event: RunFinished, status: str, error: tuple[str | None, str | None]
) -> None:
    seen = shown(event, "run_finished")
    assert (seen["event_type"], seen["status"]) == (f"automation_run_{status}", status)
    assert seen["payload"] == {
        "event_code": f"LIBRARIAN_RUN_{status.upper()}",
        "status": status,
        **COMMON,
        **NOTHING,
        "error_code": error[0],
        "error_detail": error[1],
    }


def test_what_a_run_says_of_its_operations_is_shown_and_counted() -> None:
    labels = {**LABELS, "provider_kind": "lmstudio", "model": "small"}
    result = {"operation_preview": [1, 2], "operation_applied": [1], "operation_rejected": "odd"}
    event = RunFinished(
        kind="automation", labels=labels, outcome="succeeded", attempt=1, result=result
    )
    payload = shown(event, "run_finished")["payload"]
    assert (payload["provider_kind"], payload["model"]) == ("lmstudio", "small")
    assert (payload["operation_preview"], payload["operation_preview_count"]) == ([1, 2], 2)
    assert (payload["operation_applied_count"], payload["operation_rejected_count"]) == (1, 0)


@pytest.mark.parametrize(
    ("event", "type_"),
    [
        (RunReleased(**OF_RULE, attempt=1, reason="drained"), "run_released"),
        (RunCancelRequested(**OF_RULE, by=None), "run_cancel_requested"),
        (RunStarted(kind="agent", labels=LABELS, attempt=1, attempt_id="a"), "run_started"),
        (RunStarted(kind="automation", labels={}, attempt=1, attempt_id="a"), "run_started"),
    ],
)
def test_all_else_is_shown_as_it_is(event: msgspec.Struct, type_: str) -> None:
    seen = shown(event, type_)
    assert (seen["type"], seen["event_type"]) == ("workspace_event", type_)
    assert seen["payload"] == msgspec.to_builtins(event)
