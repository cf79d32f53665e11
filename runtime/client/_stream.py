"""A subscription at the server, and the events that its loops have not all taken yet.

    asking ──(subscribed)──▶ live ──(a loop lags: the bound is reached)──▶ resting
      ▲                       │                                              │
      └──(the connection was lost)  ◀──(the slowest loop has taken half)─────┘
    any ──(the server refuses, or the last loop leaves)──▶ ended

A stream *rests* when a loop does not keep up: the server is asked to send no more of it, and
events that arrive before the server has stopped are dropped.  The connection is still read.  If it
were not, a loop that waits for the answer to a command of its own would wait for ever behind events
that only it can take, and one slow loop would stop all other streams.

A stream always continues after the last event that was queued here, so none is missed and none
comes twice (I6).

Any number of loops share it, each at a place of its own.  An event is kept until the slowest has
taken it; acknowledged is what all of them have.
"""

from __future__ import annotations

import logging
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import trio

from dalsegno.protocol import Reject, Subscribe, Unsubscribe

from ._errors import SequenceGapError
from ._wire import UNTRACKED, Hidden, RemoteEvent, Spoken, Subscribed, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.protocol import DalsegnoError

    from ._link import Link
    from ._policy import Attempts, ClientLimits


_log = logging.getLogger("dalsegno.client")


class _State(Enum):
    ASKING = "asking"
    LIVE = "live"
    RESTING = "resting"
    ENDED = "ended"


class StreamClient(Protocol):
    """What a stream needs of the client that follows it."""

    limits: ClientLimits

    def follow(self, stream: Stream) -> None:
        """Include a stream in this connection and those after it."""

    def unfollow(self, stream: Stream) -> None:
        """Leave a stream out from now on."""

    def new_request_id(self) -> str:
        """Return an id for a request."""


class Place:
    """Where one loop is."""

    __slots__ = ("acked", "after", "index", "is_acking")

    def __init__(self, index: int, after: int | None, acked: int, *, is_acking: bool) -> None:
        self.index = index
        """Which event it takes next, counted from the first that was queued."""
        self.after = after
        """The number that it began after; None: where the stream did."""
        self.acked = acked
        """The highest number that it is known to have acknowledged."""
        self.is_acking = is_acking
        """Whether the stream's ack waits for this loop's."""


