"""A review: people say of each operation whether it is applied, and then it is, or it is not.

    decided ──► settled: applied, rejected, or deferred

A decision may be another one until it is settled, and is final then.  Each operation is settled in
a commit of its own, which has its effect on the note, its status, the report's count and the
review's state; what is settled is passed over, so a review that is sent again, by whomever, does
nothing.
The commits are those of a run, `REVIEWER`, which goes on whatever dies meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from dalsegno.actors.domains.notes import notes
from dalsegno.protocol import Audit, Context, Domain, On, Reject, Touched, not_found, run_id_for
from dalsegno.protocol.runs import RequestRun, RunState, asked_for, runs

from ._effects import Aim, NotAppliedError, effect_of
from ._reports import (
    LibrarianReport,
    OperationApplied,
    OperationCounted,
    OperationDeferred,
    OperationRejected,
    OperationStatus,
    RejectReason,
    librarian_operations,
    librarian_reports,
    operation_entity,
)

REVIEWER = "librarian_review"
"""The name of the worker that applies what was accepted."""
REVIEWERS = frozenset({"owner", "admin"})
"""Who may review (KJ §1.4)."""
DECISIONS_MAX = 256
"""Decisions of one review: more than an answer has operations."""
REJECT_REASON_CHARS_MAX = 500

_AnyDomain: TypeAlias = Domain[Any, Any, Any]
Verdict: TypeAlias = Literal["accept", "reject"]
_WORDS: Mapping[str, Verdict] = {"accept": "accept", "apply": "accept", "reject": "reject"}
"""What a decision may be called (C7)."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of one operation."""

    operation_id: Annotated[str, Meta(max_length=256)]
    decision: Annotated[str, Meta(max_length=256)]
    """``accept``, for which ``apply`` may stand, or ``reject``."""
    reject_reason: str | None = None
    """At most 500 characters."""


class ReviewItem(msgspec.Struct, frozen=True, kw_only=True):
    """An operation, as far as a review knows it."""

    operation_index: int
    target_note_id: str | None
    seen_version: int | None
    status: OperationStatus
    decision: Verdict | None = None
    reject_reason: str | None = None
    is_settled: bool = False
    """Whether it is applied, rejected or deferred: nothing more becomes of it."""


class LibrarianReview(msgspec.Struct, frozen=True, kw_only=True):
    """A review of what a run proposes."""

    rule_id: str
    items: dict[str, ReviewItem]
    """By what the model calls the operations, in their order."""
    versions: dict[str, int] = {}
    """Of the notes that it has changed, as it has left them."""
    applied_by: str | None = None
    """The run that applies what was accepted, or did so last."""
    is_applying: bool = False
    applications: int = 0

    def due(self) -> list[str]:
        """Return the operations that are decided and not settled, in their order."""
        return [name for name, each in self.items.items() if each.decision and not each.is_settled]

    def count(self, status: OperationStatus) -> int:
        """Return how many operations have a status."""
        return sum(each.status == status for each in self.items.values())

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was decided, in the order of the operations."""
        return tuple(
            Decision(operation_id=name, decision=each.decision, reject_reason=each.reject_reason)
            for name, each in self.items.items()
            if each.decision is not None
        )


# ------------------------------------------------------------------------- commands and events


class ReviewRun(msgspec.Struct, frozen=True, kw_only=True):
    """Decide on operations of a run, and have the decided ones applied."""

    run_id: str
    apply: bool = True
    """False: the decisions are recorded, and nothing else happens yet."""
    decisions: Annotated[Sequence[Decision], Meta(max_length=DECISIONS_MAX)] = ()


class ApplyOperation(msgspec.Struct, frozen=True, kw_only=True):
    """Settle one operation as it was decided; once."""

    run_id: str
    operation_id: str


class FinishReview(msgspec.Struct, frozen=True, kw_only=True):
    """Finish a review of which everything decided is settled."""

    run_id: str


class ReviewBegan(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody decided on an operation of a run for the first time."""

    rule_id: str
    items: dict[str, ReviewItem]


class OperationsDecided(msgspec.Struct, frozen=True, kw_only=True):
    """This was decided."""

    decisions: tuple[Decision, ...]
    by: str | None
    at: datetime


class ReviewApplying(msgspec.Struct, frozen=True):
    """A run applies from now on what was decided."""

    run_id: str


