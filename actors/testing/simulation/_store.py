"""Any store, seen by a process over a link that fails.

Each process has its own `SimStore` on the same inner store, so that one of them can be cut off.
With a calm link it is the inner store, and passes the same contract suite.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dalsegno.actors.ports import BEGINNING, BatchRejectedError, PageBounds, Place
from dalsegno.actors.testing.memory import LaterAppend
from dalsegno.protocol import OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from dalsegno.actors.ports import (
        AckedCursor,
        Appending,
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
        ReactorPlace,
        ReactorStart,
        Refusal,
        RefusedWrite,
        RunsPage,
        StalePage,
        Store,
        StoredEntity,
        StoredResult,
        Uncollected,
    )
    from dalsegno.protocol import Cursor, Event

    from ._link import Link


_log = logging.getLogger("dalsegno.simulation")


class SimStore:
    """A `Store` over a `Link`."""

    def __init__(
        self, inner: Store, link: Link, *, clock_off_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._inner = inner
        self.link = link
        self._clock_off_s = clock_off_s

    def __repr__(self) -> str:
        return f"<SimStore {self._inner!r} over {self.link!r}>"

    # ------------------------------------------------------------------------------ the log

    async def read_head(self, workspace_id: str) -> Head | None:
        """See `Store.read_head`."""
        return await self.link.read(lambda: self._inner.read_head(workspace_id))

    async def read_heads(self, workspace_ids: Collection[str]) -> dict[str, Head]:
        """See `Store.read_heads`."""
        return await self.link.read(lambda: self._inner.read_heads(workspace_ids))

    async def acquire(
        self,
        workspace_id: str,
        owner: str,
        *,
        create: bool,
        incarnation: str | None = None,
        app_version: int = 0,
    ) -> Head | None:
        """See `Store.acquire`."""
        return await self.link.change(
            lambda: self._inner.acquire(
                workspace_id,
                owner,
                create=create,
                incarnation=incarnation,
                app_version=app_version,
            ),
            OutcomeUnknownError,
        )

    async def release(self, workspace_id: str, epoch: int) -> bool:
        """See `Store.release`."""
        return await self.link.change(lambda: self._inner.release(workspace_id, epoch))

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        """See `Store.append`; its caller sets the deadline."""
        link, weather = self.link, self.link.weather
        if weather.rejected and link.noise.random() < weather.rejected:
            link.faults["data rejected"] += 1
            raise BatchRejectedError("as if the data were bad")
        if weather.locked:
            kept = [batch for batch in batches if link.noise.random() >= weather.locked]
            link.faults["a head locked"] += len(batches) - len(kept)
            batches = kept
        return await link.change(
            lambda: self._append(batches), OutcomeUnknownError, is_bounded=False
        )

    async def _append(self, batches: Sequence[Batch]) -> Collection[str]:
        """Append, and log a refusal: a node that owns its log numbers nothing twice (I1)."""
        try:
            return await self._inner.append(batches)
        except BatchRejectedError as error:
            _log.error("the store refused what a node sent: %s", error)
            raise

    def append_nowait(self, batches: Sequence[Batch]) -> Appending | None:
        """See `Store.append_nowait`."""
        return LaterAppend(self, batches)

    async def explain(self, batch: Batch) -> Refusal:
        """See `Store.explain`."""
        return await self.link.read(lambda: self._inner.explain(batch))

    async def read_events(self, workspace_id: str, bounds: PageBounds) -> list[Event]:
        """See `Store.read_events`."""
        return await self.link.read(lambda: self._inner.read_events(workspace_id, bounds))

    async def read_stream(
        self, workspace_id: str, stream_id: str, bounds: PageBounds
    ) -> list[Event]:
        """See `Store.read_stream`."""
        return await self.link.read(
            lambda: self._inner.read_stream(workspace_id, stream_id, bounds)
        )

    async def find_commands(
        self, workspace_id: str, command_ids: Collection[str], *, after_seq: int
    ) -> dict[str, list[Event]]:
        """See `Store.find_commands`."""
        return await self.link.read(
            lambda: self._inner.find_commands(workspace_id, command_ids, after_seq=after_seq)
        )

    async def find_results(
        self, workspace_id: str, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredResult]:
        """See `Store.find_results`."""
        return await self.link.read(lambda: self._inner.find_results(workspace_id, keys))

    async def sweep_results(self, *, limit: int) -> int:
        """See `Store.sweep_results`."""
        return await self.link.change(lambda: self._inner.sweep_results(limit=limit))

    async def event_types(self) -> set[tuple[str, str, int]]:
        """See `Store.event_types`."""
        return await self.link.read(self._inner.event_types)

    # ---------------------------------------------------------------------------- entities

    async def read_versions(self, workspace_id: str, stream_ids: Collection[str]) -> dict[str, int]:
        """See `Store.read_versions`."""
        return await self.link.read(lambda: self._inner.read_versions(workspace_id, stream_ids))

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        """See `Store.load_entities`."""
        return await self.link.read(
            lambda: self._inner.load_entities(workspace_id, stream_ids, domain_versions)
        )

    async def load_many(
        self, wanted: Mapping[tuple[str, str], int | None]
    ) -> dict[tuple[str, str], StoredEntity]:
        """See `Store.load_many`."""
        return await self.link.read(lambda: self._inner.load_many(wanted))

    async def load_entity_at(
        self, workspace_id: str, stream_id: str, version: int, domain_version: int
    ) -> StoredEntity | None:
        """See `Store.load_entity_at`."""
        return await self.link.read(
            lambda: self._inner.load_entity_at(workspace_id, stream_id, version, domain_version)
        )

    async def write_states(
        self, workspace_id: str, epoch: int, entities: Sequence[EntityWrite]
    ) -> bool:
        """See `Store.write_states`."""
        return await self.link.change(
            lambda: self._inner.write_states(workspace_id, epoch, entities)
        )

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
        """See `Store.list_entities`."""
        return await self.link.read(
            lambda: self._inner.list_entities(
                workspace_id,
                domain,
                key=key,
                after=after,
                limit=limit,
                domain_version=domain_version,
                bytes_max=bytes_max,
                newest_first=newest_first,
            )
        )

    async def list_keys(
        self, workspace_id: str, domain: str, *, prefix: str, after: str, limit: int
    ) -> list[str]:
        """See `Store.list_keys`."""
        return await self.link.read(
            lambda: self._inner.list_keys(
                workspace_id, domain, prefix=prefix, after=after, limit=limit
            )
        )

    async def list_versions(
        self, workspace_id: str, domain: str, *, at_seq: int, after: str, limit: int
    ) -> list[tuple[str, int]]:
        """See `Store.list_versions`."""
        return await self.link.read(
            lambda: self._inner.list_versions(
                workspace_id, domain, at_seq=at_seq, after=after, limit=limit
            )
        )

    async def list_stale(
        self, workspace_id: str, domain: str, domain_version: int, *, limit: int
    ) -> list[str]:
        """See `Store.list_stale`."""
        return await self.link.read(
            lambda: self._inner.list_stale(workspace_id, domain, domain_version, limit=limit)
        )

    async def find_due(
        self,
        node_id: str,
        domains: Collection[str],
        *,
        until: datetime,
        after: DueEntity | None,
        limit: int,
    ) -> DuePage:
        """See `Store.find_due`."""
        return await self.link.read(
            lambda: self._inner.find_due(node_id, domains, until=until, after=after, limit=limit)
        )

    async def find_stale(
        self,
        node_id: str,
        domain: str,
        domain_version: int,
        *,
        after: tuple[int, str] | None,
        limit: int,
    ) -> StalePage:
        """See `Store.find_stale`."""
        return await self.link.read(
            lambda: self._inner.find_stale(
                node_id, domain, domain_version, after=after, limit=limit
            )
        )

    async def find_runs(self, node_id: str, *, after: str, limit: int) -> RunsPage:
        """See `Store.find_runs`."""
        return await self.link.read(
            lambda: self._inner.find_runs(node_id, after=after, limit=limit)
        )

    async def register_reactors(self, reactors: Sequence[ReactorStart]) -> None:
        """See `Store.register_reactors`."""
        await self.link.change(lambda: self._inner.register_reactors(reactors))

    async def read_places(self, workspace_id: str) -> dict[str, Cursor]:
        """See `Store.read_places`."""
        return await self.link.read(lambda: self._inner.read_places(workspace_id))

    async def write_places(self, places: Mapping[str, ReactorPlace]) -> None:
        """See `Store.write_places`."""
        await self.link.change(lambda: self._inner.write_places(places))

    async def find_behind(
        self, node_id: str, names: Collection[str], *, after: tuple[str, str], limit: int
    ) -> BehindPage:
        """See `Store.find_behind`."""
        return await self.link.read(
            lambda: self._inner.find_behind(node_id, names, after=after, limit=limit)
        )

    async def locate(
        self, stream_id: str, *, after: str = "", limit: int = 2, existing_only: bool = False
    ) -> list[str]:
        """See `Store.locate`."""
        return await self.link.read(
            lambda: self._inner.locate(
                stream_id, after=after, limit=limit, existing_only=existing_only
            )
        )

    # -------------------------------------------------------------------- nodes and repairs

    async def beat(
        self, node_id: str, incarnation: str, *, address: str | None, lease_s: float, first: bool
    ) -> float | None:
        """See `Store.beat`."""
        return await self.link.change(
            lambda: self._inner.beat(
                node_id, incarnation, address=address, lease_s=lease_s, first=first
            )
        )

    async def read_time(self) -> datetime:
        """See `Store.read_time`; as a node's clock has it, which may be wrong."""
        said = await self.link.read(self._inner.read_time)
        return said + timedelta(seconds=self._clock_off_s())

    async def fenced_s(self, node_id: str) -> float:
        """See `Store.fenced_s`."""
        return await self.link.read(lambda: self._inner.fenced_s(node_id))

    async def next_end_s(self, node_id: str) -> float | None:
        """See `Store.next_end_s`."""
        return await self.link.read(lambda: self._inner.next_end_s(node_id))

    async def forget(self, node_id: str, incarnation: str) -> None:
        """See `Store.forget`."""
        await self.link.change(lambda: self._inner.forget(node_id, incarnation))

    async def find_node(self, node_id: str) -> Node | None:
        """See `Store.find_node`."""
        return await self.link.read(lambda: self._inner.find_node(node_id))

    async def halt(
        self, workspace_id: str, epoch: int, reason: str, *, code: str, actor: str
    ) -> bool:
        """See `Store.halt`."""
        return await self.link.change(
            lambda: self._inner.halt(workspace_id, epoch, reason, code=code, actor=actor)
        )

    async def resume(self, workspace_id: str, epoch: int, *, actor: str, detail: str) -> bool:
        """See `Store.resume`."""
        return await self.link.change(
            lambda: self._inner.resume(workspace_id, epoch, actor=actor, detail=detail)
        )

    async def read_audit(self, workspace_id: str, *, limit: int) -> list[AuditEntry]:
        """See `Store.read_audit`."""
        return await self.link.read(lambda: self._inner.read_audit(workspace_id, limit=limit))

    async def read_records(
        self, workspace_id: str, which: AuditFilter, *, below: AuditPlace, limit: int
    ) -> list[AuditRecord]:
        """See `Store.read_records`."""
        return await self.link.read(
            lambda: self._inner.read_records(workspace_id, which, below=below, limit=limit)
        )

    async def lower_app_version(self, version: int, *, actor: str) -> int:
        """See `Store.lower_app_version`."""
        return await self.link.change(lambda: self._inner.lower_app_version(version, actor=actor))

    # ------------------------------------------------------------------ what is on record

    async def add_refusals(self, refusals: Sequence[RefusedWrite]) -> None:
        """See `Store.add_refusals`."""
        await self.link.change(lambda: self._inner.add_refusals(refusals))

    async def may_collect(self, node_id: str) -> bool:
        """See `Store.may_collect`."""
        return await self.link.read(lambda: self._inner.may_collect(node_id))

    async def read_uncollected(self, *, limit: int, bytes_max: int) -> list[Uncollected]:
        """See `Store.read_uncollected`."""
        return await self.link.read(
            lambda: self._inner.read_uncollected(limit=limit, bytes_max=bytes_max)
        )

    async def is_collected(self, workspace_id: str, event_seq: int, node_id: str) -> bool:
        """See `Store.is_collected`."""
        return await self.link.read(
            lambda: self._inner.is_collected(workspace_id, event_seq, node_id)
        )

    async def sweep_refusals(self, *, limit: int) -> int:
        """See `Store.sweep_refusals`."""
        return await self.link.change(lambda: self._inner.sweep_refusals(limit=limit))

    # ----------------------------------------------------------------------------- cursors

    async def read_cursors(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """See `Store.read_cursors`."""
        return await self.link.read(lambda: self._inner.read_cursors(keys))

    async def write_cursors(self, cursors: dict[CursorKey, AckedCursor]) -> None:
        """See `Store.write_cursors`."""
        await self.link.change(lambda: self._inner.write_cursors(cursors))

    async def sweep_cursors(
        self, after: CursorKey | None, *, limit: int, unused_s: float
    ) -> CursorKey | None:
        """See `Store.sweep_cursors`."""
        return await self.link.change(
            lambda: self._inner.sweep_cursors(after, limit=limit, unused_s=unused_s)
        )

    async def aclose(self) -> None:
        """Leave the inner store open: other processes use it."""
        self.link.kill()
