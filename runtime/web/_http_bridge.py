"""Serves a connection whose first bytes were read by Hypercorn's Trio worker.

Hypercorn is driven below its `serve`, by the parts that `serve` itself consists of, since there is
no other way to hand it a connection.  `Http1Server` keeps it to HTTP/1; four things are done around
it:

* It shields its sends from cancellation, so a client that does not read would hold a task for ever.
  `HandedStream` bounds each piece, and a cancelled connection is closed from outside the shield.
* It ends a request inside the application's last `send`, and first tells the application that the
  client is gone; Quart-Trio then cancels the very task that is sending.  The connection would be
  neither closed nor watched for idleness.  `_shielding_the_end` shields that last step.
* It may wait for ever for another request on a connection that it closed itself, while draining,
  and for some seconds for the end of idleness.  It does not read while a pipelined request waits,
  and lets it wait for ever if the answer before could not be sent.  Here, a connection that has
  ended or cannot be written to is over once no request runs.
* It expects a lifespan per server, so `open_http` runs that once, and tells it when to drain.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from ._http1 import Http1Server

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncIterator, Callable, Iterator

    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

    from dalsegno.protocol import Limits

_AT_ONCE_BYTES = 16 * 1024
"""What is written without a task switch at most: Hypercorn has one of its own before each."""
_PIECE_BYTES = 64 * 1024
"""The write deadline applies to each piece: it demands progress, not a whole answer."""


class HandedStream:
    """A stream with the bytes that were read put back, and a deadline for its writes.

    All other attributes are the stream's own, since Hypercorn recognises TLS by those of
    `trio.SSLStream`.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        early: bytes,
        limits: Limits,
        over: trio.CancelScope,
    ) -> None:
        self._stream = stream
        self._early = early
        self._write_deadline_s = limits.write_deadline_s
        self._close_deadline_s = limits.close_deadline_s
        self._linger_bytes_max = 4 * limits.body_bytes_max
        self._over = over
        self._requests = 0
        self._sending = trio.Lock()
        """Hypercorn ends a connection in one task while another may still be sending."""
        self._is_closing = False
        self._is_over = False
        self._is_released = False
        self._is_read = False
        self._read_ended = trio.Event()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the bytes put back, then the stream's; none once it is being closed."""
        if self._early:
            await trio.lowlevel.checkpoint()
            early, self._early = self._early, b""
            return early
        self._is_read = True
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
            if self._is_closing:
                await self._discard()
                data = b""
            return data
        finally:
            self._is_read = False
            self._read_ended.set()
            if not data:  # Hypercorn tells the application that the client is gone
                self._end()

    async def send_all(self, data: bytes) -> None:
        """Send piece by piece; end the connection if a piece takes too long.

        Raises:
            trio.BrokenResourceError: The client read nothing for too long, or is gone.

        """
        view = memoryview(data)[self._write_nowait(data) :]
        if not view:
            return
        try:
            async with self._sending:
                for start in range(0, len(view), _PIECE_BYTES):
                    with trio.fail_after(self._write_deadline_s):
                        await self._stream.send_all(view[start : start + _PIECE_BYTES])
        except trio.TooSlowError:
            await trio.aclose_forcefully(self._stream)
            self._end()
            raise trio.BrokenResourceError("the client does not read") from None
        except trio.BrokenResourceError:
            self._end()  # since nothing reads while a pipelined request waits its turn
            raise

    def _write_nowait(self, data: bytes) -> int:
        """Write a short piece without a task switch, if that is possible; return how much was.

        An event stream is thousands of them.  Errors are left to the send that waits.
        """
        stream = self._stream
        if (
            len(data) > _AT_ONCE_BYTES
            or self._sending.locked()
            or not isinstance(stream, trio.SocketStream)
        ):
            return 0
        try:
            return os.write(stream.socket.fileno(), data)
        except OSError:
            return 0

    def release(self) -> None:
        """Leave the stream open, whoever closes this: it is somebody else's now."""
        self._is_released = True

    async def send_eof(self) -> None:
        """Send the end of the stream."""
        if not self._is_released:
            await self._stream.send_eof()

    async def abandon(self) -> None:
        """Close at once."""
        if not self._is_released:
            await trio.aclose_forcefully(self._stream)

    async def aclose(self) -> None:
        """Close after the client has: unread bytes would cause a reset, and lose the answer.

        So a client that is still sending a body above the bound can read its 413 (RFC 9112 §9.6).
        The wait is bounded in time and in bytes.
        """
        if self._is_released:
            return
        try:
            if not self._is_closing:
                self._is_closing = True
                with trio.move_on_after(self._close_deadline_s):
                    await self._linger()
        finally:
            self._end()
            await self._stream.aclose()

    async def _linger(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._sending:
                await self._stream.send_eof()
            if self._is_read:  # by Hypercorn's task, which reads on until the client has closed
                self._read_ended = trio.Event()
                await self._read_ended.wait()
            else:
                await self._discard()

    async def _discard(self) -> None:
        left = self._linger_bytes_max
        while left > 0 and (data := await self._stream.receive_some(_PIECE_BYTES)):
            left -= len(data)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request that the application is working on, for the length of a block."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            if self._is_over:
                self._end()

    def _end(self) -> None:
        """Mark the connection as ended, and cancel Hypercorn once no request runs."""
        self._is_over = True
        if not self._requests:
            self._over.cancel(reason="the connection ended")


_handed: ContextVar[HandedStream] = ContextVar("handed")
"""The connection of the current request, which Hypercorn does not pass on."""


def _shielding_the_end(app: ASGIFramework, deadline_s: float) -> ASGIFramework:
    """Count the application's requests, and shield how Hypercorn ends each."""

    async def outer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_to_the_end(message: ASGISendEvent) -> None:
            if message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            if body := message.get("body", b""):  # separately, since it may take long
                await send({"type": "http.response.body", "body": body, "more_body": True})
            with trio.CancelScope(shield=True, deadline=trio.current_time() + deadline_s):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        else:
            with _handed.get().request():
                await app(scope, receive, send_to_the_end)

    return outer


class HttpBridge:
    """Serves the ASGI application on connections of the port, by Hypercorn."""

    def __init__(
        self, app: ASGIWrapper, config: Config, state: dict[str, Any], limits: Limits
    ) -> None:
        self._app = app
        self._config = config
        self._state = state
        self._context = WorkerContext(None)
        self._limits = limits

    async def serve(
        self,
        stream: trio.abc.HalfCloseableStream,
        early: bytes,
        *,
        takes: Callable[[bytes], bool],
    ) -> tuple[bytes, bytes] | None:
        """Serve a connection until it ends; cancelled, close it at once.

        Returns:
            The head of a request that ``takes`` is true of, and what came behind it: the connection
            is open, and that is not answered.  None: it has ended.

        """
        async with trio.open_nursery() as nursery:
            handed = HandedStream(stream, early, self._limits, nursery.cancel_scope)
            _handed.set(handed)
            server = Http1Server(
                self._app,
                self._config,
                self._context,
                ConnectionState(self._state.copy()),
                cast("trio.SSLStream[trio.SocketStream]", handed),
                handed=handed,
                takes=takes,
                limits=self._limits,
            )
            nursery.start_soon(_close_when_cancelled, handed)
            await server.run()
            nursery.cancel_scope.cancel(reason="the connection ended")
        return server.taken

    async def drain(self) -> None:
        """Close idle connections, and each other one after its answer."""
        await self._context.terminated.set()


@asynccontextmanager
async def open_http(app: ASGIFramework, limits: Limits) -> AsyncIterator[HttpBridge]:
    """Start the application, within a minute, and shut it down, within ``drain_deadline_s``.

    Raises:
        hypercorn.utils.LifespanFailureError: The application refused to start; in a group.

    """
    config = _config(limits)
    state: dict[str, Any] = {}
    wrapped = ASGIWrapper(_shielding_the_end(app, limits.write_deadline_s))
    lifespan = Lifespan(wrapped, config, state)
    # Shielded, so that an application that is cancelled can still clean up; ended below.
    living = trio.CancelScope(shield=True)
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(_live, lifespan, living)
            with _lifespan_may_be_over():
                await lifespan.wait_for_startup()
            try:
                yield HttpBridge(wrapped, config, state, limits)
            finally:
                with trio.move_on_after(limits.drain_deadline_s, shield=True) as scope:
                    with _lifespan_may_be_over():
                        await lifespan.wait_for_shutdown()
                if scope.cancelled_caught:
                    structlog.get_logger("dalsegno.http").warning("shutdown_too_slow")
        finally:
            living.cancel(reason="the application was shut down")


async def _live(
    lifespan: Lifespan,
    living: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with living:
        task_status.started()
        await lifespan.handle_lifespan()


def _lifespan_may_be_over() -> suppress:
    """Ignore the errors of an application that returned from its lifespan early."""
    return suppress(trio.ClosedResourceError, trio.BrokenResourceError)


async def _close_when_cancelled(handed: HandedStream) -> None:
    try:
        await trio.sleep_forever()
    finally:
        await handed.abandon()


class _Log(Logger):
    """Hypercorn's log, written to ours."""

    def __init__(self, config: Config) -> None:
        self.access_log_format = config.access_log_format
        self.access_logger = None
        self.error_logger = cast("logging.Logger", structlog.get_logger("dalsegno.http"))


def _config(limits: Limits) -> Config:
    config = Config()
    config.logger_class = _Log
    config.include_server_header = False
    config.keep_alive_timeout = limits.head_deadline_s
    config.h11_max_incomplete_size = limits.head_bytes_max
    config.websocket_max_message_size = limits.message_bytes_max
    return config
