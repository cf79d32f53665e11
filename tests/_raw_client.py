"""The client's end of a WebSocket that sends what it is told to, right or wrong."""

from __future__ import annotations

import trio
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader


class RawClient:
    """Sends what it is told to, right or wrong, and takes frames apart."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self._reader = StreamReader()

    async def send(self, *frames: Frame) -> None:
        await self.stream.send_all(b"".join(frame.serialize(mask=True) for frame in frames))

    async def frame(self) -> tuple[Opcode, bytes]:
        parser = Frame.parse(self._reader.read_exact, mask=False)
        while True:
            try:
                next(parser)
            except StopIteration as parsed:
                return parsed.value.opcode, bytes(parsed.value.data)
            data = await self.stream.receive_some()
            assert data, "the connection ended instead of a frame"
            self._reader.feed_data(data)

    async def closed(self) -> tuple[int, str]:
        opcode, payload = await self.frame()
        assert opcode is Opcode.CLOSE
        return int.from_bytes(payload[:2]), payload[2:].decode()

    async def upgrade(
        self, host: str, cookie: str = "", *, offers: str = "", path: str = "/ws"
    ) -> str:
        """Upgrade a new connection, and take nothing of what follows the head; return that."""
        more = f"Cookie: {cookie}\r\n" if cookie else ""
        more += f"Sec-WebSocket-Protocol: {offers}\r\n" if offers else ""
        await self.stream.send_all(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"{more}\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            received = await self.stream.receive_some()
            assert received, head
            head += received
        head, _, early = head.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        self._reader.feed_data(early)
        return head.decode()
