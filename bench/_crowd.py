"""Many clients that come at once: ``python -m bench._crowd PORT COOKIE``.

Each line on standard input is a JSON object, and is answered with one when all clients are done:

    {"do": "storm", "clients": N, "texts": [T, …], "mark": M}
        N new clients connect; each, once it is accepted, sends all T and reads until it finds M
    {"do": "connect", "clients": N}
        N new clients connect, and wait
    {"do": "say", "texts": [T, …], "mark": M}
        all connected clients send all T at once, and read until they find M
    {"do": "leave"}
        all disconnect, as if their cables were pulled

The latencies of an answer are from the line to when each client was done.  A client that is
refused, or cut off before that, comes back when the server said, or a second later, and is counted.

Sockets and epoll; incoming bytes are searched for the mark and not parsed, so that many readers
cost this process little more than the bytes.
"""

from __future__ import annotations

import heapq
import json
import re
import resource
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from ._client import PONG, written
from ._machine import raise_file_limit

_READ_BYTES = 1 << 18
_READY_MAX = 256
_SILENCE_S = 60.0
_RETRY_S = 1.0
_HEAD_END = b"\r\n\r\n"
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: *([0-9.]+)")
_PING = b"\x89\x00"
"""A ping without a payload; bytes in a message that look like one get a pong too: it is allowed."""
_PULLED = struct.pack("ii", 1, 0)
_FILES = 65_536


class State(Enum):
    """How far a client is."""

    AWAY = auto()
    CONNECTING = auto()
    UPGRADING = auto()
    CONNECTED = auto()
    READING = auto()


class Client:
    """One of many."""

    __slots__ = ("number", "seen", "sock", "state", "unsent")

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.AWAY
        self.seen = b""
        """The head so far; later the end of what was read, in which a mark may begin."""
        self.unsent = memoryview(b"")
        self.sock: socket.socket | None = None


class Crowd:
    """All of them."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port = port
        self._cookie = cookie
        self._clients: list[Client] = []
        self._by_file: dict[int, Client] = {}
        self._epoll = select.epoll()
        self._away: list[tuple[float, int]] = []
        """Clients that come back, and when."""
        self._said = b""
        self._mark = b""
        self._is_storm = False
        self._left = 0
        self._refused = 0
        self._began = 0.0
        self._latencies: list[float] = []
        self._cpu_s = 0.0

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what a line says."""
        self._began, self._cpu_s = time.perf_counter(), _cpu_s()
        self._latencies, self._refused = [], 0
        self._said = b"".join(map(written, order.get("texts", ())))
        self._mark = order.get("mark", "").encode()
        match order["do"]:
            case "leave":
                self._leave()
            case "say":
                self._left = len(self._clients)
                for client in self._clients:
                    self._say(client)
            case "storm" | "connect" as how:
                self._is_storm = how == "storm"
                first = len(self._clients)
                self._clients += map(Client, range(first, first + order["clients"]))
                self._left = order["clients"]
                for client in self._clients[first:]:
                    self._connect(client)
        while self._left:
            self._pump()
        return {
            "wall_s": time.perf_counter() - self._began,
            "cpu_s": _cpu_s() - self._cpu_s,
            "refused": self._refused,
            "latencies_s": [round(latency, 6) for latency in self._latencies],
        }

    def _leave(self) -> None:
        for client in self._clients:
            assert client.sock is not None
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _PULLED)
            client.sock.close()
        self._clients.clear()
        self._by_file.clear()

    def _connect(self, client: Client) -> None:
        client.sock = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.state, client.seen = State.CONNECTING, b""
        sock.connect_ex(("127.0.0.1", self._port))
        self._by_file[sock.fileno()] = client
        self._epoll.register(sock, select.EPOLLOUT)

    def _pump(self) -> None:
        now = time.perf_counter()
        while self._away and self._away[0][0] <= now:
            self._connect(self._clients[heapq.heappop(self._away)[1]])
        timeout_s = self._away[0][0] - now if self._away else _SILENCE_S
        ready = self._epoll.poll(timeout_s, _READY_MAX)
        if not ready and not self._away:
            sys.exit(f"crowd: nothing more comes, {self._left} clients wait")
        for number, events in ready:
            client = self._by_file[number]
            try:
                if events & select.EPOLLOUT and client.state is not State.CONNECTING:
                    self._send(client)
                if events != select.EPOLLOUT or client.state is State.CONNECTING:
                    self._advance(client)
            except ConnectionError:
                self._come_back(client, _RETRY_S)

    def _advance(self, client: Client) -> None:
        assert client.sock is not None
        if client.state is State.CONNECTING:
            error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise ConnectionError(error)
            client.sock.send(self._request(client))
            client.state = State.UPGRADING
            self._epoll.modify(client.sock, select.EPOLLIN)
            return
        data = client.sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server hung up")
        if _PING in data and not client.unsent:
            client.sock.send(PONG)
        if client.state is State.UPGRADING:
            self._upgrade(client, client.seen + data)
        elif client.state is State.READING:
            self._read(client, data)

    def _request(self, client: Client) -> bytes:
        lines = [
            f"GET /ws?client_id=crowd{client.number % 20} HTTP/1.1",
            "Host: 127.0.0.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            f"Cookie: {self._cookie}",
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    def _upgrade(self, client: Client, data: bytes) -> None:
        head, end, rest = data.partition(_HEAD_END)
        if not end:
            client.seen = data
        elif b" 101 " not in head:
            after = _RETRY_AFTER.search(head)
            if after is None:
                sys.exit(f"crowd: {data.decode(errors='replace')}")
            self._come_back(client, float(after[1]))
        else:
            client.state, client.seen = State.CONNECTED, b""
            if not self._is_storm:
                self._done()
                return
            self._say(client)
            if rest:
                self._read(client, rest)

    def _say(self, client: Client) -> None:
        client.state, client.seen = State.READING, b""
        client.unsent = memoryview(self._said)
        self._send(client)

    def _send(self, client: Client) -> None:
        """Send what there is room for, and the rest when there is more."""
        assert client.sock is not None
        waited = len(client.unsent) < len(self._said)
        with suppress(BlockingIOError):
            client.unsent = client.unsent[client.sock.send(client.unsent) :]
        if client.unsent or waited:
            more = select.EPOLLOUT if client.unsent else 0
            self._epoll.modify(client.sock, select.EPOLLIN | more)

    def _read(self, client: Client, data: bytes) -> None:
        data = client.seen + data
        if self._mark in data:
            client.state, client.seen = State.CONNECTED, b""
            self._done()
        else:
            client.seen = data[1 - len(self._mark) :]

    def _done(self) -> None:
        self._latencies.append(time.perf_counter() - self._began)
        self._left -= 1

    def _come_back(self, client: Client, after_s: float) -> None:
        assert client.sock is not None
        self._by_file.pop(client.sock.fileno(), None)
        client.sock.close()
        if client.state is State.CONNECTED:
            sys.exit("crowd: the server hung up on a client that was done")
        client.state = State.AWAY
        self._refused += 1
        heapq.heappush(self._away, (time.perf_counter() + after_s, client.number))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Do what is asked for."""
    port, cookie = sys.argv[1:]
    raise_file_limit(_FILES)
    crowd = Crowd(int(port), cookie)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(crowd.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
