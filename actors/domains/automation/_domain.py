"""Rules: what a workspace does by itself when something happens to its notes.

A rule has a trigger, the type of an event; a condition; and an action, which a run carries out with
the rights of whoever made the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.protocol import Audit, Context, Domain, Index, On, Reject, Touched, check_id
from dalsegno.protocol.runs import asked_for, runs

from ._actions import check_action
from ._conditions import check_condition
from ._refusals import no_rule
from ._runs import TRIGGER_ID_CHARS_MAX, asking, run_id_of
from ._triggers import check_trigger, entity_of, moved, note_in, on_key

RULE_BYTES_MAX = 16 * 1024
"""A rule's condition and action together, as JSON: each of its runs has the action."""

ADMINS = frozenset({"owner", "admin"})
"""Who may change rules, and launch them."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule."""

    trigger: str
    condition_json: dict[str, Any]
    action_json: dict[str, Any]
    enabled: bool
    created_by: str | None
    """The user, whose rights its runs have; None for the embedding program."""
    updated_by: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def listens_to(self) -> str | None:
        """The type of event that sets it off; None while it is disabled."""
        return self.trigger if self.enabled else None


class CreateRule(msgspec.Struct, frozen=True, kw_only=True):
    """Make a rule; without an id the runtime makes one."""

    trigger: Any = None
    condition_json: Any = {}
    action_json: Any = None
    enabled: bool = True
    rule_id: str | None = None


class UpdateRule(msgspec.Struct, frozen=True, kw_only=True):
    """Change a rule; what is left out stays."""

    rule_id: str
    trigger: Any = UNSET
    condition_json: Any = UNSET
    action_json: Any = UNSET
    enabled: bool | UnsetType = UNSET
    base_version: int | None = None


