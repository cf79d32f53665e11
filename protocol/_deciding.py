"""The inputs of a decider beside state and command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping  # at run time, for `inspect.signature`
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from ._errors import DomainError
from ._limits import Limits
from ._receipt import Receipt  # at run time, as a field's type

if TYPE_CHECKING:
    from collections.abc import Iterable

WRITERS = frozenset({"owner", "admin", "editor"})
"""The roles that may send a command, unless it says otherwise (X-RBAC-1)."""


class Principal(msgspec.Struct, frozen=True):
    """The acting party: the embedding program (no user), or one of its users."""

    user_id: str | None = None
    role: str | None = None
    """Asserted by the host; None where the workspace's log decides it."""
    address: str | None = None
    """Where the request came from, for the record; nothing is decided by it."""
    connection_id: str | None = None
    """The connection that asks, with which its runs may end; nothing of access is decided by it.
    None where there is none that could be lost."""


SYSTEM = Principal()
"""The embedding program itself: allowed everything."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What those who have a role may do in a workspace."""

    commands: frozenset[str] | None = None
    """The names of the commands that they may send; None: those whose deciders name the role
    (``allow=``)."""
    reads: bool = True
    """Whether they may read: entities, lists, streams."""


BUILT_IN_ROLES: Mapping[str, Role] = MappingProxyType(
    {role: Role() for role in ("owner", "admin", "editor", "viewer")}
)
"""The roles that there always are (X-RBAC-1): deciders say what each of them may send."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A decider's input beside state and command: it has no clock and no randomness."""

    entity_id: str
    """The id of the command's entity, also where the runtime has just made it."""
    principal: Principal
    role: str
    """The principal's role in the workspace just before this command."""
    workspace_id: str = ""
    """The workspace."""
    owner_id: str | None = None
    """The workspace's first owner, who is a member before the log says so."""
    now: datetime
    """The time of the command, UTC."""
    new_id: Callable[[], str]
    """Returns a new UUIDv7.  Nobody has it, so an event on it (`On`) makes a further entity."""
    limits: Limits = Limits()
    """The runtime's bounds."""
    roles: Mapping[str, Role] = BUILT_IN_ROLES
    """What each role may do in a workspace."""
    workers: Mapping[str, Any] = MappingProxyType({})
    """Who carries out runs here: each a `Worker`, by its name."""
    depth: int = 0
    """Of the run that sent the command: how many events led to that, each made by the run for the
    one before; 0 for what people and programs send."""
    earlier: tuple[Receipt, ...] = ()
    """The answers to the commands before it in its group; see `send_all`."""


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The entity as it was at the version that ``needs=`` named."""

    version: int
    state: Any
    """None if the entity did not exist then."""


def annotations_of(
    function: Callable[..., Any], structs: Iterable[type]
) -> tuple[dict[str, Any], list[str]]:
    """Return the types and the names of a function's parameters.

    The structs are found by name, even if they were declared inside a function.

    Raises:
        DomainError: an annotation is missing, or cannot be resolved at run time.

    """
    try:
        hints = get_type_hints(function, localns={struct.__name__: struct for struct in structs})
    except NameError as error:
        raise DomainError(f"{function.__name__}: {error}; import it at run time") from error
    names = [*inspect.signature(function).parameters]
    if len(names) < 2 or any(name not in hints for name in names):
        raise DomainError(f"{function.__name__}: annotate state and message, and what follows")
    return hints, names
