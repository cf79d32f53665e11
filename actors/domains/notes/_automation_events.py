"""The runs of rules, as the notes dialect shows them on a workspace's stream.

They are runs like others in the log, ``run_requested``, ``run_started``, ``run_finished``, and are
shown as the seed has them; everything else that happens to one is shown as it is.  Each of these
is one event here and there, so that no number is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol.runs import AUTOMATION, Outcome, RunProblem, runs

if TYPE_CHECKING:
    from dalsegno.protocol import Event

RULE_LABEL = "rule_id"
"""The label of a run that says whose it is …"""
TRIGGER_LABEL = "triggering_event_id"
"""… and what set that off."""

_OPERATIONS = ("operation_preview", "operation_applied", "operation_rejected")
"""What a run says of its operations: arrays, each with its count."""


class _RunEvent(msgspec.Struct, frozen=True, gc=False):
    """What is shown of any event of a run."""

    kind: str
    labels: dict[str, str]
    outcome: Outcome = "succeeded"
    result: Any = None
    error: RunProblem | None = None


_STATUSES = {"run_requested": "queued", "run_started": "running", "run_finished": ""}
_decode = msgspec.json.Decoder(_RunEvent).decode


def shown_run(event: Event) -> tuple[str, dict[str, Any]] | None:
    """Return the type and the payload of an event of a rule's run as the seed has them.

    None for all other events.
    """
    if event.type not in _STATUSES or not event.stream_id.startswith(f"{runs.name}:"):
        return None
    run = _decode(event.payload)
    if run.kind != AUTOMATION or RULE_LABEL not in run.labels:
        return None
    status = _STATUSES[event.type] or ended_as(run.outcome)
    payload: dict[str, Any] = {
        "event_code": f"LIBRARIAN_RUN_{status.upper()}",
        "run_id": event.stream_id.partition(":")[2],
        "rule_id": run.labels[RULE_LABEL],
        "triggering_event_id": run.labels.get(TRIGGER_LABEL),
        "status": status,
        "provider_kind": run.labels.get("provider_kind"),
        "model": run.labels.get("model"),
    }
    if event.type == "run_finished":
        payload["error_code"], payload["error_detail"] = problem_of(run.outcome, run.error)
        said = run.result if isinstance(run.result, dict) else {}
        lists = {name: said.get(name) for name in _OPERATIONS}
        whole = {name: list_ if isinstance(list_, list) else [] for name, list_ in lists.items()}
        payload |= whole
        payload |= {f"{name}_count": len(list_) for name, list_ in whole.items()}
    return f"automation_run_{status}", payload


def ended_as(outcome: Outcome) -> str:
    """Return how the seed calls an end of a run: it knows two."""
    return "succeeded" if outcome == "succeeded" else "failed"


def problem_of(outcome: Outcome, error: RunProblem | None) -> tuple[str | None, str | None]:
    """Return the code and the detail of what a run ended with; None where it went well."""
    if error is not None:
        return error.code, error.message
    if outcome == "succeeded":
        return None, None
    return f"RUN_{outcome.upper()}", None