class DeleteRule(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a rule; the runs that it asked for stay."""

    rule_id: str
    base_version: int | None = None


class LaunchRule(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for the run of a rule in person, whatever its condition; once for each trigger id."""

    rule_id: str
    trigger_id: str
    """What it is for: that of an event gives the run that the event asked for, or would have."""
    note_id: str | None = None
    """The note that it is about; None: that of the trigger id, if it names one."""
    workspace_id: str | None = None
    """The workspace that the rule has to be in."""


class RuleCreated(msgspec.Struct, frozen=True, kw_only=True):
    """A rule was made."""

    trigger: str
    condition_json: dict[str, Any]
    action_json: dict[str, Any]
    enabled: bool
    by: str | None
    at: datetime


class RuleUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """A rule says this now."""

    trigger: str
    condition_json: dict[str, Any]
    action_json: dict[str, Any]
    enabled: bool
    by: str | None
    at: datetime


class RuleDeleted(msgspec.Struct, frozen=True):
    """A rule was deleted."""


automation_rules = Domain(
    "automation_rule",
    state=Rule,
    commands=CreateRule | UpdateRule | DeleteRule | LaunchRule,
    events=RuleCreated | RuleUpdated | RuleDeleted,
    id_field="rule_id",
    allow=ADMINS,
)
"""The rules of a workspace."""


# ------------------------------------------------------------------------------------- deciding


def _new_trigger(
    command: CreateRule | UpdateRule,
) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return entity_of(command.trigger)


def _old_trigger(
    rule: Rule | None, _command: UpdateRule | DeleteRule
) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return [] if rule is None else entity_of(rule.trigger)


@automation_rules.decide(touches=_new_trigger)
def _create(
    rule: Rule | None, command: CreateRule, context: Context, touched: Touched
) -> Sequence[RuleCreated | On[Any]]:
    if rule is not None:
        raise Reject("STATE_CONFLICT", "a rule has this id", field="rule_id")
    created = RuleCreated(
        trigger=check_trigger(command.trigger),
        condition_json=check_condition(command.condition_json),
        action_json=check_action(command.action_json, context.workspace_id),
        enabled=command.enabled,
        by=context.principal.user_id,
        at=context.now,
    )
    _check_size(created)
    listens_to = created.trigger if created.enabled else None
    return [created, *moved(context.entity_id, None, listens_to, touched)]


@automation_rules.decide(touches=_new_trigger, follows=_old_trigger)
def _update(
    rule: Rule | None, command: UpdateRule, context: Context, touched: Touched
) -> Sequence[RuleUpdated | On[Any]]:
    if rule is None:
        raise no_rule()
    said = command
    updated = RuleUpdated(
        trigger=rule.trigger if said.trigger is UNSET else check_trigger(said.trigger),
        condition_json=rule.condition_json
        if said.condition_json is UNSET
        else check_condition(said.condition_json),
        action_json=rule.action_json
        if said.action_json is UNSET
        else check_action(said.action_json, context.workspace_id),
        enabled=rule.enabled if said.enabled is UNSET else said.enabled,
        by=context.principal.user_id,
        at=context.now,
    )
    _check_size(updated)
    # As they are written: to Python, True is 1 and 1 is 1.0.
    if _written(updated) == _written(rule):
        return []
    listens_to = updated.trigger if updated.enabled else None
    return [updated, *moved(context.entity_id, rule.listens_to, listens_to, touched)]


@automation_rules.decide(follows=_old_trigger)
def _delete(
    rule: Rule | None, _command: DeleteRule, context: Context, touched: Touched
) -> Sequence[RuleDeleted | On[Any]]:
    if rule is None:
        raise no_rule()
    return [RuleDeleted(), *moved(context.entity_id, rule.listens_to, None, touched)]


def _run_of(command: LaunchRule) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return [(runs, run_id_of(command.rule_id, command.trigger_id))]


@automation_rules.decide(touches=_run_of)
def _launch(
    rule: Rule | None, command: LaunchRule, context: Context, touched: Touched
) -> Sequence[On[Any]]:
    if rule is None:
        raise no_rule()
    if command.workspace_id not in (None, context.workspace_id):
        raise Reject(
            "BAD_REQUEST", "the rule is of another workspace", status=400, field="workspace_id"
        )
    check_id(command.trigger_id, chars_max=TRIGGER_ID_CHARS_MAX, what="trigger_id")
    run_id = run_id_of(command.rule_id, command.trigger_id)
    if touched.get(runs, run_id) is not None:
        return []
    if not rule.enabled:
        raise Reject("RULE_DISABLED", "the rule is disabled", status=422)
    asked = asking(
        command.rule_id,
        command.trigger_id,
        rule.action_json,
        command.note_id or note_in(command.trigger_id),
    )
    return [On(runs, run_id, asked_for(asked, context))]


def _written(rule: Rule | RuleCreated | RuleUpdated) -> bytes:
    said = rule.trigger, rule.condition_json, rule.action_json, rule.enabled
    return msgspec.json.encode(said)


def _check_size(rule: RuleCreated | RuleUpdated) -> None:
    size = len(msgspec.json.encode((rule.condition_json, rule.action_json)))
    if size > RULE_BYTES_MAX:
        message = f"a rule's condition and action have at most {RULE_BYTES_MAX} bytes"
        raise Reject("PAYLOAD_TOO_LARGE", message, size=size)


# -------------------------------------------------------------------------------------- folding


@automation_rules.evolve
def _created(_before: Rule | None, event: RuleCreated) -> Rule:
    return Rule(
        trigger=event.trigger,
        condition_json=event.condition_json,
        action_json=event.action_json,
        enabled=event.enabled,
        created_by=event.by,
        updated_by=event.by,
        created_at=event.at,
        updated_at=event.at,
    )


@automation_rules.evolve
def _updated(rule: Rule, event: RuleUpdated) -> Rule:
    return msgspec.structs.replace(
        rule,
        trigger=event.trigger,
        condition_json=event.condition_json,
        action_json=event.action_json,
        enabled=event.enabled,
        updated_by=event.by,
        updated_at=event.at,
    )


@automation_rules.evolve
def _deleted(_rule: Rule, _event: RuleDeleted) -> Rule | None:
    return None


# ------------------------------------------------------------------------ lists, records, view


@automation_rules.index
def _by_trigger(rule: Rule) -> Index:
    return Index(keys=(on_key(rule.trigger),) if rule.enabled else ())


@automation_rules.audit
def _on_record(
    event: RuleCreated | RuleUpdated | RuleDeleted, before: Rule | None, after: Rule | None
) -> Audit:
    """Put every change on record (KJ-RBAC-5)."""
    verb = {RuleCreated: "CREATED", RuleUpdated: "UPDATED", RuleDeleted: "DELETED"}[type(event)]
    return Audit(
        action=f"AUTOMATION_RULE_{verb}", old_value=_recorded(before), new_value=_recorded(after)
    )


def _recorded(rule: Rule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    return {
        "trigger": rule.trigger,
        "condition_json": rule.condition_json,
        "action_json": rule.action_json,
        "enabled": rule.enabled,
    }


class _Seen(msgspec.Struct, frozen=True, gc=False):
    pass


class _Shown(msgspec.Struct, frozen=True, gc=False):
    rule_id: str
    version: int


@automation_rules.view(of=_Seen)
def _on_workspace_stream(_event: _Seen, rule_id: str, version: int) -> _Shown:
    """Return which rule changed: what it says is read from it."""
    return _Shown(rule_id, version)
