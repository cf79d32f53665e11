"""The outgoing half of a transport whose output somebody else takes: a web server.

What the connection actor writes is kept here, up to a bound, until the server asks for more.  That
it asks is all there is to know of a client that says nothing: it took what came before.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from dalsegno.actors import TransportClosedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Close, Frames

KEPT_BYTES = 64 * 1024
"""What is kept for a client before the actor waits for it; the web server has as much again."""
ABNORMAL = 1006
"""RFC 6455 §7.4.1: the connection ended without a word."""


class PulledTransport:
    """What event streams and sockets of an ASGI server have in common as a `Transport`."""

    def __init__(self, first: bytes = b"") -> None:
        """Make it.

        Args:
            first: what is sent before anything that the actor writes.

        """
        self._kept: deque[bytes | memoryview] = deque([first] if first else [])
        self._bytes = len(first)
        """Of what the server has not taken yet."""
        self._over: tuple[int, str] | None = None
        self._is_last = False
        """Whether nothing is written behind what is kept."""
        self._filled = trio.Event()
        self._taken = trio.Event()
        self._ended = trio.Event()
        self.last_taken = trio.current_time()

    def __repr__(self) -> str:
        state = "open" if self._over is None else f"over {self._over[0]}"
        return f"<{type(self).__name__} {state}, {self._bytes} bytes kept>"

    @property
    def last_pong(self) -> float:
        """When the client took something: no pong is passed on."""
        return self.last_taken

    # ------------------------------------------------------------------------- the connection's

    def send_nowait(self, frames: Sequence[Frames]) -> bool:
        """Keep the messages of some frames; see `Transport`."""
        if self._over is not None:
            raise TransportClosedError(*self._over)
        for each in frames:
            for text in each.texts:
                self._keep(text)
        return self._bytes <= KEPT_BYTES

    async def flush(self) -> None:
        """Wait until what is kept was taken; see `Transport`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._bytes and self._over is None:
            self._taken = trio.Event()
            await self._taken.wait()
        if self._over is not None:
            raise TransportClosedError(*self._over)

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
        self._end(ABNORMAL, "aborted")

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
        self._end(ABNORMAL, "the connection has ended")

    async def _wait_filled(self) -> bool:
        """Wait for more to take; return whether there is some: False at the end."""
        while not self._kept and not self._is_last:
            self._filled = trio.Event()
            await self._filled.wait()
        return bool(self._kept)

    def _took(self, size: int) -> None:
        """Count what was taken of what is kept."""
        self._bytes = max(0, self._bytes - size)  # nothing is kept where it was aborted
        self._taken.set()
