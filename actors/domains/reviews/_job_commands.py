"""What is asked of a proposal's jobs: by people, to begin and cancel one; by who carries it out."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from ._words import SELECTED_MAX, Path, Prose

FILES_MAX = 200
"""Files that one iteration may change."""


class ValidateProposal(msgspec.Struct, frozen=True, kw_only=True):
    """Have the operator's command look at a proposal."""

    proposal_id: str


class IterateProposal(msgspec.Struct, frozen=True, kw_only=True):
    """Have a model change a proposal's files, as its selected comments and these words say."""

    proposal_id: str
    instructions: Prose = ""


class CancelJob(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel the job that is under way."""

    proposal_id: str
    job_id: str | None = None
    """None: whichever it is."""


class RecordValidation(msgspec.Struct, frozen=True, kw_only=True):
    """Record what a validation has come to; sent with its end."""

    proposal_id: str
    run_id: str
    status: str
    summary: dict[str, Any]


class RecordIteration(msgspec.Struct, frozen=True, kw_only=True):
    """Record what an iteration has changed; sent with its end."""

    proposal_id: str
    run_id: str
    files: Annotated[tuple[Path, ...], Meta(max_length=FILES_MAX)]
    comment_ids: Annotated[tuple[str, ...], Meta(max_length=SELECTED_MAX)]
    validation: dict[str, Any]
    """``status`` and ``summary``; empty where nothing validates."""


class EndJob(msgspec.Struct, frozen=True, kw_only=True):
    """Record that a job has come to nothing; sent once its run has ended so."""

    proposal_id: str
    run_id: str
    code: str


JobCommand: TypeAlias = (
    ValidateProposal | IterateProposal | CancelJob | RecordValidation | RecordIteration | EndJob
)
