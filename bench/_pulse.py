"""A writer that keeps time, and readers that note when each event reaches them.

    python -m bench._pulse SEED PORT COOKIE WORKSPACE NOTE OTHER CHARS READERS

Every reader follows the note, and none of them the other one.  ``beat RATE COUNT`` sends so many
patches at fixed moments, so many a second, whatever became of the ones before (an open loop:
nothing waits for a late one); the answer has the seconds from each patch's moment to where each
reader had its event, in a line of JSON when every reader has everything.  ``flood COUNT`` sends
long patches of the other note, each when the last one was answered.

One process, so that there is one clock; sockets and epoll, and nothing is decoded.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time

from ._client import PONG, TextCounter, upgraded, written
from ._load import Note

_READ_BYTES = 1 << 18
_SILENCE_S = 30.0
_EVENT = b'{"type":"event"'
_COMMITTED = b'{"type":"patch_committed"'
_REFUSED = b'"code":"'
_LONG_CHARS = 8_000


class Follower:
    """A connection, and how many messages of one kind it has had."""

    def __init__(self, port: int, cookie: str, prefix: bytes) -> None:
        self.sock, rest = upgraded(port, "/ws", cookie)
        self.counter = TextCounter(prefix)
        self.counter.feed(rest)

    def read(self) -> int:
        """Read what has arrived; return how many messages it was."""
        before = self.counter.counted
        data = self.sock.recv(_READ_BYTES)
        if not data or _REFUSED in data:
            sys.exit(f"pulse: {data.decode(errors='replace')[-500:] or 'the server hung up'}")
        self.counter.feed(data)
        if self.counter.pings:
            self.sock.sendall(PONG)
            self.counter.pings = 0
        return self.counter.counted - before


class Pulse:
    """The writer and the readers."""

    def __init__(
        self, port: int, cookie: str, workspace: str, notes: tuple[str, str], chars: int
    ) -> None:
        note, other = notes
        self._port, self._cookie = port, cookie
        self._note = Note("placed", workspace, note, chars)
        self._long = (
            f'{{"type":"apply_patch","workspace_id":"{workspace}","note_id":"{other}",'
            f'"patch_ops":[{{"insert":"{"z" * _LONG_CHARS}"}},{{"delete":{_LONG_CHARS}}}],'
            '"base_version":'
        )
        self._long_version = 1
        self._writer = Follower(port, cookie, _COMMITTED)
        self._readers: list[Follower] = []
        self._epoll = select.epoll()
        self._by_file = {self._writer.sock.fileno(): self._writer}
        self._epoll.register(self._writer.sock, select.EPOLLIN)
        self._latencies: list[float] = []
        self._due = [time.perf_counter()]
        """When each event was to be sent; the first is the note's creation, long ago."""

    def follow(self, readers: int, first: str) -> None:
        """Connect readers, each with a first message, and wait until they have caught up."""
        for _ in range(readers):
            reader = Follower(self._port, self._cookie, _EVENT)
            self._readers.append(reader)
            self._by_file[reader.sock.fileno()] = reader
            self._epoll.register(reader.sock, select.EPOLLIN)
            reader.sock.sendall(written(first))
        self._catch_up()

    def beat(self, rate: float, count: int) -> str:
        """Send short patches on schedule, and wait until every reader has them."""
        self._latencies = []
        began = time.perf_counter()
        for number in range(count):
            due = began + number / rate
            while (left := due - time.perf_counter()) > 0:
                self._read(left)
            self._due.append(due)
            self._writer.sock.sendall(self._note.patch())
        self._catch_up()
        assert len(self._latencies) == count * len(self._readers)
        return json.dumps(
            {
                "wall_s": time.perf_counter() - began,
                "latencies_s": [round(latency, 6) for latency in self._latencies],
            }
        )

    def flood(self, count: int) -> str:
        """Send long patches, one after the other."""
        for _ in range(count):
            answered = self._writer.counter.counted
            self._writer.sock.sendall(written(f"{self._long}{self._long_version}}}"))
            self._long_version += 1
            while self._writer.counter.counted == answered:
                self._read(_SILENCE_S)
        return "{}"

    def _catch_up(self) -> None:
        while any(reader.counter.counted < len(self._due) for reader in self._readers):
            if not self._read(_SILENCE_S):
                sys.exit("pulse: nothing more comes")

    def _read(self, timeout_s: float) -> bool:
        """Take what has arrived; return whether there was anything."""
        ready = self._epoll.poll(timeout_s)
        for file, _ in ready:
            follower = self._by_file[file]
            before = follower.counter.counted
            came = follower.read()
            if follower is not self._writer:
                now = time.perf_counter()
                self._latencies += [now - due for due in self._due[before : before + came]]
        return bool(ready)


def main() -> None:
    """Connect, and do what is asked for."""
    seed, port, cookie, workspace, note, other, chars, readers = sys.argv[1:]
    random.seed(int(seed))
    pulse = Pulse(int(port), cookie, workspace, (note, other), int(chars))
    subscribe = {"type": "subscribe", "stream_id": f"note:{note}", "cursor": 0}
    pulse.follow(int(readers), json.dumps(subscribe))
    print("ready", flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "beat":
            print(pulse.beat(float(numbers[0]), int(numbers[1])), flush=True)
        else:
            print(pulse.flood(int(numbers[0])), flush=True)


if __name__ == "__main__":
    main()
