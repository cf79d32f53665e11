"""A client that keeps time beside the attackers: ``python -m bench._neighbour SEED PORT COOKIE
WORKSPACE NOTE CHARS``.

Each line on standard input, ``RATE SECONDS``, sends a short patch at fixed moments, so many a
second for so long, whatever became of the ones before (an open loop).  When all are answered, a
line of JSON has the seconds from each patch's moment to its answer, and how many were refused.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from collections import deque

from ._client import PONG, TextCounter, upgraded
from ._load import Note

_READ_BYTES = 1 << 18
_SILENCE_S = 60.0
_PREFIXES = b'{"type":"patch_committed"', b'{"type":"heartbeat"'
_CURRENT = b'"current_version":'


class Neighbour:
    """One connection with one note."""

    def __init__(self, port: int, cookie: str, note: Note) -> None:
        self._sock, rest = upgraded(port, "/ws", cookie)
        self._note = note
        self._counters = tuple(map(TextCounter, _PREFIXES))
        self._feed(rest)
        self._epoll = select.epoll()
        self._epoll.register(self._sock, select.EPOLLIN)
        self._due: deque[float] = deque()
        """When each patch was due that is not answered yet."""
        self._latencies: list[float] = []

    def beat(self, rate: float, seconds: float) -> str:
        """Send patches on schedule, and wait for the answers."""
        self._latencies = []
        refused = 0
        began = time.perf_counter()
        for number in range(max(1, round(rate * seconds))):
            due = began + number / rate
            while (left := due - time.perf_counter()) > 0:
                refused += self._read(left)
            self._due.append(due)
            self._sock.sendall(self._note.patch())
        while self._due:
            refused += self._read(_SILENCE_S)
        wall_s = time.perf_counter() - began
        latencies = [round(latency, 6) for latency in self._latencies]
        return json.dumps({"wall_s": wall_s, "refused": refused, "latencies_s": latencies})

    def _read(self, timeout_s: float) -> int:
        """Take what has arrived; return how many patches were refused."""
        if not self._epoll.poll(timeout_s):
            if timeout_s == _SILENCE_S:
                sys.exit("neighbour: nothing more comes")
            return 0
        data = self._sock.recv(_READ_BYTES)
        if not data:
            sys.exit("neighbour: the server hung up")
        now = time.perf_counter()
        committed, refused = self._feed(data)
        for _ in range(committed + refused):
            self._latencies.append(now - self._due.popleft())
        if refused:
            # Those behind it are refused as well, until the note's version is known again.
            _, found, version = data.rpartition(_CURRENT)
            self._note.version = int(version.split(b",")[0]) if found else self._note.version
        if self._counters[0].pings:
            self._sock.sendall(PONG)
            self._counters[0].pings = 0
        return refused

    def _feed(self, data: bytes) -> tuple[int, int]:
        """Return how many patches were committed, and how many refused."""
        commits, beats = self._counters
        committed, refused = commits.counted, commits.other - beats.counted
        commits.feed(data)
        beats.feed(data)
        return commits.counted - committed, commits.other - beats.counted - refused


def main() -> None:
    """Connect, and beat as asked."""
    seed, port, cookie, workspace, note, chars = sys.argv[1:]
    random.seed(int(seed))
    neighbour = Neighbour(int(port), cookie, Note("placed", workspace, note, int(chars)))
    print("ready", flush=True)
    for line in sys.stdin:
        rate, seconds = line.split()
        print(neighbour.beat(float(rate), float(seconds)), flush=True)


if __name__ == "__main__":
    main()
