"""Jobs over HTTP: asked for, looked at, listed, and their files.

A job is a run of one of two workers, in the workspace that it is about, or in ``$system`` where it
is about all of them; there is nothing else that knows of jobs.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from dalsegno.actors.domains.members import ADMINS
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    ArtifactGoneError,
    Listed,
    Place,
    Rate,
    Receipt,
    Reject,
    place_of,
    token_of,
)
from dalsegno.protocol.routes import (
    ArtifactRoute,
    Asked,
    CommandRoute,
    Download,
    InSystem,
    InWorkspace,
    Limited,
    MinSeq,
    OfEntity,
    ReadRoute,
    found,
)
from dalsegno.protocol.runs import RequestRun, RunState, artifact_of, runs

from ._progress import Progressed
from ._refusals import as_job, no_job
from ._worker import (
    BACKUP_SQL,
    BACKUP_SUFFIX,
    EXPORT_MARKDOWN,
    EXPORT_SUFFIX,
)

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Reads, Route
    from dalsegno.protocol.runs import Artifact

JobType: TypeAlias = Literal["export_markdown", "backup_sql"]
AskedType: TypeAlias = Literal["export_markdown", "backup_sql", "markdown", "sql_backup"]
"""What a list may be asked for: the two, and what they are called elsewhere (C10)."""
Status: TypeAlias = Literal["queued", "running", "succeeded", "failed"]

_ALIASES: dict[str, JobType] = {"markdown": "export_markdown", "sql_backup": "backup_sql"}
_OPEN: dict[str, Status] = {"requested": "queued", "running": "running", "released": "running"}
_FAILURES: dict[JobType, str] = {"export_markdown": "EXPORT_FAILED", "backup_sql": "BACKUP_FAILED"}
_ZIP, _BACKUP = "application/zip", "application/octet-stream"


class ExportBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request for an export, or for the backup of one workspace."""

    workspace_id: str


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file of a job that has succeeded."""

    bytes: int
    sha256: str
    media_type: str
    filename: str
    expires_at: datetime
    node_id: str
    """The node that has it."""


class JobItem(msgspec.Struct, frozen=True, kw_only=True):
    """A job."""

    id: str
    requested_by: str | None
    workspace_id: str | None
    """None: it is about all of them."""
    job_type: JobType
    status: Status
    artifact_path: str | None
    """Where its file is, on this server; None: there is none yet, or no longer any."""
    error_code: str | None
    error_detail: str | None
    started_at: datetime | None
    finished_at: datetime | None
    created_at: datetime | None
    progress: Progressed | None
    artifact: JobFile | None


class JobBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer that has one job."""

    job: JobItem


class JobsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs, the latest first."""

    jobs: list[JobItem]
    next: str | None
    """The ``after`` of the next page, which may have some where this one has none."""


class JobsParams(Limited, frozen=True, kw_only=True):
    """Which jobs are listed."""

    job_type: AskedType | None = None
    status: Status | None = None
    after: str | None = None


class WorkspaceJobsParams(JobsParams, frozen=True, kw_only=True):
    """Which jobs of a workspace are listed."""

    workspace_id: str


class JobParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which job is read."""

    job_id: str
    min_seq: MinSeq | None = None


OF_JOB = OfEntity(runs, "job_id", in_system=ADMINS)


def _rate(name: str) -> Rate:
    """Return how often each caller may ask for a job: each one reads everything there is."""
    return Rate(name=name, times=10, window_s=60.0)


def _export(_asked: Asked[Any, ExportBody]) -> RequestRun:
    return RequestRun(worker=EXPORT_MARKDOWN)


def _back_up(_asked: Asked[Any, Any]) -> RequestRun:
    return RequestRun(worker=BACKUP_SQL)


def _shown(receipt: Receipt, run: RunState) -> JobBody:
    return JobBody(job=_item(receipt.workspace_id, receipt.entity_id, run))


# ------------------------------------------------------------------------------------ showing


