"""What of a proposal may be applied at all, whoever accepts it: the guard (KJ §1.5.6).

Each operation is judged by itself, in the order of the list; the first reason counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import msgspec

from ._operations import Operation, OperationKind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ._plan import StructuringPlan

GuardReason: TypeAlias = Literal[
    "MAX_OPERATIONS_EXCEEDED",
    "INVALID_KIND",
    "STRICT_MODE_KIND_BLOCKED",
    "DELETE_FORBIDDEN",
    "INVALID_CONFIDENCE",
    "SCOPE_VIOLATION",
]

NO_OPERATIONS = "NO_OPERATIONS_PARSED"
"""The warning of an answer that proposes nothing."""

_STRICT = frozenset({"create_note", "rewrite_note"})
_KINDS = frozenset(get_args(OperationKind))


class Guarded(msgspec.Struct, frozen=True):
    """An operation that may not be applied."""

    operation_id: str
    kind: str
    reason: GuardReason


class GuardReport(msgspec.Struct, frozen=True):
    """What the guard says of a proposal."""

    allowed: tuple[Operation, ...]
    rejected: tuple[Guarded, ...]
    warnings: tuple[str, ...]


def guard(
    operations: Sequence[Operation],
    plan: StructuringPlan,
    *,
    workspace_id: str,
    note_ids: Collection[str],
) -> GuardReport:
    """Judge every operation of a proposal.

    Args:
        operations: in their order.
        plan: what was asked for.
        workspace_id: where.
        note_ids: the notes of the workspace that the proposal has seen; nothing else is a target.

    """
    allowed: list[Operation] = []
    rejected: list[Guarded] = []
    for number, operation in enumerate(operations):
        reason = _reason(operation, number, plan, workspace_id, note_ids)
        if reason is None:
            allowed.append(operation)
        else:
            rejected.append(Guarded(operation.operation_id, operation.kind, reason))
    warnings = () if operations else (NO_OPERATIONS,)
    return GuardReport(tuple(allowed), tuple(rejected), warnings)


def _reason(
    operation: Operation,
    number: int,
    plan: StructuringPlan,
    workspace_id: str,
    note_ids: Collection[str],
) -> GuardReason | None:
    if number >= plan.max_operations:
        return "MAX_OPERATIONS_EXCEEDED"
    if operation.kind not in _KINDS:
        return "INVALID_KIND"  # of an answer that was read by another program
    if plan.strict_mode and operation.kind not in _STRICT:
        return "STRICT_MODE_KIND_BLOCKED"
    is_emptied = operation.kind == "rewrite_note" and not operation.body_markdown.strip()
    if is_emptied and not plan.allow_delete:
        return "DELETE_FORBIDDEN"
    if not 0 <= operation.confidence <= 1:
        return "INVALID_CONFIDENCE"
    if not _is_in_scope(operation, plan, workspace_id, note_ids):
        return "SCOPE_VIOLATION"
    return None


def _is_in_scope(
    operation: Operation, plan: StructuringPlan, workspace_id: str, note_ids: Collection[str]
) -> bool:
    """Return whether an operation is about what the plan is about.

    A new note has no id, only a path, and is the workspace's; a path may name the workspace.
    """
    path = operation.target_path
    if path is not None and path.startswith("workspace:"):
        named = path.removeprefix("workspace:").partition("/")[0]
        if named != workspace_id:
            return False
    target = operation.target_note_id
    if target is None:
        return plan.note_id is None
    if plan.note_id is not None and target != plan.note_id:
        return False
    return target in note_ids
