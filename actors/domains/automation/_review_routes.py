"""Reviews over HTTP: what becomes of the operations that a librarian's run proposes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import Receipt
from dalsegno.protocol.routes import Asked, OfEntity, RunRoute
from dalsegno.protocol.runs import runs

from ._rule_routes import rate_of
from ._run_routes import RuleRunBody, read_run
from .librarian import Decision, LibrarianReview, ReviewRun, librarian_reviews

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route

WAITS_S = 30.0
"""How long the request of a client waits that says nothing of it: 128 operations take a second."""


class ReviewBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to review a run."""

    apply: bool = True
    """False: the decisions are recorded, and nothing else happens yet."""
    decisions: list[Decision] = []


class ReviewParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which run is reviewed."""

    run_id: str


def _command(asked: Asked[ReviewParams, ReviewBody]) -> ReviewRun:
    body = asked.body
    return ReviewRun(run_id=asked.params.run_id, apply=body.apply, decisions=body.decisions)


async def _applied_by(asked: Asked[ReviewParams, ReviewBody], _receipt: Receipt) -> str | None:
    seen = await asked.workspace.look(librarian_reviews, asked.params.run_id)
    review: LibrarianReview | None = None if seen is None else seen.state
    return None if review is None else review.applied_by


async def _read(asked: Asked[Any, Any], _run_id: str | None) -> RuleRunBody:
    return await read_run(asked.workspace, asked.params.run_id)


review_routes: tuple[Route, ...] = (
    RunRoute(
        "POST",
        "/api/automation/runs/{run_id}/review",
        summary="Review a run: accept or reject what it proposes, and apply that.",
        group="automation",
        at=OfEntity(runs, "run_id"),
        params=ReviewParams,
        body=ReviewBody,
        command=_command,
        run_of=_applied_by,
        read=_read,
        returns=RuleRunBody,
        waits_s=WAITS_S,
        rate=rate_of("automation-run-review"),
    ),
)