class OperationSettled(msgspec.Struct, frozen=True, kw_only=True):
    """An operation is applied, rejected or, with ``pending``, deferred."""

    operation_id: str
    status: OperationStatus
    note_id: str | None = None
    version: int | None = None
    """Of the note, after it."""


class AutomationRunReviewed(msgspec.Struct, frozen=True, kw_only=True):
    """A review is done, as the seed has it on the workspace's stream (KJ §1.2.8)."""

    event_code: str
    run_id: str
    rule_id: str
    status: str
    apply: bool
    decisions: tuple[Decision, ...]
    applied_count: int
    rejected_count: int


librarian_reviews = Domain(
    "librarian_review",
    state=LibrarianReview,
    commands=ReviewRun | ApplyOperation | FinishReview,
    events=ReviewBegan
    | OperationsDecided
    | ReviewApplying
    | OperationSettled
    | AutomationRunReviewed,
    id_field="run_id",
    allow=REVIEWERS,
)
"""The reviews of a workspace, each under the id of the run that it is about."""


# ------------------------------------------------------------------------------------- reviewing


def _what_was_proposed(command: ReviewRun) -> Sequence[tuple[_AnyDomain, str]]:
    return [(runs, command.run_id), (librarian_reports, command.run_id)]


def _who_applies(
    review: LibrarianReview | None, command: ReviewRun
) -> Sequence[tuple[_AnyDomain, str]]:
    named = [] if review is None or review.applied_by is None else [(runs, review.applied_by)]
    return [*named, (runs, _next_application(review, command.run_id))]


def _next_application(review: LibrarianReview | None, run_id: str) -> str:
    return run_id_for(REVIEWER, run_id, str(0 if review is None else review.applications))


@librarian_reviews.decide(touches=_what_was_proposed, follows=_who_applies)
def _review(
    review: LibrarianReview | None, command: ReviewRun, context: Context, touched: Touched
) -> Sequence[ReviewBegan | OperationsDecided | ReviewApplying | AutomationRunReviewed | On[Any]]:
    run: RunState | None = touched.get(runs, command.run_id)
    report = touched.get(librarian_reports, command.run_id)
    if run is None:
        raise not_found(runs.stream_id(command.run_id))
    if run.status != "succeeded" or report is None:
        message = "only what a librarian's run has proposed is reviewed"
        raise Reject("STATE_CONFLICT", message, run_status=run.status)
    began = None if review is not None else _began(report)
    items = began.items if began is not None else cast("LibrarianReview", review).items
    changed = _decided(items, command.decisions)
    events: list[Any] = []
    if changed:
        events += [] if began is None else [began]
        by = context.principal.user_id
        events.append(OperationsDecided(decisions=changed, by=by, at=context.now))
    after = LibrarianReview(rule_id=report.rule_id, items=items) if review is None else review
    for decision in changed:
        after = _with_decision(after, decision)
    if not command.apply:
        return [*events, _reviewed(command.run_id, after, apply=False)] if changed else []
    if not after.due() or _is_under_way(review, touched):
        return events
    run_id = _next_application(review, command.run_id)
    request = RequestRun(worker=REVIEWER, input={"run_id": command.run_id})
    return [*events, ReviewApplying(run_id), On(runs, run_id, asked_for(request, context))]


def _is_under_way(review: LibrarianReview | None, touched: Touched) -> bool:
    """Return whether a run applies what was decided, and will find what is decided now."""
    if review is None or not review.is_applying or review.applied_by is None:
        return False
    applying = touched.get(runs, review.applied_by)
    return applying is not None and applying.is_open


def _began(report: LibrarianReport) -> ReviewBegan:
    items = {
        each.operation_id: ReviewItem(
            operation_index=index,
            target_note_id=each.target_note_id,
            seen_version=each.seen_version,
            status="pending" if each.guard_reason is None else "rejected",
            is_settled=each.guard_reason is not None,
        )
        for index, each in enumerate(report.operations)
    }
    return ReviewBegan(rule_id=report.rule_id, items=items)


