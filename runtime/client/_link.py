"""One WebSocket to the server: what is to be said on it, and what is heard.

Who wants to say something never writes itself: a write that is cancelled half way would leave half
a frame behind.  What is to be said waits here, bounded by those who say it: a command each `send`,
a subscription's one request at a time, and of its acks the newest.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

from dalsegno.protocol import Ack, Close

from ._account import refused
from ._policy import ABNORMAL, Ending
from ._wire import UNTRACKED, encode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ._account import Account
    from ._policy import ClientLimits

_SUBPROTOCOL = "dalsegno.v1"
_READ_BYTES = 64 * 1024
_QUEUED_MESSAGES = 64
"""Between the library's reader and ours: spares a task switch a message."""

# Its debug log has a line for every message, made also where nobody reads it.
logging.getLogger("trio-websocket").setLevel(logging.INFO)


class Link:
    """An open connection."""

    def __init__(self, websocket: WebSocketConnection, limits: ClientLimits) -> None:
        self._websocket = websocket
        self._limits = limits
        self._messages: deque[str] = deque()
        self._acks: dict[str, int] = {}
        self._wake = trio.Event()
        self._said_all = trio.Event()
        self._said_all.set()
        self.was_useful = False
        """Whether the server said anything but errors."""

    def __repr__(self) -> str:
        return f"<Link {self._websocket}, {len(self._messages)} to say>"

    def say(self, message: str) -> None:
        """Say it as soon as may be, in order."""
        self._messages.append(message)
        self._stir()

    def ack(self, stream_id: str, seq: int) -> None:
        """Acknowledge, after what is to be said before; only the newest of a stream is said."""
        self._acks[stream_id] = seq
        self._stir()

    def settle_ack(self, stream_id: str) -> None:
        """Put the stream's ack, if one waits, before what is said next: leaving the stream."""
        seq = self._acks.pop(stream_id, None)
        if seq is not None:
            self.say(_ack(stream_id, seq))

    async def aclose(self) -> None:
        """Say what is still to be said, then goodbye; the caller bounds it."""
        await self._said_all.wait()
        await self._websocket.aclose()

    async def run(self, hear: Callable[[str], None]) -> Ending:
        """Talk until the connection ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            ending = await self._read(hear)
            nursery.cancel_scope.cancel(reason="the connection ended")
        return ending

    def _stir(self) -> None:
        if not self._wake.is_set():
            self._said_all = trio.Event()
            self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                await self._say_all()
                self._wake = trio.Event()
                self._said_all.set()
        except ConnectionClosed:
            await trio.sleep_forever()  # the reader tells how it ended

    async def _say_all(self) -> None:
        while self._messages or self._acks:
            if self._messages:
                await self._websocket.send_message(self._messages.popleft())
            else:
                stream_id, seq = self._acks.popitem()
                await self._websocket.send_message(_ack(stream_id, seq))

    async def _read(self, hear: Callable[[str], None]) -> Ending:
        while True:
            try:
                with trio.fail_after(self._limits.silence_s):
                    message = await self._websocket.get_message()
            except trio.TooSlowError:
                return self._ending(ABNORMAL, f"silent for {self._limits.silence_s:g} s")
            except ConnectionClosed as closed:
                if closed.reason is None:
                    return self._ending(ABNORMAL, "closed")
                return self._ending(closed.reason.code, closed.reason.reason or "")
            if isinstance(message, str):
                try:
                    hear(message)
                except msgspec.MsgspecError as error:
                    return self._ending(Close.PROTOCOL_ERROR, f"not understood: {error}")

    def _ending(self, code: int, reason: str) -> Ending:
        return Ending(code, reason, was_open=True, was_useful=self.was_useful)


def _ack(stream_id: str, seq: int) -> str:
    return encode(Ack(stream_id=stream_id, seq=seq, request_id=UNTRACKED))


async def converse(
    account: Account,
    *,
    ssl_context: ssl.SSLContext | None,
    limits: ClientLimits,
    begin: Callable[[Link], None],
    hear: Callable[[str], None],
) -> Ending:
    """Open a connection and talk until it ends; an ending is never an exception.

    Args:
        account: whose cookie goes along.
        ssl_context: for ``https``; None takes the system's.
        limits: the bounds.
        begin: is given the connection once it is open.
        hear: is given every message; `msgspec.MsgspecError` says that it is none.

    """
    ending = None
    try:
        async with open_websocket_url(
            f"ws{account.url.removeprefix('http')}/ws",
            ssl_context=ssl_context,
            subprotocols=[_SUBPROTOCOL],
            extra_headers=[(b"Cookie", (account.cookie or "").encode())],
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=limits.message_bytes_max,
            receive_buffer_size=_READ_BYTES,
            connect_timeout=limits.connect_timeout_s,
            disconnect_timeout=limits.close_timeout_s,
        ) as websocket:
            link = Link(websocket, limits)
            begin(link)
            ending = await link.run(hear)
    except ConnectionRejected as rejected:
        headers = {name.lower(): value.decode("latin-1") for name, value in rejected.headers}
        error = refused(rejected.status_code, rejected.body, headers.get(b"retry-after"))
        return Ending(rejected.status_code, error.message, error=error)
    except HandshakeError as error:
        return ending or Ending(ABNORMAL, _reason(error))
    return ending


def _reason(error: HandshakeError) -> str:
    if isinstance(error, ConnectionTimeout):
        return "no handshake in time"
    return str(error.__cause__ or error)
