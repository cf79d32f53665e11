"""What the read of a route may ask of its workspace, as the caller: the port, and common answers.

A route's function is given this and nothing else, so that it does no I/O of its own, and sees what
the caller may see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta

from dalsegno.protocol._errors import not_found
from dalsegno.protocol._limits import SEQ_MAX
from dalsegno.protocol._listing import BEGINNING, Listed, Place, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._event import Event

StateT = TypeVar("StateT", bound=msgspec.Struct)
ShownT = TypeVar("ShownT")

MinSeq = Annotated[int, Meta(ge=0, le=SEQ_MAX, description="wait until the answer reflects it")]
BaseVersion = Annotated[
    int, Meta(ge=1, le=SEQ_MAX, description="the version that the change is based on")
]
Limit = Annotated[int, Meta(ge=1, description="how many items a page has at most")]


class Seen(Protocol):
    """An entity at one version; its state is None where it exists no longer."""

    @property
    def version(self) -> int:
        """Its version."""

    @property
    def state(self) -> Any:  # noqa: ANN401 - the domain's
        """Its state."""


class Reads(Protocol):
    """A workspace, as one principal may read it."""

    @property
    def id(self) -> str:
        """The workspace's id."""

    async def role(self) -> str | None:
        """Return the principal's role in it; None for who may not read it."""

    async def look(
        self, domain: Domain[Any, Any, Any], entity_id: str, *, min_seq: int | None = None
    ) -> Seen | None:
        """Read an entity with its version; None if it never existed."""

    async def history(
        self, domain: Domain[Any, Any, Any], entity_id: str, *, after: int = 0, limit: int = 100
    ) -> Sequence[Event]:
        """Read a page of an entity's events, in order, those after one of its versions."""

    async def snapshot(
        self,
        domain: Domain[StateT, Any, Any],
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int = 100,
        min_seq: int | None = None,
        newest_first: bool = False,
    ) -> Snapshot[StateT]:
        """List entities that exist with their states, all of one moment; those of a key also from
        the end of their list.
        """

    async def keys(
        self, domain: Domain[Any, Any, Any], *, prefix: str = "", after: str = "", limit: int = 100
    ) -> list[str]:
        """List the different keys under which entities are listed, in order."""


class SeenMembership(Protocol):
    """A workspace, as one of its members may know it."""

    @property
    def workspace_id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name now."""

    @property
    def role(self) -> str:
        """The member's role."""

    @property
    def since(self) -> datetime:
        """Since when the member is one."""


class Memberships(Protocol):
    """The workspaces of which one principal is a member."""

    async def page(
        self, *, after: str = "", limit: int = 100
    ) -> tuple[Sequence[SeenMembership], str | None]:
        """Return a page of them by their ids, and the id after which the next one begins."""

    async def of(self, workspace_id: str) -> SeenMembership:
        """Return one of them.

        Raises:
            Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN`` (C22).

        """

    async def holding(self, domain: Domain[Any, Any, Any], entity_id: str) -> Reads:
        """Return the one of them that has an entity, as the principal may read it.

        Raises:
            Reject: ``…_NOT_FOUND`` where none of them has it (C22), ``BAD_REQUEST`` where several
                have.

        """


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a read of one entity."""

    min_seq: MinSeq | None = None


class Limited(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of any list."""

    limit: Limit = 100
    """At most `Limits.list_limit_max`."""


class Paging(Limited, frozen=True, kw_only=True):
    """The parameters of a list by ids."""

    after: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[ShownT]):
    """A page of a list."""

    items: list[ShownT]
    next: str | None
    """The ``after`` of the next page; None: this is the last."""


async def found(
    workspace: Reads, domain: Domain[Any, Any, Any], entity_id: str, *, min_seq: int | None = None
) -> Seen:
    """Return an entity that exists.

    Raises:
        Reject: ``…_NOT_FOUND``, and what reading raises.

    """
    entity = await workspace.look(domain, entity_id, min_seq=min_seq or None)
    if entity is None or entity.state is None:
        raise not_found(domain.stream_id(entity_id))
    return entity


async def page_of(
    workspace: Reads,
    domain: Domain[StateT, Any, Any],
    paging: Paging,
    show: Callable[[Listed[StateT]], ShownT | None],
    *,
    key: str | None = None,
) -> Page[ShownT]:
    """Return a page of a workspace's entities by their ids, all of one moment.

    It has fewer items than were asked for where their states are more than
    `Limits.list_bytes_max`, or where some are left out.

    Args:
        workspace: the workspace, as the caller.
        domain: the entities' domain, whose index has no sort.
        paging: which page.
        show: returns an item for an entity, or None to leave it out.
        key: list only entities with this key.

    Raises:
        Reject: what reading raises.

    """
    place = Place("", domain.stream_id(paging.after or ""))
    listed = await workspace.snapshot(domain, key=key, after=place, limit=paging.limit)
    shown = (show(item) for item in listed.items)
    last = None if listed.next is None else listed.items[-1].entity_id
    return Page([item for item in shown if item is not None], last)
