"""The runs of rules over HTTP: launched, listed, read."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from msgspec import Meta

from dalsegno.actors.domains.notes import RULE_LABEL, TRIGGER_LABEL, ended_as, problem_of
from dalsegno.protocol import Domain, Receipt, not_found, place_of, token_of
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    InWorkspace,
    OfEntity,
    Reading,
    ReadRoute,
    Reads,
    found,
)
from dalsegno.protocol.runs import Outcome, RunState, runs

from ._domain import LaunchRule
from ._rule_routes import OF_RULE, RuleParams, as_rule, rate_of
from ._runs import WORKER, run_id_of
from ._structured import structured_result

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route

LISTED_MAX = 100
"""Runs in one page."""


class LaunchBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to launch a rule."""

    workspace_id: str | None = None
    note_id: str | None = None
    triggering_event_id: str | None = None
    """None: one of the request's own."""


class RunItem(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a rule."""

    id: str
    rule_id: str
    workspace_id: str
    triggering_event_id: str
    status: str
    """``queued``, ``running``, ``succeeded`` or ``failed``."""
    provider_kind: str | None
    model: str | None
    result_json: Any
    error_code: str | None
    error_detail: str | None
    started_at: datetime | None
    finished_at: datetime | None
    created_at: datetime | None


class RuleRunBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer that has one run."""

    run: RunItem


class RuleRunsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs, those that were asked for last first."""

    runs: list[RunItem]
    next: str | None


class RunsParams(msgspec.Struct, frozen=True, kw_only=True):
    """Whose runs are listed."""

    workspace_id: str
    limit: Annotated[int, Meta(ge=1, le=LISTED_MAX)] = 20
    after: str | None = None
    """The ``next`` of the page before."""


class RunParams(Reading, frozen=True, kw_only=True):
    """Which run is read."""

    run_id: str


_OPEN = {"requested": "queued", "running": "running", "released": "running"}


def run_item(workspace_id: str, run_id: str, run: RunState, result: Any = None) -> RunItem:  # noqa: ANN401 - JSON
    """Return a run as it is shown, with a result that says more than its own."""
    code, detail, status = None, None, _OPEN.get(run.status)
    if status is None:
        outcome = cast("Outcome", run.status)
        status = ended_as(outcome)
        code, detail = problem_of(outcome, run.error)
    return RunItem(
        id=run_id,
        rule_id=run.labels[RULE_LABEL],
        workspace_id=workspace_id,
        triggering_event_id=run.labels[TRIGGER_LABEL],
        status=status,
        provider_kind=run.labels.get("provider_kind"),
        model=run.labels.get("model"),
        result_json=run.result if result is None else result,
        error_code=code,
        error_detail=detail,
        started_at=run.started_at,
        finished_at=run.finished_at,
        created_at=run.requested_at,
    )


# ---------------------------------------------------------------------------------- launching


def _trigger_id(asked: Asked[RuleParams, LaunchBody]) -> str:
    said = asked.body.triggering_event_id
    return f"manual:{asked.params.rule_id}:{asked.made_key}" if said is None else said


def _launch(asked: Asked[RuleParams, LaunchBody]) -> LaunchRule:
    return LaunchRule(
        rule_id=asked.params.rule_id,
        trigger_id=_trigger_id(asked),
        note_id=asked.body.note_id,
        workspace_id=asked.body.workspace_id,
    )


def _run_of(
    asked: Asked[RuleParams, LaunchBody], _receipt: Receipt
) -> tuple[Domain[Any, Any, Any], str]:
    return runs, run_id_of(asked.params.rule_id, _trigger_id(asked))


def _launched(receipt: Receipt, run: RunState) -> RuleRunBody:
    return RuleRunBody(run=run_item(receipt.workspace_id, receipt.entity_id, run))


# ------------------------------------------------------------------------------------ reading


async def _list(asked: Asked[RunsParams, None]) -> RuleRunsBody:
    params, workspace = asked.params, asked.workspace
    page = await workspace.snapshot(
        runs,
        key=f"worker:{WORKER}",
        after=place_of(params.after),
        limit=params.limit,
        newest_first=True,
    )
    items = [run_item(workspace.id, each.entity_id, each.state) for each in page.items]
    return RuleRunsBody(runs=items, next=None if page.next is None else token_of(page.next))


async def _read(asked: Asked[RunParams, None]) -> RuleRunBody:
    return await read_run(asked.workspace, asked.params.run_id, min_seq=asked.params.min_seq)


async def read_run(workspace: Reads, run_id: str, *, min_seq: int | None = None) -> RuleRunBody:
    """Return a run of a rule with all that is known of it.

    Raises:
        Reject: ``RUN_NOT_FOUND``, and what reading raises.

    """
    run: RunState = (await found(workspace, runs, run_id, min_seq=min_seq)).state
    if run.worker != WORKER:
        raise not_found(runs.stream_id(run_id))
    result = await structured_result(workspace, run_id, run)
    return RuleRunBody(run=run_item(workspace.id, run_id, run, result))


run_routes: tuple[Route, ...] = (
    CommandRoute(
        "POST",
        "/api/automation/rules/{rule_id}/launch",
        summary="Launch a rule: ask for its run, once for each trigger.",
        group="automation",
        at=OF_RULE,
        params=RuleParams,
        body=LaunchBody,
        command=_launch,
        returns=RuleRunBody,
        shows=_launched,
        of=_run_of,
        status=201,
        status_found=200,
        makes_key=True,
        is_tagged=False,
        rate=rate_of("automation-run-launch"),
        shows_error=as_rule,
    ),
    ReadRoute(
        "GET",
        "/api/automation/runs",
        summary="List the runs of a workspace's rules, the latest first.",
        group="automation",
        at=InWorkspace(),
        params=RunsParams,
        read=_list,
        returns=RuleRunsBody,
    ),
    ReadRoute(
        "GET",
        "/api/automation/runs/{run_id}",
        summary="Read a run of a rule.",
        group="automation",
        at=OfEntity(runs, "run_id"),
        params=RunParams,
        read=_read,
        returns=RuleRunBody,
    ),
)
