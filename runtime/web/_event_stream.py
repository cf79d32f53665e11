"""An event stream's end of a connection: what the connection actor writes, as a response's body.

The actor neither knows nor cares that its client cannot answer.  What it writes is kept here, up to
a bound, until the web server takes it; that is also the only sign of life there is of a client, so
a ping is a comment, and its pong that the comment was taken.
"""

from __future__ import annotations

from collections import deque
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import trio
from quart.wrappers.response import ResponseBody

from dalsegno.actors import TransportClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from types import TracebackType

    from dalsegno.protocol import Close, Frames

KEPT_BYTES = 64 * 1024
"""What is kept for a client before the actor waits for it; the web server has as much again."""
_PIECE_BYTES = 64 * 1024
"""What the web server is given at a time."""
_ABNORMAL = 1006
_COMMENT = b": ping\n\n"


class EventStreamTransport:
    """A `Transport` of one event stream."""

    def __init__(self, first: bytes = b"") -> None:
        """Make it.

        Args:
            first: what is sent before anything that the actor writes.

        """
        self._kept: deque[bytes | memoryview] = deque([first] if first else [])
        self._bytes = len(first)
        self._over: tuple[int, str] | None = None
        self._is_last = False
        """Whether nothing is written behind what is kept."""
        self._filled = trio.Event()
        self._taken = trio.Event()
        self._ended = trio.Event()
        self.last_taken = trio.current_time()

    def __repr__(self) -> str:
        state = "open" if self._over is None else f"over {self._over[0]}"
        return f"<EventStreamTransport {state}, {self._bytes} bytes kept>"

    @property
    def last_heard(self) -> float:
        """When the client took something: it says nothing."""
        return self.last_taken

    @property
    def last_pong(self) -> float:
        """Likewise."""
        return self.last_taken

    # ------------------------------------------------------------------------- the connection's

    def send_nowait(self, frames: Sequence[Frames]) -> bool:
        """Keep the blocks of some frames; see `Transport`."""
        if self._over is not None:
            raise TransportClosedError(*self._over)
        for each in frames:
            for text in each.texts:
                self._keep(text)
        return self._bytes <= KEPT_BYTES

    async def flush(self) -> None:
        """Wait until what is kept was taken; see `Transport`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._bytes:
            if self._over is not None:
                raise TransportClosedError(*self._over)
            self._taken = trio.Event()
            await self._taken.wait()

    def receive_nowait(self) -> None:
        """Return None: a client says nothing."""

    async def receive(self) -> str | bytes:
        """Wait for the end; see `Transport`."""
        await self._ended.wait()
        assert self._over is not None, "it has ended"
        raise TransportClosedError(*self._over)

    def ping_nowait(self) -> None:
        """Send a comment, unless something waits already."""
        if self._over is None and not self._kept:
            self._keep(_COMMENT)

    async def aclose(self, code: Close, reason: str) -> None:
        """End the stream behind what is kept; the caller sets a deadline."""
        if self._over is None:
            self._end(int(code), reason)
        while self._bytes:
            self._taken = trio.Event()
            await self._taken.wait()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """End the stream at once."""
        self._kept.clear()
        self._bytes = 0
        self._end(_ABNORMAL, "aborted")

    def _keep(self, text: bytes) -> None:
        self._kept.append(text)
        self._bytes += len(text)
        self._filled.set()

    def _end(self, code: int, reason: str) -> None:
        if self._over is None:
            self._over = (code, reason)
        self._is_last = True
        self._filled.set()
        self._ended.set()
        self._taken.set()

    # ------------------------------------------------------------------------ the web server's

    def finish(self) -> None:
        """End the stream behind what is kept: nobody writes to it any more."""
        self._end(_ABNORMAL, "the connection has ended")

    async def take(self) -> bytes:
        """Wait for more and take a piece of it; nothing at the end.

        Whoever asks for more has taken what came before: so each piece is progress.
        """
        self.last_taken = trio.current_time()
        while not self._kept and not self._is_last:
            self._filled = trio.Event()
            await self._filled.wait()
        taken, size = list[bytes | memoryview](), 0
        while self._kept and size < _PIECE_BYTES:
            first, left = self._kept.popleft(), _PIECE_BYTES - size
            if len(first) > left:
                whole = memoryview(first)  # so that the rest is not copied each time
                self._kept.appendleft(whole[left:])
                first = whole[:left]
            taken.append(first)
            size += len(first)
        self._bytes -= size
        self._taken.set()
        return b"".join(taken)


class EventStreamBody(ResponseBody):
    """The body of a response, which lasts as long as its connection."""

    def __init__(
        self, transport: EventStreamTransport, serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Make it.

        Args:
            transport: the connection's.
            serve: serves the connection until it ends.

        """
        self._transport = transport
        self._serve = serve
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        nursery = await self._open.enter_async_context(trio.open_nursery())
        nursery.start_soon(self._serve_to_the_end)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._transport.abort()
        await self._open.__aexit__(exc_type, exc_value, tb)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        taken = await self._transport.take()
        if not taken:
            raise StopAsyncIteration
        return taken

    async def _serve_to_the_end(self) -> None:
        try:
            await self._serve()
        finally:
            self._transport.finish()
