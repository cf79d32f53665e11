"""One WebSocket to the server: a queue of messages to send, and a loop that receives.

Senders never write themselves: a write that is cancelled half-way would leave half a frame behind.
Messages are queued here, bounded by those that send them: a command for each `send`, for each
subscription one request at a time and the newest of its acks, and for each workspace in which the
program is present one request and what it said of itself last.
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
    from collections.abc import Callable, Iterable

    from ._account import Account
    from ._policy import ClientLimits
    from ._renewal import Renewal

_SUBPROTOCOL = "dalsegno.v1"
_READ_BYTES = 64 * 1024
_PROOF_S = 1.0
_QUEUED_MESSAGES = 64
"""Messages between the library's reader and ours, which saves a task switch for each."""

# Its debug log formats a line for every message, even if the level is off.
logging.getLogger("trio-websocket").setLevel(logging.INFO)


class Link:
    """An open connection."""

    def __init__(self, websocket: WebSocketConnection, limits: ClientLimits) -> None:
        self._websocket = websocket
        self._limits = limits
        self._messages: deque[str] = deque()
        self._acks: dict[str, int] = {}
        self._newest: dict[str, str] = {}
        """Messages of which only the last is sent, by what they are about."""
        self._wake = trio.Event()
        self._said_all = trio.Event()
        self._said_all.set()
        self.was_useful = False
        """Whether the server has sent anything but errors."""
        self.slot_s: float | None = None
        """The delay that the server asked for, in seconds; None until it shuts down."""
        self.is_elsewhere = False
        """Whether another node was found to serve a workspace that was asked for here."""
        self._is_leaving = False
        self._began = trio.current_time()

    def __repr__(self) -> str:
        return f"<Link {self._websocket}, {len(self._messages)} to send>"

    def say(self, message: str) -> None:
        """Queue a message; messages are sent in order."""
        self._messages.append(message)
        self._stir()

    def ack(self, stream_id: str, seq: int) -> None:
        """Queue an ack, to be sent after the messages; only the newest of a stream is sent."""
        self._acks[stream_id] = seq
        self._stir()

    def settle_ack(self, stream_id: str) -> None:
        """Queue the stream's ack, if there is one, before the message that leaves the stream."""
        seq = self._acks.pop(stream_id, None)
        if seq is not None:
            self.say(_ack(stream_id, seq))

    def replace(self, key: str, message: str) -> None:
        """Queue a message, to be sent after the others, in place of the last one with its key."""
        self._newest[key] = message
        self._stir()

    def forget(self, key: str) -> None:
        """Send nothing more under a key that is queued: what is said next makes it void."""
        self._newest.pop(key, None)

    def leave(self) -> None:
        """End the connection once everything queued was sent; there will be another one."""
        self._is_leaving = True
        self._stir()

    async def aclose(self) -> None:
        """Send everything queued, then close; the caller bounds it."""
        await self._said_all.wait()
        await self._websocket.aclose()

    async def run(self, hear: Callable[[str], None], renewal: Renewal | None) -> Ending:
        """Send and receive until the connection ends, which a renewal puts off."""
        ending = self._ending(ABNORMAL, "the server did not answer the close frame")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            if renewal is not None:
                nursery.start_soon(renewal.run)
            ending = await self._read(hear)
            nursery.cancel_scope.cancel(reason="the connection ended")
        self._said_all.set()  # the next connection sends the rest
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
                connection.cancel(reason="the server does not answer the close frame")
        except ConnectionClosed:
            pass  # the reader returns how it ended

    async def _say_all(self) -> None:
        while self._messages or self._acks or self._newest:
            if self._messages:
                await self._websocket.send_message(self._messages.popleft())
            elif self._newest:
                key = next(iter(self._newest))
                await self._websocket.send_message(self._newest.pop(key))
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
                    for each in _in_batch(message):
                        hear(each)
                except msgspec.MsgspecError as error:
                    return self._ending(Close.PROTOCOL_ERROR, f"not understood: {error}")

    @property
    def _has_lasted(self) -> bool:
        """Whether this proves more than that the server accepts connections and ends them."""
        return trio.current_time() - self._began >= min(self._limits.backoff_first_s, _PROOF_S)

    def _ending(self, code: int, reason: str) -> Ending:
        return Ending(
            code,
            reason,
            was_open=True,
            was_useful=self.was_useful and self._has_lasted,
            was_left=self._is_leaving,
            slot_s=self.slot_s,
        )


def _in_batch(message: str) -> Iterable[str]:
    """Return the messages that came as one, which is most often one."""
    if not message.startswith("["):
        return (message,)
    return (bytes(each).decode() for each in msgspec.json.decode(message, type=list[msgspec.Raw]))


def _ack(stream_id: str, seq: int) -> str:
    return encode(Ack(stream_id=stream_id, seq=seq, request_id=UNTRACKED))


async def converse(
    account: Account,
    *,
    ssl_context: ssl.SSLContext | None,
    limits: ClientLimits,
    query: str,
    begin: Callable[[Link], Renewal | None],
    hear: Callable[[str], None],
) -> Ending:
    """Open a connection and use it until it ends; return how it ended, never raise it.

    Args:
        account: the server's address, and the cookie to send.
        ssl_context: for ``https``; None trusts the system's certificates.
        limits: the bounds.
        query: of the URL.
        begin: called with the connection once it is open; returns what keeps it beyond its token.
        hear: called with every message; raises `msgspec.MsgspecError` if it is invalid.

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
            websocket = await _shake_hands(stream, account, limits, query, nursery)
            if websocket is not None:
                link = Link(websocket, limits)
                ending = await link.run(hear, begin(link))
                with trio.move_on_after(limits.close_timeout_s):
                    await websocket.aclose()
            nursery.cancel_scope.cancel(reason="the connection ended")
    except* ConnectionRejected as group:
        ending = _refusal(group)
    finally:
        # The library leaves it open if the server closed first.
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
    stream: trio.abc.Stream,
    account: Account,
    limits: ClientLimits,
    query: str,
    nursery: trio.Nursery,
) -> WebSocketConnection | None:
    """Upgrade the connection; None if the server does not answer, or disconnects.

    The library waits for the answer even if the stream has ended.  Since a proxy without a server
    behind it ends every stream at once, the stream's end cancels the wait.
    """
    parts = urlsplit(account.url)
    with trio.move_on_after(limits.connect_timeout_s) as waiting:
        return await wrap_client_stream(
            nursery,
            cast("trio.SocketStream", _Watched(stream, waiting.cancel)),  # any stream will do
            parts.netloc.rpartition("@")[2],
            f"{parts.path}/ws?{query}",
            subprotocols=[_SUBPROTOCOL],
            extra_headers=[account.header],
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=limits.message_bytes_max,
            receive_buffer_size=_READ_BYTES,
        )
    return None


class _Watched(trio.abc.Stream):
    """A stream that calls a function when it ends."""

    def __init__(self, stream: trio.abc.Stream, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self._ended()
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
