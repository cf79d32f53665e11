"""The raw statement: the reference for everything that writes.

After the subject has run, the log tells what the committer wrote: the events, and by ``xmin``, the
transaction that made a row, which of them were one statement.  The very same statements are then
written once more, to a twin of each workspace, by the committer's own SQL through the same driver,
on a connection of its own with the same session settings, in a bare loop with prepared
parameters.  So the reference has the mean batch of that run, its rows and its bytes, and nothing
else that a runtime does: no mailbox, no deciding, no folding, no waiting, no answers.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dalsegno.actors import Batch, EntityWrite, ResultWrite, SnapshotWrite
from dalsegno.protocol import Limits
from dalsegno.runtime.store import connect
from dalsegno.runtime.store._pools import _APPENDING, _open
from dalsegno.runtime.store._rows import append_statement, events_of
from dalsegno.runtime.store._sql import array, queries, quoted, texts

from ._harness import Sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from dalsegno.protocol import Domain, Event
    from dalsegno.runtime.store import Connection

    from ._servers import Postgres

_WRITTEN = """
select e.xmin::text::bigint, w.workspace_id,
       e.event_seq, e.stream_id, e.stream_seq, e.event_id::text, e.type, e.type_version,
       e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
       e.correlation_id, e.recorded_at::text, e.chain, encode(e.salt, 'hex')
  from unnest($1::text::text[], $2::text::bigint[]) as w(workspace_id, seen)
  join dalsegno.event e on e.workspace_id = w.workspace_id and e.event_seq > w.seen
 order by 1, 2, 3
"""

_TWINS = """
insert into dalsegno.workspace_head (workspace_id, epoch, owner)
select w, 1, 'bench' from unnest($1::text::text[]) as w
"""

_ENTITIES = """
select w.workspace_id, w.stream_id, e.live, to_json(e.keys), e.title, e.state, e.domain_version
  from unnest($1::text::text[], $2::text::text[]) as w(workspace_id, stream_id)
  join dalsegno.entity e using (workspace_id, stream_id)
"""

_RESULTS = """
select w.workspace_id, r.event_seq, r.scope, r.key, r.payload_hash, r.answer
  from unnest($1::text::text[], $2::text::bigint[]) as w(workspace_id, seen)
  join dalsegno.command_result r
    on r.workspace_id = w.workspace_id and r.event_seq > w.seen
