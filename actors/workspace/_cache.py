"""Committed entities in memory, of each workspace and of the whole node.

Each workspace keeps those that it used last, absent ones too, up to a number.  What they take
together is bounded for the node: beyond it the workspace that has been silent longest loses what it
used longest ago.  Nothing depends on a cache but speed: what is not here is loaded again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._entity import Entity

_ENTITY_BYTES = 600
"""An entity without its state's texts: the record, its index, its place here."""


class CacheBound:
    """What the caches of one node take, and which of them was used last."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._caches: OrderedDict[EntityCache, None] = OrderedDict()
        """Those that have something, the longest silent first."""

    def __repr__(self) -> str:
        return f"<CacheBound {self._bytes}/{self._bytes_max} bytes, {len(self._caches)} caches>"

    @property
    def bytes(self) -> int:
        """About how much all of them take."""
        return self._bytes

    def grow(self, cache: EntityCache, size: int) -> None:
        """Count what a cache was given, and have the silent ones shrink where it is too much."""
        self._caches[cache] = None
        self._caches.move_to_end(cache)
        self._bytes += size
        while self._bytes > self._bytes_max:
            oldest = next(iter(self._caches))
            if oldest is cache and len(cache) == 1:
                return  # it is needed now, however large it is
            self.shrink(oldest, oldest.drop_oldest())

    def shrink(self, cache: EntityCache, size: int) -> None:
        """Count what a cache has no longer."""
        self._bytes -= size
        if len(cache) == 0:
            self._caches.pop(cache, None)


class EntityCache:
    """The committed entities of one workspace; see the module."""

    def __init__(self, bound: CacheBound, *, count_max: int) -> None:
        self._bound = bound
        self._entities: OrderedDict[str, Entity] = OrderedDict()
        """The least recently used first."""
        self._count_max = count_max

    def __len__(self) -> int:
        return len(self._entities)

    def items(self) -> Iterable[tuple[str, Entity]]:
        """Return all of them, the least recently used first."""
        return self._entities.items()

    def get(self, stream_id: str) -> Entity | None:
        """Return one and mark it as used."""
        entity = self._entities.get(stream_id)
        if entity is not None:
            self._entities.move_to_end(stream_id)
        return entity

    def put(self, stream_id: str, entity: Entity) -> None:
        """Keep one; others may be dropped."""
        old = self._entities.pop(stream_id, None)
        self._entities[stream_id] = entity
        grown = _size_of(entity) - (0 if old is None else _size_of(old))
        if len(self._entities) > self._count_max:
            grown -= self.drop_oldest()
        self._bound.grow(self, grown)

    def drop_oldest(self) -> int:
        """Drop what was used longest ago; return what it took."""
        return _size_of(self._entities.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop everything: the workspace has ended here."""
        size = sum(map(_size_of, self._entities.values()))
        self._entities.clear()
        self._bound.shrink(self, size)


def _size_of(entity: Entity) -> int:
    return _ENTITY_BYTES + entity.size
