"""The store in memory: what PostgreSQL guarantees, without a process beside this one.

It is the base of simulation, so it takes its time from a `World` and is deterministic: nothing is
random, and no set is ever iterated over.  Every method begins with a checkpoint and then does its
work in one step, so a call that is cancelled has done nothing.  The store outlives the runtimes
above it: a restart opens a new runtime on the same store.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import count, islice
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Event, Limits

from ._memory_log import MemoryLog, refuse_bad_text
from ._store import Batch, CursorKey, EntityItem, Head, Refusal, StoredEntity, StoredResult

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ._seams import World


class MemoryStore:
    """A `Store` in memory."""

    def __init__(self, world: World, *, limits: Limits | None = None) -> None:
        self._world = world
        self._limits = limits or Limits()
        self._logs: dict[str, MemoryLog] = {}
        self._types: dict[tuple[str, str, int], None] = {}
        self._cursors = _Cursors(self._limits)

    def __repr__(self) -> str:
        events = sum(len(log.events) for log in self._logs.values())
        return f"<MemoryStore [{len(self._logs)} workspaces, {events} events]>"

    async def aclose(self) -> None:
        """Do nothing: a runtime that is opened on this store later finds it as it is."""
        await trio.lowlevel.checkpoint()

    async def read_head(self, workspace_id: str) -> Head | None:
        """Read where a log ends; see `Store.read_head`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.head if log else None

    async def acquire(self, workspace_id: str, owner: str, *, create: bool) -> Head | None:
        """Raise the epoch and own the workspace; see `Store.acquire`."""
        await trio.lowlevel.checkpoint()
        if workspace_id not in self._logs:
            if not create:
                return None
            self._logs[workspace_id] = MemoryLog(workspace_id)
        return self._logs[workspace_id].acquire(owner)

    async def halt(self, workspace_id: str, epoch: int, reason: str | None) -> bool:
        """Set or clear the halt marker; see `Store.halt`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        if log is None or log.head.epoch != epoch:
            return False
        log.halt(reason)
        return True

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        """Commit what can be; see `Store.append`."""
        await trio.lowlevel.checkpoint()
        for batch in batches:
            refuse_bad_text(batch)
        now = self._world.now()
        won = [
            (log, batch)
            for batch in batches
            if (log := self._logs.get(batch.workspace_id)) and log.admits(batch, now)
        ]
        for log, batch in won:
            log.refuse_bad_rows(batch)
        for log, batch in won:
            log.commit(batch, now + timedelta(seconds=self._limits.result_ttl_s))
            for event in batch.events:
                domain = event.stream_id.partition(":")[0]
                self._types[domain, event.type, event.type_version] = None
        return [batch.workspace_id for _, batch in won]

    async def explain(self, batch: Batch) -> Refusal:
        """Read what may have refused a batch; see `Store.explain`."""
        keys = [(result.scope, result.key) for result in batch.results]
        return Refusal(
            head=await self.read_head(batch.workspace_id),
            live_keys=await self.find_results(batch.workspace_id, keys),
        )

    async def read_events(
        self, workspace_id: str, from_seq: int, *, to_seq: int, limit: int, bytes_max: int
    ) -> list[Event]:
        """Read a page of the log; see `Store.read_events`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.read(from_seq, to_seq, limit, bytes_max) if log else []

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
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.read_stream(stream_id, from_seq, to_event_seq, limit, bytes_max) if log else []

    async def find_commands(
        self, workspace_id: str, command_ids: Collection[str], *, after_seq: int
    ) -> dict[str, list[Event]]:
        """Find the events that commands led to; see `Store.find_commands`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.find_commands(command_ids, after_seq) if log else {}

    async def event_types(self) -> set[tuple[str, str, int]]:
        """Tell every kind of event that was ever appended; see `Store.event_types`."""
        await trio.lowlevel.checkpoint()
        return set(self._types)

    async def read_versions(self, workspace_id: str, stream_ids: Collection[str]) -> dict[str, int]:
        """Read the versions of entities; see `Store.read_versions`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.read_versions(stream_ids) if log else {}

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        """Load entities as they are; see `Store.load_entities`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        if log is None:
            return {}
        loaded = ((s, log.load(s, domain_versions.get(s))) for s in stream_ids)
        return {stream_id: entity for stream_id, entity in loaded if entity}

    async def load_entity_at(
        self, workspace_id: str, stream_id: str, version: int, domain_version: int
    ) -> StoredEntity | None:
        """Load an entity as it was; see `Store.load_entity_at`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.load(stream_id, domain_version, version) if log else None

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
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.list_entities(domain, after, limit, key) if log else []

    async def locate(
        self, stream_id: str, *, after: str = "", limit: int = 2, live_only: bool = False
    ) -> list[str]:
        """Tell which workspaces have an entity of this id; see `Store.locate`."""
        await trio.lowlevel.checkpoint()
        having = (
            workspace_id
            for workspace_id, log in sorted(self._logs.items())
            if workspace_id > after
            and (entity := log.entities.get(stream_id)) is not None
            and (entity.live or not live_only)
        )
        return list(islice(having, limit))

    async def find_results(
        self, workspace_id: str, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredResult]:
        """Look up live idempotency keys; see `Store.find_results`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.find_results(keys, self._world.now()) if log else {}

    async def sweep_results(self, *, limit: int) -> int:
        """Forget expired idempotency keys; see `Store.sweep_results`."""
        await trio.lowlevel.checkpoint()
        now = self._world.now()
        expired = sorted(
            (result.expires_at, workspace_id, key)
            for workspace_id, log in self._logs.items()
            for key, result in log.results.items()
            if result.expires_at <= now
        )
        for _, workspace_id, key in expired[:limit]:
            del self._logs[workspace_id].results[key]
        return min(len(expired), limit)

    async def read_cursors(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """Read ack cursors; see `Store.read_cursors`."""
        await trio.lowlevel.checkpoint()
        return self._cursors.read(keys)

    async def write_cursors(self, cursors: dict[CursorKey, int]) -> None:
        """Raise ack cursors; see `Store.write_cursors`."""
        await trio.lowlevel.checkpoint()
        self._cursors.write(cursors)


class _Cursors:
    """Ack cursors by user and client; age is counted in writes, which no clock can confuse."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._writes = count()
        self._users: dict[str, dict[str, dict[CursorKey, tuple[int, int]]]] = {}

    def read(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        found = ((key, self._of_client(key).get(key)) for key in keys)
        return {key: row[1] for key, row in found if row is not None}

    def write(self, cursors: dict[CursorKey, int]) -> None:
        write = next(self._writes)
        for key, seq in cursors.items():
            clients = self._users.setdefault(key.user_id, {})
            rows = clients.setdefault(key.client_id, {})
            _, old_seq = rows.get(key, (write, seq))
            rows[key] = (write, max(seq, old_seq))
        for key in cursors:
            self._prune(key)

    def _of_client(self, key: CursorKey) -> dict[CursorKey, tuple[int, int]]:
        return self._users.get(key.user_id, {}).get(key.client_id, {})

    def _prune(self, key: CursorKey) -> None:
        rows = self._of_client(key)
        oldest = sorted(rows, key=lambda cursor: (-rows[cursor][0], cursor))
        for cursor in oldest[self._limits.cursors_per_client_max :]:
            del rows[cursor]
        clients = self._users[key.user_id]
        written = {
            client: max(write for write, _ in clients[client].values()) for client in clients
        }
        stalest = sorted(written, key=lambda client: (-written[client], client))
        for client in stalest[self._limits.clients_per_user_max :]:
            del clients[client]
