"""A workspace's log as it is in the end, and what of it was lost on the way.

A log is looked up by whatever a record may name: an event's id, a command's id or marker, an
entity's version.  Where the database lost a tail, a position in the history tells what was there
and need not be there any more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dalsegno.protocol import Event

    MarkerOf = Callable[[Event], str | None]


class Log:
    """One workspace's log in the end, looked up by whatever a record may name."""

    def __init__(self, events: Sequence[Event], marker_of: MarkerOf) -> None:
        self.events = events
        self.by_id: dict[str, Event] = {}
        self.streams: dict[str, list[Event]] = {}
        self.commands: dict[str, list[Event]] = {}
        self.markers: dict[str, dict[str, None]] = {}
        """The commands with a marker, in the order of the log."""
        for event in events:
            self.by_id.setdefault(event.event_id, event)
            self.streams.setdefault(event.stream_id, []).append(event)
            self.commands.setdefault(event.command_id, []).append(event)
            marker = marker_of(event)
            if marker is not None:
                self.markers.setdefault(marker, {})[event.command_id] = None
        self.head = events[-1].event_seq if events else 0
        self._places = {
            stream_id: [event.event_seq for event in of] for stream_id, of in self.streams.items()
        }

    def version_at(self, stream_id: str, event_seq: int) -> int:
        """Tell an entity's version as of an event of the workspace."""
        return bisect_right(self._places.get(stream_id, ()), event_seq)

    def of_version(self, stream_id: str, version: int) -> Event | None:
        """Find the event that brought an entity to a version."""
        events = self.streams.get(stream_id, ())
        return events[version - 1] if 0 < version <= len(events) else None


class Rollbacks:
    """When a workspace's log lost its tail, and how far."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._seqs: list[int] = []
        self._lowest: list[int] | None = None
        self.lost: set[str] = set()
        """The events that are known to have been lost, by their ids."""

    def add(self, position: int, to_seq: int, lost: Iterable[str]) -> None:
        """Note a rollback; they come in order."""
        self.lost.update(lost)
        self._positions.append(position)
        self._seqs.append(to_seq)
        self._lowest = None

    def kept_since(self, position: int) -> int | None:
        """Tell up to where what was there at a position is there still; None for all of it."""
        if self._lowest is None:
            self._lowest = list(accumulate(reversed(self._seqs), min))[::-1]
        at = bisect_left(self._positions, position)
        return self._lowest[at] if at < len(self._lowest) else None

    def excuse(self, position: int, event_seq: int) -> bool:
        """Tell whether an event that was there at a position may be gone."""
        kept = self.kept_since(position)
        return kept is not None and event_seq > kept
