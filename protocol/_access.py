"""The declarations of a domain that decide who has access to a workspace, and to what (I8).

The entity named after a user may hold that user's role in a workspace, the entity named after a
workspace its first owner, and one entity of the workspace what may happen in it at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._codec import CommandT, DomainCodec, EventT, StateT
from ._errors import DomainError, Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from typing_extensions import TypeForm


GATE_ID = "main"
"""The id of the entity that decides what may happen in its workspace."""


class DomainAccess(DomainCodec[StateT, CommandT, EventT]):
    """The part of a domain that declares roles and first owners."""

    def __init__(
        self, state: type[StateT], commands: TypeForm[CommandT], events: TypeForm[EventT]
    ) -> None:
        super().__init__(state, commands, events)
        self.role_of: Callable[[Any], str | None] | None = None
        """The role that a state grants the user that the entity is named after; see `role`."""
        self.role_ended_by: frozenset[str] = frozenset()
        """The events that end that user's access …"""
        self.role_given_by: frozenset[str] = frozenset()
        """… and those that give another role, as their field ``role``."""
        self.founder_of: Callable[[Any], str] | None = None
        """The first owner of the workspace that the entity is named after; see `founder`."""
        self.gate_of: Callable[[Any, str | None], Reject | None] | None = None
        """Why something may not happen in the workspace; see `gate`."""
        self.gate_closed_by: frozenset[str] = frozenset()
        """The events after which nobody may see anything of the workspace."""

    def role(
        self,
        *,
        ended_by: Collection[type[EventT]] = (),
        given_by: Collection[type[EventT]] = (),
    ) -> Callable[[Callable[[StateT], str | None]], Callable[[StateT], str | None]]:
        """Declare that the entity named after a user decides that user's role in the workspace.

        At most one domain declares this for ordinary workspaces, and one reserved domain for
        ``$system``.  The function returns the role that a state grants, or None.

        Args:
            ended_by: the events after which the user may see nothing more of the workspace (I8).
            given_by: the events whose field ``role`` is the user's new role: a role that does not
                read ends access as well.

        """
        names, giving = self._names_of(ended_by), self._names_of(given_by)
        for struct in given_by:
            if "role" not in struct.__struct_fields__:
                raise DomainError(f"{struct.__name__} has no field 'role'")

        def declare(function: Callable[[StateT], str | None]) -> Callable[[StateT], str | None]:
            self.role_of = function
            self.role_ended_by, self.role_given_by = names, giving
            return function

        return declare

    def gate(
        self, *, closed_by: Collection[type[EventT]] = ()
    ) -> Callable[
        [Callable[[StateT, str | None], Reject | None]],
        Callable[[StateT, str | None], Reject | None],
    ]:
        """Declare that the entity ``main`` decides what may happen in its workspace.

        At most one domain declares this.  The function takes the state, and the name of the domain
        that a command is for, or None where somebody wants to read.  It returns the refusal, for
        the program's own commands too, or None.  It is not asked while there is no such entity.

        Args:
            closed_by: the events after which no user may see anything of the workspace (I8).

        """
        names = self._names_of(closed_by)

        def declare(
            function: Callable[[StateT, str | None], Reject | None],
        ) -> Callable[[StateT, str | None], Reject | None]:
            self.gate_of = function
            self.gate_closed_by = names
            return function

        return declare

    def _names_of(self, events: Collection[type[EventT]]) -> frozenset[str]:
        names = {struct: name for name, struct in self.events.items()}
        if foreign := [event.__name__ for event in events if event not in names]:
            raise DomainError(f"{self!r} has no event {', '.join(foreign)}")
        return frozenset(names[event] for event in events)

    def founder(self, function: Callable[[StateT], str]) -> Callable[[StateT], str]:
        """Declare that the entity named after a workspace records its first owner."""
        self.founder_of = function
        return function
