"""Rules over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.protocol import DalsegnoError, Listed, Rate, Receipt, renamed
from dalsegno.protocol.routes import (
    Asked,
    BaseVersion,
    CommandRoute,
    InWorkspace,
    OfEntity,
    Paging,
    ReadRoute,
    page_of,
)

from ._domain import CreateRule, DeleteRule, Rule, UpdateRule, automation_rules

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route


class RuleCreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to make a rule."""

    workspace_id: str
    trigger: Any = None
    condition_json: Any = {}
    action_json: Any = None
    enabled: bool = True


class RuleChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change a rule; what is left out stays."""

    trigger: Any = UNSET
    condition_json: Any = UNSET
    action_json: Any = UNSET
    enabled: bool | UnsetType = UNSET
    base_version: int | None = None


class RuleItem(msgspec.Struct, frozen=True, kw_only=True):
    """A rule."""

    id: str
    workspace_id: str
    trigger: str
    condition_json: dict[str, Any]
    action_json: dict[str, Any]
    enabled: bool
    created_by: str | None
    updated_by: str | None
    created_at: datetime
    updated_at: datetime


class RuleBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer that has one rule."""

    rule: RuleItem


class RulesBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of rules."""

    rules: list[RuleItem]
    next: str | None


class RulesParams(Paging, frozen=True, kw_only=True):
    """Whose rules are listed."""

    workspace_id: str


class RuleParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which rule is meant."""

    rule_id: str


class RuleBasis(RuleParams, frozen=True, kw_only=True):
    """Which rule is deleted, at which version."""

    base_version: BaseVersion | None = None


OF_RULE = OfEntity(automation_rules, "rule_id")


def rate_of(name: str) -> Rate:
    """Return how often each caller may ask (KJ-RATE-1)."""
    return Rate(name=name, times=60, window_s=60.0)


def as_rule(error: DalsegnoError) -> DalsegnoError:
    """Return an error as the seed calls it: a rule that is not there has a code of its own."""
    return renamed(error, "RULE_NOT_FOUND") if error.code == _NOT_FOUND else error


_NOT_FOUND = f"{automation_rules.name.upper()}_NOT_FOUND"


def _item(workspace_id: str, rule_id: str, rule: Rule) -> RuleItem:
    return RuleItem(
        id=rule_id,
        workspace_id=workspace_id,
        trigger=rule.trigger,
        condition_json=rule.condition_json,
        action_json=rule.action_json,
        enabled=rule.enabled,
        created_by=rule.created_by,
        updated_by=rule.updated_by,
        created_at=rule.created_at,
        updated_at=rule.updated_at,
    )


def _shown(receipt: Receipt, rule: Rule) -> RuleBody:
    return RuleBody(rule=_item(receipt.workspace_id, receipt.entity_id, rule))


async def _list(asked: Asked[RulesParams, None]) -> RulesBody:
    workspace = asked.workspace

    def show(listed: Listed[Rule]) -> RuleItem:
        return _item(workspace.id, listed.entity_id, listed.state)

    page = await page_of(workspace, automation_rules, asked.params, show)
    return RulesBody(rules=page.items, next=page.next)


def _create(asked: Asked[None, RuleCreateBody]) -> CreateRule:
    body = asked.body
    return CreateRule(
        trigger=body.trigger,
        condition_json=body.condition_json,
        action_json=body.action_json,
        enabled=body.enabled,
    )


def _change(asked: Asked[RuleParams, RuleChangeBody]) -> UpdateRule:
    body = asked.body
    return UpdateRule(
        rule_id=asked.params.rule_id,
        trigger=body.trigger,
        condition_json=body.condition_json,
        action_json=body.action_json,
        enabled=body.enabled,
        base_version=asked.based_on(body.base_version),
    )


def _delete(asked: Asked[RuleBasis, None]) -> DeleteRule:
    base = asked.based_on(asked.params.base_version)
    return DeleteRule(rule_id=asked.params.rule_id, base_version=base)


rule_routes: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/automation/rules",
        summary="List a workspace's rules.",
        group="automation",
        at=InWorkspace(),
        params=RulesParams,
        read=_list,
        returns=RulesBody,
    ),
    CommandRoute(
        "POST",
        "/api/automation/rules",
        summary="Make a rule.",
        group="automation",
        at=InWorkspace(place="body"),
        body=RuleCreateBody,
        command=_create,
        returns=RuleBody,
        shows=_shown,
        status=201,
        rate=rate_of("automation-rule-create"),
    ),
    CommandRoute(
        "PATCH",
        "/api/automation/rules/{rule_id}",
        summary="Change a rule; what is left out stays.",
        group="automation",
        at=OF_RULE,
        params=RuleParams,
        body=RuleChangeBody,
        command=_change,
        returns=RuleBody,
        shows=_shown,
        rate=rate_of("automation-rule-update"),
        shows_error=as_rule,
    ),
    CommandRoute(
        "DELETE",
        "/api/automation/rules/{rule_id}",
        summary="Delete a rule; the runs that it asked for stay.",
        group="automation",
        at=OF_RULE,
        params=RuleBasis,
        command=_delete,
        rate=rate_of("automation-rule-delete"),
        shows_error=as_rule,
    ),
)
