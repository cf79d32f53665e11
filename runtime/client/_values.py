"""What a program gets of a remote workspace, in the types of its app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from dalsegno.protocol import Listed

    from ._wire import RemoteEvent

StateT = TypeVar("StateT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEntity(Generic[StateT]):
    """An entity at one version."""

    entity_id: str
    version: int
    event_seq: int
    """The number of the version's event in the workspace."""
    state: StateT


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSnapshot(Generic[StateT]):
    """A page of a list with states, as of one moment."""

    event_seq: int
    """The last event that it reflects: subscribe after it."""
    items: list[Listed[StateT]]
    next: str | None
    """Where the next page begins; None: this was the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteChange(Generic[EventT]):
    """An event of one entity, in the types of its domain."""

    entity_id: str
    version: int
    """The entity's version after it."""
    event_seq: int
    """Its number in the workspace."""
    event: EventT | None
    """None where the domain shows the workspace a view of it, or this program cannot read it: read
    the entity's state instead."""
    record: RemoteEvent
    """As it arrived."""
