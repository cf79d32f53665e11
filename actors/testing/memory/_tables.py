"""The tables of the store in memory beside its logs: ack cursors, reactors, nodes with leases.

Everything here is synchronous and takes the time as an argument; `MemoryStore` adds the rest.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.ports import CursorKey, Node, RecordKey, Uncollected
from dalsegno.protocol import CHAIN_START, SEQ_MAX, Cursor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from dalsegno.actors.ports import ReactorPlace, ReactorStart, RefusedWrite
    from dalsegno.protocol import Limits

_DEAD_KEPT = timedelta(days=1)
_REFUSALS_KEPT = timedelta(days=1)


class _Cursor(msgspec.Struct, frozen=True):
    seq: int
    written: int
    """The number of the write: unlike a time, never the same for two."""
    written_at: datetime


class Cursors:
    """Ack cursors by user and client."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._writes = count()
        self._users: dict[str, dict[str, dict[CursorKey, _Cursor]]] = {}

    def read(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """Read the cursors that exist."""
        found = ((key, self._of_client(key).get(key)) for key in keys)
        return {key: row.seq for key, row in found if row is not None}

    def all(self) -> dict[CursorKey, int]:
        """Return every cursor."""
        return self.read([*self._keys()])

    def write(self, cursors: dict[CursorKey, int], now: datetime) -> None:
        """Raise cursors, and forget the oldest above the bounds."""
        write = next(self._writes)
        for key, seq in cursors.items():
            rows = self._users.setdefault(key.user_id, {}).setdefault(key.client_id, {})
            old = rows.get(key)
            rows[key] = _Cursor(seq if old is None else max(seq, old.seq), write, now)
        for key in cursors:
            self._prune(key)

    def sweep(
        self, after: CursorKey | None, limit: int, written_before: datetime
    ) -> CursorKey | None:
        """Visit some after ``after``, and forget those written too long ago."""
        keys = sorted(self._keys())
        start = 0 if after is None else bisect_right(keys, after)
        seen = keys[start : start + limit]
        for key in seen:
            if self._of_client(key)[key].written_at <= written_before:
                self._forget(key)
        return seen[-1] if len(seen) == limit else None

    def _keys(self) -> Iterator[CursorKey]:
        for clients in self._users.values():
            for rows in clients.values():
                yield from rows

    def _of_client(self, key: CursorKey) -> dict[CursorKey, _Cursor]:
        return self._users.get(key.user_id, {}).get(key.client_id, {})

    def _forget(self, key: CursorKey) -> None:
        clients = self._users[key.user_id]
        del clients[key.client_id][key]
        if not clients[key.client_id]:
            del clients[key.client_id]
        if not clients:
            del self._users[key.user_id]

    def _prune(self, key: CursorKey) -> None:
        rows = self._of_client(key)
        oldest = sorted(rows, key=lambda cursor: (-rows[cursor].written, cursor))
        for cursor in oldest[self._limits.cursors_per_client_max :]:
            del rows[cursor]
        clients = self._users[key.user_id]
        written = {
            client: max(row.written for row in clients[client].values()) for client in clients
        }
        stalest = sorted(written, key=lambda client: (-written[client], client))
        for client in stalest[self._limits.clients_per_user_max :]:
            del clients[client]


class Places:
    """How far reactors have come in each workspace."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._rows: dict[str, dict[str, Cursor]] = {}
        self.to_begin: dict[str, None] = {}
        """Workspaces where a reactor has to begin at the beginning."""

    def register(self, reactors: Sequence[ReactorStart], heads: Mapping[str, Cursor]) -> None:
        """Note where new reactors begin; see `Store.register_reactors`."""
        known = dict(self._names)
        for each in reactors:
            if each.name in known:
                continue
            self._names[each.name] = None
            if each.was in known:
                for row in self._rows.values():
                    if each.was in row:
                        row[each.name] = row.pop(each.was)
                del self._names[each.was]
                continue
            for workspace_id, head in heads.items():
                begins = head if each.since == "now" else Cursor(0, CHAIN_START)
                self._rows.setdefault(workspace_id, {})[each.name] = begins
                if each.since != "now":
                    self.to_begin[workspace_id] = None

    def read(self, workspace_id: str) -> dict[str, Cursor]:
        """Read how far they have come."""
        return dict(self._rows.get(workspace_id, {}))

    def write(self, workspace_id: str, place: ReactorPlace) -> None:
        """Write how far some have come."""
        row = self._rows.setdefault(workspace_id, {})
        row.update(dict.fromkeys(place.names, place.cursor))
        self.to_begin.pop(workspace_id, None)

    def lowest(self, workspace_id: str, names: Collection[str]) -> int:
        """Return how far all of these have come."""
        row = self._rows.get(workspace_id, {})
        return min((row[name].seq if name in row else 0 for name in names), default=SEQ_MAX)


class _Row(msgspec.Struct, frozen=True):
    incarnation: str
    address: str | None
    expires_at: datetime


class Nodes:
    """Nodes and their leases."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def beat(
        self,
        node_id: str,
        incarnation: str,
        *,
        address: str | None,
        lease: timedelta,
        first: bool,
        now: datetime,
    ) -> float | None:
        """Extend a lease; see `Store.beat`."""
        if first:
            self._forget_dead(now)
        old = self._rows.get(node_id)
        if old is not None and old.incarnation != incarnation and not first:
            return None
        self._rows[node_id] = _Row(incarnation, address, now + lease)
        return 0.0 if old is None else (old.expires_at - now).total_seconds()

    def forget(self, node_id: str, incarnation: str, now: datetime) -> None:
        """End a lease; see `Store.forget`."""
        row = self._rows.get(node_id)
        if row is not None and row.incarnation == incarnation:
            ended = min(row.expires_at, now)
            self._rows[node_id] = msgspec.structs.replace(row, expires_at=ended)

    def find(self, node_id: str, now: datetime) -> Node | None:
        """Read a node."""
        row = self._rows.get(node_id)
        if row is None:
            return None
        left_s = (row.expires_at - now).total_seconds()
        return Node(node_id=node_id, address=row.address, expires_in_s=left_s)

    def next_end_s(self, node_id: str, now: datetime) -> float | None:
        """Return when the next lease of another one ends; None: none runs."""
        others = (row.expires_at for name, row in self._rows.items() if name != node_id)
        return min(((at - now).total_seconds() for at in others if at > now), default=None)

    def is_replaced(self, node_id: str, incarnation: str) -> bool:
        """Return whether another process is the node."""
        row = self._rows.get(node_id)
        return row is not None and row.incarnation != incarnation

    def is_live(self, node_id: str, now: datetime) -> bool:
        """Return whether a node's lease runs."""
        row = self._rows.get(node_id)
        return row is not None and row.expires_at > now

    def _forget_dead(self, now: datetime) -> None:
        for node_id, row in list(self._rows.items()):
            if row.expires_at <= now - _DEAD_KEPT:
                del self._rows[node_id]