def _decided(
    items: Mapping[str, ReviewItem], decisions: Sequence[Decision]
) -> tuple[Decision, ...]:
    """Return what is decided otherwise than it was, in the words that are kept.

    Raises:
        Reject: ``REVIEW_INVALID``; ``STATE_CONFLICT`` for what is settled otherwise.

    """
    changed: list[Decision] = []
    seen: set[str] = set()
    for said in decisions:
        item = items.get(said.operation_id)
        if item is None:
            raise _invalid(said, "the run has no such operation")
        if said.operation_id in seen:
            raise _invalid(said, "it is decided twice")
        seen.add(said.operation_id)
        verdict = _WORDS.get(said.decision)
        if verdict is None:
            raise _invalid(said, "a decision is accept, apply or reject")
        if len(said.reject_reason or "") > REJECT_REASON_CHARS_MAX:
            raise _invalid(said, f"a reason has at most {REJECT_REASON_CHARS_MAX} characters")
        reason = said.reject_reason if verdict == "reject" else None
        if item.decision == verdict and (item.is_settled or item.reject_reason == reason):
            continue
        if item.is_settled and item.decision is not None:
            message = f"{said.operation_id}: it is decided, and done"
            raise Reject("STATE_CONFLICT", message, operation_id=said.operation_id)
        if item.is_settled:
            continue  # the guard rejected it: whatever people decide, nothing comes of it
        changed.append(
            Decision(operation_id=said.operation_id, decision=verdict, reject_reason=reason)
        )
    return tuple(changed)


def _invalid(said: Decision, detail: str) -> Reject:
    message = f"{said.operation_id}: {detail}"
    return Reject(
        "REVIEW_INVALID", message, status=422, operation_id=said.operation_id, detail=detail
    )


def _reviewed(run_id: str, review: LibrarianReview, *, apply: bool) -> AutomationRunReviewed:
    return AutomationRunReviewed(
        event_code="LIBRARIAN_RUN_REVIEWED",
        run_id=run_id,
        rule_id=review.rule_id,
        status="succeeded",
        apply=apply,
        decisions=review.decisions,
        applied_count=review.count("applied"),
        rejected_count=review.count("rejected"),
    )


# -------------------------------------------------------------------------------------- applying


def _what_it_is_about(
    review: LibrarianReview | None, command: ApplyOperation
) -> Sequence[tuple[_AnyDomain, str]]:
    item = None if review is None else review.items.get(command.operation_id)
    if item is None:
        return []
    operation = operation_entity(command.run_id, item.operation_index)
    named: list[tuple[_AnyDomain, str]] = [
        (librarian_operations, operation),
        (librarian_reports, command.run_id),
    ]
    if item.target_note_id is not None and not item.is_settled:
        named.append((notes, item.target_note_id))
    return named


@librarian_reviews.decide(follows=_what_it_is_about)
def _apply(
    review: LibrarianReview, command: ApplyOperation, context: Context, touched: Touched
) -> Sequence[OperationSettled | On[Any]]:
    item = review.items.get(command.operation_id)
    if item is None:
        raise not_found(f"{librarian_operations.name}:{command.operation_id}")
    if item.is_settled:
        return []
    if item.decision is None:
        raise Reject("STATE_CONFLICT", "nobody has decided on it")
    entity = operation_entity(command.run_id, item.operation_index)
    operation = touched.get(librarian_operations, entity)
    assert operation is not None, "made with its report"
    target = item.target_note_id
    if item.decision == "reject":
        return _rejected(command, entity, "USER_REJECTED", item.reject_reason)
    aim = Aim(
        operation=operation,
        note=None if target is None else touched.get(notes, target),
        base_version=review.versions.get(target or "", item.seen_version),
        context=context,
        touched=touched,
    )
    try:
        effect = effect_of(aim)
    except NotAppliedError as refused:
        return _rejected(command, entity, refused.reason, refused.detail)
    if effect.result == "deferred":
        settled = OperationSettled(operation_id=command.operation_id, status="pending")
        return [settled, On(librarian_operations, entity, OperationDeferred())]
    applied = OperationApplied(result=effect.result, note_id=effect.note_id, version=effect.version)
    settled = OperationSettled(
        operation_id=command.operation_id,
        status="applied",
        note_id=effect.note_id,
        version=effect.version,
    )
    assert effect.note_id is not None, "all but a deferred one are about a note"
    changed = [] if effect.event is None else [On(notes, effect.note_id, effect.event)]
    return [
        *changed,
        settled,
        On(librarian_operations, entity, applied),
        On(librarian_reports, command.run_id, OperationCounted("applied")),
    ]


