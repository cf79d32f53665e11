"""An event stream's end of a connection: what the connection actor writes, as a response's body.

The actor neither knows nor cares that its client cannot answer.  A ping is a comment, and its pong
that the comment was taken.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import trio
from quart.wrappers.response import ResponseBody

from dalsegno.actors import TransportClosedError
from dalsegno.protocol.dialects import COMMENT

from ._pulled import PulledTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

_PIECE_BYTES = 64 * 1024
"""What the web server is given at a time."""


class EventStreamTransport(PulledTransport):
    """A `Transport` of one event stream."""

    @property
    def last_heard(self) -> float:
        """When the client took something: it says nothing."""
        return self.last_taken

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
            self._keep(COMMENT)

    async def take(self) -> bytes:
        """Wait for more and take a piece of it; nothing at the end.

        Whoever asks for more has taken what came before: so each piece is progress.
        """
        self.last_taken = trio.current_time()
        await self._wait_filled()
        taken, size = list[bytes | memoryview](), 0
        while self._kept and size < _PIECE_BYTES:
            first, left = self._kept.popleft(), _PIECE_BYTES - size
            if len(first) > left:
                whole = memoryview(first)  # so that the rest is not copied each time
                self._kept.appendleft(whole[left:])
                first = whole[:left]
            taken.append(first)
            size += len(first)
        self._took(size)
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
