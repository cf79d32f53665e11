"""A WebSocket by hand, light enough for a thousand of them in one process (RFC 6455)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from ._processes import Owner

_UPGRADE = (
    "GET /ws?client_id={client_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\nCookie: {cookie}\r\n\r\n"
)
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_NO_MASK = bytes(4)
"""A mask of zeros is valid, and leaves a payload as it is."""

_decode = msgspec.json.Decoder().decode

Message = dict[str, Any]


class RefusedError(Exception):
    """The answer was not a WebSocket handshake."""


class SignedOutError(Exception):
    """The session has ended: no server will ever accept it."""


class EndedError(Exception):
    """The server has ended the connection; 1006 without a close frame (RFC 6455 §7.4.1)."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code


class Socket:
    """A connection that sends and receives JSON."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()
        self._in_turn = trio.StrictFIFOLock()

    async def say(self, type_: str, **fields: object) -> None:
        await self._send(_TEXT, msgspec.json.encode({"type": type_, **fields}))

    async def hear(self) -> Message:
        """Wait for the next message; raise `EndedError` if there are no more."""
        while True:
            message: Message = _decode(await self.hear_text())
            if message["type"] != "heartbeat":
                return message

    async def hear_text(self) -> str:
        """… as it is, heartbeats too."""
        while True:
            opcode, payload = await self._frame()
            if opcode == _TEXT:
                return payload.decode()
            if opcode == _PING:
                await self._send(_PONG, payload)
            elif opcode == _CLOSE:
                raise EndedError(int.from_bytes(payload[:2]), payload[2:].decode())

    async def hear_type(self, type_: str) -> Message:
        """Skip messages until one of a type."""
        while (message := await self.hear())["type"] != type_:
            pass
        return message

    async def subscribe(self, owner: Owner, cursor: int | str | None = 0) -> Message:
        await self.say("subscribe", stream_id=f"workspace:{owner.workspace}", cursor=cursor)
        return await self.hear_answer("subscribed")

    async def hear_answer(self, type_: str) -> Message:
        """Skip events until the answer; a refusal instead of it, which nothing follows, fails."""
        while (message := await self.hear())["type"] != type_:
            assert message["type"] not in {"error", "rejected"}, message
        return message

    async def create_note(self, owner: Owner, title: str) -> None:
        """Request a note; whichever task receives gets the answer."""
        fields = {"note_id": None, "title": title}
        await self.say(
            "command",
            workspace_id=owner.workspace,
            name="create_note",
            payload=fields,
            idempotency_key=title,
        )

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def open(self, port: int, owner: Owner, client_id: str) -> None:
        head = _UPGRADE.format(port=port, cookie=owner.cookie, client_id=client_id)
        await self.stream.send_all(head.encode())
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        answer, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            refused = SignedOutError if answer.startswith(b"HTTP/1.1 401") else RefusedError
            raise refused(answer.decode())
        self._buffer[:] = rest

    async def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2)
        async with self._in_turn:
            await self.stream.send_all(bytes([0x80 | opcode]) + length + _NO_MASK + payload)

    async def _frame(self) -> tuple[int, bytes]:
        await self._need(2)
        head, size = 2, self._buffer[1]
        if size >= 126:
            head += 2 if size == 126 else 8
            await self._need(head)
            size = int.from_bytes(self._buffer[2:head])
        await self._need(head + size)
        opcode, payload = self._buffer[0] & 0xF, bytes(self._buffer[head : head + size])
        del self._buffer[: head + size]
        return opcode, payload

    async def _need(self, size: int) -> None:
        while len(self._buffer) < size:
            await self._more()

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise EndedError(1006)
        self._buffer += data


@asynccontextmanager
async def open_socket(
    port: int, owner: Owner, *, client_id: str = "default", receive_buffer: int | None = None
) -> AsyncIterator[Socket]:
    """Connect for the length of a block; ``receive_buffer`` is the kernel's, in bytes."""
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    with sock:
        await sock.connect(("127.0.0.1", port))
        socket = Socket(trio.SocketStream(sock))
        await socket.open(port, owner, client_id)
        yield socket
