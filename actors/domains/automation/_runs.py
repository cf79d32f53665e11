"""The runs of rules: what each is asked, and the id that there is once for a rule and a trigger."""

from __future__ import annotations

from typing import Any

import msgspec

from dalsegno.actors.domains.notes import RULE_LABEL, TRIGGER_LABEL
from dalsegno.protocol import run_id_for
from dalsegno.protocol.runs import RequestRun

from ._actions import asked_of

WORKER = "automation"
"""The name of the worker that carries them out."""
REACTOR = "automation_rules"
"""The name of the reactor that asks for them."""
TRIGGER_ID_CHARS_MAX = 256
"""Of the id of what set a rule off, as of any label of a run."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked: the rule as it was when it was set off."""

    rule_id: str
    trigger_id: str
    action: dict[str, Any]
    note_id: str | None = None
    """The note that set it off."""
    is_limited: bool = False
    """Whether the rule was set off too often, so that nothing happens."""


def run_id_of(rule_id: str, trigger_id: str) -> str:
    """Return the id of the run of a rule and a trigger, the same for ever."""
    return run_id_for(REACTOR, rule_id, trigger_id)


def labels_of(rule_id: str, trigger_id: str, action: dict[str, Any]) -> dict[str, str]:
    """Return the labels of a run, which each of its events has."""
    return {RULE_LABEL: rule_id, TRIGGER_LABEL: trigger_id, **asked_of(action)}


def asking(
    rule_id: str, trigger_id: str, action: dict[str, Any], note_id: str | None
) -> RequestRun:
    """Return the command that asks for a run."""
    task = Task(rule_id=rule_id, trigger_id=trigger_id, action=action, note_id=note_id)
    return RequestRun(
        worker=WORKER,
        input=msgspec.to_builtins(task),
        labels=labels_of(rule_id, trigger_id, action),
    )
