"""A store that counts reads of its logs, and trims their beginning when told to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from dalsegno.actors import Head, PageBounds
from dalsegno.protocol import Event
from tests.actors._world import FaultyStore


class CountingStore(FaultyStore):
    """Counts the reads of logs, by method."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they are
        self.reads: Counter[str] = Counter()

    async def read_events(self, workspace_id: str, bounds: PageBounds) -> list[Event]:
        self.reads["events"] += 1
        return await super().read_events(workspace_id, bounds)

    async def read_stream(
        self, workspace_id: str, stream_id: str, bounds: PageBounds
    ) -> list[Event]:
        self.reads["stream"] += 1
        await self._before("read_stream")
        return await super().read_stream(workspace_id, stream_id, bounds)

    async def read_versions(self, workspace_id: str, stream_ids: Collection[str]) -> dict[str, int]:
        self.reads["versions"] += 1
        return await super().read_versions(workspace_id, stream_ids)

    async def read_head(self, workspace_id: str) -> Head | None:
        self.reads["head"] += 1
        return await super().read_head(workspace_id)

    def trim(self, last: int, workspace_id: str = "w") -> None:
        """Drop everything up to and including an event."""
        log = self._logs[workspace_id]
        log.head = msgspec.structs.replace(log.head, first_seq=last + 1)
        log.events[:] = [event for event in log.events if event.event_seq > last]
        for events in log.streams.values():
            events[:] = [event for event in events if event.event_seq > last]