def _rejected(
    command: ApplyOperation, entity: str, reason: RejectReason, detail: str | None
) -> Sequence[OperationSettled | On[Any]]:
    return [
        OperationSettled(operation_id=command.operation_id, status="rejected"),
        On(librarian_operations, entity, OperationRejected(reason=reason, detail=detail)),
        On(librarian_reports, command.run_id, OperationCounted("rejected")),
    ]


@librarian_reviews.decide
def _finish(review: LibrarianReview, command: FinishReview) -> AutomationRunReviewed | None:
    if not review.is_applying:
        return None
    if review.due():
        raise Reject("REVIEW_OPEN", "something was decided meanwhile")
    return _reviewed(command.run_id, review, apply=True)


# --------------------------------------------------------------------------------------- folding


@librarian_reviews.evolve
def _has_begun(_before: LibrarianReview | None, event: ReviewBegan) -> LibrarianReview:
    return LibrarianReview(rule_id=event.rule_id, items=event.items)


@librarian_reviews.evolve
def _has_decided(review: LibrarianReview, event: OperationsDecided) -> LibrarianReview:
    for decision in event.decisions:
        review = _with_decision(review, decision)
    return review


def _with_decision(review: LibrarianReview, decision: Decision) -> LibrarianReview:
    item = replace(
        review.items[decision.operation_id],
        decision=cast("Verdict", decision.decision),
        reject_reason=decision.reject_reason,
    )
    return replace(review, items={**review.items, decision.operation_id: item})


@librarian_reviews.evolve
def _applies(review: LibrarianReview, event: ReviewApplying) -> LibrarianReview:
    return replace(
        review,
        applied_by=event.run_id,
        is_applying=True,
        applications=review.applications + 1,
    )


@librarian_reviews.evolve
def _settled(review: LibrarianReview, event: OperationSettled) -> LibrarianReview:
    item = replace(review.items[event.operation_id], status=event.status, is_settled=True)
    versions = review.versions
    if event.note_id is not None and event.version is not None:
        versions = {**versions, event.note_id: event.version}
    return replace(review, items={**review.items, event.operation_id: item}, versions=versions)


@librarian_reviews.evolve
def _done(review: LibrarianReview, event: AutomationRunReviewed) -> LibrarianReview:
    return replace(review, is_applying=False) if event.apply else review


# ------------------------------------------------------------------------------ record and view


@librarian_reviews.audit
def _on_record(
    event: ReviewBegan
    | OperationsDecided
    | ReviewApplying
    | OperationSettled
    | AutomationRunReviewed,
    _before: LibrarianReview | None,
    _after: LibrarianReview | None,
) -> Audit | None:
    """Put on record what was decided, and what came of it (KJ-RBAC-5)."""
    if isinstance(event, OperationsDecided):
        return Audit(action="AUTOMATION_RUN_DECIDED", new_value=msgspec.to_builtins(event))
    if isinstance(event, AutomationRunReviewed):
        return Audit(action="AUTOMATION_RUN_REVIEWED", new_value=msgspec.to_builtins(event))
    return None


class _Seen(msgspec.Struct, frozen=True, gc=False):
    event_code: str | None = None
    rule_id: str | None = None
    status: str | None = None
    apply: bool | None = None
    decisions: Any = None
    applied_count: int | None = None
    rejected_count: int | None = None


class _Reviewed(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    event_code: str
    run_id: str
    rule_id: str | None
    status: str | None
    apply: bool | None
    decisions: Any
    applied_count: int | None
    rejected_count: int | None


class _Shown(msgspec.Struct, frozen=True, gc=False):
    run_id: str
    version: int


@librarian_reviews.view(of=_Seen)
def _on_workspace_stream(event: _Seen, run_id: str, version: int) -> _Reviewed | _Shown:
    """Return the seed's event whole, and of all others which review changed."""
    if event.event_code is None:
        return _Shown(run_id, version)
    return _Reviewed(
        event_code=event.event_code,
        run_id=run_id,
        rule_id=event.rule_id,
        status=event.status,
        apply=event.apply,
        decisions=event.decisions,
        applied_count=event.applied_count,
        rejected_count=event.rejected_count,
    )
