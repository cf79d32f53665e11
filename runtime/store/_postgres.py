"""The store on PostgreSQL.

Three kinds of connections, so that nothing waits for what it has nothing to do with: one for
appends alone, a few for reads and acquisitions, and one for cursors and accounts.

An append is one statement on its own: one implicit transaction, one round trip, and nothing that
a paused process could hold open (DESIGN §4).  It is never cancelled at the server.  A call that
is cancelled here gives its connection up, and the outcome is unknown.

Every session runs generic plans without sequential scans.  The statements leave the planner one
way each, and these settings keep it on that way in a database that was never analysed; a custom
plan for each append would cost three times the append.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

from dalsegno.actors import (
    Batch,
    BatchRejectedError,
    CursorKey,
    EntityItem,
    Head,
    Refusal,
    StoredEntity,
    StoredResult,
)
from dalsegno.protocol import CorruptLogError, Event, Limits, OutcomeUnknownError

from ._driver import Connection, Pool
from ._lending import fetch, lent
from ._migrations import check
from ._postgres_accounts import PostgresAccounts
from ._psycopg import connect
from ._rows import (
    append_parameters,
    event_types_of,
    events_of,
    head_of,
    item_of,
    results_of,
    version_elements,
)
from ._sql import array, columns, queries, quoted, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from ._rows import Row

_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
    "default_transaction_isolation": "read committed",
}
_APPENDING = _PLANS | {"statement_timeout": "0", "lock_timeout": "0"}
_OTHERWISE = _PLANS | {"statement_timeout": "15s", "lock_timeout": "5s"}

_READERS = 4
_TAIL_PAGE = 256
"""Events of one stream that loading fetches at a time."""


class PostgresStore:
    """A `dalsegno.actors.Store` on PostgreSQL 15 or newer; `open` makes one."""

    def __init__(self, dsn: str, limits: Limits) -> None:
        self._limits = limits
        self._appending = Pool(partial(_open, dsn, _APPENDING), 1)
        otherwise = partial(_open, dsn, _OTHERWISE)
        answer_s = limits.answer_deadline_s
        self._reading = Pool(otherwise, _READERS, answer_deadline_s=answer_s)
        self._writing = Pool(otherwise, 1, answer_deadline_s=answer_s)
        self._known_types: set[tuple[str, str, int]] = set()
        self.accounts = PostgresAccounts(self._reading, self._writing)
        """Sessions and credentials, on the same connections."""

    def __repr__(self) -> str:
        return (
            f"<PostgresStore appending={self._appending!r} reading={self._reading!r} "
            f"writing={self._writing!r}>"
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, limits: Limits | None = None) -> AsyncIterator[Self]:
        """Open the store on a database that has been migrated.

        Raises:
            DatabaseRefusedError: this release must not run on it.
            StoreUnavailableError: it cannot be reached.
        """
        store = cls(dsn, limits or Limits())
        try:
            async with lent(store._reading) as connection:
                await check(connection)
            yield store
        finally:
            await store.aclose()

    async def aclose(self) -> None:
        """Close every connection; statements that are under way end with theirs."""
        for pool in (self._appending, self._reading, self._writing):
            await pool.aclose()

    # Heads

    async def read_head(self, workspace_id: str) -> Head | None:
        """Read where a log ends; see `Store.read_head`."""
        rows = await fetch(self._reading, "read_head", workspace_id)
        return head_of(rows[0]) if rows else None

    async def acquire(self, workspace_id: str, owner: str, *, create: bool) -> Head | None:
        """Raise the epoch and own the workspace; see `Store.acquire`.

        It waits for an append under way, which holds the row, at most five seconds.
        Cancellation leaves it unknown whether the epoch was raised.
        """
        name = "create_or_acquire" if create else "acquire"
        rows = await fetch(self._reading, name, workspace_id, owner, lost=OutcomeUnknownError)
        return head_of(rows[0]) if rows else None

    async def halt(self, workspace_id: str, epoch: int, reason: str | None) -> bool:
        """Set or clear the halt marker; see `Store.halt`."""
        return bool(await fetch(self._reading, "halt", workspace_id, str(epoch), reason))

    # Appending

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        """Commit what can be; see `Store.append`.

        Cancellation leaves the outcome unknown: the statement runs on at the server.
        """
        new_types = event_types_of(batches) - self._known_types
        if new_types:
            await self._add_event_types(sorted(new_types))
        parameters = append_parameters(batches, self._limits.result_ttl_s)
        async with lent(
            self._appending, lost=OutcomeUnknownError, refused=BatchRejectedError
        ) as connection:
            rows = await connection.fetch(queries()["append"], parameters)
        return {workspace_id for (workspace_id,) in rows}

    async def _add_event_types(self, types: list[tuple[str, str, int]]) -> None:
        # Before the append and apart from it: a kind without an event harms nobody, an event
        # whose kind is missing would.
        rows = [(quoted(domain), quoted(type_), str(version)) for domain, type_, version in types]
        async with lent(self._appending, refused=BatchRejectedError) as connection:
            await connection.execute(queries()["add_event_types"], columns(rows, 3))
        self._known_types.update(types)

    async def explain(self, batch: Batch) -> Refusal:
        """Read what may have refused a batch; see `Store.explain`."""
        head = await self.read_head(batch.workspace_id)
        keys = [(result.scope, result.key) for result in batch.results]
        live_keys = await self.find_results(batch.workspace_id, keys)
        return Refusal(head=head, live_keys=live_keys)

    # Events

    async def read_events(
        self, workspace_id: str, from_seq: int, *, to_seq: int, limit: int, bytes_max: int
    ) -> list[Event]:
        """Read a page of the log; see `Store.read_events`."""
        bounds = (str(from_seq), str(to_seq), str(limit), str(bytes_max))
        rows = await fetch(self._reading, "read_events", workspace_id, *bounds)
        return events_of(workspace_id, rows)

    async def read_stream(
        self,
        workspace_id: str,
        stream_id: str,
        from_seq: int,
        *,
        to_event_seq: int,
        limit: int,
        bytes_max: int,
    ) -> list[Event]:
        """Read a page of an entity's events; see `Store.read_stream`."""
        bounds = (str(from_seq), str(to_event_seq), str(limit), str(bytes_max))
        rows = await fetch(self._reading, "read_stream", workspace_id, stream_id, *bounds)
        return events_of(workspace_id, rows)

    async def find_commands(
        self, workspace_id: str, command_ids: Collection[str], *, after_seq: int
    ) -> dict[str, list[Event]]:
        """Find the events that commands led to; see `Store.find_commands`."""
        rows = await fetch(
            self._reading, "find_commands", workspace_id, str(after_seq), texts(command_ids)
        )
        found: dict[str, list[Event]] = {}
        for event in events_of(workspace_id, rows):
            found.setdefault(event.command_id, []).append(event)
        return found

    async def event_types(self) -> set[tuple[str, str, int]]:
        """Tell every kind of event that was ever appended; see `Store.event_types`."""
        rows = await fetch(self._reading, "event_types")
        return {(domain, type_, version) for domain, type_, version in rows}

    # Entities

    async def read_versions(self, workspace_id: str, stream_ids: Collection[str]) -> dict[str, int]:
        """Read the versions of entities; see `Store.read_versions`."""
        rows = await fetch(self._reading, "read_versions", workspace_id, texts(stream_ids))
        return {str(stream_id): int(version) for stream_id, version in rows}

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        """Load entities as they are; see `Store.load_entities`."""
        wanted = [(stream_id, domain_versions.get(stream_id), None) for stream_id in stream_ids]
        return await self._load(workspace_id, wanted)

    async def load_entity_at(
        self, workspace_id: str, stream_id: str, version: int, domain_version: int
    ) -> StoredEntity | None:
        """Load an entity as it was; see `Store.load_entity_at`."""
        loaded = await self._load(workspace_id, [(stream_id, domain_version, version)])
        return loaded.get(stream_id)

    async def _load(
        self, workspace_id: str, wanted: Sequence[tuple[str, int | None, int | None]]
    ) -> dict[str, StoredEntity]:
        if not wanted:
            return {}
        stream_ids, domain_versions, versions = zip(*wanted, strict=True)
        rows = await fetch(
            self._reading,
            "find_states",
            workspace_id,
            texts(stream_ids),
            array(version_elements(domain_versions)),
            array(version_elements(versions)),
        )
        tails = await self._read_tails(workspace_id, rows)
        return {
            stream_id: StoredEntity(
                stream_id=stream_id,
                version=version,
                state=state,
                state_version=state_version,
                events=tuple(tails[stream_id]),
            )
            for stream_id, version, state, state_version in rows
        }

    async def _read_tails(self, workspace_id: str, states: list[Row]) -> dict[str, list[Event]]:
        """Read the events above each state, a page a stream at a time."""
        tails: dict[str, list[Event]] = {stream_id: [] for stream_id, *_ in states}
        missing = {
            stream_id: (state_version + 1, version)
            for stream_id, version, _, state_version in states
            if state_version < version
        }
        while missing:
            parameters = columns(
                [(quoted(s), str(first), str(last)) for s, (first, last) in missing.items()], 3
            )
            rows = await fetch(
                self._reading, "read_tails", workspace_id, *parameters, str(_TAIL_PAGE)
            )
            events = events_of(workspace_id, rows)
            missing = _extend(tails, missing, events)
        return tails

    async def list_entities(
        self,
        workspace_id: str,
        domain: str,
        *,
        after: str = "",
        limit: int,
        key: str | None = None,
    ) -> list[EntityItem]:
        """List live entities of a domain; see `Store.list_entities`."""
        # ";" is the character after ":", so these are the bounds of what begins with "domain:".
        low, high = max(after, f"{domain}:"), f"{domain};"
        rows = await fetch(self._reading, "list_entities", workspace_id, low, high, key, str(limit))
        return [item_of(row) for row in rows]

    async def locate(
        self, stream_id: str, *, after: str = "", limit: int = 2, live_only: bool = False
    ) -> list[str]:
        """Tell which workspaces have an entity of this id; see `Store.locate`."""
        live = "true" if live_only else None
        rows = await fetch(self._reading, "locate", stream_id, after, live, str(limit))
        return [workspace_id for (workspace_id,) in rows]

    # Command results

    async def find_results(
        self, workspace_id: str, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredResult]:
        """Look up live idempotency keys; see `Store.find_results`."""
        if not keys:
            return {}
        scopes, names = zip(*keys, strict=True)
        rows = await fetch(self._reading, "find_results", workspace_id, texts(scopes), texts(names))
        return results_of(rows)

    async def sweep_results(self, *, limit: int) -> int:
        """Forget expired idempotency keys; see `Store.sweep_results`."""
        return len(await fetch(self._writing, "sweep_results", str(limit)))

    # Cursors

    async def read_cursors(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """Read ack cursors; see `Store.read_cursors`."""
        rows = [_cursor_elements(key) for key in keys]
        found = await fetch(self._reading, "read_cursors", *columns(rows, 4))
        return {CursorKey(*key): seq for *key, seq in found}

    async def write_cursors(self, cursors: dict[CursorKey, int]) -> None:
        """Raise ack cursors; see `Store.write_cursors`.

        Clients and cursors above the bounds go afterwards; should that fail, then with the next
        new one.
        """
        rows = [(*_cursor_elements(key), str(seq)) for key, seq in cursors.items()]
        grown = await fetch(self._writing, "write_cursors", *columns(rows, 5))
        if not grown:
            return
        users, clients = zip(*grown, strict=True)
        limits = self._limits
        await fetch(
            self._writing,
            "prune_cursors",
            texts(users),
            texts(clients),
            str(limits.cursors_per_client_max),
        )
        await fetch(
            self._writing,
            "prune_clients",
            texts(sorted(set(users))),
            str(limits.clients_per_user_max),
        )


async def _open(dsn: str, settings: Mapping[str, str]) -> Connection:
    connection = await connect(dsn, settings=settings)
    # A host's server may be set to answer before a commit is on disk.  Ours must be: what was
    # acknowledged is kept, and an epoch that was handed out is never handed out again.
    try:
        await connection.execute(
            "select set_config('synchronous_commit', 'on', false)"
            " where current_setting('synchronous_commit') = 'off'"
        )
    except BaseException:
        await connection.aclose()
        raise
    return connection


def _cursor_elements(key: CursorKey) -> tuple[str, str, str, str]:
    return (
        quoted(key.user_id),
        quoted(key.client_id),
        quoted(key.workspace_id),
        quoted(key.stream_id),
    )


def _extend(
    tails: dict[str, list[Event]], missing: dict[str, tuple[int, int]], events: list[Event]
) -> dict[str, tuple[int, int]]:
    """Add events to their tails and tell what is missing still; refuse a gap (I11)."""
    left = dict(missing)
    for event in events:
        first, last = left[event.stream_id]
        if event.stream_seq != first:
            raise _gap(event.stream_id, first)
        tails[event.stream_id].append(event)
        left[event.stream_id] = (first + 1, last)
    for stream_id, (first, _) in left.items():
        if first == missing[stream_id][0]:
            raise _gap(stream_id, first)
    return {stream_id: bounds for stream_id, bounds in left.items() if bounds[0] <= bounds[1]}


def _gap(stream_id: str, version: int) -> CorruptLogError:
    return CorruptLogError(f"{stream_id} lacks the event of version {version}")
