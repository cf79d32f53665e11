"""A loop over a stream's events, as a program iterates over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from types import TracebackType

    from ._stream import Place, Stream
    from ._wire import RemoteEvent


class Events:
    """An async iterator of a stream's events, inside ``async with``; see `Client.subscribe`."""

    def __init__(self, stream: Stream, place: Place | None = None) -> None:
        self._stream = stream
        self._place = place
        self._is_left = False

    def __repr__(self) -> str:
        return f"<Events {self._stream!r}>"

    @property
    def stream_id(self) -> str:
        """The stream's name."""
        return self._stream.stream_id

    @property
    def acked(self) -> int:
        """The highest number that this loop is known to have acknowledged."""
        return 0 if self._place is None else self._place.acked

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
        if self._is_left:
            raise trio.ClosedResourceError("subscribe anew: this loop was left")
        self._place = self._place or self._stream.join()
        try:
            await self._stream.wait_began()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave; the last loop that leaves unsubscribes, and acks are still sent."""
        self.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def close(self) -> None:
        """Leave, where that is not left to ``async with``; to do it again changes nothing."""
        self._is_left = True
        if self._place is not None:
            self._stream.leave(self._place)

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
        if self._is_left:
            raise StopAsyncIteration
        return await self._stream.next(self._entered())

    def share(self) -> Events:
        """Return a further loop over the same subscription, which begins where this one is.

        Each loop gets each event once, in order.  An event is kept until the slowest has taken it:
        past ``limits.stream_events_max`` the stream rests at the server until that one goes on, so
        a loop must not wait for another.  Acknowledged is what every loop has acknowledged that
        has not left.  The subscription ends with the last loop.

        It takes part from now on: give it to ``async with``, or `close` it.

        Raises:
            trio.ClosedResourceError: this loop was left, or never entered.

        """
        return Events(self._stream, self._stream.join(self._entered()))

    def ack(self, event: RemoteEvent | int) -> None:
        """Acknowledge everything up to an event; only the newest ack is sent.

        The server does not answer acks, so this does not wait.  While there is no connection, or
        the stream rests, acks are held back until the stream continues or is left.

        Raises:
            Reject: ``CURSOR_AHEAD`` for a number that has not arrived.

        """
        self._stream.ack(self._entered(), event if isinstance(event, int) else event.seq)

    def _entered(self) -> Place:
        if self._place is None or self._is_left:
            raise trio.ClosedResourceError("a loop is used inside its async with")
        return self._place
