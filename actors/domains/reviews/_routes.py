"""Proposals, reviewers and the lock over HTTP (CF §4.2)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from dalsegno.protocol import Listed, Rate, Receipt
from dalsegno.protocol.routes import (
    Asked,
    BaseVersion,
    CommandRoute,
    InWorkspace,
    OfEntity,
    Paging,
    Reading,
    ReadRoute,
    found,
    page_of,
)

from ._locks import HELD_S, LOCK_ID, LockProject, ProjectLock, UnlockProject, project_locks
from ._proposals import (
    AddReviewer,
    AdvanceProposal,
    CreateProposal,
    DeleteProposal,
    EditProposal,
    Job,
    Proposal,
    RemoveReviewer,
    Verdict,
    proposals,
)
from ._words import PROPOSAL_STEPS, Name, Path, ProposalStep, Prose, Status

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Route

RATE = Rate(name="reviews", times=100, window_s=60.0)
"""How often a user may ask (CF §4.2; X-LIM-4)."""
IN_PROJECT = InWorkspace("project_id")
OF_PROPOSAL = OfEntity(proposals, "proposal_id")
REFUSED = frozenset({400, 403, 404, 409})


class ProposalItem(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal."""

    id: str
    project_id: str
    version: int
    name: str
    description: str
    folder: str
    author_id: str | None
    status: Status
    approved_by: str | None
    reviewers: tuple[str, ...]
    unresolved_comments: tuple[str, ...]
    selected_comments: tuple[str, ...]
    job: Job | None
    """The validation or iteration that is under way, or has just ended."""
    validation: Verdict | None
    created_at: datetime
    updated_at: datetime


class ProposalsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of proposals."""

    proposals: list[ProposalItem]
    next: str | None


class ProposalBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to make a proposal."""

    name: Name
    description: Prose = ""
    folder: Path = ""


class ProposalChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to change one; what is left out stays."""

    name: Name | UnsetType = UNSET
    description: Prose | UnsetType = UNSET
    folder: Path | UnsetType = UNSET
    version: int | None = None
    """The version that the change is based on, unless ``If-Match`` says it."""


class ProjectParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which project is meant."""

    project_id: str


class ProposalsParams(Paging, frozen=True, kw_only=True):
    """Which proposals are listed."""

    project_id: str
    status: Status | None = None


class ProposalParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which proposal is meant."""

    proposal_id: str


class ProposalReadParams(Reading, frozen=True, kw_only=True):
    """Which proposal is read."""

    proposal_id: str


class ProposalBasis(ProposalParams, frozen=True, kw_only=True):
    """Which proposal is deleted, at which version."""

    version: BaseVersion | None = None


def proposal_item(project_id: str, proposal_id: str, version: int, it: Proposal) -> ProposalItem:
    """Return a proposal as it is shown."""
    return ProposalItem(
        id=proposal_id,
        project_id=project_id,
        version=version,
        name=it.name,
        description=it.description,
        folder=it.folder,
        author_id=it.author_id,
        status=it.status,
        approved_by=it.approved_by,
        reviewers=it.reviewers,
        unresolved_comments=it.unresolved,
        selected_comments=it.selected,
        job=it.job,
        validation=it.verdict,
        created_at=it.created_at,
        updated_at=it.updated_at,
    )


def _shown(receipt: Receipt, proposal: Proposal) -> ProposalItem:
    return proposal_item(receipt.workspace_id, receipt.entity_id, receipt.version, proposal)


async def _list(asked: Asked[ProposalsParams, None]) -> ProposalsBody:
    workspace, params = asked.workspace, asked.params

    def show(listed: Listed[Proposal]) -> ProposalItem:
        return proposal_item(workspace.id, listed.entity_id, listed.version, listed.state)

    key = "all" if params.status is None else f"status:{params.status}"
    page = await page_of(workspace, proposals, params, show, key=key)
    return ProposalsBody(proposals=page.items, next=page.next)


async def _read(asked: Asked[ProposalReadParams, None]) -> ProposalItem:
    params, workspace = asked.params, asked.workspace
    seen = await found(workspace, proposals, params.proposal_id, min_seq=params.min_seq)
    return proposal_item(workspace.id, params.proposal_id, seen.version, seen.state)


def _create(asked: Asked[ProjectParams, ProposalBody]) -> CreateProposal:
    body = asked.body
    return CreateProposal(name=body.name, description=body.description, folder=body.folder)


def _change(asked: Asked[ProposalParams, ProposalChangeBody]) -> EditProposal:
    body = asked.body
    return EditProposal(
        proposal_id=asked.params.proposal_id,
        name=body.name,
        description=body.description,
        folder=body.folder,
        base_version=asked.based_on(body.version),
    )


def _delete(asked: Asked[ProposalBasis, None]) -> DeleteProposal:
    base = asked.based_on(asked.params.version)
    return DeleteProposal(proposal_id=asked.params.proposal_id, base_version=base)


_proposals: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/v1/projects/{project_id}/proposals",
        summary="List a project's proposals.",
        group="reviews",
        at=IN_PROJECT,
        params=ProposalsParams,
        read=_list,
        returns=ProposalsBody,
        rate=RATE,
    ),
    CommandRoute(
        "POST",
        "/api/v1/projects/{project_id}/proposals",
        summary="Make a proposal.",
        group="reviews",
        at=IN_PROJECT,
        params=ProjectParams,
        body=ProposalBody,
        command=_create,
        returns=ProposalItem,
        shows=_shown,
        status=201,
        refusals=REFUSED,
        rate=RATE,
    ),
    ReadRoute(
        "GET",
        "/api/v1/proposals/{proposal_id}",
        summary="Read a proposal.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalReadParams,
        read=_read,
        returns=ProposalItem,
        version_of=lambda item: item.version,
        rate=RATE,
    ),
    CommandRoute(
        "PATCH",
        "/api/v1/proposals/{proposal_id}",
        summary="Change a proposal; what is left out stays.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalParams,
        body=ProposalChangeBody,
        command=_change,
        returns=ProposalItem,
        shows=_shown,
        refusals=REFUSED,
        rate=RATE,
    ),
    CommandRoute(
        "DELETE",
        "/api/v1/proposals/{proposal_id}",
        summary="Delete a draft.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalBasis,
        command=_delete,
        refusals=REFUSED,
        rate=RATE,
    ),
)

# ---------------------------------------------------------------------------------------- steps


def _step_route(step: ProposalStep) -> CommandRoute:
    def advance(asked: Asked[ProposalBasis, None]) -> AdvanceProposal:
        base = asked.based_on(asked.params.version)
        return AdvanceProposal(proposal_id=asked.params.proposal_id, step=step, base_version=base)

    its = PROPOSAL_STEPS[step]
    return CommandRoute(
        "POST",
        f"/api/v1/proposals/{{proposal_id}}/{step}",
        summary=f"{step.replace('-', ' ').capitalize()}: {its.target} from now on.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalBasis,
        command=advance,
        returns=ProposalItem,
        shows=_shown,
        refusals=REFUSED,
        rate=RATE,
    )


# ------------------------------------------------------------------------------------ reviewers


class ReviewerBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request to have somebody review a proposal."""

    user_id: str


