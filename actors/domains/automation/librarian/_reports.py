"""What a librarian's run has come to: its report, and the operations that it proposes (KJ §1.6).

Both are entities, made in one commit with the end of the run.  The report counts its operations in
the commit that changes one of them, so that the numbers are those of the operations there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Never, TypeAlias

import msgspec
from msgspec.structs import replace

from dalsegno.protocol import Context, Domain, Index, On, Touched

from ._guard import GuardReason
from ._operations import PARSER_VERSION, OperationKind

_AnyDomain: TypeAlias = Domain[Any, Any, Any]

OperationStatus: TypeAlias = Literal["pending", "applied", "rejected"]
ApplyResult: TypeAlias = Literal[
    "created", "rewritten", "retitled", "relinked", "retagged", "no_change", "deferred"
]
"""What became of an operation that was accepted."""
RejectReason: TypeAlias = (
    GuardReason
    | Literal[
        "USER_REJECTED",
        "MISSING_TARGET_NOTE",
        "TARGET_NOTE_NOT_FOUND",
        "INVALID_RETITLE_PAYLOAD",
        "APPLY_FAILED",
        "UNSUPPORTED_APPLY_KIND",
    ]
)
"""Why one was not applied: what the guard says, who reviewed it, or how applying it went."""


class ParseDiagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that could not be read, and why."""

    attempt: int
    """Counts from 1."""
    code: str
    detail: str
    errors: tuple[str, ...]


class ProposedOperation(msgspec.Struct, frozen=True, kw_only=True):
    """An operation as it is proposed."""

    operation_id: str
    """As the model calls it; once in a run."""
    kind: OperationKind
    target_note_id: str | None = None
    target_path: str | None = None
    title: str = ""
    body_markdown: str = ""
    reason: str
    confidence: float
    seen_version: int | None = None
    """Of the target, as the model was shown it."""
    guard_reason: GuardReason | None = None
    """Why it may not be applied; None: it may."""


class LibrarianOperation(msgspec.Struct, frozen=True, kw_only=True):
    """An operation, and what became of it."""

    run_id: str
    operation_index: int
    """Its place in the answer, from 0."""
    operation_id: str
    kind: OperationKind
    target_note_id: str | None
    target_path: str | None
    title: str
    body_markdown: str
    reason: str
    confidence: float
    seen_version: int | None
    status: OperationStatus
    reject_reason: RejectReason | None
    reject_detail: str | None = None
    """What the reviewer said, or what applying it was refused with."""
    result: ApplyResult | None = None
    """What came of it where it was accepted; one that is ``deferred`` stays pending."""
    note_id: str | None = None
    """The note that it was applied to, or made …"""
    version: int | None = None
    """… and that note's version then."""
    created_at: datetime


