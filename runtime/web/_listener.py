"""One port for everything: WebSockets natively, the rest through Hypercorn.

    accept → read the head ─┬─ an upgrade of a path of ours → handshake → accept() → handle()
                            └─ anything else, the bytes put back → Hypercorn, the ASGI application

With a certificate the handshake of TLS comes first, and all of this is under it.

A connection that was used for requests can be upgraded as a new one can: proxies keep theirs and
use them for whatever comes next.  Hypercorn then gives it back (`Http1Server`).  An upgrade that is
sent before the answer to an earlier request reaches the application, which serves it, only slower.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import structlog
import trio

from dalsegno.protocol import Reject

from ._accepting import accept_from
from ._admission import Decision, create_admission
from ._door import Door
from ._handshake import (
    HandshakeRefusedError,
    UpgradeRequest,
    parse_upgrade,
    refusal,
    refused,
)
from ._hosts import Hosts
from ._http1 import END_OF_HEAD
from ._http_bridge import HttpBridge, open_http
from ._native import NativeTransport
from ._tls import TlsStream, detached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from hypercorn.typing import ASGIFramework

    from dalsegno.actors import World
    from dalsegno.protocol import DalsegnoError, Limits

    from ._certificate import Tls

AcceptedT = TypeVar("AcceptedT")

Stream: TypeAlias = trio.SocketStream | TlsStream
"""A client's connection, as it is read before it is known what the client wants."""

log = structlog.get_logger("dalsegno.listener")

