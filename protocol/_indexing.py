"""What a domain says of its entities beside their states: how they are listed, when they are due,
and what is put on record of a change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ._access import DomainAccess
from ._codec import CommandT, EventT, StateT
from ._errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import TypeForm


class Index(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The columns by which an entity is found, committed with it."""

    keys: tuple[str, ...] = ()
    """What it is listed under: at most 512, each of 1 to 1,024 bytes of UTF-8."""
    sort: str | None = None
    """Its place in the lists, in the order of Unicode's code points, at most 256 bytes; with one it
    is in the list of all that have one.  Best a value that seldom changes: of a time, the minute.
    """
    title: str | None = None
    text: str | None = None
    """For the search projection, which follows the log."""


class Due(msgspec.Struct, frozen=True):
    """What an entity asks for later: a command to itself."""

    at: datetime
    """Aware; no earlier than this, by the clock that deciders get.  One that is past is soon."""
    command: msgspec.Struct
    """Sent as the program itself, to the entity that asks."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What is put on record of one event, besides who, when and from where."""

    action: str
    """What was done, such as ``MEMBER_REMOVED``."""
    resource_type: str | None = None
    """Of what was changed; None: the domain's name."""
    resource_id: str | None = None
    """… and its id; None: the entity's."""
    old_value: Any = None
    """What it was before, as JSON …"""
    new_value: Any = None
    """… and after."""


Audited: TypeAlias = "Audit | Sequence[Audit] | None"


class DomainIndex(DomainAccess[StateT, CommandT, EventT]):
    """The part of a domain that declares lists, timers and records."""

    id_field: str

    def __init__(
        self, state: type[StateT], commands: TypeForm[CommandT], events: TypeForm[EventT]
    ) -> None:
        super().__init__(state, commands, events)
        self._index: Callable[[Any], Index] | None = None
        self._due: Callable[[Any, str], Due | None] | None = None
        self._audit: Callable[[Any, Any, Any], Audited] | None = None

    # ----------------------------------------------------------------------------- declaring

    def index(self, function: Callable[[StateT], Index]) -> Callable[[StateT], Index]:
        """Register the function that returns the index columns of a state.

        Raise the domain's version when it changes its meaning: what another version has listed
        is listed anew before a list by key or sort is answered.
        """
        self._index = function
        return function

    def due(
        self, function: Callable[[StateT, str], Due | None]
    ) -> Callable[[StateT, str], Due | None]:
        """Register the function that says, of a state and an entity's id, what is asked for when.

        It commits with the state; raise the domain's version when it changes its meaning.  Once
        its time has come the command is sent, if the entity then still asks for it: what was
        renewed or withdrawn does not happen, however late the timer is, and no decider has to check
        that.  A command that changes nothing of what is due is sent again, ever more rarely.
        Several timers of an entity are one: return the earliest.
        """
        self._due = function
        return function

    def audit(
        self, function: Callable[[EventT, StateT | None, StateT | None], Audited]
    ) -> Callable[[EventT, StateT | None, StateT | None], Audited]:
        """Register the function that says what is put on record of an event.

        It is given the event and the entity before and after it; the record is committed in the
        statement that commits the event, or not at all.
        """
        self._audit = function
        return function

    # ------------------------------------------------------------------------------- running

    @property
    def is_indexed(self) -> bool:
        """Whether states are listed under what they say themselves."""
        return self._index is not None

    @property
    def has_timers(self) -> bool:
        """Whether entities ask for something later."""
        return self._due is not None

    @property
    def is_audited(self) -> bool:
        """Whether something is put on record of events."""
        return self._audit is not None

    def indexed(self, state: StateT | None) -> Index:
        """Return the index columns of a state."""
        return Index() if self._index is None or state is None else self._index(state)

    def due_of(self, state: StateT | None, entity_id: str) -> Due | None:
        """Return what an entity asks for, its time in UTC.

        Raises:
            DomainError: a time without a zone, or something else than a command of the domain to
                this entity.

        """
        if self._due is None or state is None:
            return None
        due = self._due(state, entity_id)
        if due is None:
            return None
        is_own = type(due.command) in self.commands.values()
        if due.at.tzinfo is None or not is_own or getattr(due.command, self.id_field) != entity_id:
            raise DomainError(f"{self!r}: what is due is a time with its zone, and a command to it")
        return Due(due.at.astimezone(UTC), due.command)

    def audited(
        self, event: EventT, before: StateT | None, after: StateT | None
    ) -> Sequence[Audit]:
        """Return what is put on record of an event."""
        found = None if self._audit is None else self._audit(event, before, after)
        if found is None:
            return ()
        return (found,) if isinstance(found, Audit) else found