def _type_of(run: RunState) -> JobType:
    """Return which job a run is.

    Raises:
        Reject: ``JOB_NOT_FOUND``: none.

    """
    if run.worker == EXPORT_MARKDOWN:
        return "export_markdown"
    if run.worker == BACKUP_SQL:
        return "backup_sql"
    raise no_job()


def _item(workspace_id: str, run_id: str, run: RunState) -> JobItem:
    job_type = _type_of(run)
    status = _status_of(run)
    code, detail = _problem_of(job_type, run) if status == "failed" else (None, None)
    artifact = artifact_of(run) if status == "succeeded" else None
    path, file = None, None
    if artifact is not None:
        path = f"/api/admin/export/{run_id}/artifact"
        file = _file(workspace_id, job_type, run, artifact)
    progress = None
    with suppress(msgspec.ValidationError):
        progress = msgspec.convert(run.checkpoint, Progressed | None)
    return JobItem(
        id=run_id,
        requested_by=run.requested_by,
        workspace_id=None if workspace_id == SYSTEM_WORKSPACE else workspace_id,
        job_type=job_type,
        status=status,
        artifact_path=path,
        error_code=code,
        error_detail=detail,
        started_at=run.started_at,
        finished_at=run.finished_at,
        created_at=run.requested_at,
        progress=progress,
        artifact=file,
    )


def _status_of(run: RunState) -> Status:
    known = _OPEN.get(run.status)
    if known is not None:
        return known
    return "succeeded" if run.status == "succeeded" else "failed"


def _problem_of(job_type: JobType, run: RunState) -> tuple[str, str | None]:
    """Return the code and the detail of what a job failed with.

    A job fails with one code; whatever else ended its run is in the detail.
    """
    failed = _FAILURES[job_type]
    if run.error is None:
        return failed, f"RUN_{run.status.upper()}"
    if run.error.code == failed:
        return failed, run.error.message
    return failed, f"{run.error.code}: {run.error.message}"


def _file(workspace_id: str, job_type: JobType, run: RunState, artifact: Artifact) -> JobFile:
    is_export = job_type == "export_markdown"
    name = "all" if workspace_id == SYSTEM_WORKSPACE else workspace_id
    day = "" if run.requested_at is None else run.requested_at.strftime("-%Y%m%dT%H%M%SZ")
    suffix = EXPORT_SUFFIX if is_export else BACKUP_SUFFIX
    return JobFile(
        bytes=artifact.bytes,
        sha256=artifact.sha256,
        media_type=_ZIP if is_export else _BACKUP,
        filename=f"{name}{day}{suffix}",
        expires_at=artifact.expires_at,
        node_id=artifact.node_id,
    )


# ------------------------------------------------------------------------------------ reading


async def _run_of(workspace: Reads, params: JobParams) -> RunState:
    seen = await found(workspace, runs, params.job_id, min_seq=params.min_seq)
    run: RunState = seen.state
    _type_of(run)
    return run


async def _read(asked: Asked[JobParams, None]) -> JobBody:
    run = await _run_of(asked.workspace, asked.params)
    return JobBody(job=_item(asked.workspace.id, asked.params.job_id, run))


async def _find(asked: Asked[JobParams, None]) -> Download:
    """Return the file of a job: an export's to every member, since every member reads the notes.

    A backup has what no member reads: answers to others' keys, the audit, digests of API keys.

    Raises:
        Reject: ``JOB_NOT_FOUND``; ``ROLE_FORBIDDEN``; ``STATE_CONFLICT`` while there is none yet.
        ArtifactGoneError: the job has failed, and there will be none.

    """
    workspace = asked.workspace
    run = await _run_of(workspace, asked.params)
    if run.worker == BACKUP_SQL:
        role = await workspace.role()
        if role not in ADMINS:
            raise Reject("ROLE_FORBIDDEN", "a backup is for owners and admins", role=role)
    if run.is_open:
        raise Reject("STATE_CONFLICT", "the job has not ended", status=409)
    artifact = artifact_of(run)
    if artifact is None:
        raise ArtifactGoneError("the job has no file: it failed")
    file = _file(workspace.id, _type_of(run), run, artifact)
    return Download(artifact=artifact, filename=file.filename, media_type=file.media_type)