"""

_Key = tuple[str, str]
"""A workspace and a stream."""


class RawStatement:
    """The twins of some workspaces, and the connection that writes them."""

    def __init__(
        self,
        appending: Connection,
        reading: Connection,
        workspaces: Iterable[str],
        domains: Mapping[str, Domain[Any, Any, Any]],
        database: Postgres,
    ) -> None:
        self._appending = appending
        self._reading = reading
        self._domains = domains
        self._database = database
        self._limits = Limits()
        self._seen = dict.fromkeys(workspaces, 0)
        self._results: dict[tuple[str, int], ResultWrite] = {}
        """Of the commands that had a key: by workspace and event."""
        self._lags: dict[_Key, tuple[int, int]] = {}
        """Of each entity: the version that its row's state is of, and the bytes since."""

    async def create(self) -> None:
        """Make the twins: empty, of epoch 1."""
        await self._appending.fetch(_TWINS, (texts(map(_twin, self._seen)),))

    async def repeat(self) -> tuple[Sample, Sample]:
        """Write once more what was written since the last time.

        Returns:
            The statements, and the statements with the making of their parameters.

        """
        statements = await self._read()
        began = time.perf_counter()
        prepared = [append_statement(batches, self._limits.result_ttl_s) for batches in statements]
        made_s = time.perf_counter() - began
        sql, fetch = queries(), self._appending.fetch
        latencies: list[float] = []
        cpu, postgres = time.process_time(), self._database.cpu_s()
        first = last = time.perf_counter()
        for batches, (name, parameters) in zip(statements, prepared, strict=True):
            rows = await fetch(sql[name], parameters)
            if len(rows) != len(batches):
                raise RuntimeError("a twin was refused: somebody else wrote to it")
            now = time.perf_counter()
            latencies.append(now - last)
            last = now
        done = Sample(
            count=sum(len(batch.events) for batches in statements for batch in batches),
            wall_s=last - first,
            cpu_s=time.process_time() - cpu,
            postgres_s=self._database.cpu_s() - postgres,
            commits=len(statements),
            latencies_s=latencies,
        )
        each_s = made_s / max(1, len(statements))
        return done, Sample(
            count=done.count,
            wall_s=done.wall_s + made_s,
            cpu_s=done.cpu_s + made_s,
            postgres_s=done.postgres_s,
            commits=done.commits,
            latencies_s=[latency + each_s for latency in latencies],
        )

    async def skip(self) -> None:
        """Write what was written since the last time, and measure nothing."""
        await self.repeat()

    async def _read(self) -> list[list[Batch]]:
        """Read the statements that the log has above what was seen."""
        seen = (texts(self._seen), array(map(str, self._seen.values())))
        rows = await self._reading.fetch(_WRITTEN, seen)
        self._results = {
            (workspace_id, event_seq): ResultWrite(
                scope=scope, key=key, payload_hash=payload_hash, answer=answer, event_seq=event_seq
            )
            for workspace_id, event_seq, scope, key, payload_hash, answer in (
                await self._reading.fetch(_RESULTS, seen)
            )
        }
        events = [(row[0], event) for row in rows for event in events_of(row[1], [row[2:]])]
        writes = await self._entities({(e.workspace_id, e.stream_id) for _, e in events})
        statements = []
        for _, statement in groupby(events, key=lambda pair: pair[0]):
            by_workspace = groupby((e for _, e in statement), key=lambda e: e.workspace_id)
            statements.append([self._batch(w, list(its), writes) for w, its in by_workspace])
        return statements

    async def _entities(self, keys: set[_Key]) -> dict[_Key, EntityWrite]:
        """Read the entities' rows as they are now: the versions between differ by little."""
        ordered = sorted(keys)
        columns = [array(quoted(key[place]) for key in ordered) for place in (0, 1)]
        rows = await self._reading.fetch(_ENTITIES, columns)
        return {
            (workspace_id, stream_id): EntityWrite(
                stream_id=stream_id,
                version=0,
                exists=live,
                keys=tuple(keys_ if isinstance(keys_, list) else json.loads(keys_)),
                title=title,
                state=state,
                domain_version=domain_version,
            )
            for workspace_id, stream_id, live, keys_, title, state, domain_version in rows
        }

    def _batch(
        self, workspace_id: str, events: list[Event], writes: Mapping[_Key, EntityWrite]
    ) -> Batch:
        """Make of one workspace's events what the committer made of them."""
        entities: dict[str, EntityWrite] = {}
        snapshots: list[SnapshotWrite] = []
        for event in events:
            stream_id, version = event.stream_id, event.stream_seq
            write = writes[workspace_id, stream_id]
            entities[stream_id] = replace(write, stream_id=_twin(stream_id), version=version)
            stored, lag = self._lags.get((workspace_id, stream_id), (0, 0))
            self._lags[workspace_id, stream_id] = (stored, lag + len(event.payload))
            every = self._domains[stream_id.partition(":")[0]].snapshot_every
            if version % every == 0 and write.state is not None:
                snapshots.append(
                    SnapshotWrite(
                        stream_id=_twin(stream_id),
                        version=version,
                        domain_version=write.domain_version,
                        state=write.state,
                    )
                )
        old_head = self._seen[workspace_id]
        self._seen[workspace_id] = events[-1].event_seq
        twin = _twin(workspace_id)
        keys = [(workspace_id, event.event_seq) for event in events]
        return Batch(
            workspace_id=twin,
            epoch=1,
            old_head=old_head,
            events=tuple(
                replace(event, workspace_id=twin, stream_id=_twin(event.stream_id))
                for event in events
            ),
            entities=tuple(
                self._with_state((workspace_id, stream_id), write)
                for stream_id, write in entities.items()
            ),
            results=tuple(self._results[key] for key in keys if key in self._results),
            snapshots=tuple(snapshots),
        )

    def _with_state(self, key: _Key, write: EntityWrite) -> EntityWrite:
        """Leave the state out unless it lags too far, as the runtime does."""
        stored, lag = self._lags[key]
        limits = self._limits
        if (
            write.version - stored < limits.state_lag_events_max
            and lag < limits.state_lag_bytes_max
        ):
            return replace(write, state=None)
        self._lags[key] = (write.version, 0)
        return write


@asynccontextmanager
async def raw_statement(
    database: Postgres, workspaces: Sequence[str], domains: Iterable[Domain[Any, Any, Any]]
) -> AsyncIterator[RawStatement]:
    """Yield a raw statement on twins of workspaces whose logs are empty, or still short."""
    appending = await _open(connect, database.dsn, _APPENDING)
    reading = await connect(database.dsn)
    try:
        by_name = {domain.name: domain for domain in domains}
        raw = RawStatement(appending, reading, workspaces, by_name, database)
        await raw.create()
        yield raw
    finally:
        await appending.aclose()
        await reading.aclose()


def _twin(name: str) -> str:
    """Name the twin of a workspace or a stream, so that it is not mistaken for the original."""
    return f"{name}~"
