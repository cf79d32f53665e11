"""What sets rules off: types of events, and ids of what happened.

For each type there is an entity beside the rules that names those that it sets off, so that there
are no more than one event can ask runs for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Never

import msgspec

from dalsegno.protocol import Domain, On, Reject, Touched

from ._refusals import invalid

TRIGGER_CHARS_MAX = 64
RULES_PER_TRIGGER_MAX = 100
"""Enabled rules of one trigger in a workspace: as many as one event may ask runs for."""

_TRIGGER = re.compile(rf"[a-z0-9_-]{{1,{TRIGGER_CHARS_MAX}}}", re.ASCII)
_NOTE = re.compile(r"note:(.+):[1-9][0-9]*", re.ASCII)


def check_trigger(trigger: Any) -> str:  # noqa: ANN401 - JSON
    """Check and return a trigger, the type of an event, of which there need be none yet.

    Raises:
        Reject: ``RULE_INVALID``.

    """
    if not _is_trigger(trigger):
        raise invalid("trigger", f"it has 1 to {TRIGGER_CHARS_MAX} of a-z 0-9 _ -")
    return str(trigger)


def _is_trigger(trigger: object) -> bool:
    return isinstance(trigger, str) and _TRIGGER.fullmatch(trigger) is not None


def on_key(trigger: str) -> str:
    """Return the key under which the enabled rules of a trigger are listed."""
    return f"on:{trigger}"


def of_note(note_id: str, version: int) -> str:
    """Return the id of what happened to a note, at a version of it."""
    return f"note:{note_id}:{version}"


def note_in(trigger_id: str) -> str | None:
    """Return the note that something happened to, of its id; None where that names none."""
    named = _NOTE.fullmatch(trigger_id)
    return None if named is None else named[1]


# ------------------------------------------------------------------------ the rules of a trigger


class TriggerRules(msgspec.Struct, frozen=True):
    """The enabled rules of a trigger."""

    rule_ids: tuple[str, ...]


class TriggerTaken(msgspec.Struct, frozen=True):
    """An event of this type sets a rule off from now on."""

    rule_id: str


class TriggerReleased(msgspec.Struct, frozen=True):
    """It does no longer."""

    rule_id: str


triggers = Domain(
    "rule_trigger",
    state=TriggerRules,
    commands=Never,
    events=TriggerTaken | TriggerReleased,
)
"""One entity for each trigger that has enabled rules, changed together with them."""


@triggers.evolve
def _taken(before: TriggerRules | None, event: TriggerTaken) -> TriggerRules:
    known = () if before is None else before.rule_ids
    return TriggerRules((*known, event.rule_id))


@triggers.evolve
def _released(before: TriggerRules, event: TriggerReleased) -> TriggerRules | None:
    left = tuple(each for each in before.rule_ids if each != event.rule_id)
    return TriggerRules(left) if left else None


def entity_of(trigger: object) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    """Return the entity of a trigger, for ``touches=``; none for what is no trigger."""
    return [(triggers, str(trigger))] if _is_trigger(trigger) else []


def moved(rule_id: str, before: str | None, after: str | None, touched: Touched) -> list[On[Any]]:
    """Return the events of a rule whose trigger is another now; None: it is none while disabled.

    Raises:
        Reject: ``QUOTA_EXCEEDED``.

    """
    if before == after:
        return []
    events: list[On[Any]] = []
    if before is not None:
        events.append(On(triggers, before, TriggerReleased(rule_id)))
    if after is not None:
        known = touched.get(triggers, after)
        if known is not None and len(known.rule_ids) >= RULES_PER_TRIGGER_MAX:
            message = f"a workspace has at most {RULES_PER_TRIGGER_MAX} enabled rules of a trigger"
            raise Reject("QUOTA_EXCEEDED", message, trigger=after)
        events.append(On(triggers, after, TriggerTaken(rule_id)))
    return events
