"""Dumps: rows of which a store can be made again, each workspace as it was at an event of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dalsegno.actors.workspace import encoded_state, relisted_write, unlisted_write
from dalsegno.protocol import DalsegnoError, DomainError, Reject, UnavailableError
from dalsegno.protocol.runs import DumpPage

from ._as_of import AsOf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from dalsegno.actors.ports import Dumps, MovedEntity, Store
    from dalsegno.protocol import Domain, Limits

_log = logging.getLogger("dalsegno.runs")

_ENTITIES = "entity"
"""The table whose rows are of the present, and have to be folded where that is too late."""


class StoreDump:
    """The rows of a store, as the worker of a backup is given them."""

    def __init__(
        self,
        store: Store,
        dumps: Dumps | None,
        domains: Mapping[str, Domain[Any, Any, Any]],
        limits: Limits,
        *,
        only: str | None = None,
        judge: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Make it.

        Args:
            store: the log.
            dumps: the same, as rows.
            domains: what can be folded.
            limits: every bound.
            only: the workspace that may be read alone; None: all of them.
            judge: raises where who asked may not any longer; it is called at each page.

        Raises:
            DomainError: this store has no rows, as the one in memory.

        """
        if dumps is None:
            raise DomainError("this store cannot be backed up: it is no database")
        self._store = store
        self._dumps = dumps
        self._domains = domains
        self._limits = limits
        self._only = only
        self._judge = judge

    def __repr__(self) -> str:
        return f"<StoreDump of {self._only or 'everything'}>"

    @property
    def schema(self) -> int:
        """The version of the rows' form."""
        return self._dumps.schema

    @property
    def tables(self) -> Sequence[str]:
        """What there is of each workspace, the head first."""
        return self._dumps.tables

    @property
    def common_tables(self) -> Sequence[str]:
        """What there is beside the workspaces."""
        return self._dumps.common_tables

    async def _check(self, workspace_id: str | None) -> None:
        if self._judge is not None:
            await self._judge()
        if self._only is not None and workspace_id != self._only:
            raise Reject("ROLE_FORBIDDEN", "this run is of one workspace")

    async def workspaces(self, *, after: str, limit: int) -> Sequence[str]:
        """List the workspaces that have a log, in order."""
        await self._check(None)
        return await self._dumps.workspaces(after=after, limit=limit)

    async def total(self, workspace_id: str | None) -> int:
        """Return how many events there are about."""
        await self._check(workspace_id)
        return await self._dumps.total(workspace_id)

    async def rows(
        self, table: str, workspace_id: str, *, upto: int, after: str | None
    ) -> DumpPage:
        """Read a page of rows.

        Raises:
            Reject: ``ROLE_FORBIDDEN``.
            UnavailableError: the store is away.

        """
        await self._check(workspace_id)
        if table != _ENTITIES:
            return await self._dumps.rows(table, workspace_id, upto=upto, after=after)
        found = await self._dumps.entities(workspace_id, upto=upto, after=after)
        reads = AsOf(self._store, workspace_id, self._limits)
        rows = [*found.page.rows]
        rows += [await self._row_of(reads, moved) for moved in found.moved]
        return DumpPage(rows=rows, next=found.page.next)

    async def _row_of(self, reads: AsOf, moved: MovedEntity) -> str:
        """Return the row that an entity had: what it is listed under, and when it is due.

        Where it cannot be folded here, as of a domain that is not here, only its version is known,
        and whether it exists now; whoever serves the domain lists it anew before that is relied on.
        """
        write = unlisted_write(moved.stream_id, moved.version, exists=moved.exists)
        domain = self._domains.get(moved.stream_id.partition(":")[0])
        if domain is not None:
            try:
                entity = await reads.entity_at(domain, moved.stream_id, moved.version)
                state = encoded_state(moved.stream_id, entity)
                write = relisted_write(moved.stream_id, entity, state)
            except UnavailableError:
                raise
            except DalsegnoError as error:
                _log.warning("%s of %s: %s", moved.stream_id, reads.workspace_id, error)
        return self._dumps.row_of(write, moved.updated_at)
