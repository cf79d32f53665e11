"""Writing of batches as a workspace actor would."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from dalsegno.actors.ports import (
    Batch,
    EntityWrite,
    Head,
    PageBounds,
    ResultWrite,
    SnapshotWrite,
    Store,
)
from dalsegno.protocol import CHAIN_START, Event, chained

START = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
"""Before every event of the suite."""

_ids = itertools.count(1)


def new_id() -> str:
    """Return an id that no other call returns."""
    return f"00000000-0000-7000-8000-{next(_ids):012x}"


@dataclass
class Writer:
    """A writer of batches as a workspace actor would: dense, chained, one row per entity."""

    workspace_id: str
    epoch: int
    head_seq: int = 0
    chain: int = CHAIN_START
    versions: dict[str, int] = field(default_factory=dict)

    def event(self, stream_id: str, payload: str = "{}", **more: Any) -> Event:
        """Return the next event of the workspace and of a stream; ``more`` are its other fields."""
        self.versions[stream_id] = self.versions.get(stream_id, 0) + 1
        self.head_seq += 1
        fields: dict[str, Any] = {
            "workspace_id": self.workspace_id,
            "event_seq": self.head_seq,
            "stream_id": stream_id,
            "stream_seq": self.versions[stream_id],
            "event_id": new_id(),
            "type": "note_patched",
            "type_version": 1,
            "payload": payload,
            "actor_id": "u1",
            "command_id": new_id(),
            "recorded_at": START + timedelta(seconds=self.head_seq % 1_000),
            "salt": new_id().encode()[-16:] if self.head_seq % 2 else None,
        }
        event = Event(**(fields | more))
        self.chain = chained(self.chain, event)
        return msgspec.structs.replace(event, chain=self.chain)

    def batch(
        self,
        *events: Event,
        entities: tuple[EntityWrite, ...] | None = None,
        results: tuple[ResultWrite, ...] = (),
        snapshots: tuple[SnapshotWrite, ...] = (),
    ) -> Batch:
        """Return these events as a batch; without ``entities`` each stream gets a plain row."""
        if entities is None:
            versions = {event.stream_id: event.stream_seq for event in events}
            entities = tuple(entity(s, version) for s, version in versions.items())
        return Batch(
            workspace_id=self.workspace_id,
            epoch=self.epoch,
            old_head=events[0].event_seq - 1 if events else self.head_seq,
            events=events,
            entities=entities,
            results=results,
            snapshots=snapshots,
        )


def entity(
    stream_id: str,
    version: int,
    state: str | None = None,
    **more: Any,
) -> EntityWrite:
    """Return the row of an entity that exists."""
    fields: dict[str, Any] = {"stream_id": stream_id, "version": version, "state": state}
    return EntityWrite(**({"exists": True} | fields | more))


def result(key: str, event_seq: int, scope: str = "u1|note:1") -> ResultWrite:
    """Return the row of an idempotency key."""
    return ResultWrite(
        scope=scope,
        key=key,
        payload_hash=b"\x00\xff" + key.encode(),
        answer=f'{{"event_seq":{event_seq}}}',
        event_seq=event_seq,
    )


async def writer(store: Store, workspace_id: str, owner: str = "here") -> Writer:
    """Acquire a new or an empty workspace, and return a writer for it."""
    head = await acquired(store, workspace_id, owner)
    return Writer(workspace_id, head.epoch)


async def acquired(store: Store, workspace_id: str, owner: str = "here") -> Head:
    """Acquire a workspace, which is created if it is absent."""
    head = await store.acquire(workspace_id, owner, create=True)
    assert head is not None
    return head


async def head_of(store: Store, workspace_id: str) -> Head:
    """Read the head of a workspace that exists."""
    head = await store.read_head(workspace_id)
    assert head is not None
    return head


async def log_of(store: Store, workspace_id: str) -> list[Event]:
    """Read all of a log."""
    everything = PageBounds(from_seq=1, limit=10_000, bytes_max=2**30)
    return await store.read_events(workspace_id, everything)


def between(first: int, last: int, *, limit: int = 1_000, bytes_max: int = 1_000_000) -> PageBounds:
    """Return the bounds of a page; unless said otherwise, large enough for everything."""
    return PageBounds(from_seq=first, to_event_seq=last, limit=limit, bytes_max=bytes_max)
