"""What a database keeps, as rows from which another one can be made: JSON, one object a row.

Each page is one statement; nothing is held between two.  Of a log, and of all that hangs on events,
what is above the event that is read up to is left out.  An entity's row is of the present: where
that is too late, its version then is told instead.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from dalsegno.actors import EntityRows, MovedEntity
from dalsegno.protocol import MIB, instant
from dalsegno.protocol.runs import DumpPage

from ._statements import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors import EntityWrite

    from ._pools import Pools
    from ._rows import Row

ROWS_VERSION = 1
"""The version of the rows' form: raised where a row says something else than before."""

PAGE_BYTES = 1 * MIB
"""What a page has of payloads and states, unless a single one is longer."""


class Table(NamedTuple):
    """How a table is read."""

    begin: tuple[str, ...]
    """Below all keys; empty for a table that has one row."""
    rows: int
    """Of a page."""


TABLES = {
    "workspace_head": Table((), 1),
    "event": Table(("0",), 1_000),
    "entity": Table(("",), 500),
    "snapshot": Table(("", "0"), 8),
    "command_result": Table(("", ""), 500),
    "command_audit": Table(("0", "-1"), 200),
    "audit": Table(("0",), 500),
    "reactor_place": Table((), 1),
    "api_key": Table(("",), 500),
}
"""Those of a workspace, in the order in which they are restored."""

COMMON_TABLES = {
    "reactor": Table(("",), 500),
    "credential": Table(("",), 500),
    "ack_cursor": Table(("", "", "", ""), 1_000),
}
"""Those beside the workspaces.  Not there: nodes and their leases, which are of processes; sessions
and tickets, whose holders log in again; and what is made of other rows."""


class _EntityRow(msgspec.Struct, frozen=True, kw_only=True):
    """The row of an entity, as the statement writes it."""

    stream_id: str
    version: int
    live: bool
    keys: tuple[str, ...]
    title: str | None
    state: str | None
    state_version: int
    domain_version: int
    updated_at: str
    sort: str | None
    due_at: str | None
    index_version: int
    state_bytes: int | None


class PostgresDumps:
    """A `dalsegno.actors.Dumps` of a database."""

    schema = ROWS_VERSION
    tables: Sequence[str] = tuple(TABLES)
    common_tables: Sequence[str] = tuple(COMMON_TABLES)

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        # The connection is the sweeps' too, which do not wait for long: of any number of backups
        # one at a time is in line for it.
        self._turns = trio.CapacityLimiter(1)

    def __repr__(self) -> str:
        return f"<PostgresDumps by {self._pools.maintenance!r}>"

    async def _fetch(self, name: str, *params: str | None) -> list[Row]:
        async with self._turns:
            return await fetch(self._pools.maintenance, name, *params)

    async def workspaces(self, *, after: str, limit: int) -> Sequence[str]:
        """List the workspaces that have a log; see `Dumps.workspaces`."""
        rows = await self._fetch("dump_workspaces", after, str(limit))
        return [workspace_id for (workspace_id,) in rows]

    async def total(self, workspace_id: str | None) -> int:
        """Return how many events there are; see `Dumps.total`."""
        ((count,),) = await self._fetch("dump_total", workspace_id)
        return int(count)

    async def rows(
        self, table: str, workspace_id: str, *, upto: int, after: str | None
    ) -> DumpPage:
        """Read a page of rows; see `Dumps.rows`."""
        known = TABLES.get(table) or COMMON_TABLES[table]
        page: list[str | None] = []
        if known.begin:
            page = [str(known.rows), str(PAGE_BYTES), *_place(known, after)]
        upto_text = [] if table == "workspace_head" else [str(upto)]
        found = await self._fetch(f"dump_{table}", workspace_id, *upto_text, *page)
        is_last = not found or not known.begin or found[0][0] == len(found) < known.rows
        return DumpPage(
            rows=[row[2] for row in found if row[2] is not None],
            next=None if is_last else found[-1][1],
        )

    async def entities(self, workspace_id: str, *, upto: int, after: str | None) -> EntityRows:
        """Read a page of the entities; see `Dumps.entities`."""
        known = TABLES["entity"]
        page = [str(known.rows), str(PAGE_BYTES), *_place(known, after)]
        found = await self._fetch("dump_entity", workspace_id, str(upto), *page)
        is_last = not found or found[0][0] == len(found) < known.rows
        moved = [
            MovedEntity(
                stream_id=stream_id,
                version=version,
                updated_at=datetime.fromisoformat(updated_at),
                exists=live,
            )
            for _, stream_id, row, version, updated_at, live in found
            if row is None and version is not None
        ]
        return EntityRows(
            page=DumpPage(
                rows=[row[2] for row in found if row[2] is not None],
                next=None if is_last else found[-1][1],
            ),
            moved=moved,
        )

    def row_of(self, write: EntityWrite, updated_at: datetime) -> str:
        """Return the row of an entity that has moved; see `Dumps.row_of`."""
        row = _EntityRow(
            stream_id=write.stream_id,
            version=write.version,
            live=write.exists,
            keys=write.keys,
            title=write.title,
            state=write.state,
            state_version=0 if write.state is None else write.version,
            domain_version=write.domain_version,
            updated_at=instant(updated_at),
            sort=write.sort,
            due_at=None if write.due_at is None else instant(write.due_at),
            index_version=write.domain_version,
            state_bytes=None if write.state is None else len(write.state.encode()),
        )
        return msgspec.json.encode(row).decode()


def _place(table: Table, after: str | None) -> tuple[str, ...]:
    """Return the key after which a page begins, a column each."""
    if after is None:
        return table.begin
    if len(table.begin) == 1:
        return (after,)
    return tuple(msgspec.json.decode(after, type=list[str]))
