"""The load: WebSocket clients that each change a note of their own, as fast as they are answered.

    python -m bench._load SEED FORM PORT COOKIE WORKSPACE CHARS NOTES …

One client for each of ``NOTES``, which are one note's id, or several with commas between them that
the client changes in turn; a note of another workspace is ``workspace/note``.  No two clients have
the same one, since a client has to know the version of the note that it changes: one that does not
wait for its answers numbers its patches in advance.

Each line on standard input, ``SECONDS CLIENTS IN_FLIGHT``, lets the first ``CLIENTS`` clients keep
``IN_FLIGHT`` patches in flight each, or, if that is 0, lets one after the other send a patch when
the last one was answered.  The answer is a line of JSON when nothing is in flight.  The line
``follow NOTE …`` lets the first client follow these notes; it is answered when that has begun.

An answer is counted for a client's oldest patch; with several workspaces, which answer in no common
order, only the mean of the latencies is right.

A patch names its note; in the form ``placed`` also the workspace, and in the form ``keyed`` an
idempotency key beside that.  ``bare`` names the note alone: the server has to find its workspace.

Sockets, epoll and prepared texts, and nothing is decoded: the load must not be what is measured.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from collections import deque
from itertools import cycle
from typing import TYPE_CHECKING, Protocol

from ._client import PONG, TextCounter, upgraded, written

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

_PATCH_CHARS = 20
_READ_BYTES = 1 << 18
_SILENCE_S = 30.0
_COMMITTED = b'{"type":"patch_committed"'
_BAD = (b'"type":"error"', b'"type":"patch_rejected"')


class Note:
    """The patches of one note, one after the other; the note keeps its length."""

    def __init__(self, form: str, workspace: str, note: str, chars: int) -> None:
        self.note_id = note
        self.version = 1
        self._places = chars - _PATCH_CHARS
        self._is_keyed = form == "keyed"
        placed = "" if form == "bare" else f'"workspace_id":"{workspace}",'
        self._head = f'{{"type":"apply_patch",{placed}"note_id":"{note}"'
        self._tail = f'}},{{"insert":"{"y" * _PATCH_CHARS}"}},{{"delete":{_PATCH_CHARS}}}]}}'

    def patch(self) -> bytes:
        """Write the next one, on top of the last."""
        version, place = self.version, random.randrange(self._places)
        self.version += 1
        key = f',"idempotency_key":"patch {version}"' if self._is_keyed else ""
        ops = f'"patch_ops":[{{"retain":{place}{self._tail}'
        return written(f'{self._head}{key},"base_version":{version},{ops}')


class Client:
    """One connection and its notes."""

    def __init__(self, port: int, cookie: str, notes: Sequence[Note]) -> None:
        self.sock, rest = upgraded(port, "/ws", cookie)
        self.sock.setblocking(False)
        self.sent_at: deque[float] = deque()
        self._counter = TextCounter(_COMMITTED)
        self._counter.feed(rest)
        self._notes = cycle(notes)
        self._unsent = b""

    def send(self, count: int) -> None:
        """Send so many patches, of one note after the other."""
        frames = [next(self._notes).patch() for _ in range(count)]
        self._write(b"".join([self._unsent, *frames]))
        self.sent_at.extend([time.perf_counter()] * count)

    def follow(self, notes: Sequence[str]) -> None:
        """Subscribe to some notes, and wait until all subscriptions have begun."""
        self.sock.setblocking(True)
        for note in notes:
            # One after the other: the server bounds how many begin at a time.
            subscribe = {"type": "subscribe", "stream_id": f"note:{note}", "cursor": 1}
            self.sock.sendall(written(json.dumps(subscribe)))
            answered = self._counter.other
            while self._counter.other == answered:
                data = self.sock.recv(_READ_BYTES)
                if not data or any(bad in data for bad in _BAD):
                    sys.exit(f"load: {data.decode(errors='replace')[-500:]}")
                self._counter.feed(data)
        self.sock.setblocking(False)

    def _write(self, data: bytes) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:]

    def read(self) -> int:
        """Read what has arrived; return how many patches it answers."""
        data = self.sock.recv(_READ_BYTES)
        if not data or any(bad in data for bad in _BAD):
            sys.exit(f"load: {data.decode(errors='replace')[-500:] or 'the server hung up'}")
        before = self._counter.counted
        self._counter.feed(data)
        if self._counter.pings:
            self._write(self._unsent + PONG)
            self._counter.pings = 0
        elif self._unsent:
            self._write(self._unsent)
        return self._counter.counted - before


class Asks(Protocol):
    """What a load needs of a client, whatever it speaks."""

    sock: socket.socket
    sent_at: deque[float]
    """When each of those was sent that are not answered yet, the oldest first."""

    def send(self, count: int) -> None:
        """Send so many."""

    def read(self) -> int:
        """Read what has arrived; return how many it answers."""


class Load:
    """All the clients."""

    def __init__(self, clients: Sequence[Asks]) -> None:
        self._clients = clients
        self._by_number = {client.sock.fileno(): client for client in clients}
        self._epoll = select.epoll()
        self._latencies: list[float] = []
        self._turns: Iterator[Asks] | None = None
        """Whose turn is next, where only one patch may be on its way."""
        for client in clients:
            self._epoll.register(client.sock, select.EPOLLIN)

    def idle(self) -> str:
        """Keep the connections alive until there is a line on standard input."""
        with select.epoll() as epoll:
            epoll.register(self._epoll.fileno(), select.EPOLLIN)
            epoll.register(0, select.EPOLLIN)
            while all(number != 0 for number, _ in epoll.poll()):
                self._read(end=0.0)
        return sys.stdin.readline()

    def run(self, seconds: float, clients: int, in_flight: int) -> str:
        """Run the clients, and return their figures."""
        self._latencies = []
        cpu, began = time.process_time(), time.perf_counter()
        first = self._clients[:clients]
        self._turns = None if in_flight else cycle(first)
        for client in first if self._turns is None else [next(self._turns)]:
            client.send(in_flight or 1)
        while any(client.sent_at for client in self._clients):
            self._read(end=began + seconds)
        return json.dumps(
            {
                "wall_s": time.perf_counter() - began,
                "cpu_s": time.process_time() - cpu,
                "latencies_s": [round(latency, 6) for latency in self._latencies],
            }
        )

    def _read(self, end: float) -> None:
        """Take the answers that have arrived, and send as many new patches unless time is up."""
        ready = self._epoll.poll(_SILENCE_S)
        if not ready:
            sys.exit("load: nothing more comes")
        for number, _ in ready:
            client = self._by_number[number]
            answered = client.read()
            now = time.perf_counter()
            for _ in range(answered):
                self._latencies.append(now - client.sent_at.popleft())
            if answered and now < end:
                (client if self._turns is None else next(self._turns)).send(answered)


def _note(place: str, form: str, workspace: str, chars: int) -> Note:
    elsewhere, _, note = place.rpartition("/")
    return Note(form, elsewhere or workspace, note, chars)


def main() -> None:
    """Connect, and do what is asked for."""
    seed, form, port, cookie, workspace, chars, *clients = sys.argv[1:]
    random.seed(int(seed))
    connected = [
        Client(
            int(port),
            cookie,
            [_note(place, form, workspace, int(chars)) for place in places.split(",")],
        )
        for places in clients
    ]
    load = Load(connected)
    print("ready", flush=True)
    while line := load.idle():
        words = line.split()
        if words[0] == "follow":
            connected[0].follow(words[1:])
            print("{}", flush=True)
        else:
            seconds, first, in_flight = words
            print(load.run(float(seconds), int(first), int(in_flight)), flush=True)


if __name__ == "__main__":
    main()
