"""What a librarian is to do, as a rule says it: `action_json.plan` (KJ §1.5.4)."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

_SCOPE = re.compile(r"workspace|workspace:[A-Za-z0-9_.-]{1,64}|note:[A-Za-z0-9_.-]{1,64}", re.ASCII)


class PlanError(ValueError):
    """A plan that cannot be followed; its text says what is wrong with it."""


class StructuringPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be structured, and within which bounds."""

    goal: Annotated[str, Meta(min_length=1, max_length=256)]
    scope: Annotated[str, Meta(min_length=1, max_length=128)] = "workspace"
    """``workspace``, ``workspace:{id}`` or ``note:{id}``."""
    taxonomy_json: dict[str, Any] | list[Any] = {}
    style_profile: Annotated[str, Meta(max_length=64)] = ""
    strict_mode: bool
    """Whether notes are created and rewritten, and nothing else."""
    max_operations: Annotated[int, Meta(ge=1, le=128)]
    allow_delete: bool = False
    """Whether a note may be rewritten to nothing."""

    @classmethod
    def of(cls, document: object, workspace_id: str) -> StructuringPlan:
        """Return the plan that a JSON document describes.

        Raises:
            PlanError: it describes none for this workspace.

        """
        try:
            plan = msgspec.convert(document, cls)
        except msgspec.ValidationError as error:
            raise PlanError(f"plan: {error}") from error
        if (problem := plan.check(workspace_id)) is not None:
            raise PlanError(problem)
        return plan

    @property
    def note_id(self) -> str | None:
        """The one note that it is about; None: the workspace."""
        kind, _, rest = self.scope.partition(":")
        return rest if kind == "note" else None

    def check(self, workspace_id: str) -> str | None:
        """Return what is wrong with it in a workspace; None: nothing is."""
        if _SCOPE.fullmatch(self.scope) is None:
            return "plan.scope is workspace, workspace:{id} or note:{id}"
        kind, _, rest = self.scope.partition(":")
        if kind == "workspace" and rest not in ("", workspace_id):
            return "plan.scope is another workspace"
        return None