_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
"""RFC 5482, on Linux."""
_UPGRADE = re.compile(rb"^upgrade:[^\r\n]*\bwebsocket\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServingStatistics:
    """The connections of a port in numbers."""

    accepted: int
    """Connections that were accepted so far."""
    native: int
    """WebSockets that are open natively."""
    http: int
    """Connections that Hypercorn serves, its WebSockets included."""
    refused: int
    """Connections that were refused so far, for lack of room."""
    unsecured: int
    """Connections that ended before there was TLS so far, where there should be."""


class Serving:
    """The handle of a running `serve`."""

    def __init__(
        self, accepting: trio.CancelScope, port: _Port[AcceptedT], *, drain_s: float
    ) -> None:
        self._accepting = accepting
        self._port = port
        self.drain_s = drain_s
        """How long connections may last once no more are accepted."""

    def stop_accepting(self, *, drain_s: float | None = None) -> None:
        """Close the listeners and drain; `serve` returns when the connections have ended.

        Idle HTTP connections are closed, the others after their answer.  Native connections are
        left to their owner to close.  Those that remain after ``drain_s``, or
        ``drain_deadline_s``, are cut off.
        """
        if drain_s is not None:
            self.drain_s = drain_s
        self._accepting.cancel(reason="the port stops accepting")

    def statistics(self) -> ServingStatistics:
        """Count the connections."""
        port = self._port
        return ServingStatistics(
            port.accepted, port.native, port.http, port.admission.refused, port.unsecured
        )


SOCKET = "/ws"
"""The path of the sockets that every server has."""


def owns_ws(path: str) -> bool:
    """Return whether a path is served natively: ``/ws``."""
    return path == SOCKET


async def serve(
    listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
    *,
    app: ASGIFramework,
    accept: Callable[[UpgradeRequest], Awaitable[AcceptedT]],
    handle: Callable[[NativeTransport, AcceptedT], Awaitable[None]],
    limits: Limits,
    world: World,
    release: Callable[[AcceptedT], None] = lambda _: None,
    owns: Callable[[str], bool] = owns_ws,
    hosts: Hosts | None = None,
    tls: Tls | None = None,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, or until stopped by the `Serving` that ``started`` hands out.

    Args:
        listeners: The listeners to accept connections from; they are closed at the end.
        app: The ASGI application for everything that is not served natively.
        accept: Authenticates an upgrade.  A `DalsegnoError` refuses it with plain HTTP.
        handle: Serves a connection that ``accept`` has admitted.  When it returns, or raises, the
            connection is closed; an exception is logged and goes no further.
        limits: The bounds.
        world: Wall time and ids.
        release: Is called once for whatever ``accept`` has admitted, when its connection has ended,
            also where it ended before ``handle`` was called.
        owns: Which paths are served natively.
        hosts: What it is called, and whose pages may connect; None: anything, and its own.
        tls: The certificate, where connections are under TLS; somebody else keeps it fresh.
        task_status: Is given the handle once connections are accepted.

    """
    async with open_http(app, limits) as http:
        named = hosts or Hosts()
        port = _Port(http, accept, handle, release, limits, world, owns, named, tls)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(port.accept_from, listener, connections)
                drain_s = limits.drain_deadline_s
                serving = Serving(accepting.cancel_scope, port, drain_s=drain_s)
                task_status.started(serving)
            await http.drain()
            connections.cancel_scope.deadline = trio.current_time() + serving.drain_s


class _Port(Generic[AcceptedT]):
    """The state that the connections of a `serve` share."""

    def __init__(
        self,
        http: HttpBridge,
        accept: Callable[[UpgradeRequest], Awaitable[AcceptedT]],
        handle: Callable[[NativeTransport, AcceptedT], Awaitable[None]],
        release: Callable[[AcceptedT], None],
        limits: Limits,
        world: World,
        owns: Callable[[str], bool],
        hosts: Hosts,
        tls: Tls | None,
    ) -> None:
        self.accepted = 0
        self.http = 0
        self.unsecured = 0
        self.admission = create_admission(limits, world)
        self._http = http
        self._door: Door[NativeTransport, AcceptedT] = Door(
            accept, handle, release, admission=self.admission, limits=limits
        )
        self._limits = limits
        self._world = world
        self._owns = owns
        self._hosts = hosts
        self._tls = tls

    @property
    def native(self) -> int:
        """How many WebSockets are open natively."""
        return self._door.open

    async def accept_from(
        self, listener: trio.abc.Listener[trio.SocketStream], connections: trio.Nursery
    ) -> None:
        """Start a task for each connection."""
        await accept_from(listener, partial(self._admit, connections), self._refuse_unadmitted)

    async def _admit(self, connections: trio.Nursery, stream: trio.SocketStream) -> None:
        self.accepted += 1
        decision = self.admission.enter()
        if decision is Decision.CLOSED:
            await trio.aclose_forcefully(stream)
        else:
            connections.start_soon(self._connection, stream, decision)

    async def _refuse_unadmitted(self, stream: trio.SocketStream) -> None:
        await self._connection(stream, self.admission.refuse())

    async def _connection(self, stream: trio.SocketStream, decision: Decision) -> None:
        """Serve or refuse a connection; its exceptions are logged and go no further."""
        try:
            upgraded = None
            if (opened := await self._open(stream)) is not None:
                if decision is Decision.REFUSED:
                    await self._turn_away(opened)
                else:
                    upgraded = await self._greet(opened)
            if upgraded is not None:
                del stream, opened  # the transport has the socket; an idle client keeps one object
                await self._door.serve(*upgraded)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client disconnected or stopped reading during the handshake
        except* Exception:
            log.exception("connection_failed")
        finally:
            self.admission.leave(decision)

    async def _open(self, stream: trio.SocketStream) -> Stream | None:
        """Return the connection, under TLS where that is spoken; None if it has ended."""
        _set_options(stream, self._limits)
        if self._tls is None:
            return stream
        secured, is_ready = TlsStream(stream, self._tls.context), False
        try:
            with trio.move_on_after(self._limits.head_deadline_s):
                await secured.do_handshake()
                is_ready = True
        except trio.BrokenResourceError as error:
            log.debug("tls_handshake_failed", reason=str(error))
            # In clear text, perhaps; if the alert is read at all, then before a reset.
            await self._end(secured)
        finally:
            if not is_ready:
                self.unsecured += 1
                await trio.aclose_forcefully(secured)
        return secured if is_ready else None

    async def _turn_away(self, stream: Stream) -> None:
        """Answer 503 without reading the request."""
        async with stream:
            refusing = refused(self.admission.overloaded())
            await self._refuse(stream, refusing.status, refusing.error, *refusing.headers)

    async def _greet(self, stream: Stream) -> tuple[NativeTransport, AcceptedT] | None:
        """Read the head, and upgrade the connection or serve HTTP; None once it has ended."""
        upgraded = None
        try:
            if (read := await self._read_head(stream)) is None:
                return None
            data, end = read
            taken: tuple[bytes, bytes] | None = (data[:end], data[end:])
            if not self._is_upgrade(data[:end]):
                taken = await self._serve_http(stream, data)
            if taken is not None:
                upgraded = await self._upgrade(stream, *taken)
            return upgraded
        finally:
            if upgraded is None:  # else the socket is the transport's, and this no checkpoint
                await trio.aclose_forcefully(stream)

    async def _serve_http(self, stream: Stream, data: bytes) -> tuple[bytes, bytes] | None:
        """Serve requests until the connection ends, or asks for an upgrade, which is returned."""
        self.http += 1
        try:
            return await self._http.serve(stream, data, takes=self._is_upgrade)
        finally:
            self.http -= 1

    async def _read_head(self, stream: Stream) -> tuple[bytes, int] | None:
        """Read up to the empty line; return what was read, and where the head ends in it."""
        limit = self._limits.head_bytes_max
        data = bytearray()
        end = None
        with trio.move_on_after(self._limits.head_deadline_s):
            while end is None and len(data) <= limit:
                if not (more := await stream.receive_some(limit)):
                    return None
                seen = max(0, len(data) - 2)  # the empty line may be cut in two
                data += more
                end = END_OF_HEAD.search(data, seen)
        if end is not None and end.end() <= limit:
            return bytes(data), end.end()
        if len(data) > limit:
            await self._refuse(stream, 431, Reject("BAD_REQUEST", "the head is too long"))
        elif data:  # not to a browser that connects in advance and asks nothing
            await self._refuse(stream, 408, Reject("BAD_REQUEST", "the head takes too long"))
        return None

    def _is_upgrade(self, head: bytes) -> bool:
        method, _, rest = head.partition(b" ")
        target = rest.partition(b" ")[0].decode("latin-1")
        return (
            method == b"GET"
            and self._owns(target.partition("?")[0])
            and _UPGRADE.search(head) is not None
        )

    async def _upgrade(
        self, stream: Stream, head: bytes, early: bytes
    ) -> tuple[NativeTransport, AcceptedT] | None:
        """Answer the handshake: with 101, returning the transport, or with a refusal and None."""
        request_id = self._world.new_id()
        try:
            request, answer = parse_upgrade(
                head, peer=_peer(stream), new_request_id=request_id, hosts=self._hosts
            )
            request_id = request.request_id
            accepted = await self._door.admit(request)
        except HandshakeRefusedError as refusing:
            await self._refuse(
                stream, refusing.status, refusing.error, *refusing.headers, request_id=request_id
            )
            return None
        try:
            with trio.fail_after(self._limits.write_deadline_s):
                await stream.send_all(answer)
        except BaseException:
            self._door.release(accepted)
            raise
        sock = stream.detach() if isinstance(stream, TlsStream) else detached(stream)
        first = self._limits.authenticate_bytes_max if request.is_deferred else None
        return NativeTransport(sock, self._limits, early, first_bytes_max=first), accepted

    async def _refuse(
        self,
        stream: Stream,
        status: int,
        error: DalsegnoError,
        *headers: tuple[str, str],
        request_id: str | None = None,
    ) -> None:
        """Answer, and read until the client closes: unread bytes would cause a reset instead."""
        answer = refusal(
            status, error, request_id or self._world.new_id(), self._world.now(), *headers
        )
        with trio.move_on_after(self._limits.close_deadline_s):
            await stream.send_all(answer)
            await self._end(stream)

    async def _end(self, stream: Stream) -> None:
        """End our direction, and wait for the end of the client's."""
        with trio.move_on_after(self._limits.close_deadline_s):
            await stream.send_eof()
            while await stream.receive_some(self._limits.head_bytes_max):
                pass


def _set_options(stream: trio.SocketStream, limits: Limits) -> None:
    """Bound what the kernel buffers for a slow reader, and how long it waits for one that is gone.

    A client of an event stream, or of a WebSocket by way of the application, sends no pongs.  That
    it has vanished shows in that nothing sent is acknowledged; by itself the kernel gives up after
    a quarter of an hour.  Trio has set TCP_NODELAY already.
    """
    with suppress(OSError):  # a connection that was reset; the first read fails
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
        if _TCP_USER_TIMEOUT is not None:
            gone_s = max(limits.ping_interval_s + limits.pong_deadline_s, limits.write_deadline_s)
            stream.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(gone_s * 1000))


def _peer(stream: Stream) -> str:
    try:
        address = stream.socket.getpeername()
    except OSError:
        return ""
    return str(address[0]) if isinstance(address, tuple) else ""