async def _list(asked: Asked[JobsParams, None]) -> JobsBody:
    """List jobs of both types in one order: a place in it is one in the list of each."""
    params, workspace = asked.params, asked.workspace
    wanted = [EXPORT_MARKDOWN, BACKUP_SQL]
    if params.job_type is not None:
        wanted = [_ALIASES.get(params.job_type, params.job_type)]
    among: list[Listed[RunState]] = []
    is_last = True
    for worker in wanted:
        page = await workspace.snapshot(
            runs,
            key=f"worker:{worker}",
            after=place_of(params.after),
            limit=params.limit,
            newest_first=True,
        )
        among += page.items
        is_last = is_last and page.next is None
    among.sort(key=_place_in, reverse=True)
    taken = among[: params.limit]
    jobs = [
        _item(workspace.id, each.entity_id, each.state)
        for each in taken
        if params.status in (None, _status_of(each.state))
    ]
    if not taken or (is_last and len(taken) == len(among)):
        return JobsBody(jobs=jobs, next=None)
    return JobsBody(jobs=jobs, next=token_of(Place(*_place_in(taken[-1]))))


def _place_in(listed: Listed[RunState]) -> tuple[str, str]:
    return listed.sort or "", runs.stream_id(listed.entity_id)


job_routes: tuple[Route, ...] = (
    CommandRoute(
        "POST",
        "/api/admin/export/markdown",
        summary="Ask for a markdown export of a workspace.",
        group="jobs",
        at=InWorkspace(place="body"),
        body=ExportBody,
        command=_export,
        returns=JobBody,
        shows=_shown,
        status=202,
        is_tagged=False,
        rate=_rate("export-markdown"),
        shows_error=as_job,
    ),
    CommandRoute(
        "POST",
        "/api/admin/backup/workspace",
        summary="Ask for a backup of one workspace.",
        group="jobs",
        at=InWorkspace(place="body"),
        body=ExportBody,
        command=_back_up,
        returns=JobBody,
        shows=_shown,
        status=202,
        is_tagged=False,
        rate=_rate("backup-workspace"),
        shows_error=as_job,
    ),
    CommandRoute(
        "POST",
        "/api/admin/backup/sql",
        summary="Ask for a backup of all workspaces and accounts.",
        group="jobs",
        at=InSystem(),
        roles=ADMINS,
        command=_back_up,
        returns=JobBody,
        shows=_shown,
        status=202,
        is_tagged=False,
        rate=_rate("backup-sql"),
        shows_error=as_job,
    ),
    ReadRoute(
        "GET",
        "/api/admin/backup/sql",
        summary="List the backups of everything, the latest first.",
        group="jobs",
        at=InSystem(),
        roles=ADMINS,
        params=JobsParams,
        read=_list,
        returns=JobsBody,
    ),
    ReadRoute(
        "GET",
        "/api/admin/export",
        summary="List the jobs of a workspace, the latest first.",
        group="jobs",
        at=InWorkspace(),
        params=WorkspaceJobsParams,
        read=_list,
        returns=JobsBody,
    ),
    ReadRoute(
        "GET",
        "/api/admin/export/{job_id}",
        summary="Read a job.",
        group="jobs",
        at=OF_JOB,
        params=JobParams,
        read=_read,
        returns=JobBody,
        shows_error=as_job,
    ),
    ArtifactRoute(
        "GET",
        "/api/admin/export/{job_id}/artifact",
        summary="Read the file of a job, or a part of it.",
        group="jobs",
        at=OF_JOB,
        params=JobParams,
        find=_find,
        media_types=(_ZIP, _BACKUP),
        shows_error=as_job,
    ),
)