class Refusals:
    """What was refused, until it has been on the log of ``$audit`` for long."""

    def __init__(self) -> None:
        self._rows: dict[str, RefusedWrite] = {}
        self._collected: dict[str, int] = {}

    def add(self, refusals: Sequence[RefusedWrite]) -> None:
        """Put some on record, unless they are there."""
        for each in refusals:
            self._rows.setdefault(each.refusal_id, each)

    def uncollected(self) -> Iterator[Uncollected]:
        """Yield what is not on the log of ``$audit``."""
        for id_, row in self._rows.items():
            if id_ not in self._collected:
                yield Uncollected(
                    key=RecordKey("refusal", id_),
                    recorded_at=row.recorded_at,
                    workspace_id=row.workspace_id,
                    actor_id=row.user_id,
                    action=row.action,
                    resource_type=row.resource_type,
                    resource_id=row.resource_id,
                    old_value=None,
                    new_value=row.new_value,
                    request_id=row.request_id,
                    address=row.address,
                )

    def mark(self, refusal_id: str, event_seq: int) -> None:
        """Mark that one is on the log of ``$audit``."""
        if refusal_id in self._rows:
            self._collected.setdefault(refusal_id, event_seq)

    def sweep(self, limit: int, now: datetime) -> int:
        """Forget old ones; see `Store.sweep_refusals`."""
        old = [id_ for id_ in self._collected if self._rows[id_].recorded_at < now - _REFUSALS_KEPT]
        for id_ in old[:limit]:
            del self._rows[id_], self._collected[id_]
        return min(len(old), limit)
