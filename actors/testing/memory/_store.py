"""The store in memory: the guarantees of the PostgreSQL store, without a server.

It is the base of simulation, so it takes the time from a `World` and is deterministic: nothing is
random, and no set is ever iterated over.  Every method begins with a checkpoint and then does its
work in one step, so a call that is cancelled has done nothing.  The store outlives the runtimes
above it: a restart opens a new runtime on the same store.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.actors.ports import (
    BEGINNING,
    AckedCursor,
    AuditEntry,
    AuditFilter,
    AuditPlace,
    AuditRecord,
    Batch,
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
    Uncollected,
)
from dalsegno.protocol import AUDIT_WORKSPACE, Cursor, Event, Limits

from ._lists import list_entities, list_keys, list_stale, list_versions, read_records, rows_of
from ._log import MemoryLog, refuse_bad_text
from ._tables import Cursors, Nodes, Places, Refusals

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from dalsegno.actors.ports import Appending, Log, World


class LaterAppend:
    """An `Appending` that begins once its outcome is waited for."""

    def __init__(self, log: Log, batches: Sequence[Batch]) -> None:
        self._log = log
        self._batches = batches

    async def outcome(self) -> Collection[str]:
        """Append; see `Appending.outcome`."""
        return await self._log.append(self._batches)


class MemoryStore:
    """A `Store` in memory."""

    def __init__(self, world: World, *, limits: Limits | None = None) -> None:
        self._world = world
        self._limits = limits or Limits()
        self._logs: dict[str, MemoryLog] = {}
        self._types: dict[tuple[str, str, int], None] = {}
        self._nodes = Nodes()
        self._cursors = Cursors(self._limits)
        self._places = Places()
        self._refusals = Refusals()

    def __repr__(self) -> str:
        events = sum(len(log.events) for log in self._logs.values())
        return f"<MemoryStore [{len(self._logs)} workspaces, {events} events]>"

    async def aclose(self) -> None:
        """Do nothing: a runtime that is opened on this store later finds it unchanged."""
        await trio.lowlevel.checkpoint()

    # Heads

    async def read_head(self, workspace_id: str) -> Head | None:
        """Read where a log ends; see `Store.read_head`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.head if log else None

    async def read_heads(self, workspace_ids: Collection[str]) -> dict[str, Head]:
        """Read where logs end; see `Store.read_heads`."""
        await trio.lowlevel.checkpoint()
        logs = ((workspace_id, self._logs.get(workspace_id)) for workspace_id in workspace_ids)
        return {workspace_id: log.head for workspace_id, log in logs if log}

    async def acquire(
        self,
        workspace_id: str,
        owner: str,
        *,
        create: bool,
        incarnation: str | None = None,
        app_version: int = 0,
    ) -> Head | None:
        """Raise the epoch and own the workspace; see `Store.acquire`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        is_replaced = incarnation is not None and self._nodes.is_replaced(owner, incarnation)
        if log is None:
            if not create or is_replaced:
                return None
            log = self._logs[workspace_id] = MemoryLog(workspace_id)
        other = log.head.owner
        if other not in (None, owner) and self._nodes.is_live(other, self._world.now()):
            return log.head
        if is_replaced:
            return msgspec.structs.replace(log.head, owner=None)
        if log.head.app_version > app_version:
            return log.head
        return log.acquire(owner, app_version)

    async def release(self, workspace_id: str, epoch: int) -> bool:
        """Release the workspace; see `Store.release`."""
        await trio.lowlevel.checkpoint()
        log = self._under(workspace_id, epoch)
        if log is None:
            return False
        log.release()
        return True

    async def halt(
        self, workspace_id: str, epoch: int, reason: str, *, code: str, actor: str
    ) -> bool:
        """Set the halt marker; see `Store.halt`."""
        await trio.lowlevel.checkpoint()
        log = self._under(workspace_id, epoch)
        if log is None:
            return False
        log.halt(reason, code=code, actor=actor, now=self._world.now())
        return True

    async def resume(self, workspace_id: str, epoch: int, *, actor: str, detail: str) -> bool:
        """Clear the halt marker; see `Store.resume`."""
        await trio.lowlevel.checkpoint()
        log = self._under(workspace_id, epoch)
        if log is None:
            return False
        log.resume(actor=actor, detail=detail, now=self._world.now())
        return True

    async def read_audit(self, workspace_id: str, *, limit: int) -> list[AuditEntry]:
        """Read the interventions from outside; see `Store.read_audit`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.audit[::-1][:limit] if log else []

    async def read_records(
        self, workspace_id: str, which: AuditFilter, *, below: AuditPlace, limit: int
    ) -> list[AuditRecord]:
        """Read what is on record; see `Store.read_records`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return read_records(log, which, below, limit) if log else []

    async def lower_app_version(self, version: int, *, actor: str) -> int:
        """Allow earlier programs to own everything; see `Store.lower_app_version`."""
        await trio.lowlevel.checkpoint()
        now = self._world.now()
        logs = self._logs.values()
        return sum(log.lower_app_version(version, actor=actor, now=now) for log in logs)

    def _under(self, workspace_id: str, epoch: int) -> MemoryLog | None:
        """Return a workspace's log if the epoch is current."""
        log = self._logs.get(workspace_id)
        return log if log is not None and log.head.epoch == epoch else None

    # Nodes

    async def beat(
        self, node_id: str, incarnation: str, *, address: str | None, lease_s: float, first: bool
    ) -> float | None:
        """Extend a node's lease; see `Store.beat`."""
        await trio.lowlevel.checkpoint()
        return self._nodes.beat(
            node_id,
            incarnation,
            address=address,
            lease=timedelta(seconds=lease_s),
            first=first,
            now=self._world.now(),
        )

    async def read_time(self) -> datetime:
        """Return the world's time; see `Store.read_time`."""
        await trio.lowlevel.checkpoint()
        return self._world.now()

    async def fenced_s(self, node_id: str) -> float:
        """Return 0: what is in memory was written by one release; see `Store.fenced_s`."""
        del node_id
        await trio.lowlevel.checkpoint()
        return 0.0

    async def next_end_s(self, node_id: str) -> float | None:
        """Return when the next lease of another node ends; see `Store.next_end_s`."""
        await trio.lowlevel.checkpoint()
        return self._nodes.next_end_s(node_id, self._world.now())

    async def forget(self, node_id: str, incarnation: str) -> None:
        """End a node's lease now; see `Store.forget`."""
        await trio.lowlevel.checkpoint()
        self._nodes.forget(node_id, incarnation, self._world.now())

    async def find_node(self, node_id: str) -> Node | None:
        """Read a node; see `Store.find_node`."""
        await trio.lowlevel.checkpoint()
        return self._nodes.find(node_id, self._world.now())

    # Appending

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        """Commit the batches that can be; see `Store.append`."""
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
            for key, event_seq in ((each.key, each.event_seq) for each in batch.collected):
                if key.kind == "refusal":
                    self._refusals.mark(key.scope, event_seq)
                else:
                    self._logs[key.scope].mark(key, event_seq)
            for event in batch.events:
                domain = event.stream_id.partition(":")[0]
                self._types[domain, event.type, event.type_version] = None
        return [batch.workspace_id for _, batch in won]

    def append_nowait(self, batches: Sequence[Batch]) -> Appending | None:
        """Begin to append; see `Store.append_nowait`."""
        return LaterAppend(self, batches)

    async def explain(self, batch: Batch) -> Refusal:
        """Read why a batch may have been refused; see `Store.explain`."""
        keys = [(result.scope, result.key) for result in batch.results]
        return Refusal(
            head=await self.read_head(batch.workspace_id),
            live_keys=await self.find_results(batch.workspace_id, keys),
        )

    # Events

    async def read_events(self, workspace_id: str, bounds: PageBounds) -> list[Event]:
        """Read a page of the log; see `Store.read_events`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.read(bounds) if log else []

    async def read_stream(
        self, workspace_id: str, stream_id: str, bounds: PageBounds
    ) -> list[Event]:
        """Read a page of an entity's events; see `Store.read_stream`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.read_stream(stream_id, bounds) if log else []

    async def find_commands(
        self, workspace_id: str, command_ids: Collection[str], *, after_seq: int
    ) -> dict[str, list[Event]]:
        """Find the events that commands led to; see `Store.find_commands`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return log.find_commands(command_ids, after_seq) if log else {}

    async def event_types(self) -> set[tuple[str, str, int]]:
        """Return every kind of event that was ever appended; see `Store.event_types`."""
        await trio.lowlevel.checkpoint()
        return set(self._types)

    # Entities

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

    async def load_many(
        self, wanted: Mapping[tuple[str, str], int | None]
    ) -> dict[tuple[str, str], StoredEntity]:
        """Load entities of several workspaces; see `Store.load_many`."""
        await trio.lowlevel.checkpoint()
        loaded: dict[tuple[str, str], StoredEntity] = {}
        for (workspace_id, stream_id), domain_version in wanted.items():
            log = self._logs.get(workspace_id)
            entity = log.load(stream_id, domain_version) if log else None
            if entity is not None:
                loaded[workspace_id, stream_id] = entity
        return loaded

    async def write_states(
        self, workspace_id: str, epoch: int, entities: Sequence[EntityWrite]
    ) -> bool:
        """Store the states of entities; see `Store.write_states`."""
        await trio.lowlevel.checkpoint()
        log = self._under(workspace_id, epoch)
        if log is None:
            return False
        for write in entities:
            log.write_state(write)
        return True

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
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int,
        domain_version: int = 0,
        bytes_max: int | None = None,
        newest_first: bool = False,
    ) -> EntityPage:
        """List the entities of a domain that exist; see `Store.list_entities`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        if log is None:
            return EntityPage(head_seq=0, items=[], is_last=True)
        return list_entities(
            log,
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
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return list_keys(log, domain, prefix, after)[:limit] if log else []

    async def list_versions(
        self, workspace_id: str, domain: str, *, at_seq: int, after: str, limit: int
    ) -> list[tuple[str, int]]:
        """List entities as they were at an event; see `Store.list_versions`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return list_versions(log, domain, at_seq, after)[:limit] if log else []

    async def list_stale(
        self, workspace_id: str, domain: str, domain_version: int, *, limit: int
    ) -> list[str]:
        """Return what another version listed; see `Store.list_stale`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        return list_stale(log, domain, domain_version, limit=limit) if log else []

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
        await trio.lowlevel.checkpoint()
        due = sorted(
            DueEntity(row.due_at, workspace_id, stream_id)
            for workspace_id, log in self._logs.items()
            for stream_id, row in log.entities.items()
            if row.due_at is not None and row.due_at <= until
        )
        looked_at = [each for each in due if after is None or each > after][:limit]
        ours = [
            each
            for each in looked_at
            if each.stream_id.partition(":")[0] in domains
            and self._may_serve(node_id, self._logs[each.workspace_id])
        ]
        return DuePage(entities=ours, last=looked_at[-1] if len(looked_at) == limit else None)

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
        await trio.lowlevel.checkpoint()
        stale = sorted(
            {
                (row.index_version, workspace_id)
                for workspace_id, log in self._logs.items()
                for _, row in rows_of(log, domain)
                if row.index_version < domain_version
            }
        )
        looked_at = [each for each in stale if after is None or each > after][:limit]
        return StalePage(
            workspace_ids=[
                id_ for _, id_ in looked_at if self._may_serve(node_id, self._logs[id_])
            ],
            last=looked_at[-1] if len(looked_at) == limit else None,
        )

    async def find_runs(self, node_id: str, *, after: str, limit: int) -> RunsPage:
        """Find workspaces that have open runs; see `Store.find_runs`."""
        await trio.lowlevel.checkpoint()
        found = sorted(
            workspace_id
            for workspace_id, log in self._logs.items()
            if workspace_id > after and any(r.due_at is not None for _, r in rows_of(log, "run"))
        )[:limit]
        return RunsPage(
            workspace_ids=[id_ for id_ in found if self._may_serve(node_id, self._logs[id_])],
            last=found[-1] if len(found) == limit else None,
        )

    async def register_reactors(self, reactors: Sequence[ReactorStart]) -> None:
        """Note where new reactors begin; see `Store.register_reactors`."""
        await trio.lowlevel.checkpoint()
        heads = {id_: Cursor(log.head.head_seq, log.head.chain) for id_, log in self._logs.items()}
        self._places.register(reactors, heads)

    async def read_places(self, workspace_id: str) -> dict[str, Cursor]:
        """Read how far reactors have come; see `Store.read_places`."""
        await trio.lowlevel.checkpoint()
        return self._places.read(workspace_id)

    async def write_places(self, places: Mapping[str, ReactorPlace]) -> None:
        """Write how far reactors have come; see `Store.write_places`."""
        await trio.lowlevel.checkpoint()
        for workspace_id, place in places.items():
            cursor, log = place.cursor, self._logs.get(workspace_id)
            assert cursor.chain is not None, "it is of a history"
            if cursor.seq == 0 or (log is not None and log.has(cursor.seq, cursor.chain)):
                self._places.write(workspace_id, place)

    async def find_behind(
        self, node_id: str, names: Collection[str], *, after: tuple[str, str], limit: int
    ) -> BehindPage:
        """Find workspaces that reactors are behind in; see `Store.find_behind`."""
        await trio.lowlevel.checkpoint()
        now = self._world.now()
        looked = [("", id_) for id_ in self._places.to_begin]
        for id_, log in self._logs.items():
            owner = log.head.owner
            if owner is not None and (owner == node_id or not self._nodes.is_live(owner, now)):
                looked.append((owner, id_))
        looked = sorted(each for each in looked if each > after)[:limit]
        found = [
            id_
            for _, id_ in looked
            if self._may_serve(node_id, self._logs[id_])
            and self._places.lowest(id_, names) < self._logs[id_].head.head_seq
        ]
        return BehindPage(workspace_ids=found, last=looked[-1] if len(looked) == limit else None)

    def _may_serve(self, node_id: str, log: MemoryLog) -> bool:
        """Return whether a log is not halted, and no other node's."""
        owner = log.head.owner
        is_others = owner not in (None, node_id) and self._nodes.is_live(owner, self._world.now())
        return log.head.halted_reason is None and not is_others

    # The log of what is on record

    async def add_refusals(self, refusals: Sequence[RefusedWrite]) -> None:
        """Put on record what was refused; see `Store.add_refusals`."""
        await trio.lowlevel.checkpoint()
        self._refusals.add(refusals)

    async def may_collect(self, node_id: str) -> bool:
        """Return whether this node has something to collect; see `Store.may_collect`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(AUDIT_WORKSPACE)
        may_serve = log is None or self._may_serve(node_id, log)
        return may_serve and next(self._uncollected(), None) is not None

    async def read_uncollected(self, *, limit: int, bytes_max: int) -> list[Uncollected]:
        """Read what is to be collected; see `Store.read_uncollected`."""
        await trio.lowlevel.checkpoint()
        found: list[Uncollected] = []
        size = 0
        for each in sorted(self._uncollected(), key=lambda row: (row.recorded_at, row.key)):
            size += sum(len((text or "").encode()) for text in (each.old_value, each.new_value))
            if len(found) == limit or (found and size > bytes_max):
                break
            found.append(each)
        return found

    async def is_collected(self, workspace_id: str, event_seq: int, node_id: str) -> bool:
        """Return whether nobody has to be waited for; see `Store.is_collected`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(workspace_id)
        waiting = any(
            key.kind == "event" and key.number <= event_seq
            for key in (() if log is None else log.uncollected)
        )
        return not waiting or not self._is_served_elsewhere(node_id)

    async def sweep_refusals(self, *, limit: int) -> int:
        """Forget what was refused long ago; see `Store.sweep_refusals`."""
        await trio.lowlevel.checkpoint()
        return self._refusals.sweep(limit, self._world.now())

    def _uncollected(self) -> Iterator[Uncollected]:
        for log in self._logs.values():
            yield from log.uncollected.values()
        yield from self._refusals.uncollected()

    def _is_served_elsewhere(self, node_id: str) -> bool:
        """Return whether another node with a running lease owns the log of ``$audit``."""
        log = self._logs.get(AUDIT_WORKSPACE)
        if log is None or log.head.halted_reason is not None:
            return False
        other = log.head.owner
        return other not in (None, node_id) and self._nodes.is_live(other, self._world.now())

    async def locate(
        self, stream_id: str, *, after: str = "", limit: int = 2, existing_only: bool = False
    ) -> list[str]:
        """Return the workspaces that have an entity of this id; see `Store.locate`."""
        await trio.lowlevel.checkpoint()
        having = (
            workspace_id
            for workspace_id, log in sorted(self._logs.items())
            if workspace_id > after
            and (entity := log.entities.get(stream_id)) is not None
            and (entity.exists or not existing_only)
        )
        return list(islice(having, limit))

    # Command results

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

    # Cursors

    async def read_cursors(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """Read ack cursors; see `Store.read_cursors`."""
        await trio.lowlevel.checkpoint()
        return self._cursors.read(keys)

    async def write_cursors(self, cursors: dict[CursorKey, AckedCursor]) -> None:
        """Raise ack cursors; see `Store.write_cursors`."""
        await trio.lowlevel.checkpoint()
        known = {key: each.seq for key, each in cursors.items() if self._has(key, each)}
        self._cursors.write(known, self._world.now())

    def _has(self, key: CursorKey, cursor: AckedCursor) -> bool:
        """Return whether a cursor is of the history that the log has now."""
        log = self._logs.get(key.workspace_id)
        return cursor.head_seq == 0 or (log is not None and log.has(cursor.head_seq, cursor.chain))

    async def sweep_cursors(
        self, after: CursorKey | None, *, limit: int, unused_s: float
    ) -> CursorKey | None:
        """Forget cursors that are no longer written; see `Store.sweep_cursors`."""
        await trio.lowlevel.checkpoint()
        unused = timedelta(seconds=unused_s)
        return self._cursors.sweep(after, limit, self._world.now() - unused)
