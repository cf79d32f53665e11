"""What a librarian's run has come to, as one document: the run's result, report and review."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import BEGINNING

from ._actions import LIBRARIAN_STRUCTURE
from .librarian import (
    PROTOCOL,
    LibrarianOperation,
    LibrarianReport,
    LibrarianReview,
    key_of_run,
    librarian_operations,
    librarian_reports,
    librarian_reviews,
)

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Reads
    from dalsegno.protocol.runs import RunState


async def structured_result(workspace: Reads, run_id: str, run: RunState) -> Any:  # noqa: ANN401 - JSON
    """Return the ``result_json`` of a run (KJ §1.5.7); of one without a report its own result.

    Raises:
        Reject: what reading raises.

    """
    seen = await workspace.look(librarian_reports, run_id)
    if seen is None or seen.state is None:
        return run.result
    report: LibrarianReport = seen.state
    operations = await _operations(workspace, run_id)
    reviewed = await workspace.look(librarian_reviews, run_id)
    review: LibrarianReview | None = None if reviewed is None else reviewed.state
    return {
        **(run.result or {"kind": LIBRARIAN_STRUCTURE, "protocol": PROTOCOL}),
        "applied": report.applied_operations > 0,
        "provider_kind": report.provider_kind,
        "model": report.model,
        "attempts": report.attempts,
        "raw_model_output": report.raw_response,
        "raw_model_outputs": report.raw_outputs,
        "request_id": report.request_id,
        "response_status": report.response_status,
        "response_summary": report.response_summary,
        "prompt_hash": report.prompt_hash,
        "parser_version": report.parser_version,
        "parse_diagnostics": report.parse_diagnostics,
        "operation_report": {
            "parsed_operations": report.parsed_operations,
            "applied_operations": report.applied_operations,
            "rejected_operations": report.rejected_operations,
            "warnings": report.warnings,
        },
        "operations": operations,
        "operation_applied": [_named(each) for each in operations if each.status == "applied"],
        "operation_rejected": [_named(each) for each in operations if each.status == "rejected"],
        "review": None if review is None else _review(review),
    }


async def _operations(workspace: Reads, run_id: str) -> list[LibrarianOperation]:
    listed: list[LibrarianOperation] = []
    place = BEGINNING
    while True:
        page = await workspace.snapshot(
            librarian_operations, key=key_of_run(run_id), after=place, limit=100
        )
        listed += [each.state for each in page.items]
        if page.next is None:
            return listed
        place = page.next


def _named(operation: LibrarianOperation) -> dict[str, Any]:
    said: dict[str, Any] = {"operation_id": operation.operation_id, "kind": operation.kind}
    if operation.status == "rejected":
        return {**said, "reason": operation.reject_reason, "detail": operation.reject_detail}
    return {
        **said,
        "result": operation.result,
        "note_id": operation.note_id,
        "version": operation.version,
        "event_seq": operation.version,  # in the note's stream, as the seed counts
    }


def _review(review: LibrarianReview) -> dict[str, Any]:
    return {
        "apply": review.applications > 0,
        "is_applying": review.is_applying,
        "decisions": msgspec.to_builtins(review.decisions),
    }
