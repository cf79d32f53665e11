"""How far each client has acknowledged each stream: monotonic, durable, shared (I7).

A frontier belongs to (user, client, workspace, stream), not to a connection: two connections of a
client see and move the same one.  It is loaded when a connection subscribes and kept as long as one
follows the stream.  Moves are coalesced, the newest a cursor, and written within ``ack_flush_s``;
a crash before that repeats events, it never skips one.

A move carries the published head of its moment.  So the store can tell one of a history that is
lost, after a restore say, and drops it instead of putting it into another history.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.ports import AckedCursor
from dalsegno.protocol import Backoff, Reject, StaleCursorError, UnavailableError

if TYPE_CHECKING:
    from dalsegno.actors.ports import CursorKey, Store
    from dalsegno.protocol import Limits

    from ._hub import Hub

_log = logging.getLogger("dalsegno.acks")

_ROWS = 5_000
"""Cursors in one statement: a fraction of a second, well below its time-out."""
_BACKOFF_MAX = 64
"""The longest delay after a failure, in multiples of ``ack_flush_s``."""


class Frontier:
    """How far one client has acknowledged one stream, in one history of its workspace."""

    __slots__ = ("acked", "hub", "is_loaded", "key", "place", "users")

    def __init__(self, key: CursorKey, hub: Hub) -> None:
        self.key = key
        self.hub = hub
        self.place = (hub.cache_generation, key)
        """Where it is found: what the hub publishes after an end may be another history."""
        self.acked = 0
        self.is_loaded = False
        self.users = 0

    def __repr__(self) -> str:
        return f"<Frontier {self.key.stream_id} of {self.key.client_id} at {self.acked}>"


@dataclass(frozen=True, slots=True)
class AckStatistics:
    """The acks at one moment."""

    frontiers: int
    """Cursors in use."""
    unwritten: int
    """Cursors that moved and are not durable yet."""
    written: int
    """Cursors written since the start."""


class AckFrontiers:
    """The frontiers in use, and the writing of those that moved."""

    def __init__(self, store: Store, *, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._frontiers: dict[tuple[object, CursorKey], Frontier] = {}
        self._moved: dict[CursorKey, AckedCursor] = {}
        self._writing: dict[CursorKey, AckedCursor] = {}
        self._written = 0
        self._wake = trio.lowlevel.ParkingLot()
        self._one_writer = trio.Lock()

    def __repr__(self) -> str:
        return f"<AckFrontiers {len(self._frontiers)} in use, {len(self._moved)} to write>"

    def statistics(self) -> AckStatistics:
        """Return what is in use and what is still to be written."""
        unwritten = len(self._moved) + len(self._writing)
        return AckStatistics(len(self._frontiers), unwritten, self._written)

    @property
    def has_unwritten(self) -> bool:
        """Whether a frontier moved that is not durable yet."""
        return bool(self._moved or self._writing)

    async def open(self, key: CursorKey, hub: Hub) -> Frontier:
        """Use a frontier until `close`.

        Raises:
            StoreUnavailableError: it could not be read.

        """
        new = Frontier(key, hub)
        frontier = self._frontiers.setdefault(new.place, new)
        frontier.users += 1  # first, so that no other user's `close` removes it
        try:
            if not frontier.is_loaded:
                # Whether what was acked before is of this history, the store alone can tell.
                if key in self._moved or key in self._writing:
                    await self.flush()
                stored = await self._store.read_cursors([key])
                frontier.acked = max(frontier.acked, stored.get(key, 0))
                frontier.is_loaded = True
        except BaseException:
            self.close(frontier)
            raise
        return frontier

    def close(self, frontier: Frontier) -> None:
        """Stop using a frontier; the last user removes it from memory."""
        frontier.users -= 1
        if frontier.users == 0:
            self._frontiers.pop(frontier.place, None)

    def ack(self, frontier: Frontier, seq: int, *, sent: int) -> None:
        """Move a frontier up; equal is fine.

        Args:
            frontier: an open one.
            seq: the acknowledged number.
            sent: the highest that this connection may acknowledge.

        Raises:
            StaleCursorError: below what is acknowledged; nothing changed (C2).
            Reject: ``CURSOR_AHEAD``, above ``sent``; nothing changed (C4).

        """
        stream_id = frontier.key.stream_id
        if seq < frontier.acked:
            raise StaleCursorError(
                "stale ack cursor",
                stream_id=stream_id,
                attempted_seq=seq,
                event_seq=seq,
                current_cursor=frontier.acked,
            )
        if seq > sent:
            raise Reject(
                "CURSOR_AHEAD",
                "this was not sent here",
                stream_id=stream_id,
                event_seq=seq,
                latest_seq=sent,
            )
        if seq > frontier.acked:
            frontier.acked = seq
            hub = frontier.hub
            self._moved[frontier.key] = AckedCursor(seq, hub.head, hub.chain)
            self._wake.unpark_all()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what moved, until cancelled; `flush` writes the rest."""
        task_status.started()
        flush_s = self._limits.ack_flush_s
        backoff = Backoff(2 * flush_s, _BACKOFF_MAX * flush_s)
        delay_s = flush_s
        while True:
            while not self._moved:
                await self._wake.park()
            await trio.sleep(delay_s)
            try:
                await self.flush()
            except UnavailableError as error:
                delay_s = backoff.next_s(1.0)  # one writer a node: there is no herd to spread
                _log.warning("acks could not be written, attempt %d: %s", backoff.failures, error)
            else:
                backoff.reset()
                delay_s = flush_s

    async def flush(self) -> None:
        """Write what moved.

        Raises:
            UnavailableError: the store is away; what moved is kept.

        """
        async with self._one_writer:
            await self._write()

    async def _write(self) -> None:
        self._writing, self._moved = self._moved, {}
        try:
            while self._writing:
                several = dict(islice(self._writing.items(), _ROWS))
                await self._store.write_cursors(several)
                self._written += len(several)
                for key in several:
                    del self._writing[key]
        except BaseException:
            # Whatever ended it, what may not have been written is written again.
            self._moved = {**self._writing, **self._moved}
            self._wake.unpark_all()
            raise
        finally:
            self._writing = {}
