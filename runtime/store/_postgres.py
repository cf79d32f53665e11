"""The store on PostgreSQL.

An append is a single statement: one implicit transaction, one round trip, and no transaction that
a paused process could hold open.  It is never cancelled at the server.  A call that is cancelled
here abandons its connection, and the outcome is unknown.

Everything else is a single statement too.  Where a statement depends on the latest version of a
row, it reads the row under its lock: its snapshot is older than a lock that it waited for.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime  # at run time, for what is read
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary

import msgspec

from dalsegno.actors import (
    BEGINNING,
    AckedCursor,
    AuditEntry,
    AuditFilter,
    AuditPlace,
    AuditRecord,
    Batch,
    BatchRejectedError,
    BehindPage,
    CursorKey,
    DueEntity,
    DuePage,
    EntityPage,
    EntityWrite,
    Head,
    Node,
    PageBounds,
    Place,
    ReactorPlace,
    ReactorStart,
    Refusal,
    RefusedWrite,
    RunsPage,
    StalePage,
    StoredEntity,
    StoredResult,
    Turn,
    Uncollected,
)
from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    Cursor,
    Event,
    Limits,
    OutcomeUnknownError,
    instant,
    parse_cursor,
)

from ._driver import DriverError
from ._dumps import PostgresDumps
from ._listing import list_entities
from ._loading import load, load_many
from ._migrations import check
from ._pools import Pools
from ._postgres_accounts import PostgresAccounts
from ._psycopg import connect
from ._rows import (
    append_statement,
    audit_entry_of,
    bound_of,
    cursor_elements,
    documents_of,
    due_page_of,
    event_types_of,
    events_of,
    head_of,
    node_of,
    page_parameters,
    record_of,
    refusal_columns,
    results_of,
    state_columns,
    uncollected_of,
)
from ._sql import (
    columns,
    is_long,
    numbers,
    queries,
    quoted,
    quoted_in_turns,
    signed,
    storable,
    texts,
)
from ._statements import failure_of, fetch, lent
from ._suitability import check_sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from ._driver import Connect, Connection, Pool, Started
    from ._rows import Row


_NO_TYPES: frozenset[tuple[str, str, int]] = frozenset()

_PLACED_AT_ONCE = 2_000
"""Workspaces where the places of new reactors are written in one statement."""


class _Appending:
    """An `Appending` on a connection of its own."""

    __slots__ = ("_connection", "_pool", "_started")

    def __init__(self, pool: Pool, connection: Connection, started: Started) -> None:
        self._pool = pool
        self._connection = connection
        self._started = started

    async def outcome(self) -> Collection[str]:
        """Wait for the end of the statement; see `Appending.outcome`."""
        connection = self._connection
        try:
            return _committed(await self._started.rows())
        except DriverError as error:
            means = {"lost": OutcomeUnknownError, "refused": BatchRejectedError}
            raise await failure_of(error, connection, **means) from error
        finally:
            await self._pool.give_back(connection)


class PostgresStore:
    """A `dalsegno.actors.Store` on PostgreSQL 15 or newer; see `open`."""

    def __init__(self, dsn: str, limits: Limits, connect: Connect = connect) -> None:
        self._limits = limits
        self._pools = Pools.of(dsn, limits, connect)
        self._known_types: WeakKeyDictionary[Connection, set[tuple[str, str, int]]]
        self._known_types = WeakKeyDictionary()
        """The kinds of events that the database has recorded, as a session has seen: behind another
        one there may be a database that was restored."""
        self.accounts = PostgresAccounts(self._pools)
        """The sessions and credentials, on the same connections."""
        self.dumps = PostgresDumps(self._pools)
        """All that is kept, as rows."""

    def __repr__(self) -> str:
        return f"<PostgresStore {self._pools!r}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls, dsn: str, *, limits: Limits | None = None, connect: Connect = connect
    ) -> AsyncIterator[Self]:
        """Open the store on a database that has been migrated.

        Args:
            dsn: the database's address.
            limits: every bound.
            connect: what opens a session; see `open_driver`.

        Raises:
            DatabaseRefusedError: this release cannot run on it.
            StoreUnavailableError: it cannot be reached.
        """
        store = cls(dsn, limits or Limits(), connect)
        try:
            reading = store._pools.reading
            async with lent(reading) as connection, lent(reading) as other:
                await check_sessions(connection, other)
                await check(connection)
            yield store
        finally:
            await store.aclose()

    async def aclose(self) -> None:
        """Close every connection, also those whose statements are running."""
        await self._pools.aclose()

    # Heads

    async def read_head(self, workspace_id: str) -> Head | None:
        """Read where a log ends; see `Store.read_head`."""
        rows = await fetch(self._pools.reading, "read_head", workspace_id)
        return head_of(rows[0]) if rows else None

    async def read_heads(self, workspace_ids: Collection[str]) -> dict[str, Head]:
        """Read where logs end; see `Store.read_heads`."""
        rows = await fetch(self._pools.reading, "read_heads", texts(workspace_ids))
        return {head.workspace_id: head for head in map(head_of, rows)}

    async def acquire(
        self,
        workspace_id: str,
        owner: str,
        *,
        create: bool,
        incarnation: str | None = None,
        app_version: int = 0,
    ) -> Head | None:
        """Raise the epoch and own the workspace; see `Store.acquire`.

        It waits for a running append, which has locked the row, for at most five seconds.
        Cancelled, it may or may not have raised the epoch.
        """
        attempts = 2 if create else 1  # the second sees a row that was created during the first
        for _ in range(attempts):
            rows = await fetch(
                self._pools.reading,
                "acquire",
                *(workspace_id, owner, str(create), incarnation, str(app_version)),
                lost=OutcomeUnknownError,
            )
            if rows:
                return head_of(rows[0])
        return None

    async def release(self, workspace_id: str, epoch: int) -> bool:
        """Own the workspace no longer; see `Store.release`."""
        return bool(await fetch(self._pools.maintenance, "release", workspace_id, str(epoch)))

    async def halt(
        self, workspace_id: str, epoch: int, reason: str, *, code: str, actor: str
    ) -> bool:
        """Set the halt marker; see `Store.halt`."""
        marker = (storable(reason), code, actor)
        return bool(await fetch(self._pools.reading, "halt", workspace_id, str(epoch), *marker))

    async def resume(self, workspace_id: str, epoch: int, *, actor: str, detail: str) -> bool:
        """Clear the halt marker; see `Store.resume`."""
        why = (actor, storable(detail))
        return bool(await fetch(self._pools.reading, "resume", workspace_id, str(epoch), *why))

    async def read_audit(self, workspace_id: str, *, limit: int) -> list[AuditEntry]:
        """Read the audit of a workspace; see `Store.read_audit`."""
        rows = await fetch(self._pools.reading, "read_audit", workspace_id, str(limit))
        return [audit_entry_of(row) for row in rows]

    async def read_records(
        self, workspace_id: str, which: AuditFilter, *, below: AuditPlace, limit: int
    ) -> list[AuditRecord]:
        """Read what is on record; see `Store.read_records`."""
        rows = await fetch(
            self._pools.reading,
            "read_records",
            *(workspace_id, which.actor_id, which.action, which.resource_type, which.resource_id),
            *(bound_of(which.since), bound_of(which.until)),
            *(str(below.event_seq), str(below.n), str(below.intervention), str(limit)),
        )
        return [record_of(row) for row in rows]

    async def add_refusals(self, refusals: Sequence[RefusedWrite]) -> None:
        """Put on record what was refused; see `Store.add_refusals`."""
        await fetch(self._pools.maintenance, "add_refusals", *refusal_columns(refusals))

    async def may_collect(self, node_id: str) -> bool:
        """Return whether this node has something to collect; see `Store.may_collect`."""
        ((may,),) = await fetch(self._pools.reading, "may_collect", node_id, AUDIT_WORKSPACE)
        return bool(may)

    async def read_uncollected(self, *, limit: int, bytes_max: int) -> list[Uncollected]:
        """Read what is to be collected; see `Store.read_uncollected`."""
        rows = await fetch(self._pools.reading, "read_uncollected", str(limit), str(bytes_max))
        return [uncollected_of(row) for row in rows]

    async def is_collected(self, workspace_id: str, event_seq: int, node_id: str) -> bool:
        """Return whether nobody has to be waited for; see `Store.is_collected`."""
        asked = (workspace_id, str(event_seq), node_id, AUDIT_WORKSPACE)
        ((is_so,),) = await fetch(self._pools.reading, "is_collected", *asked)
        return bool(is_so)

    async def sweep_refusals(self, *, limit: int) -> int:
        """Forget what was refused long ago; see `Store.sweep_refusals`."""
        return len(await fetch(self._pools.maintenance, "sweep_refusals", str(limit)))

    async def lower_app_version(self, version: int, *, actor: str) -> int:
        """Allow earlier programs to own everything; see `Store.lower_app_version`."""
        return len(await fetch(self._pools.maintenance, "lower_app_version", str(version), actor))

    # Nodes

    async def beat(
        self, node_id: str, incarnation: str, *, address: str | None, lease_s: float, first: bool
    ) -> float | None:
        """Prolong a node's lease; see `Store.beat`.

        It gives up early enough to be repeated while the lease lasts.
        """
        if first:
            await fetch(self._pools.heartbeat, "sweep_nodes")
        row = (node_id, incarnation, address, repr(lease_s))
        rows = await fetch(self._pools.heartbeat, "beat", *row, str(first))
        return rows[0][0] if rows else None

    async def read_time(self) -> datetime:
        """Return the server's time; see `Store.read_time`."""
        ((at,),) = await fetch(self._pools.heartbeat, "read_time")
        return datetime.fromisoformat(at)

    async def fenced_s(self, node_id: str) -> float:
        """Return how long an earlier release may go on; see `Store.fenced_s`."""
        ((left_s,),) = await fetch(self._pools.heartbeat, "fenced_s", node_id)
        return max(float(left_s), 0.0)

    async def next_end_s(self, node_id: str) -> float | None:
        """Return when the next lease of another node ends; see `Store.next_end_s`."""
        ((left_s,),) = await fetch(self._pools.heartbeat, "next_end_s", node_id)
        return None if left_s is None else float(left_s)

    async def forget(self, node_id: str, incarnation: str) -> None:
        """End a node's lease now; see `Store.forget`."""
        await fetch(self._pools.heartbeat, "forget", node_id, incarnation)

    async def find_node(self, node_id: str) -> Node | None:
        """Read a node; see `Store.find_node`."""
        rows = await fetch(self._pools.reading, "find_node", node_id)
        return node_of(rows[0]) if rows else None

    # Appending

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        """Commit what can be; see `Store.append`.

        Cancelled, its outcome is unknown: the statement runs on at the server.
        """
        types = event_types_of(batches)
        quote = await quoted_in_turns(documents_of(batches), Turn(self._limits.turn_s))
        statement, parameters = append_statement(batches, self._limits.result_ttl_s, quote)
        async with lent(
            self._pools.appending, lost=OutcomeUnknownError, refused=BatchRejectedError
        ) as connection:
            known = self._known_types.setdefault(connection, set())
            if new := sorted(types - known):
                # Before the append, in a statement of its own: a kind without an event does no
                # harm, an event whose kind is missing would.
                kinds = [(quoted(domain), quoted(type_), str(v)) for domain, type_, v in new]
                await connection.execute(queries()["add_event_types"], columns(kinds, 3))
                known.update(new)
            rows = await connection.fetch(queries()[statement], parameters)
        return _committed(rows)

    def append_nowait(self, batches: Sequence[Batch]) -> _Appending | None:
        """Send the same in this very step; see `Store.append_nowait`."""
        if any(map(is_long, documents_of(batches))):
            return None  # quoted in turns
        statement, parameters = append_statement(batches, self._limits.result_ttl_s)
        types, pool = event_types_of(batches), self._pools.appending
        connection = pool.lend_nowait()
        if connection is None:
            return None
        if not types <= self._known_types.get(connection, _NO_TYPES):
            pool.return_unused(connection)
            return None
        return _Appending(pool, connection, connection.start(queries()[statement], parameters))

    async def explain(self, batch: Batch) -> Refusal:
        """Read what may have refused a batch; see `Store.explain`."""
        head = await self.read_head(batch.workspace_id)
        keys = [(result.scope, result.key) for result in batch.results]
        live_keys = await self.find_results(batch.workspace_id, keys)
        return Refusal(head=head, live_keys=live_keys)

    # Events

    async def read_events(self, workspace_id: str, bounds: PageBounds) -> list[Event]:
        """Read a page of the log; see `Store.read_events`."""
        page = page_parameters(bounds)
        rows = await fetch(self._pools.reading, "read_events", workspace_id, *page)
        return events_of(workspace_id, rows)

    async def read_stream(
        self, workspace_id: str, stream_id: str, bounds: PageBounds
    ) -> list[Event]:
        """Read a page of an entity's events; see `Store.read_stream`."""
        page = page_parameters(bounds)
        rows = await fetch(self._pools.reading, "read_stream", workspace_id, stream_id, *page)
        return events_of(workspace_id, rows)

    async def find_commands(
        self, workspace_id: str, command_ids: Collection[str], *, after_seq: int
    ) -> dict[str, list[Event]]:
        """Find the events that commands led to; see `Store.find_commands`."""
        rows = await fetch(
            self._pools.reading, "find_commands", workspace_id, str(after_seq), texts(command_ids)
        )
        found: dict[str, list[Event]] = {}
        for event in events_of(workspace_id, rows):
            found.setdefault(event.command_id, []).append(event)
        return found

    async def event_types(self) -> set[tuple[str, str, int]]:
        """Return every kind of event that was ever appended; see `Store.event_types`."""
        rows = await fetch(self._pools.reading, "event_types")
        return {(domain, type_, version) for domain, type_, version in rows}

    # Entities

    async def read_versions(self, workspace_id: str, stream_ids: Collection[str]) -> dict[str, int]:
        """Read the versions of entities; see `Store.read_versions`."""
        rows = await fetch(self._pools.reading, "read_versions", workspace_id, texts(stream_ids))
        return {str(stream_id): int(version) for stream_id, version in rows}

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        """Load entities as they are; see `Store.load_entities`."""
        wanted = [(stream_id, domain_versions.get(stream_id), None) for stream_id in stream_ids]
        return await load(self._pools.reading, workspace_id, wanted)

    async def load_many(
        self, wanted: Mapping[tuple[str, str], int | None]
    ) -> dict[tuple[str, str], StoredEntity]:
        """Load entities of several workspaces; see `Store.load_many`."""
        return await load_many(self._pools.reading, wanted)

    async def write_states(
        self, workspace_id: str, epoch: int, entities: Sequence[EntityWrite]
    ) -> bool:
        """Store the states of entities; see `Store.write_states`."""
        turn = Turn(self._limits.turn_s)
        states = state_columns(
            entities, await quoted_in_turns([entity.state for entity in entities], turn)
        )
        return bool(
            await fetch(self._pools.maintenance, "write_states", workspace_id, str(epoch), *states)
        )

    async def load_entity_at(
        self, workspace_id: str, stream_id: str, version: int, domain_version: int
    ) -> StoredEntity | None:
        """Load an entity as it was; see `Store.load_entity_at`."""
        wanted = [(stream_id, domain_version, version)]
        loaded = await load(self._pools.reading, workspace_id, wanted)
        return loaded.get(stream_id)

    async def list_entities(
        self,
        workspace_id: str,
        domain: str,
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int,
        domain_version: int = 0,
        bytes_max: int | None = None,
        newest_first: bool = False,
    ) -> EntityPage:
        """List the entities of a domain that exist; see `Store.list_entities`."""
        return await list_entities(
            self._pools.reading,
            workspace_id,
            domain,
            key=key,
            after=after,
            limit=limit,
            domain_version=domain_version,
            bytes_max=bytes_max,
            newest_first=newest_first,
        )

    async def list_keys(
        self, workspace_id: str, domain: str, *, prefix: str, after: str, limit: int
    ) -> list[str]:
        """List the keys of a domain's entities; see `Store.list_keys`."""
        named = (workspace_id, domain, prefix, after, str(limit))
        return [key for (key,) in await fetch(self._pools.reading, "list_keys", *named)]

    async def list_versions(
        self, workspace_id: str, domain: str, *, at_seq: int, after: str, limit: int
    ) -> list[tuple[str, int]]:
        """List entities as they were at an event; see `Store.list_versions`."""
        named = (workspace_id, domain, str(at_seq), after, str(limit))
        rows = await fetch(self._pools.reading, "list_versions", *named)
        return [(stream_id, version) for stream_id, version in rows]

    async def list_stale(
        self, workspace_id: str, domain: str, domain_version: int, *, limit: int
    ) -> list[str]:
        """Return what another version listed; see `Store.list_stale`."""
        named = (workspace_id, domain, str(domain_version), str(limit))
        rows = await fetch(self._pools.reading, "list_stale", *named)
        return [stream_id for (stream_id,) in rows]

    async def find_due(
        self,
        node_id: str,
        domains: Collection[str],
        *,
        until: datetime,
        after: DueEntity | None,
        limit: int,
    ) -> DuePage:
        """Find what is due; see `Store.find_due`."""
        began = ("-infinity", "", "")
        place = began if after is None else (instant(after.due_at), *after.ids)
        rows = await fetch(
            self._pools.reading,
            "find_due",
            *(node_id, texts(domains), instant(until), *place, str(limit)),
        )
        return due_page_of(rows, limit)

    async def find_stale(
        self,
        node_id: str,
        domain: str,
        domain_version: int,
        *,
        after: tuple[int, str] | None,
        limit: int,
    ) -> StalePage:
        """Find what an earlier version listed, anywhere; see `Store.find_stale`."""
        version, workspace_id = (-1, "") if after is None else after
        rows = await fetch(
            self._pools.reading,
            "find_stale",
            *(node_id, domain, str(domain_version), str(version), workspace_id, str(limit)),
        )
        return StalePage(
            workspace_ids=[workspace_id for _, workspace_id, is_ours in rows if is_ours],
            last=(rows[-1][0], rows[-1][1]) if len(rows) == limit else None,
        )

    async def find_runs(self, node_id: str, *, after: str, limit: int) -> RunsPage:
        """Find workspaces that have open runs; see `Store.find_runs`."""
        rows = await fetch(self._pools.reading, "find_runs", node_id, after, str(limit))
        return RunsPage(
            workspace_ids=[workspace_id for workspace_id, is_ours in rows if is_ours],
            last=rows[-1][0] if len(rows) == limit else None,
        )

    # Followers

    async def register_reactors(self, reactors: Sequence[ReactorStart]) -> None:
        """Note where new reactors begin, a portion at a time; see `Store.register_reactors`."""
        pool, names = self._pools.maintenance, texts(each.name for each in reactors)
        before = texts(each.was for each in reactors)
        await fetch(pool, "note_reactors", names, before, texts(each.since for each in reactors))
        if not await fetch(pool, "unregistered_reactors", names):
            return
        last, count = "", _PLACED_AT_ONCE
        while count == _PLACED_AT_ONCE:
            ((last, count),) = await fetch(
                pool, "place_reactors", names, last, str(_PLACED_AT_ONCE)
            )
        await fetch(pool, "finish_reactors", names)

    async def read_places(self, workspace_id: str) -> dict[str, Cursor]:
        """Read how far reactors have come; see `Store.read_places`."""
        rows = await fetch(self._pools.reading, "read_places", workspace_id)
        return {name: parse_cursor(place) for name, place in rows}

    async def write_places(self, places: Mapping[str, ReactorPlace]) -> None:
        """Write how far reactors have come; see `Store.write_places`."""
        rows = (dict.fromkeys(each.names, str(each.cursor)) for each in places.values())
        cursors = [each.cursor for each in places.values()]
        await fetch(
            self._pools.maintenance,
            "write_places",
            texts(places),
            texts(msgspec.json.encode(row).decode() for row in rows),
            numbers(each.seq for each in cursors),
            numbers(signed(each.chain or 0) for each in cursors),
        )

    async def find_behind(
        self, node_id: str, names: Collection[str], *, after: tuple[str, str], limit: int
    ) -> BehindPage:
        """Find workspaces that reactors are behind in; see `Store.find_behind`."""
        rows = await fetch(
            self._pools.reading, "find_behind", node_id, texts(names), *after, str(limit)
        )
        return BehindPage(
            workspace_ids=[workspace_id for _, workspace_id, is_ours in rows if is_ours],
            last=(rows[-1][0], rows[-1][1]) if len(rows) == limit else None,
        )

    async def locate(
        self, stream_id: str, *, after: str = "", limit: int = 2, existing_only: bool = False
    ) -> list[str]:
        """Return the workspaces that have an entity of this id; see `Store.locate`."""
        live = "true" if existing_only else None
        rows = await fetch(self._pools.reading, "locate", stream_id, after, live, str(limit))
        return [workspace_id for (workspace_id,) in rows]

    # Command results

    async def find_results(
        self, workspace_id: str, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredResult]:
        """Look up idempotency keys that have not expired; see `Store.find_results`."""
        if not keys:
            return {}
        scopes, names = zip(*keys, strict=True)
        rows = await fetch(
            self._pools.reading, "find_results", workspace_id, texts(scopes), texts(names)
        )
        return results_of(rows)

    async def sweep_results(self, *, limit: int) -> int:
        """Delete expired idempotency keys; see `Store.sweep_results`."""
        return len(await fetch(self._pools.maintenance, "sweep_results", str(limit)))

    # Cursors

    async def read_cursors(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """Read ack cursors; see `Store.read_cursors`."""
        rows = [cursor_elements(key) for key in keys]
        found = await fetch(self._pools.reading, "read_cursors", *columns(rows, 4))
        return {CursorKey(*key): seq for *key, seq in found}

    async def write_cursors(self, cursors: dict[CursorKey, AckedCursor]) -> None:
        """Raise ack cursors; see `Store.write_cursors`.

        Clients and cursors above the bounds are deleted afterwards; if that fails, after the next
        new cursor.
        """
        rows = [
            (*cursor_elements(key), str(each.seq), str(each.head_seq), str(signed(each.chain)))
            for key, each in cursors.items()
        ]
        grown = await fetch(self._pools.writing, "write_cursors", *columns(rows, 7))
        if not grown:
            return
        users, clients = zip(*grown, strict=True)
        limits = self._limits
        await fetch(
            self._pools.writing,
            "prune_cursors",
            texts(users),
            texts(clients),
            str(limits.cursors_per_client_max),
        )
        await fetch(
            self._pools.writing,
            "prune_clients",
            texts(sorted(set(users))),
            str(limits.clients_per_user_max),
        )

    async def sweep_cursors(
        self, after: CursorKey | None, *, limit: int, unused_s: float
    ) -> CursorKey | None:
        """Delete a portion of the unused cursors; see `Store.sweep_cursors`."""
        key = ("", "", "", "") if after is None else msgspec.structs.astuple(after)
        rows = await fetch(
            self._pools.maintenance, "sweep_cursors", *key, str(limit), repr(unused_s)
        )
        if not rows:
            return None
        *last, looked_at = rows[0]
        return CursorKey(*last) if looked_at == limit else None


def _committed(rows: Sequence[Row]) -> set[str]:
    """Return the workspaces in the rows of an append."""
    return {workspace_id for (workspace_id,) in rows}
