"""Whether somebody may take a step now: by the status, and by who they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dalsegno.protocol import Reject

from ._words import ADMINS, REVIEWERS

if TYPE_CHECKING:
    from dalsegno.protocol import Context

    from ._words import Step, Who


def check_step(
    steps: Mapping[str, Step],
    name: str,
    status: str,
    context: Context,
    people: Mapping[Who, str | None],
) -> Step:
    """Return a step that may be taken.

    Args:
        steps: the table.
        name: the step.
        status: the status now.
        context: who takes it.
        people: who is meant by ``author`` and ``commenter``.

    Raises:
        Reject: ``ROLE_FORBIDDEN``; ``INVALID_TRANSITION``, with the steps that are valid.

    """
    step = steps[name]
    check_who(step.who, context, people)
    if status not in step.sources:
        valid = sorted(each for each, other in steps.items() if status in other.sources)
        message = f"{name} is no step from {status}"
        raise Reject("INVALID_TRANSITION", message, status=400, current=status, valid=valid)
    return step


def check_who(who: Who, context: Context, people: Mapping[Who, str | None]) -> None:
    """Raise unless the principal is who may; the program and admins always may.

    Raises:
        Reject: ``ROLE_FORBIDDEN``.

    """
    user_id = context.principal.user_id
    if user_id is None or context.role in ADMINS:
        return
    if who == "reviewer" and context.role in REVIEWERS:
        return
    if who in people and people[who] == user_id:
        return
    raise Reject("ROLE_FORBIDDEN", f"that is for the {who}", role=context.role)
