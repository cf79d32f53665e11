"""One WebSocket to the server: what is to be said on it, and what is heard.

Who wants to say something never writes itself: a write that is cancelled half way would leave half
a frame behind.  What is to be said waits here, bounded by those who say it: a command each `send`,
a subscription's one request at a time, and of its acks the newest.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
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
        self.slot_s: float | None = None
        """After how long the server wants to see us again; None until it leaves."""
        self.is_elsewhere = False
        """Whether a workspace that was asked for turned out to be served by another node."""
        self._is_leaving = False

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

    def leave(self) -> None:
        """End the connection once what is to be said was said; there will be another one."""
        self._is_leaving = True
        self._stir()

    async def aclose(self) -> None:
        """Say what is still to be said, then goodbye; the caller bounds it."""
        await self._said_all.wait()
        await self._websocket.aclose()

    async def run(self, hear: Callable[[str], None]) -> Ending:
        """Talk until the connection ends."""
        ending = self._ending(ABNORMAL, "the server did not answer the goodbye")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            ending = await self._read(hear)
            nursery.cancel_scope.cancel(reason="the connection ended")
        self._said_all.set()  # what was not will be said again, on the next one
        return ending

    def _stir(self) -> None:
        if not self._wake.is_set():
            self._said_all = trio.Event()
            self._wake.set()

    async def _write(self, connection: trio.CancelScope) -> None:
        try:
            while not self._is_leaving:
                await self._wake.wait()
                await self._say_all()
                self._wake = trio.Event()
                self._said_all.set()
            with trio.move_on_after(self._limits.close_timeout_s) as waiting:
                await self._websocket.aclose()
            if waiting.cancelled_caught:
                connection.cancel(reason="the server does not answer the goodbye")
        except ConnectionClosed:
            pass  # the reader tells how it ended

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
        return Ending(
            code,
            reason,
            was_open=True,
            was_useful=self.was_useful,
            was_left=self._is_leaving,
            slot_s=self.slot_s,
        )


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
        account: where the server is, and whose cookie goes along.
        ssl_context: for ``https``; None trusts what the system trusts.
        limits: the bounds.
        begin: is given the connection once it is open.
        hear: is given every message; `msgspec.MsgspecError` says that it is none.

    """
    ending = Ending(ABNORMAL, "no handshake")
    try:
        with trio.fail_after(limits.connect_timeout_s):
            stream = await _open_stream(account.url, ssl_context)
    except trio.TooSlowError:
        return ending
    except OSError as error:
        return Ending(ABNORMAL, str(error))
    except trio.BrokenResourceError as error:
        return Ending(ABNORMAL, f"no TLS: {error.__cause__ or error}")
    try:
        async with trio.open_nursery() as nursery:
            websocket = await _shake_hands(stream, account, limits, nursery)
            if websocket is not None:
                link = Link(websocket, limits)
                begin(link)
                ending = await link.run(hear)
                with trio.move_on_after(limits.close_timeout_s):
                    await websocket.aclose()
            nursery.cancel_scope.cancel(reason="the connection ended")
    except* ConnectionRejected as group:
        ending = _refusal(group)
    finally:
        # The library leaves it open where the server closed first.
        await trio.aclose_forcefully(stream)
    return ending


async def _open_stream(url: str, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return await trio.open_tcp_stream(host, parts.port or 80)
    stream = await trio.open_ssl_over_tcp_stream(
        host, parts.port or 443, https_compatible=True, ssl_context=ssl_context
    )
    await stream.do_handshake()
    return stream


async def _shake_hands(
    stream: trio.abc.Stream, account: Account, limits: ClientLimits, nursery: trio.Nursery
) -> WebSocketConnection | None:
    """Upgrade; None where the server does not answer that, or leaves.

    The library waits for the answer also where the stream has ended.  As a proxy without a server
    behind it ends every stream at once, the stream's end ends the wait.
    """
    parts = urlsplit(account.url)
    with trio.move_on_after(limits.connect_timeout_s) as waiting:
        return await wrap_client_stream(
            nursery,
            cast("trio.SocketStream", _Watched(stream, waiting.cancel)),  # any stream will do
            parts.netloc.rpartition("@")[2],
            f"{parts.path}/ws",
            subprotocols=[_SUBPROTOCOL],
            extra_headers=[(b"Cookie", (account.cookie or "").encode())],
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=limits.message_bytes_max,
            receive_buffer_size=_READ_BYTES,
        )
    return None


class _Watched(trio.abc.Stream):
    """A stream whose end is told."""

    def __init__(self, stream: trio.abc.Stream, tell: Callable[[], None]) -> None:
        self._stream = stream
        self._tell = tell

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self._tell()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _refusal(group: BaseExceptionGroup[ConnectionRejected]) -> Ending:
    rejected = group.exceptions[0]
    assert isinstance(rejected, ConnectionRejected), "the nursery has one such task"
    headers = {name.lower(): value.decode("latin-1") for name, value in rejected.headers}
    error = refused(rejected.status_code, rejected.body, headers.get(b"retry-after"))
    return Ending(rejected.status_code, error.message, error=error)
