"""Validations and iterations over HTTP, and what goes on about a proposal as server-sent events."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import DalsegnoError, Domain, Receipt, not_found, renamed
from dalsegno.protocol.providers import ProviderError
from dalsegno.protocol.routes import (
    Asked,
    CommandRoute,
    EventStreamRoute,
    Following,
    OfEntity,
    Reading,
    ReadRoute,
    Reads,
    RunRoute,
    found,
)
from dalsegno.protocol.runs import STAGED, RunProblem, RunState, runs

from ._dialect import following
from ._job_commands import CancelJob, IterateProposal, ValidateProposal
from ._proposals import ProposalJobStarted, proposals
from ._routes import OF_PROPOSAL, RATE, REFUSED, ProposalParams
from ._validation import NOT_STARTED
from ._words import PROPOSAL_LABEL, Prose

if TYPE_CHECKING:
    from dalsegno.protocol import Event
    from dalsegno.protocol.routes import Route

OF_JOB = OfEntity(runs, "job_id")
_BAD_GATEWAY = 502
"""What a request is answered that has waited for models of which none has answered."""
WAITS_S = 300.0
"""How long a request waits that does not say ``?async=true``: longer than a validation lasts."""


class JobBody(msgspec.Struct, frozen=True, kw_only=True):
    """A validation or an iteration."""

    job_id: str
    proposal_id: str
    kind: str
    status: str
    """``running``; ``completed``: it has come to an end; ``failed``: to nothing."""
    result: Any
    """``status`` and ``summary`` of a validation, ``files_modified`` and ``validation`` of an
    iteration; null where there is none."""
    error: RunProblem | None
    started_at: datetime | None
    finished_at: datetime | None


class ValidateParams(ProposalParams, frozen=True, kw_only=True):
    """Which proposal is validated, and whether the request waits for the end."""

    is_async: bool = msgspec.field(name="async", default=False)


class IterateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to iterate on a proposal."""

    instructions: Prose = ""


class CancelBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to cancel a job."""

    job_id: str | None = None


class JobParams(Reading, frozen=True, kw_only=True):
    """Which job is read."""

    job_id: str


class ProposalEventsParams(Following, frozen=True, kw_only=True):
    """Which proposal is followed."""

    proposal_id: str


_STATUS = {
    "requested": "running",
    "running": "running",
    "released": "running",
    "succeeded": "completed",
}


def _job_body(job_id: str, run: RunState) -> JobBody:
    result = run.result
    if isinstance(result, dict):
        result = {name: each for name, each in result.items() if name != STAGED}
    return JobBody(
        job_id=job_id,
        proposal_id=run.labels[PROPOSAL_LABEL],
        kind=run.kind,
        status=_STATUS.get(run.status, "failed"),
        result=result,
        error=None if run.is_open else run.error,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


async def _started(asked: Asked[Any, Any], receipt: Receipt) -> str:
    """Return the job that a command began: a repeat finds the same one."""
    version = receipt.version
    events: list[Event] = list(
        await asked.workspace.history(proposals, receipt.entity_id, after=version - 1, limit=1)
    )
    for event in events:
        happened = proposals.decode(event.type, event.type_version, event.payload)
        if isinstance(happened, ProposalJobStarted):
            return happened.job.run_id
    raise not_found(runs.stream_id(""))


async def _job(asked: Asked[Any, Any], job_id: str, min_seq: int | None = None) -> JobBody:
    seen = await found(asked.workspace, runs, job_id, min_seq=min_seq)
    run: RunState = seen.state
    if PROPOSAL_LABEL not in run.labels:
        raise not_found(runs.stream_id(job_id))
    return _job_body(job_id, run)


async def _ended(asked: Asked[Any, Any], job_id: str | None) -> JobBody:
    """Return a job for who has waited for its end, or raise what it has come to.

    Raises:
        DalsegnoError: ``VALIDATION_UNAVAILABLE`` (503): the command could not be started.
        ProviderError: ``LLM_UPSTREAM_ERROR`` (502), with each provider's failure.

    """
    assert job_id is not None, "its command begins one"
    seen = await found(asked.workspace, runs, job_id)
    run: RunState = seen.state
    code = None if run.is_open or run.error is None else run.error.code
    if code == NOT_STARTED:
        error = DalsegnoError("the command that validates is not there", job_id=job_id)
        raise renamed(error, "VALIDATION_UNAVAILABLE", 503)
    if code == "PROVIDERS_FAILED":
        providers = (run.checkpoint or {}).get("providers", [])
        message = "no provider has answered; nothing was changed"
        raise ProviderError("upstream", message, job_id=job_id, providers=providers)
    return _job_body(job_id, run)


async def _read(asked: Asked[JobParams, None]) -> JobBody:
    return await _job(asked, asked.params.job_id, asked.params.min_seq)


async def _is_over(asked: Asked[ProposalEventsParams, None], begins: int) -> bool:
    """Return whether a proposal is merged or deleted, and all that was said of it is known: of a
    validation, too, that was under way then.
    """
    workspace, proposal_id = asked.workspace, asked.params.proposal_id
    seen = await workspace.look(proposals, proposal_id)
    if seen is None or (seen.state is not None and seen.state.status != "MERGED"):
        return False
    last = await _last_seq(workspace, proposals, proposal_id, seen.version)
    job_id = await _last_job(workspace, proposal_id, seen.version)
    run = None if job_id is None else await workspace.look(runs, job_id)
    if job_id is not None and run is not None:
        if run.state.is_open:
            return False
        last = max(last, await _last_seq(workspace, runs, job_id, run.version))
    return begins >= last


async def _last_seq(
    workspace: Reads, domain: Domain[Any, Any, Any], entity_id: str, version: int
) -> int:
    """Return the number of the event that made a version."""
    (event,) = await workspace.history(domain, entity_id, after=version - 1, limit=1)
    return event.event_seq


async def _last_job(workspace: Reads, proposal_id: str, version: int) -> str | None:
    """Return the job of a proposal that was begun last, which one that is deleted knows no more."""
    while version > 0:
        after = max(0, version - _PAGE)
        events = await workspace.history(proposals, proposal_id, after=after, limit=version - after)
        for event in reversed(events):
            happened = proposals.decode(event.type, event.type_version, event.payload)
            if isinstance(happened, ProposalJobStarted):
                return happened.job.run_id
        version = after
    return None


_PAGE = 100
"""Events of a proposal that are looked at for that at a time."""


def _follows(asked: Asked[ProposalEventsParams, None], cursor: str | None) -> Any:  # noqa: ANN401 - a request
    return following(asked.user_id, asked.workspace.id, asked.params.proposal_id, cursor)


def unset_up(error: DalsegnoError) -> DalsegnoError:
    """Return an error as callers know it: what nobody has set up is not available."""
    if error.code == "NOT_CONFIGURED":
        return renamed(DalsegnoError(error.message, **error.details), error.code, 503)
    return error


job_routes: tuple[Route, ...] = (
    RunRoute(
        "POST",
        "/api/v1/proposals/{proposal_id}/validate",
        summary="Validate a proposal.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ValidateParams,
        command=lambda asked: ValidateProposal(proposal_id=asked.params.proposal_id),
        run_of=_started,
        read=_ended,
        returns=JobBody,
        waits_s=lambda asked: 0.0 if asked.params.is_async else WAITS_S,
        is_initiator=False,
        refusals=REFUSED,
        rate=RATE,
        shows_error=unset_up,
    ),
    RunRoute(
        "POST",
        "/api/v1/proposals/{proposal_id}/iterate",
        summary="Have a model iterate on a proposal.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ValidateParams,
        body=IterateBody,
        command=lambda asked: IterateProposal(
            proposal_id=asked.params.proposal_id, instructions=asked.body.instructions
        ),
        run_of=_started,
        read=_ended,
        returns=JobBody,
        waits_s=lambda asked: 0.0 if asked.params.is_async else WAITS_S,
        is_initiator=False,
        refusals=REFUSED | {_BAD_GATEWAY},
        rate=RATE,
        shows_error=unset_up,
    ),
    CommandRoute(
        "POST",
        "/api/v1/proposals/{proposal_id}/cancel",
        summary="Cancel a proposal's validation or iteration.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalParams,
        body=CancelBody,
        command=lambda asked: CancelJob(
            proposal_id=asked.params.proposal_id, job_id=asked.body.job_id
        ),
        refusals=REFUSED,
        rate=RATE,
    ),
    *(
        ReadRoute(
            "GET",
            f"/api/v1/{kind}s/{{job_id}}/status",
            summary=f"Read how {kind} stands.",
            group="reviews",
            at=OF_JOB,
            params=JobParams,
            read=_read,
            returns=JobBody,
            rate=RATE,
        )
        for kind in ("validation", "iteration")
    ),
    EventStreamRoute(
        "GET",
        "/api/v1/proposals/{proposal_id}/events",
        summary="Follow what goes on about a proposal, as server-sent events.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalEventsParams,
        follows=_follows,
        is_over=_is_over,
        is_of_project=True,
    ),
)
