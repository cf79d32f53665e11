"""A memory store that loses its tail, as when an asynchronous standby is promoted.

What the primary had answered and not yet replicated is gone, events, epochs, leases and all.  No
store can prevent that; what must hold is that nobody takes the new history for the old one.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from dalsegno.actors.testing.memory import MemoryStore
from dalsegno.protocol import workspace_stream

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from dalsegno.actors.ports import CursorKey
    from dalsegno.protocol import Event

_MEMORY = MemoryStore.__module__.rpartition(".")[0]
"""The package of what a memory store is made of."""


class FailoverStore(MemoryStore):
    """A `MemoryStore` that can be put back to an earlier state of itself."""

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything that is stored."""
        return {name: _copied(value) for name, value in vars(self).items()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot; what was stored since is lost."""
        vars(self).update({name: _copied(value) for name, value in snapshot.items()})

    def logs(self) -> dict[str, list[Event]]:
        """Return a copy of every log, without a link."""
        return {workspace_id: [*log.events] for workspace_id, log in self._logs.items()}

    def cursors(self) -> dict[CursorKey, int]:
        """Return the ack cursors, without a link."""
        return self._cursors.all()

    def owner_of(self, workspace_id: str) -> str | None:
        """Return the node that owns a workspace, without a link."""
        log = self._logs.get(workspace_id)
        return None if log is None else log.head.owner

    def owners(self) -> dict[str | None, None]:
        """Return the nodes that own something, without a link."""
        return {log.head.owner: None for log in self._logs.values()}

    def is_due(self, until: datetime) -> bool:
        """Return whether an entity has asked for something by then, without a link."""
        rows = (row for log in self._logs.values() for row in log.entities.values())
        return any(row.due_at is not None and row.due_at <= until for row in rows)

    def is_open(self, prefix: str) -> bool:
        """Return whether an entity of such a stream asks for something, whenever."""
        rows = (row for log in self._logs.values() for row in log.entities.items())
        return any(row.due_at is not None and name.startswith(prefix) for name, row in rows)

    def are_behind(self, workspace_ids: Collection[str], names: Collection[str]) -> bool:
        """Return whether reactors were not told of everything there, as far as that is written."""
        heads = {id_: log.head.head_seq for id_, log in self._logs.items() if id_ in workspace_ids}
        return any(self._places.lowest(id_, names) < head for id_, head in heads.items())

    def head_of(self, workspace_id: str, stream_id: str) -> int:
        """Return the last number of a stream, without a link."""
        log = self._logs.get(workspace_id)
        if log is None:
            return 0
        if stream_id == workspace_stream(workspace_id):
            return log.head.head_seq
        return len(log.streams.get(stream_id, ()))


def _copied(value: Any) -> Any:  # noqa: ANN401 - whatever a store is made of
    """Return a copy, down to the records, which are immutable and shared."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    if type(value).__module__.startswith(_MEMORY) and hasattr(value, "__dict__"):
        twin = copy(value)
        vars(twin).update({name: _copied(item) for name, item in vars(value).items()})
        return twin
    return value
