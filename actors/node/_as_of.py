"""Reading a workspace as it was at an event of it, however long that takes and whoever writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.actors.workspace import Turn, load_entity
from dalsegno.protocol import MIB, CorruptLogError
from dalsegno.protocol.runs import EntityAt, PageAt

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store
    from dalsegno.actors.workspace import Entity
    from dalsegno.protocol import Domain, Limits

_LOADED_FIRST = 4
"""Entities that are loaded in the first query, …"""
_LOADED_MAX = 64
"""… at most in one, …"""
_LOADED_BYTES = 2 * MIB
"""… and how long they may be together, as far as those before let one guess: what a query returns
is taken over in one step."""


class AsOf:
    """A workspace as it was at its events, read by the program."""

    def __init__(self, store: Store, workspace_id: str, limits: Limits) -> None:
        self.workspace_id = workspace_id
        self._store = store
        self._limits = limits
        self._turn = Turn(limits.turn_s)
        self._at_once = _LOADED_FIRST

    def __repr__(self) -> str:
        return f"<AsOf {self.workspace_id}>"

    async def pause(self) -> None:
        """Yield to other tasks if this one has run for long."""
        await self._turn.pause()

    async def count_at(self, domain: Domain[Any, Any, Any], event_seq: int) -> int:
        """Count a domain's entities that there had been up to an event."""
        count, after = 0, ""
        while True:
            found = await self._versions(domain, event_seq, after, self._limits.list_limit_max)
            count += len(found)
            if len(found) < self._limits.list_limit_max:
                return count
            after = found[-1][0]

    async def _versions(
        self, domain: Domain[Any, Any, Any], event_seq: int, after: str, limit: int
    ) -> list[tuple[str, int]]:
        return await self._store.list_versions(
            self.workspace_id, domain.name, at_seq=event_seq, after=after, limit=limit
        )

    async def page_at(
        self, domain: Domain[Any, Any, Any], event_seq: int, *, after: str = "", limit: int = 100
    ) -> PageAt:
        """List a domain's entities as they were at an event; at least one, if there are more.

        Raises:
            UnavailableError: the store is away.
            CorruptLogError: one cannot be folded.

        """
        limit = min(limit, self._limits.list_limit_max)
        place = domain.stream_id(after) if after else ""
        wanted = await self._versions(domain, event_seq, place, limit)
        items: list[EntityAt] = []
        left_bytes = self._limits.list_bytes_max
        while len(items) < len(wanted) and left_bytes > 0:
            portion = dict(wanted[len(items) : len(items) + self._at_once])
            before = left_bytes
            versions = dict.fromkeys(portion, domain.version)
            loaded = await self._store.load_entities(self.workspace_id, portion, versions)
            for stream_id, version in portion.items():
                await self._turn.pause()
                stored = loaded.get(stream_id)
                if stored is not None and stored.version == version:
                    entity = await load_entity(domain, stored, self._turn)
                else:
                    entity = await self.entity_at(domain, stream_id, version)
                left_bytes -= entity.size
                entity_id = stream_id.partition(":")[2]
                items.append(EntityAt(entity_id=entity_id, version=version, state=entity.state))
            each_bytes = max((before - left_bytes) // len(portion), 1)
            self._at_once = max(1, min(_LOADED_BYTES // each_bytes, _LOADED_MAX))
        is_last = len(items) == len(wanted) and len(wanted) < limit
        return PageAt(items=tuple(items), next=None if is_last else items[-1].entity_id)

    async def entity_at(
        self, domain: Domain[Any, Any, Any], stream_id: str, version: int
    ) -> Entity:
        """Return an entity as it was at a version that it had.

        Raises:
            UnavailableError: the store is away.
            CorruptLogError: it cannot be folded, or its events are gone.

        """
        stored = await self._store.load_entity_at(
            self.workspace_id, stream_id, version, domain.version
        )
        if stored is None or stored.version != version:
            raise CorruptLogError(f"{self.workspace_id}: {stream_id} has lost version {version}")
        return await load_entity(domain, stored, self._turn)
