"""The port to dumps: what a store keeps, as rows from which another one can be made."""

from __future__ import annotations

from collections.abc import Sequence  # at run time, as a field's type
from datetime import datetime  # likewise
from typing import TYPE_CHECKING, Protocol

import msgspec

from dalsegno.protocol.runs import DumpPage as DumpPage

if TYPE_CHECKING:
    from ._records import EntityWrite


class MovedEntity(msgspec.Struct, frozen=True, kw_only=True):
    """An entity that was changed after the event that is read up to."""

    stream_id: str
    version: int
    """The one that it had then …"""
    updated_at: datetime
    """… and since when."""
    exists: bool
    """Whether it exists now."""


class EntityRows(msgspec.Struct, frozen=True, kw_only=True):
    """A page of entities: rows of those that are as they were, and the others."""

    page: DumpPage
    moved: Sequence[MovedEntity]


class Dumps(Protocol):
    """What a store keeps.  A page is read in a statement of its own; no transaction is held open.

    The log only grows, so a workspace is the one that it was at an event, whatever is committed
    while it is read.
    """

    @property
    def schema(self) -> int:
        """The version of the rows' form."""

    @property
    def tables(self) -> Sequence[str]:
        """The tables of a workspace, in the order in which they are restored: the head first."""

    @property
    def common_tables(self) -> Sequence[str]:
        """Those beside the workspaces."""

    async def workspaces(self, *, after: str, limit: int) -> Sequence[str]:
        """List the workspaces that have a log, by id."""

    async def total(self, workspace_id: str | None) -> int:
        """Return how many events there are about, of one workspace, or of all."""

    async def rows(
        self, table: str, workspace_id: str, *, upto: int, after: str | None
    ) -> DumpPage:
        """Read a page of rows of any table but that of the entities; of ``upto`` and below."""

    async def entities(self, workspace_id: str, *, upto: int, after: str | None) -> EntityRows:
        """Read a page of the entities."""

    def row_of(self, write: EntityWrite, updated_at: datetime) -> str:
        """Return the row of an entity that has moved, folded as it was."""
