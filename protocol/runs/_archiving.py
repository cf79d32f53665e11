"""What a run is given that writes an archive of its workspace: reads of one moment, and a file.

A workspace is written to while it is archived.  Its log only grows, so whoever reads up to an event
that was chosen first reads one moment, however long that takes, and holds nobody up.
"""

from __future__ import annotations

from collections.abc import Sequence  # at run time, as a field's type
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ._work import Work

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._event import Event

    from ._artifacts import ArtifactWriter


class EntityAt(msgspec.Struct, frozen=True, kw_only=True):
    """An entity as it was at an event of its workspace."""

    entity_id: str
    version: int
    state: Any
    """None where it did not exist any longer."""


class PageAt(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a domain's entities, as they were at an event of their workspace, by id."""

    items: tuple[EntityAt, ...]
    next: str | None
    """The id after which the next page begins; None: this was the last."""


class ReadsAt(Protocol):
    """A workspace, read as it was at an event of it."""

    @property
    def workspace_id(self) -> str:
        """The workspace's id."""

    async def page_at(
        self, domain: Domain[Any, Any, Any], event_seq: int, *, after: str = "", limit: int = 100
    ) -> PageAt:
        """List a domain's entities as they were at an event, with their states.

        A page has fewer than were asked for where their states are long.
        """

    async def count_at(self, domain: Domain[Any, Any, Any], event_seq: int) -> int:
        """Count a domain's entities that there had been up to an event."""

    async def pause(self) -> None:
        """Let others have a turn, where this has taken long: for one that computes."""


class DumpPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a table's rows, each a JSON object."""

    rows: Sequence[str]
    next: str | None
    """Where the next page begins; None: this was the last."""


class Dump(Protocol):
    """What a store keeps, as rows from which another one can be made."""

    @property
    def schema(self) -> int:
        """The version of the rows' form."""

    @property
    def tables(self) -> Sequence[str]:
        """What there is of each workspace, in the order in which it is restored; a head is first,
        one row, whose ``head_seq`` is what the others are read up to."""

    @property
    def common_tables(self) -> Sequence[str]:
        """What there is beside the workspaces."""

    async def workspaces(self, *, after: str, limit: int) -> Sequence[str]:
        """List the workspaces that have a log, in order."""

    async def total(self, workspace_id: str | None) -> int:
        """Return how many events there are about, of one workspace or of all; for a progress."""

    async def rows(
        self, table: str, workspace_id: str, *, upto: int, after: str | None
    ) -> DumpPage:
        """Read a page of the rows of a workspace as it was at an event; of a common table, all.

        Args:
            table: one of `tables` or `common_tables`.
            workspace_id: whose; empty for a common table.
            upto: the number of the event.
            after: the ``next`` of the page before.

        """


class ArchivingWork(Work, ReadsAt, Protocol):
    """A run that writes an archive of its workspace, as its worker sees it."""

    async def request(self) -> Event:
        """Return the event by which the run was asked for, the same for every attempt."""

    async def save(self, checkpoint: Any) -> None:  # noqa: ANN401 - JSON
        """Record how far it got, JSON."""

    def artifact(self, suffix: str) -> AbstractAsyncContextManager[ArtifactWriter]:
        """Write a file for the length of a block; what was not finished is deleted at its end."""

    def dump(self) -> Dump:
        """Return the rows of the workspace; of all of them, where it is ``$system``."""