class Stream:
    """A subscription of a client's, whatever happens to the connection meanwhile."""

    def __init__(
        self,
        client: StreamClient,
        stream_id: str,
        *,
        workspace_id: str | None,
        cursor: int | str | None,
        client_id: str,
        attempts: Attempts,
        hears: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.attempts = attempts
        self.seq = 0
        """The number of the last event that was queued."""
        self._client = client
        self._workspace_id = workspace_id
        self._client_id = client_id
        self._hears = hears
        self._cursor = cursor
        self._acked = 0
        self._ack_said = 0
        self._state = _State.ASKING
        self._request_id: str | None = None
        self._link: Link | None = None
        self._began = trio.Event()
        self._begun_after = 0
        self._places: list[Place] = []
        self._waiting: deque[tuple[RemoteEvent, int]] = deque()
        self._first = 0
        """The index of the first event that waits."""
        self._bytes = 0
        self._loops = trio.lowlevel.ParkingLot()
        self._error: DalsegnoError | None = None

    def __repr__(self) -> str:
        return (
            f"<Stream of {self.stream_id} {self._state.value} at {self._cursor}, "
            f"{len(self._places)} loops, {len(self._waiting)} waiting>"
        )

    # -------------------------------------------------------------------------- the loops' side

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be queued."""
        return self._state is _State.ENDED

    def join(self, like: Place | None = None, *, is_acking: bool = True) -> Place:
        """Add a loop: where another one is, or else behind everything that has arrived.

        The first one subscribes.

        Raises:
            trio.BusyResourceError: the client follows this stream already, by another subscription.

        """
        if not self._places:
            self._client.follow(self)
        if like is not None:
            place = Place(like.index, like.after, like.acked, is_acking=is_acking)
        else:
            after = self.seq if self._began.is_set() else None
            place = Place(self._arrived, after, 0, is_acking=is_acking)
        self._places.append(place)
        return place

    async def wait_began(self) -> None:
        """Wait until the server has accepted the subscription.

        Raises:
            DalsegnoError: it refuses it, or there will be no further connection.

        """
        await self._began.wait()
        if self._error is not None and not self._arrived:
            raise self._error

    def begins_after(self, place: Place) -> int:
        """Return the number after which a loop of a stream that has begun began itself."""
        return self._begun_after if place.after is None else place.after

    async def next(self, place: Place) -> RemoteEvent:
        """Wait for a loop's next event; cancelled, it is still the next one.

        Raises:
            StopAsyncIteration: the loop was left.
            DalsegnoError: how the stream ended.

        """
        await trio.lowlevel.checkpoint()
        while True:
            if place not in self._places:
                raise StopAsyncIteration
            if place.index < self._arrived:
                break
            if self._error is not None:
                raise self._error
            await self._loops.park()
        event, _ = self._waiting[place.index - self._first]
        place.index += 1
        self._discard_taken()
        return event

    def ack(self, place: Place, seq: int) -> None:
        """Acknowledge everything up to a number for one loop.

        Raises:
            Reject: ``CURSOR_AHEAD`` for a number that has not arrived.

        """
        if seq > self.seq:
            message = "this event has not arrived"
            raise Reject("CURSOR_AHEAD", message, event_seq=seq, latest_seq=self.seq)
        place.acked = max(place.acked, seq)
        self._update_ack()

    def leave(self, place: Place) -> None:
        """Remove a loop; with the last one the subscription ends, and acks are still sent."""
        if place not in self._places:
            return
        self._update_ack(without=place)
        self._places.remove(place)
        if self._places:
            self._discard_taken()
        else:
            self._end()
        self._loops.unpark_all()

    # ------------------------------------------------------------------------ the server's side

    def connected(self, link: Link) -> None:
        """Subscribe on a new connection, unless the stream rests."""
        self._link = link
        if self._state is _State.ASKING:
            self._ask()

    def disconnected(self) -> None:
        """Wait for the next connection."""
        self._link = None
        self._ack_said = 0  # the server may not have got it
        if self._state is _State.LIVE:
            self._state = _State.ASKING

    def moved(self) -> None:
        """Wait for the next connection: another node serves the workspace now."""
        if self._state is _State.LIVE:
            self._state = _State.ASKING
            self._request_id = None
            self._ack_said = 0

    def ask_again(self, request_id: str) -> None:
        """Subscribe once more, if that request is still the last one."""
        if self.is_asking(request_id):
            self._ask()

    def subscribed(self, said: Subscribed) -> None:
        """Begin to accept events, if this answers the last request."""
        if self._state is not _State.ASKING or said.request_id != self._request_id:
            return
        self._state = _State.LIVE
        self.attempts.reset()
        if not self._began.is_set():
            chain = "" if said.chain is None else f"-{said.chain}"
            self._move(said.cursor, f"{said.cursor}{chain}")
            self._begun_after = said.cursor
            self._began.set()
        self._say_ack()

    def take(self, event: RemoteEvent, size: int) -> None:
        """Queue an event that has arrived; skip one that arrived before."""
        if self._state is not _State.LIVE or not self._is_next(event.seq):
            return
        self._move(event.seq, event.cursor)
        self._waiting.append((event, size))
        self._bytes += size
        self._loops.unpark_all()
        if self._is_full:
            self._rest()

    def skip(self, said: Hidden) -> None:
        """Skip events that are not shown."""
        if self._state is not _State.LIVE or said.last <= self.seq:
            return
        if self._is_next(max(said.first, self.seq + 1)):
            self._move(said.last, f"{said.last}-{said.chain}")

    def hear(self, said: Spoken) -> None:
        """Pass on what a run says."""
        if self._hears is None or self._state is not _State.LIVE:
            return
        try:
            self._hears(said.message)
        except Exception:  # noqa: BLE001 - a program's own: the connection is also others'
            _log.exception("what %s says was not taken", self.stream_id)

    def ack_refused(self, current: int) -> None:
        """Take over the higher cursor of another program under the same client id."""
        self._acked = max(self._acked, current)
        for place in self._places:
            place.acked = max(place.acked, current)

    def fail(self, error: DalsegnoError) -> None:
        """End, once the loops have taken the events that are queued."""
        self._error = error
        self._state = _State.ENDED
        self._began.set()
        self._loops.unpark_all()

    def is_asking(self, request_id: str) -> bool:
        """Return whether that request is the one that waits for its answer."""
        return self._state is _State.ASKING and self._request_id == request_id

    # --------------------------------------------------------------------------------- internal

    @property
    def _arrived(self) -> int:
        """How many events were queued so far."""
        return self._first + len(self._waiting)

    @property
    def _is_full(self) -> bool:
        limits = self._client.limits
        return (
            len(self._waiting) >= limits.stream_events_max or self._bytes >= limits.stream_bytes_max
        )

    @property
    def _is_half_empty(self) -> bool:
        limits = self._client.limits
        return (
            len(self._waiting) <= limits.stream_events_max // 2
            and self._bytes <= limits.stream_bytes_max // 2
        )

    def _discard_taken(self) -> None:
        """Forget what every loop has taken, and continue where there is room again."""
        slowest = min(place.index for place in self._places)
        while self._first < slowest:
            _, size = self._waiting.popleft()
            self._bytes -= size
            self._first += 1
        if self._state is _State.RESTING and self._is_half_empty:
            self._ask()

    def _update_ack(self, *, without: Place | None = None) -> None:
        """Acknowledge what all loops have; the last one that leaves is not held back by itself."""
        counted = [place for place in self._places if place.is_acking]
        remaining = [place for place in counted if place is not without]
        lowest = min((place.acked for place in remaining or counted), default=0)
        if lowest > self._acked:
            self._acked = lowest
            if self._state is _State.LIVE:
                self._say_ack()

    def _is_next(self, seq: int) -> bool:
        if seq > self.seq + 1:
            self._unsubscribe()
            self.fail(
                SequenceGapError(
                    f"{self.stream_id}: {seq} arrived instead of {self.seq + 1}",
                    stream_id=self.stream_id,
                    due=self.seq + 1,
                    came=seq,
                )
            )
        return seq == self.seq + 1

    def _move(self, seq: int, cursor: int | str) -> None:
        self.seq = seq
        self._cursor = cursor

    def _ask(self) -> None:
        self._state = _State.ASKING
        self._request_id = self._client.new_request_id()
        self._say_subscribe(self._cursor)

    def _rest(self) -> None:
        self._unsubscribe()
        self._state = _State.RESTING

    def _end(self) -> None:
        if self._state is _State.RESTING and self._acked > self._ack_said:
            # Acks are accepted for subscribed streams only: subscribe again, just for the ack.
            self._say_subscribe(self._acked)
            self._state = _State.ASKING
        if self._state is not _State.RESTING and self._state is not _State.ENDED:
            self._say_ack()
            self._unsubscribe()
        self._state = _State.ENDED
        self._client.unfollow(self)

    def _say_subscribe(self, cursor: int | str | None) -> None:
        if self._link is not None:
            said = Subscribe(
                stream_id=self.stream_id,
                workspace_id=self._workspace_id,
                cursor=cursor,
                client_id=self._client_id,
                request_id=self._request_id,
            )
            self._link.say(encode(said))

    def _say_ack(self) -> None:
        if self._link is not None and self._acked > self._ack_said:
            self._ack_said = self._acked
            self._link.ack(self.stream_id, self._acked)

    def _unsubscribe(self) -> None:
        if self._link is not None:
            self._link.settle_ack(self.stream_id)
            said = Unsubscribe(stream_id=self.stream_id, request_id=UNTRACKED)
            self._link.say(encode(said))