class ListedOperation(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of an operation, so that a review knows them without their texts."""

    operation_id: str
    kind: OperationKind
    target_note_id: str | None
    seen_version: int | None
    guard_reason: GuardReason | None


class LibrarianReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a run."""

    run_id: str
    rule_id: str
    provider_kind: str
    model: str
    request_id: str
    attempts: int
    """Answers that were read."""
    response_status: str | None
    """None: no answer could be read."""
    response_summary: str | None
    pack_version: str
    prompt_hash: str
    parser_version: str
    parsed_operations: int
    applied_operations: int
    rejected_operations: int
    warnings: tuple[str, ...]
    raw_prompt: str
    """What the model was told first, as far as it is kept."""
    raw_outputs: tuple[str, ...]
    """What it answered, each as far as it is kept; all of it is in the run's output."""
    parse_diagnostics: tuple[ParseDiagnostic, ...]
    operations: tuple[ListedOperation, ...]
    created_at: datetime

    @property
    def raw_response(self) -> str:
        """The last answer."""
        return self.raw_outputs[-1] if self.raw_outputs else ""


# ------------------------------------------------------------------------- commands and events


class RecordReport(msgspec.Struct, frozen=True, kw_only=True):
    """Record what a run has come to: that it has no answer, or, once and instead of that, one."""

    run_id: str
    rule_id: str
    provider_kind: str
    model: str
    attempts: int
    response_status: str | None = None
    response_summary: str | None = None
    pack_version: str
    prompt_hash: str
    warnings: tuple[str, ...] = ()
    raw_prompt: str
    raw_outputs: tuple[str, ...]
    parse_diagnostics: tuple[ParseDiagnostic, ...] = ()
    operations: tuple[ProposedOperation, ...] = ()


class ReportRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """A run has come to this."""

    rule_id: str
    provider_kind: str
    model: str
    request_id: str
    attempts: int
    response_status: str | None
    response_summary: str | None
    pack_version: str
    prompt_hash: str
    parser_version: str
    warnings: tuple[str, ...]
    raw_prompt: str
    raw_outputs: tuple[str, ...]
    parse_diagnostics: tuple[ParseDiagnostic, ...]
    operations: tuple[ListedOperation, ...]
    at: datetime


class OperationCounted(msgspec.Struct, frozen=True):
    """One of its operations was applied, or rejected."""

    status: Literal["applied", "rejected"]


class OperationProposed(msgspec.Struct, frozen=True, kw_only=True):
    """A run proposes this."""

    run_id: str
    operation_index: int
    operation: ProposedOperation
    at: datetime


class OperationApplied(msgspec.Struct, frozen=True, kw_only=True):
    """It was accepted and carried out."""

    result: ApplyResult
    note_id: str | None
    version: int | None


class OperationDeferred(msgspec.Struct, frozen=True):
    """It was accepted, and leaves for people what it is about."""


class OperationRejected(msgspec.Struct, frozen=True, kw_only=True):
    """It was not accepted, or could not be carried out."""

    reason: RejectReason
    detail: str | None


OperationOutcome: TypeAlias = OperationApplied | OperationDeferred | OperationRejected

# Nobody but the program itself says what a run has come to.
librarian_reports = Domain(
    "librarian_report",
    state=LibrarianReport,
    commands=RecordReport,
    events=ReportRecorded | OperationCounted,
    id_field="run_id",
    allow=(),
)
"""The reports of a workspace, each under its run's id."""

librarian_operations = Domain(
    "librarian_operation",
    state=LibrarianOperation,
    commands=Never,
    events=OperationProposed | OperationApplied | OperationDeferred | OperationRejected,
)
"""The operations of a workspace, each under its run's id and its place."""


def operation_entity(run_id: str, index: int) -> str:
    """Return the id of an operation's entity."""
    return f"{run_id}.{index}"


def key_of_run(run_id: str) -> str:
    """Return the key under which the operations of a run are listed, in their order."""
    return f"run:{run_id}"


# ------------------------------------------------------------------------------------- deciding


def _its_operations(command: RecordReport) -> Sequence[tuple[_AnyDomain, str]]:
    return [
        (librarian_operations, operation_entity(command.run_id, index))
        for index in range(len(command.operations))
    ]


@librarian_reports.decide(touches=_its_operations)
def _record(
    report: LibrarianReport | None, command: RecordReport, context: Context, _touched: Touched
) -> Sequence[ReportRecorded | On[Any]]:
    if report is not None and report.response_status is not None:
        return []  # else it was recorded by an attempt that died before it ended the run
    recorded = ReportRecorded(
        rule_id=command.rule_id,
        provider_kind=command.provider_kind,
        model=command.model,
        request_id=command.run_id,
        attempts=command.attempts,
        response_status=command.response_status,
        response_summary=command.response_summary,
        pack_version=command.pack_version,
        prompt_hash=command.prompt_hash,
        parser_version=PARSER_VERSION,
        warnings=command.warnings,
        raw_prompt=command.raw_prompt,
        raw_outputs=command.raw_outputs,
        parse_diagnostics=command.parse_diagnostics,
        operations=tuple(
            ListedOperation(
                operation_id=each.operation_id,
                kind=each.kind,
                target_note_id=each.target_note_id,
                seen_version=each.seen_version,
                guard_reason=each.guard_reason,
            )
            for each in command.operations
        ),
        at=context.now,
    )
    proposed = [
        On(
            librarian_operations,
            operation_entity(command.run_id, index),
            OperationProposed(
                run_id=command.run_id, operation_index=index, operation=each, at=context.now
            ),
        )
        for index, each in enumerate(command.operations)
    ]
    return [recorded, *proposed]


# -------------------------------------------------------------------------------------- folding


@librarian_reports.evolve
def _recorded(_before: LibrarianReport | None, event: ReportRecorded) -> LibrarianReport:
    rejected = sum(each.guard_reason is not None for each in event.operations)
    return LibrarianReport(
        run_id=event.request_id,
        rule_id=event.rule_id,
        provider_kind=event.provider_kind,
        model=event.model,
        request_id=event.request_id,
        attempts=event.attempts,
        response_status=event.response_status,
        response_summary=event.response_summary,
        pack_version=event.pack_version,
        prompt_hash=event.prompt_hash,
        parser_version=event.parser_version,
        parsed_operations=len(event.operations),
        applied_operations=0,
        rejected_operations=rejected,
        warnings=event.warnings,
        raw_prompt=event.raw_prompt,
        raw_outputs=event.raw_outputs,
        parse_diagnostics=event.parse_diagnostics,
        operations=event.operations,
        created_at=event.at,
    )


@librarian_reports.evolve
def _counted(report: LibrarianReport, event: OperationCounted) -> LibrarianReport:
    if event.status == "applied":
        return replace(report, applied_operations=report.applied_operations + 1)
    return replace(report, rejected_operations=report.rejected_operations + 1)


@librarian_operations.evolve
def _proposed(_before: LibrarianOperation | None, event: OperationProposed) -> LibrarianOperation:
    said = event.operation
    return LibrarianOperation(
        run_id=event.run_id,
        operation_index=event.operation_index,
        operation_id=said.operation_id,
        kind=said.kind,
        target_note_id=said.target_note_id,
        target_path=said.target_path,
        title=said.title,
        body_markdown=said.body_markdown,
        reason=said.reason,
        confidence=said.confidence,
        seen_version=said.seen_version,
        status="pending" if said.guard_reason is None else "rejected",
        reject_reason=said.guard_reason,
        created_at=event.at,
    )


@librarian_operations.evolve
def _applied(operation: LibrarianOperation, event: OperationApplied) -> LibrarianOperation:
    return replace(
        operation,
        status="applied",
        result=event.result,
        note_id=event.note_id,
        version=event.version,
    )


@librarian_operations.evolve
def _deferred(operation: LibrarianOperation, _event: OperationDeferred) -> LibrarianOperation:
    return replace(operation, result="deferred")


@librarian_operations.evolve
def _rejected(operation: LibrarianOperation, event: OperationRejected) -> LibrarianOperation:
    return replace(
        operation, status="rejected", reject_reason=event.reason, reject_detail=event.detail
    )


# ----------------------------------------------------------------------------- lists and views


@librarian_reports.index
def _by_rule(report: LibrarianReport) -> Index:
    return Index(keys=(f"rule:{report.rule_id}",))


@librarian_operations.index
def _by_run(operation: LibrarianOperation) -> Index:
    # Sorted as text: three digits are more than an answer has.
    return Index(keys=(key_of_run(operation.run_id),), sort=f"{operation.operation_index:03}")


class _Seen(msgspec.Struct, frozen=True, gc=False):
    pass


class _ShownReport(msgspec.Struct, frozen=True, gc=False):
    run_id: str
    version: int


class _ShownOperation(msgspec.Struct, frozen=True, gc=False):
    run_id: str
    operation_index: int
    version: int


@librarian_reports.view(of=_Seen)
def _report_on_workspace_stream(_event: _Seen, run_id: str, version: int) -> _ShownReport:
    """Return which report changed: the texts are read from it."""
    return _ShownReport(run_id, version)


@librarian_operations.view(of=_Seen)
def _operation_on_workspace_stream(_event: _Seen, entity: str, version: int) -> _ShownOperation:
    """Return which operation changed, not how."""
    run_id, _, index = entity.rpartition(".")
    return _ShownOperation(run_id, int(index), version)
