"""Who may do what: a principal's role, told by the log alone (I8).

In a workspace the entity ``member:{user}`` tells it once its log has an event on it; before that
the workspace's first owner, whom ``$system`` records, is the only member.  In ``$system`` itself
the entity ``user:{user}`` tells the global role.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.protocol import SYSTEM_WORKSPACE

if TYPE_CHECKING:
    from dalsegno.protocol import Principal

SYSTEM_ROLE = "system"
"""The embedding program's, which is allowed everything."""

MEMBER_REMOVED = "member_removed"
"""The event that ends a membership: a barrier for the user's connections (X-RBAC-2)."""


def role_stream(workspace_id: str, user_id: str) -> str:
    """Name the stream that tells a user's role in a workspace."""
    return f"user:{user_id}" if workspace_id == SYSTEM_WORKSPACE else f"member:{user_id}"


def role_in(version: int, state: Any, user_id: str, owner_id: str | None) -> str | None:  # noqa: ANN401 - a member's or a user's state
    """Tell a user's role from the entity of `role_stream`; None for who has none."""
    if version == 0:
        return "owner" if user_id == owner_id else None
    role: str | None = None if state is None else state.role
    return role


def asserted_role(principal: Principal) -> str | None:
    """Tell the role of a principal for whom the log need not be asked."""
    return SYSTEM_ROLE if principal.user_id is None else principal.role
