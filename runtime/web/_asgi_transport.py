"""A WebSocket of an ASGI server as a transport: whole messages come and go, and nothing else.

The server masks, frames, pings and closes; of all that, only messages and the end are passed on.
So a client's pong is not known here.  A ping is answered where all that was written was taken: who
is gone without a word is found out by TCP, or by a proxy, as the server has it.

Each message is a call of the server's, which costs as much as encoding hundreds of events.  A
client that has asked for batches is given what waits as one message, an array.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import trio

from dalsegno.actors import TransportClosedError
from dalsegno.protocol import Close

from ._pulled import ABNORMAL, PulledTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

    from dalsegno.protocol import Limits

_BATCH_BYTES = 64 * 1024
"""What one message has of several, at most; a longer one goes alone."""
_INBOX_BYTES = 16 * 1024
"""What is read ahead, beyond one message: with it a pipeline of commands is taken in one go."""
_EACH_BYTES = 64
"""What a message takes besides its length: one may be empty."""
_NO_STATUS = 1005
"""RFC 6455 §7.4.1: the client closed without a code; also where the server names none."""


class AsgiTransport(PulledTransport):
    """A `Transport` over the calls of an ASGI server."""

    def __init__(
        self,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        limits: Limits,
        *,
        batches: bool = False,
        first_bytes_max: int | None = None,
    ) -> None:
        """Make it; it works within `serving`.

        Args:
            receive: the server's.
            send: the server's.
            limits: the bounds.
            batches: whether the client takes several messages as one.
            first_bytes_max: the length of the first message, until `lift_bound`; None: as all
                others.

        """
        super().__init__()
        self._asgi_receive = receive
        self._asgi_send = send
        self._close_deadline_s = limits.close_deadline_s
        self._message_bytes_max = limits.message_bytes_max
        self._first_bytes_max = first_bytes_max
        self._batches = batches
        self._inbox: deque[str | bytes] = deque()
        self._inbox_bytes = 0
        self._left: tuple[int, str] | None = None
        """How it ends once what came before was heard: it left, or broke a rule."""
        self._is_gone = False
        """Whether the client is."""
        self._arrived = trio.Event()
        self._room = trio.Event()
        self._said_all = trio.Event()
        """Set once the server has taken the last word."""
        self._heard = self.last_taken

    @property
    def last_heard(self) -> float:
        """When the client last said or took something."""
        return max(self._heard, self.last_taken)

    def lift_bound(self, _limits: Limits) -> None:
        """Take what follows the first message: it is known now who the client is."""
        self._first_bytes_max = None

    # ---------------------------------------------------------------------------------------- in

    def receive_nowait(self) -> str | bytes | None:
        """Return the next message that has arrived; see `Transport`."""
        if self._over is not None or not self._inbox:
            return None
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message) + _EACH_BYTES
        self._room.set()
        return message

    async def receive(self) -> str | bytes:
        """Wait for the next message; see `Transport`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while (message := self.receive_nowait()) is None:
            if self._left is not None:
                self._end(*self._left)
            if self._over is not None:
                raise TransportClosedError(*self._over)
            self._arrived = trio.Event()
            await self._arrived.wait()
        return message

    def ping_nowait(self) -> None:
        """Count a sign of life where nothing waits: there is no ping to send."""
        if self._over is None and not self._bytes:
            self.last_taken = trio.current_time()

    async def aclose(self, code: Close, reason: str) -> None:
        """Close behind what is kept, within ``close_deadline_s``; see `Transport`.

        A server may wait for ever to have its client take a message: it is let go then.
        """
        with trio.move_on_after(self._close_deadline_s) as scope:
            await super().aclose(code, reason)
            await self._said_all.wait()
        if scope.cancelled_caught:
            self.abort()

    def _end(self, code: int, reason: str) -> None:
        super()._end(code, reason)
        self._arrived.set()

    # ------------------------------------------------------------------------ the web server's

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Carry messages both ways for the length of a block, which closes the connection."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_on)
            nursery.start_soon(self._write_on)
            try:
                yield
            finally:
                self.abort()  # a no-op where it was closed
                nursery.cancel_scope.cancel(reason="the connection is over")

    async def _write_on(self) -> None:
        try:
            while await self._wait_filled():
                size, message = self._next()
                await self._asgi_send(
                    {"type": "websocket.send", "bytes": None, "text": message.decode()}
                )
                self.last_taken = trio.current_time()
                self._took(size)
            code, reason = self._over or (ABNORMAL, "")
            if code != ABNORMAL and not self._is_gone:
                await self._asgi_send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError as error:  # as servers may tell that a client is gone
            self._end(ABNORMAL, str(error))
        finally:
            self.abort()
            self._said_all.set()

    def _next(self) -> tuple[int, bytes]:
        """Return what is sent as the next message, and how much it is of what is kept."""
        first = bytes(self._kept.popleft())
        if not self._batches or not self._kept:
            return len(first), first
        texts, size = [first], len(first)
        while self._kept and size + len(self._kept[0]) <= _BATCH_BYTES:
            texts.append(bytes(self._kept.popleft()))
            size += len(texts[-1])
        return size, b"[" + b",".join(texts) + b"]" if len(texts) > 1 else first

    async def _read_on(self) -> None:
        while self._left is None:
            event = await self._asgi_receive()
            if event["type"] != "websocket.receive":
                self._is_gone = True
                told = cast("dict[str, Any]", event)
                self._left = told.get("code") or _NO_STATUS, told.get("reason") or ""
            else:
                text = event.get("text")
                self._take((event.get("bytes") or b"") if text is None else text)
            self._arrived.set()
            while self._inbox_bytes > _INBOX_BYTES:
                self._room = trio.Event()
                await self._room.wait()

    def _take(self, message: str | bytes) -> None:
        self._heard = trio.current_time()
        size = len(message)
        if isinstance(message, str) and not message.isascii():
            size = len(message.encode())
        if self._first_bytes_max is not None and size > self._first_bytes_max:
            self._left = Close.UNAUTHORIZED, "the first message is too long"
        elif size > self._message_bytes_max:
            longest = self._message_bytes_max
            self._left = Close.MESSAGE_TOO_BIG, f"a message has at most {longest} bytes"
        else:
            self._inbox.append(message)
            self._inbox_bytes += len(message) + _EACH_BYTES
