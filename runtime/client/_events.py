"""A subscription, as a program's loop iterates over it.

    asking ──(subscribed)──▶ live ──(the loop lags: its bound is reached)──▶ resting
      ▲                       │                                                │
      └──(the connection was lost)  ◀──(the loop has taken half of it)─────────┘
    any ──(the server refuses, or the program leaves)──▶ ended

A stream *rests* when its loop does not keep up: the server is asked to send no more of it, and
events that arrive before the server has stopped are dropped.  The connection is still read.  If it
were not, a loop that waits for the answer to a command of its own would wait for ever behind events
that only it can take, and one slow loop would stop all the others.

A stream always continues after the last event that was queued here, so none is missed and none
comes twice (I6).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Protocol, Self

import trio

from dalsegno.protocol import Reject, Subscribe, Unsubscribe

from ._errors import SequenceGapError
from ._wire import UNTRACKED, Hidden, RemoteEvent, Subscribed, encode

if TYPE_CHECKING:
    from types import TracebackType

    from dalsegno.protocol import DalsegnoError

    from ._link import Link
    from ._policy import Attempts, ClientLimits


class _State(Enum):
    ASKING = "asking"
    LIVE = "live"
    RESTING = "resting"
    ENDED = "ended"


class StreamClient(Protocol):
    """What a stream needs of the client that follows it."""

    limits: ClientLimits

    def follow(self, events: Events) -> None:
        """Include a stream in this connection and those after it."""

    def unfollow(self, events: Events) -> None:
        """Leave a stream out from now on."""

    def new_request_id(self) -> str:
        """Return an id for a request."""


class Events:
    """An async iterator of a stream's events, inside ``async with``; see `Client.subscribe`."""

    def __init__(
        self,
        client: StreamClient,
        stream_id: str,
        *,
        workspace_id: str | None,
        cursor: int | str | None,
        client_id: str,
        attempts: Attempts,
    ) -> None:
        self.stream_id = stream_id
        self.attempts = attempts
        self.acked = 0
        """The highest number that is known to have been acknowledged."""
        self._client = client
        self._workspace_id = workspace_id
        self._client_id = client_id
        self._cursor = cursor
        self._seq = 0
        self._ack_said = 0
        self._state = _State.ASKING
        self._request_id: str | None = None
        self._link: Link | None = None
        self._began = trio.Event()
        self._waiting: deque[tuple[RemoteEvent, int]] = deque()
        self._bytes = 0
        self._wake = trio.Event()
        self._error: DalsegnoError | None = None

    def __repr__(self) -> str:
        return (
            f"<Events of {self.stream_id} {self._state.value} at {self._cursor}, "
            f"{len(self._waiting)} waiting>"
        )

    # ----------------------------------------------------------------------- the program's side

    async def __aenter__(self) -> Self:
        """Subscribe, waiting for a server that cannot be reached.

        Raises:
            Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``CURSOR_AHEAD``, ``CURSOR_DIVERGED``.
            StaleCursorError: the events after the cursor are no longer kept.
            WorkspaceHaltedError: the workspace needs a repair first.
            UnavailableError: not within the attempts that are allowed; a `WorkspaceMovedError`
                if no node that could be reached serves the workspace.
            UnreachableError: no connection within the attempts that are allowed.
            DisconnectedError: the server refuses further connections.

        """
        self._client.follow(self)
        try:
            await self._began.wait()
        finally:
            if self._error is not None or not self._began.is_set():
                self._leave()
        if self._error is not None:
            raise self._error
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unsubscribe; acks are still sent."""
        self._leave()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RemoteEvent:
        """Wait for the next event; cancelled, it is still the next one.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` after the last event that the user may see;
                ``CURSOR_DIVERGED`` if the server's history is another one now.
            StaleCursorError: the next events are no longer kept; read the state anew, and continue
                from ``details["min_available_cursor"]`` if it is there.
            WorkspaceHaltedError: the workspace needs a repair first.
            UnavailableError: as from ``__aenter__``.
            UnreachableError: no connection within the attempts that are allowed.
            DisconnectedError: the server refuses further connections.
            SequenceGapError: the server omitted an event.

        """
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._state is _State.ENDED:
                raise StopAsyncIteration
            self._wake = trio.Event()
            await self._wake.wait()
        event, size = self._waiting.popleft()
        self._bytes -= size
        if self._state is _State.RESTING and self._is_half_empty:
            self._ask()
        return event

    def ack(self, event: RemoteEvent | int) -> None:
        """Acknowledge everything up to an event; only the newest ack is sent.

        The server does not answer acks, so this does not wait.  While there is no connection, or
        the stream rests, acks are held back until the stream continues or is left.

        Raises:
            Reject: ``CURSOR_AHEAD`` for a number that has not arrived.

        """
        seq = event if isinstance(event, int) else event.seq
        if seq > self._seq:
            message = "this event has not arrived"
            raise Reject("CURSOR_AHEAD", message, event_seq=seq, latest_seq=self._seq)
        self.acked = max(self.acked, seq)
        if self._state is _State.LIVE:
            self._say_ack()

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
        if self._state is _State.ASKING and self._request_id == request_id:
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
            self._began.set()
        self._say_ack()

    def take(self, event: RemoteEvent, size: int) -> None:
        """Queue an event that has arrived; skip one that arrived before."""
        if self._state is not _State.LIVE or not self._is_next(event.seq):
            return
        self._move(event.seq, event.cursor)
        self._waiting.append((event, size))
        self._bytes += size
        self._wake.set()
        if self._is_full:
            self._rest()

    def skip(self, said: Hidden) -> None:
        """Skip events that the user may not see."""
        if self._state is _State.LIVE and said.to > self._seq:
            self._move(said.to, said.to)

    def ack_refused(self, current: int) -> None:
        """Take over the higher cursor of another program under the same client id."""
        self.acked = max(self.acked, current)

    def fail(self, error: DalsegnoError) -> None:
        """End, once the loop has taken the events that are queued."""
        self._error = error
        self._state = _State.ENDED
        self._began.set()
        self._wake.set()

    def is_asking(self, request_id: str) -> bool:
        """Return whether that request is the one that waits for its answer."""
        return self._state is _State.ASKING and self._request_id == request_id

    # --------------------------------------------------------------------------------- internal

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

    def _is_next(self, seq: int) -> bool:
        if seq > self._seq + 1:
            self._unsubscribe()
            self.fail(
                SequenceGapError(
                    f"{self.stream_id}: {seq} arrived instead of {self._seq + 1}",
                    stream_id=self.stream_id,
                    due=self._seq + 1,
                    came=seq,
                )
            )
        return seq == self._seq + 1

    def _move(self, seq: int, cursor: int | str) -> None:
        self._seq = seq
        self._cursor = cursor

    def _ask(self) -> None:
        self._state = _State.ASKING
        self._request_id = self._client.new_request_id()
        self._say_subscribe(self._cursor)

    def _rest(self) -> None:
        self._unsubscribe()
        self._state = _State.RESTING

    def _leave(self) -> None:
        if self._state is _State.RESTING and self.acked > self._ack_said:
            # Acks are accepted for subscribed streams only: subscribe again, just for the ack.
            self._say_subscribe(self.acked)
            self._state = _State.ASKING
        if self._state is not _State.RESTING and self._state is not _State.ENDED:
            self._say_ack()
            self._unsubscribe()
        self._state = _State.ENDED
        self._wake.set()
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
        if self._link is not None and self.acked > self._ack_said:
            self._ack_said = self.acked
            self._link.ack(self.stream_id, self.acked)

    def _unsubscribe(self) -> None:
        if self._link is not None:
            self._link.settle_ack(self.stream_id)
            said = Unsubscribe(stream_id=self.stream_id, request_id=UNTRACKED)
            self._link.say(encode(said))
