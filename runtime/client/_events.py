"""A stream in the hands of a program's loop.

    asking ──(subscribed)──▶ live ──(the loop lags: its bound is reached)──▶ resting
      ▲                       │                                                │
      └──(the connection was lost)  ◀──(the loop has taken half of it)─────────┘
    any ──(the server refuses, or the program leaves)──▶ ended

A stream *rests* when its loop does not keep up: the server is asked to send no more of it, and what
comes until it has heard that is passed over.  The connection is read on.  Were it not, a loop that
waits for the answer to a command of its own would wait for ever behind events that only it can
take; and one slow loop would stop all the others.

Wherever it goes on from, it goes on after the last event that waits here, so nothing is missed and
nothing comes twice (I6).
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
    from ._policy import ClientLimits, Retries


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
    """An async iterator of a stream's events, inside ``async with``; `Client.subscribe`."""

    def __init__(
        self,
        client: StreamClient,
        stream_id: str,
        *,
        workspace_id: str | None,
        cursor: int | str | None,
        client_id: str,
        retries: Retries,
    ) -> None:
        self.stream_id = stream_id
        self.retries = retries
        self.acked = 0
        """The highest number that was acknowledged, as far as is known here."""
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
        """Subscribe; while the server is away this waits for it.

        Raises:
            Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``CURSOR_AHEAD``, ``CURSOR_DIVERGED``.
            StaleCursorError: what follows the cursor is not kept any more.
            WorkspaceHaltedError: the workspace needs a repair first.
            UnavailableError: not within the attempts that are allowed; a `WorkspaceMovedError`
                where no node that could be reached serves the workspace.
            UnreachableError: no connection within the attempts that are allowed.
            DisconnectedError: the server wants nobody to come back.

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
        """Stop following; acks are still said."""
        self._leave()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RemoteEvent:
        """Wait for the next event; cancelled, it is still the next one.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` after the last event that the user may see;
                ``CURSOR_DIVERGED`` where the server's history is another one now.
            StaleCursorError: what follows is not kept any more; the state is to be read anew, and
                ``details["min_available_cursor"]``, if it is there, is where to go on from.
            WorkspaceHaltedError: the workspace needs a repair first.
            UnavailableError: as when it began.
            UnreachableError: no connection within the attempts that are allowed.
            DisconnectedError: the server wants nobody to come back.
            SequenceGapError: the server left something out.

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
        """Tell the server that everything up to an event was dealt with; the newest counts.

        Nothing is answered, so there is nothing to wait for.  While there is no connection, or the
        stream rests, acks wait too: they are said when it goes on, or is left.

        Raises:
            Reject: ``CURSOR_AHEAD`` for a number that has not come.

        """
        seq = event if isinstance(event, int) else event.seq
        if seq > self._seq:
            raise Reject("CURSOR_AHEAD", "this has not come", event_seq=seq, latest_seq=self._seq)
        self.acked = max(self.acked, seq)
        if self._state is _State.LIVE:
            self._say_ack()

    # ------------------------------------------------------------------------ the server's side

    def connected(self, link: Link) -> None:
        """Ask on a new connection, unless the loop is behind anyway."""
        self._link = link
        if self._state is _State.ASKING:
            self._ask()

    def disconnected(self) -> None:
        """Wait for the next connection."""
        self._link = None
        self._ack_said = 0  # as far as is known
        if self._state is _State.LIVE:
            self._state = _State.ASKING

    def moved(self) -> None:
        """Wait for the next connection: another node serves the workspace now."""
        if self._state is _State.LIVE:
            self._state = _State.ASKING
            self._request_id = None
            self._ack_said = 0

    def ask_again(self, request_id: str) -> None:
        """Ask once more, if that request is still the last one."""
        if self._state is _State.ASKING and self._request_id == request_id:
            self._ask()

    def subscribed(self, said: Subscribed) -> None:
        """Begin to take events, if this answers the last request."""
        if self._state is not _State.ASKING or said.request_id != self._request_id:
            return
        self._state = _State.LIVE
        self.retries.reset()
        if not self._began.is_set():
            chain = "" if said.chain is None else f"-{said.chain}"
            self._move(said.cursor, f"{said.cursor}{chain}")
            self._began.set()
        self._say_ack()

    def take(self, event: RemoteEvent, size: int) -> None:
        """Take an event that has come; one that was here before is passed over."""
        if self._state is not _State.LIVE or not self._is_next(event.seq):
            return
        self._move(event.seq, event.cursor)
        self._waiting.append((event, size))
        self._bytes += size
        self._wake.set()
        if self._is_full:
            self._rest()

    def skip(self, said: Hidden) -> None:
        """Pass over what may not be seen."""
        if self._state is _State.LIVE and said.to > self._seq:
            self._move(said.to, said.to)

    def ack_refused(self, current: int) -> None:
        """Learn that another program under the same client id is further; nothing is lost."""
        self.acked = max(self.acked, current)

    def fail(self, error: DalsegnoError) -> None:
        """End, once the loop has taken what is here."""
        self._error = error
        self._state = _State.ENDED
        self._began.set()
        self._wake.set()

    def is_asking(self, request_id: str) -> bool:
        """Whether that is the request that waits for its answer."""
        return self._state is _State.ASKING and self._request_id == request_id

    # -------------------------------------------------------------------------------- one's own

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
                    f"{self.stream_id}: {seq} came where {self._seq + 1} was due",
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
            # One acknowledges what one follows: so once more, for the length of an ack.
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
