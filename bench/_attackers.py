"""The connections of hostile clients, and whom they belong to."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from ._client import PONG, TextCounter, upgraded

if TYPE_CHECKING:
    from collections import Counter

_READ_BYTES = 1 << 18
_WAIT_S = 0.05
_PATIENCE_S = 0.2
"""How long an answer may come after the end of an attack; then the client hangs up."""
_LENGTH = b"\r\ncontent-length:"
_CURRENT = b'"current_version":'


class Target(msgspec.Struct, frozen=True):
    """Who attacks, and what they may change."""

    port: int
    cookie: str
    csrf_token: str
    workspaces: list[str]
    note: str


class WebSocket:
    """A connection that reads what comes and hardly looks at it."""

    def __init__(self, target: Target, tally: Counter[str]) -> None:
        self._sock, rest = upgraded(target.port, "/ws", target.cookie)
        self._sock.setblocking(False)
        self._tally = tally
        self._poll = select.poll()
        self._unsent = memoryview(b"")
        self._counter = TextCounter(b'{"type":"patch_committed"')
        self._counter.feed(rest)
        self.current_version = 0
        """The version that the last conflict named."""

    def close(self) -> None:
        """Hang up, whatever is under way."""
        self._sock.close()

    @property
    def has_unsent(self) -> bool:
        """Whether the server has not taken all yet."""
        return bool(self._unsent)

    @property
    def committed(self) -> int:
        """Patches that were accepted so far."""
        return self._counter.counted

    @property
    def answered(self) -> int:
        """Answers so far."""
        return self._counter.counted + self._counter.other

    def send(self, data: bytes) -> None:
        """Send this after what is not sent yet."""
        self._unsent = memoryview(bytes(self._unsent) + data if self._unsent else data)

    def exchange(self) -> None:
        """Wait for a moment in which something can be sent or read, and do so.

        Raises:
            OSError: the connection has ended.

        """
        self._poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for _, event in self._poll.poll(1000 * _WAIT_S):
            if event & select.POLLOUT:
                sent = self._sock.send(self._unsent)
                self._tally["bytes"] += sent
                self._unsent = self._unsent[sent:]
            if event & ~select.POLLOUT:
                self._read()

    def _read(self) -> None:
        data = self._sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server hung up")
        before, committed = self.answered, self.committed
        self._counter.feed(data)
        self._tally["answers"] += self.answered - before
        self._tally["committed"] += self.committed - committed
        _, found, version = data.rpartition(_CURRENT)
        if found:
            self.current_version = int(version[: _digits(version)] or b"0")
        if self._counter.pings:
            self._counter.pings = 0
            if not self._unsent:
                self._sock.send(PONG)


def _digits(text: bytes) -> int:
    return next((at for at, byte in enumerate(text) if not 48 <= byte <= 57), len(text))


class Http:
    """A connection that sends requests, one after the other."""

    def __init__(self, target: Target, tally: Counter[str], end: float) -> None:
        """Connect; nothing is waited for long after ``end``, a moment of perf_counter()."""
        self._end = end
        self._sock = socket.create_connection(("127.0.0.1", target.port), self._left_s())
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tally = tally

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _left_s(self) -> float:
        return max(0.0, self._end - time.perf_counter()) + _PATIENCE_S

    def ask(self, request: bytes) -> int:
        """Send a request; return its answer's status.

        Raises:
            OSError: the connection has ended, or is too slow.

        """
        self._sock.settimeout(self._left_s())
        self._sock.sendall(request)
        self._tally["bytes"] += len(request)
        answer = b""
        while (missing := _missing(answer)) > 0:
            more = self._sock.recv(_READ_BYTES if missing == 1 else missing)
            if not more:
                raise ConnectionError("the server hung up")
            answer += more
        status = int(answer[9:12])
        self._tally[f"status {status}"] += 1
        return status


def _missing(answer: bytes) -> int:
    """Return how many bytes of an answer are missing; at least 1 while its head is."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return 1
    _, _, length = head.lower().partition(_LENGTH)
    return int(length.split(b"\r\n")[0] or 0) - len(body)
