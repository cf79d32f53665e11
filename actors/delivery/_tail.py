"""The newest events of each workspace, in memory, for readers that are a little behind.

Resuming within the tail costs no read.  A workspace's tail is dense and ends at its
published head, so it has everything that follows any number in it, also in an entity's stream:
where it holds an entity's version it holds all later ones.

All tails share one bound, and the oldest publication goes first, whichever workspace it belongs
to: a busy workspace keeps minutes, an idle one what it last did.  A tail stays when its workspace
leaves memory, and is taken up again if the log still ends where it does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Event

_EVENT_BYTES = 700
"""An event in a tail without its payload: the record, its texts, its places in three tables."""


def event_bytes(event: Event) -> int:
    """Return about how many bytes of memory an event takes."""
    return _EVENT_BYTES + event.payload.__sizeof__()


class Tail:
    """The newest events of one workspace; filled by `Tails` alone."""

    __slots__ = ("_by_seq", "_by_version", "_newest", "commits", "last", "workspace_id")

    def __init__(self, workspace_id: str, last: int = 0) -> None:
        self.workspace_id = workspace_id
        self.last = last
        """The number that it ends with, whether or not it still holds that event."""
        self.commits: deque[int] = deque()
        """The numbers of its commits among those of all tails."""
        self._by_seq: dict[int, Event] = {}
        self._by_version: dict[tuple[str, int], Event] = {}
        self._newest: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_seq)

    def __repr__(self) -> str:
        return f"<Tail {self.workspace_id} {self.last - len(self) + 1}…{self.last}>"

    def at(self, number: int, stream_id: str | None) -> Event | None:
        """Return an event by its number in an entity's stream, or (None) in the workspace's."""
        if stream_id is None:
            return self._by_seq.get(number)
        return self._by_version.get((stream_id, number))

    def newest(self, stream_id: str) -> int | None:
        """Return an entity's published version; None where the tail does not hold it."""
        return self._newest.get(stream_id)

    def read(self, first: int, stream_id: str | None, *, limit: int, bytes_max: int) -> list[Event]:
        """Return events from a number on; none where that event is not held.

        At most ``limit`` events, and only the first may take the payloads over ``bytes_max``.
        """
        events: list[Event] = []
        left = bytes_max
        for number in range(first, first + limit):
            event = self.at(number, stream_id)
            if event is None:
                break
            left -= event.payload.__sizeof__()
            if left < 0 and events:
                break
            events.append(event)
        return events

    def put(self, events: Sequence[Event]) -> None:
        """Add what was published."""
        for event in events:
            self._by_seq[event.event_seq] = event
            self._by_version[event.stream_id, event.stream_seq] = event
            self._newest[event.stream_id] = event.stream_seq
        self.last = events[-1].event_seq

    def drop(self, count: int) -> None:
        """Remove the oldest."""
        first = self.last - len(self._by_seq) + 1
        for number in range(first, first + count):
            event = self._by_seq.pop(number)
            del self._by_version[event.stream_id, event.stream_seq]
            if self._newest[event.stream_id] == event.stream_seq:
                del self._newest[event.stream_id]


@dataclass(frozen=True, slots=True)
class TailsStatistics:
    """The tails at one moment."""

    workspaces: int
    """Workspaces that have events here."""
    events: int
    bytes: int


class _Commit(msgspec.Struct, frozen=True, gc=False):
    tail: Tail
    events: int
    bytes: int


class Tails:
    """The tails of all workspaces, and their common bound."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._number = 0
        self._commits: OrderedDict[int, _Commit] = OrderedDict()
        """In the order of their publication."""
        self._tails: dict[str, Tail] = {}
        """The tails that hold something."""

    def __repr__(self) -> str:
        return f"<Tails of {len(self._tails)} workspaces, {self._bytes} bytes>"

    def statistics(self) -> TailsStatistics:
        """Return what is kept."""
        return TailsStatistics(
            workspaces=len(self._tails),
            events=sum(map(len, self._tails.values())),
            bytes=self._bytes,
        )

    def find(self, workspace_id: str, last: int, chain: int) -> Tail:
        """Return a workspace's tail if it ends where the log does; an empty one otherwise."""
        tail = self._tails.get(workspace_id)
        if tail is not None:
            newest = tail.at(last, None)
            if tail.last == last and newest is not None and newest.chain == chain:
                return tail
            self.forget(tail)
        return Tail(workspace_id, last)

    def extend(self, tail: Tail, events: Sequence[Event]) -> None:
        """Add what was published, and drop the oldest of all tails beyond the bound."""
        size = sum(map(event_bytes, events))
        tail.put(events)
        self._tails[tail.workspace_id] = tail
        self._number += 1
        tail.commits.append(self._number)
        self._commits[self._number] = _Commit(tail, len(events), size)
        self._bytes += size
        while self._bytes > self._bytes_max:
            _, commit = self._commits.popitem(last=False)
            self._drop(commit)

    def forget(self, tail: Tail) -> None:
        """Drop a workspace's events."""
        while tail.commits:
            self._drop(self._commits.pop(tail.commits[0]))

    def _drop(self, commit: _Commit) -> None:
        tail = commit.tail
        tail.commits.popleft()
        tail.drop(commit.events)
        self._bytes -= commit.bytes
        if not tail.commits:
            del self._tails[tail.workspace_id]
