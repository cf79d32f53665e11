"""A workspace's final log, and what of it was lost on the way.

A log is looked up by whatever a record may name: an event's id, a command's id or marker, an
entity's version.  If the database lost a tail, a position in the history decides what existed
then and may be missing now.
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
    """One workspace's final log, looked up by whatever a record may name."""

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
        self._seqs_of = {
            stream_id: [event.event_seq for event in of] for stream_id, of in self.streams.items()
        }

    def version_at(self, stream_id: str, event_seq: int) -> int:
        """Return an entity's version as of an event of the workspace."""
        return bisect_right(self._seqs_of.get(stream_id, ()), event_seq)

    def of_version(self, stream_id: str, version: int) -> Event | None:
        """Return the event that brought an entity to a version."""
        events = self.streams.get(stream_id, ())
        return events[version - 1] if 0 < version <= len(events) else None


class Rollbacks:
    """The losses of a workspace's tail: when, and down to which number."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._seqs: list[int] = []
        self._lowest: list[int] | None = None
        self.lost: set[str] = set()
        """The events that are known to have been lost, by their ids."""

    def add(self, position: int, to_seq: int, lost: Iterable[str]) -> None:
        """Add a rollback; they come in order."""
        self.lost.update(lost)
        self._positions.append(position)
        self._seqs.append(to_seq)
        self._lowest = None

    def kept_since(self, position: int) -> int | None:
        """Return up to which number the log of a position survived; None for all of it."""
        if self._lowest is None:
            self._lowest = list(accumulate(reversed(self._seqs), min))[::-1]
        at = bisect_left(self._positions, position)
        return self._lowest[at] if at < len(self._lowest) else None

    def excuse(self, position: int, event_seq: int) -> bool:
        """Return whether an event that existed at a position may be gone."""
        kept = self.kept_since(position)
        return kept is not None and event_seq > kept
