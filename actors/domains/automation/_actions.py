"""What rules do: the kinds of their actions, and what an action of each has to say.

A kind that is not known here is no error of the rule: a later version of the program may carry it
out.  Until then its runs fail with ``RULE_ACTION_INVALID``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.actors.domains.notes import check_tags
from dalsegno.protocol import Reject
from dalsegno.protocol.providers import provider_problem

from ._refusals import invalid
from .librarian import PROTOCOL, PlanError, StructuringPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOOP = "noop"
TAG_NOTE = "tag_note"
LIBRARIAN_STRUCTURE = "librarian_structure"

Action = dict[str, Any]


def check_action(action: Any, workspace_id: str) -> Action:  # noqa: ANN401 - JSON
    """Check and return an action of a workspace.

    Raises:
        Reject: ``RULE_INVALID``.

    """
    if not isinstance(action, dict):
        raise invalid("action_json", "it is an object")
    kind = action.get("kind")
    if not isinstance(kind, str) or not kind:
        raise invalid("action_json", "kind is a text")
    check = _CHECKS.get(kind)
    if check is not None:
        check(action, workspace_id)
    return action


def tag_of(action: Action, _workspace_id: str = "") -> str:
    """Return the tag of a ``tag_note``.

    Raises:
        Reject: ``RULE_INVALID``.

    """
    tag = action.get("tag")
    if not isinstance(tag, str):
        raise invalid("action_json", "tag is a text")
    try:
        return check_tags([tag])[0]
    except Reject as error:
        raise invalid("action_json", error.message) from error


def _check_structure(action: Action, workspace_id: str) -> None:
    """Check a ``librarian_structure``: who is asked, in which protocol, and what for."""
    problem = provider_problem(action.get("provider"))
    if problem is not None:
        raise invalid("action_json", problem)
    if action.get("protocol") != PROTOCOL:
        raise invalid("action_json", f"protocol: {PROTOCOL}")
    try:
        StructuringPlan.of(action.get("plan"), workspace_id)
    except PlanError as error:
        raise invalid("action_json", str(error)) from error


_CHECKS: Mapping[str, Callable[[Action, str], object]] = {
    TAG_NOTE: tag_of,
    LIBRARIAN_STRUCTURE: _check_structure,
}
"""What an action of a kind has to say besides."""


def asked_of(action: Action) -> dict[str, str]:
    """Return the provider and the model that an action asks, as labels of its runs."""
    provider = action.get("provider")
    if action["kind"] != LIBRARIAN_STRUCTURE or not isinstance(provider, dict):
        return {}
    return {"provider_kind": str(provider["provider_kind"]), "model": str(provider["model"])}
