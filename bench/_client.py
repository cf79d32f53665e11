"""The client's half of a WebSocket in as few steps as possible, so that it is not what is measured.

`websockets` writes the frames: its mask is computed in C.  Incoming messages are told apart by
their frames' headers alone (RFC 6455 §5.2).
"""

from __future__ import annotations

import socket

from websockets.frames import Frame, Opcode

_HEAD_MAX = 10
_UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
_MARK = b'{"type":"'
"""How every message of ours begins."""
PONG = Frame(Opcode.PONG, b"").serialize(mask=True)
"""An answer to a ping that carries nothing."""


def upgraded(
    port: int, path: str, cookie: str = "", *, is_stream: bool = False
) -> tuple[socket.socket, bytes]:
    """Connect on loopback and shake hands; also return what came after the answer.

    Without an upgrade where it is an event stream.
    """
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *([] if is_stream else _UPGRADE),
        *([f"Cookie: {cookie}"] if cookie else []),
    ]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("the handshake ended early")
        answer += more
    head, _, rest = answer.partition(b"\r\n\r\n")
    if (b" 200 " if is_stream else b" 101 ") not in head:
        raise ConnectionError(answer.decode(errors="replace"))
    return sock, rest


def written(text: str | bytes) -> bytes:
    """Write a text message as a client's frame."""
    data = text.encode() if isinstance(text, str) else text
    return Frame(Opcode.TEXT, data).serialize(mask=True)


class TextCounter:
    """Counts the text messages that begin in a certain way."""

    def __init__(self, prefix: bytes) -> None:
        self.counted = 0
        self.other = 0
        """Text messages that begin otherwise."""
        self.pings = 0
        """Pings that were not answered yet."""
        self._prefix = prefix
        self._skip = 0
        self._carry = b""

    def feed(self, data: bytes) -> None:
        """Count what was read."""
        data = self._carry + data
        at, end, prefix = self._skip, len(data), self._prefix
        while at < end:
            length = data[at + 1] & 127 if end - at >= 2 else 0
            head = 2 if length < 126 else 4 if length == 126 else _HEAD_MAX
            if end - at < head + len(prefix) and end - at < head + length:
                break
            if head > 2:
                length = int.from_bytes(data[at + 2 : at + head])
            opcode = data[at] & 15
            self.pings += opcode == Opcode.PING
            if opcode == Opcode.TEXT:
                if data.startswith(prefix, at + head):
                    self.counted += 1
                else:
                    self.other += 1
            at += head + length
        self._skip = max(0, at - end)
        self._carry = data[at:] if at < end else b""


class AnyCounter:
    """Counts the messages of a type in whatever they come: batches, or server-sent events."""

    def __init__(self, prefix: bytes) -> None:
        self.counted = self.other = self.pings = 0
        self._prefix = prefix
        self._carry = b""

    def feed(self, data: bytes) -> None:
        """Count what was read."""
        data, prefix = self._carry + data, self._prefix
        at = 0
        while (found := data.find(_MARK, at)) >= 0:
            if len(data) - found < len(prefix):
                self._carry = data[found:]
                return
            matches = data.startswith(prefix, found)
            self.counted += matches
            self.other += not matches
            at = found + len(_MARK)
        self._carry = data[max(at, len(data) - len(_MARK) + 1) :]