class ReviewersBody(msgspec.Struct, frozen=True, kw_only=True):
    """Who reviews a proposal."""

    reviewers: tuple[str, ...]


class ReviewerParams(ProposalParams, frozen=True, kw_only=True):
    """Which reviewer is meant."""

    user_id: str


async def _read_reviewers(asked: Asked[ProposalParams, None]) -> ReviewersBody:
    seen = await found(asked.workspace, proposals, asked.params.proposal_id)
    return ReviewersBody(reviewers=seen.state.reviewers)


def _reviewers_after(_receipt: Receipt, proposal: Proposal) -> ReviewersBody:
    return ReviewersBody(reviewers=proposal.reviewers)


_reviewers: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/v1/proposals/{proposal_id}/reviewers",
        summary="List who reviews a proposal.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalParams,
        read=_read_reviewers,
        returns=ReviewersBody,
        rate=RATE,
    ),
    CommandRoute(
        "POST",
        "/api/v1/proposals/{proposal_id}/reviewers",
        summary="Have somebody review a proposal.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ProposalParams,
        body=ReviewerBody,
        command=lambda asked: AddReviewer(
            proposal_id=asked.params.proposal_id, user_id=asked.body.user_id
        ),
        returns=ReviewersBody,
        shows=_reviewers_after,
        status=201,
        refusals=REFUSED,
        rate=RATE,
    ),
    CommandRoute(
        "DELETE",
        "/api/v1/proposals/{proposal_id}/reviewers/{user_id}",
        summary="Have somebody review a proposal no longer.",
        group="reviews",
        at=OF_PROPOSAL,
        params=ReviewerParams,
        command=lambda asked: RemoveReviewer(
            proposal_id=asked.params.proposal_id, user_id=asked.params.user_id
        ),
        refusals=REFUSED,
        rate=RATE,
    ),
)

# ------------------------------------------------------------------------------------- the lock


class LockBody(msgspec.Struct, frozen=True, kw_only=True):
    """How a project's lock stands."""

    locked: bool
    locked_by: str | None = None
    locked_at: datetime | None = None
    expires_at: datetime | None = None
    job_id: str | None = None
    """The job that holds it, in the name of who asked for it."""


class UnlockParams(ProjectParams, frozen=True, kw_only=True):
    """Which project is unlocked, and whether by force."""

    force: bool = False


def _lock_body(lock: ProjectLock | None) -> LockBody:
    if lock is None:
        return LockBody(locked=False)
    return LockBody(
        locked=True,
        locked_by=lock.locked_by,
        locked_at=lock.locked_at,
        expires_at=lock.expires_at,
        job_id=None if lock.use is None else lock.use.run_id,
    )


async def _read_lock(asked: Asked[ProjectParams, None]) -> LockBody:
    seen = await asked.workspace.look(project_locks, LOCK_ID)
    return _lock_body(None if seen is None else seen.state)


_lock: tuple[Route, ...] = (
    ReadRoute(
        "GET",
        "/api/v1/projects/{project_id}/lock",
        summary="Read who has locked a project.",
        group="reviews",
        at=IN_PROJECT,
        params=ProjectParams,
        read=_read_lock,
        returns=LockBody,
        rate=RATE,
    ),
    CommandRoute(
        "POST",
        "/api/v1/projects/{project_id}/lock",
        summary=f"Lock a project, for {HELD_S / 60:g} minutes.",
        group="reviews",
        at=IN_PROJECT,
        params=ProjectParams,
        command=lambda _asked: LockProject(),
        returns=LockBody,
        shows=lambda _receipt, lock: _lock_body(lock),
        is_tagged=False,
        refusals=REFUSED,
        rate=RATE,
    ),
    CommandRoute(
        "DELETE",
        "/api/v1/projects/{project_id}/lock",
        summary="Unlock a project, as its holder; or by force, as an admin.",
        group="reviews",
        at=IN_PROJECT,
        params=UnlockParams,
        command=lambda asked: UnlockProject(force=asked.params.force),
        refusals=REFUSED,
        rate=RATE,
    ),
)

proposal_routes: tuple[Route, ...] = (
    *_proposals,
    *(_step_route(msgspec.convert(each, ProposalStep)) for each in PROPOSAL_STEPS),
    *_reviewers,
    *_lock,
)
