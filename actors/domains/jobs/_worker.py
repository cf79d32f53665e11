"""Who carries out jobs: runs of the kinds ``export`` and ``backup``, each of which writes a file.

What fails for good is ``EXPORT_FAILED`` or ``BACKUP_FAILED``, with the reason; what may pass, as a
database that is away, is tried again with a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.members import ADMINS
from dalsegno.actors.domains.notes import notes
from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    Cursor,
    DalsegnoError,
    DomainError,
    OutcomeUnknownError,
    Reject,
    UnavailableError,
    chain_text,
)
from dalsegno.protocol.runs import ARTIFACT, Artifact, Done, Retry, Worker

from ._backup import write_backup
from ._markdown import write_markdown
from ._progress import RecordedProgress

if TYPE_CHECKING:
    from dalsegno.protocol.runs import ArchivingWork

EXPORT = "export"
BACKUP = "backup"
"""The kinds of jobs' runs."""
EXPORT_MARKDOWN = "export_markdown"
BACKUP_SQL = "backup_sql"
"""The types of jobs, which are the names of their workers."""
EXPORT_SUFFIX = ".zip"
BACKUP_SUFFIX = ".dalsegno"

_OF_THE_RUN = frozenset({"RUN_CANCELLED", "RUN_OVER", "RUN_FENCED", "RUN_NOT_FOUND"})
"""Refusals that are about the run itself."""
_TRIED_AGAIN = frozenset(
    {
        "STORE_UNAVAILABLE",
        "OUTCOME_UNKNOWN",
        "NOT_READY",
        "OVERLOADED",
        "WORKSPACE_MOVED",
        "WORKER_FAILED",
    }
)
_RETRY = Retry(attempts_max=5, first_s=1.0, max_s=60.0, on=_TRIED_AGAIN)
_DEADLINE_S = 24 * 3600.0


@contextmanager
def _failing_as(code: str) -> Iterator[None]:
    """Raise what a job fails for good with as a refusal of one code."""
    try:
        yield
    except (UnavailableError, OutcomeUnknownError):
        raise
    except DalsegnoError as error:
        if error.code == code or error.code in _OF_THE_RUN:
            raise
        raise Reject(code, f"{error.code}: {error.message}") from error
    except DomainError as error:
        raise Reject(code, str(error)) from error


async def _export(run: ArchivingWork) -> Done:
    """Export the notes as they were when the export was asked for: in each attempt the same."""
    with _failing_as("EXPORT_FAILED"):
        asked = await run.request()
        at = Cursor(asked.event_seq, asked.chain)
        progress = RecordedProgress(run.save, await run.count_at(notes, at.seq), "notes")
        async with run.artifact(EXPORT_SUFFIX) as out:
            exported = await write_markdown(run, at, out, progress=progress)
            artifact = await out.finish()
    said = {"event_seq": at.seq, "chain": chain_text(asked.chain)}
    return _done(artifact, {**said, **msgspec.to_builtins(exported)})


async def _back_up(run: ArchivingWork) -> Done:
    """Back up the workspace of the run, or, for a run of ``$system``, everything."""
    only = None if run.workspace_id == SYSTEM_WORKSPACE else run.workspace_id
    with _failing_as("BACKUP_FAILED"):
        asked = await run.request()
        dump = run.dump()
        progress = RecordedProgress(run.save, await dump.total(only), "events")
        async with run.artifact(BACKUP_SUFFIX) as out:
            written = await write_backup(
                dump, out, only=only, made_at=asked.recorded_at, pause=run.pause, progress=progress
            )
            artifact = await out.finish()
    return _done(artifact, msgspec.to_builtins(written))


def _done(artifact: Artifact, said: dict[str, object]) -> Done:
    return Done(result={**said, ARTIFACT: msgspec.to_builtins(artifact)})


export_worker = Worker(
    name=EXPORT_MARKDOWN,
    function=_export,
    kind=EXPORT,
    deadline_s=_DEADLINE_S,
    concurrency=1,
    retry=_RETRY,
    allow=ADMINS,
)
"""Exports the notes of a workspace, one export after the other."""

backup_worker = Worker(
    name=BACKUP_SQL,
    function=_back_up,
    kind=BACKUP,
    deadline_s=_DEADLINE_S,
    concurrency=1,
    retry=_RETRY,
    allow=ADMINS,
)
"""Backs up the workspace that it is asked for in, or, in ``$system``, everything."""
