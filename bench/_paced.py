"""A load that keeps to a schedule, and a reader that notes when each event comes.

    python -m bench._paced SEED PORT COOKIE WORKSPACE CHARS CURSOR NOTE …

One client a note sends patches, and one more reads the workspace after ``CURSOR``.  A line
on standard input is answered by a line of JSON when all of it was answered and delivered:

``peak SECONDS IN_FLIGHT``
    Every client keeps so many patches in flight.

``paced SECONDS RATE``
    So many patches a second, whatever becomes of them.  A server that stalls for a moment is
    then charged with the patches that were due meanwhile; clients that wait for their answers would
    have held them back, and nothing would show it (*coordinated omission*).

Times are counted from when a patch was due, not from when the load found time to send it; how late
that was is reported too.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from ._client import PONG, upgraded, written
from ._load import Client, Note

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

_READ_BYTES = 1 << 18
_SILENCE_S = 30.0
_TEXT, _PING = 1, 9


class _Delivered(msgspec.Struct, tag_field="type", tag="event"):
    """The fields of an event that identify its patch."""

    event_seq: int
    entity: str
    version: int


class Observer:
    """A reader that decodes what it is sent."""

    def __init__(self, port: int, cookie: str, workspace: str, cursor: int) -> None:
        self.sock, rest = upgraded(port, "/ws", cookie)
        stream_id = f"workspace:{workspace}"
        subscribe = {"type": "subscribe", "stream_id": stream_id, "cursor": cursor}
        self.sock.sendall(written(json.dumps(subscribe)))
        self._buffer = bytearray(rest)
        self._decode = msgspec.json.Decoder(_Delivered).decode
        while b'"type":"subscribed"' not in self._buffer:
            self._buffer += _received(self.sock)
        self.sock.setblocking(False)

    def read(self) -> Iterator[_Delivered]:
        """Read what has arrived, and return its events."""
        self._buffer += _received(self.sock)
        for opcode, payload in self._frames():
            if opcode == _PING:
                self.sock.sendall(PONG)
            elif opcode == _TEXT and payload.startswith(b'{"type":"event"'):
                yield self._decode(payload)

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Take the whole frames (RFC 6455 §5.2); a server's are not masked."""
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            length, head = buffer[at + 1] & 127, 2
            if length > 125:
                head = 4 if length == 126 else 10
                length = int.from_bytes(buffer[at + 2 : at + head])
            if len(buffer) - at < head + length:
                break
            yield buffer[at] & 15, bytes(buffer[at + head : at + head + length])
            at += head + length
        del buffer[:at]


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(_READ_BYTES)
    if not data:
        sys.exit("paced: the server hung up")
    return data


class Paced:
    """The clients, the reader, and what is still in flight."""

    def __init__(self, clients: list[Client], notes: list[Note], observer: Observer) -> None:
        self._clients = clients
        self._note_of = dict(zip(clients, notes, strict=True))
        self._observer = observer
        self._by_number = {client.sock.fileno(): client for client in clients}
        self._epoll = select.epoll()
        for number in (*self._by_number, observer.sock.fileno()):
            self._epoll.register(number, select.EPOLLIN)
        self._due: dict[tuple[str, int], float] = {}
        """When each undelivered patch was due, by note and new version."""
        self._unanswered = 0
        self._receipts: list[float] = []
        self._deliveries: list[float] = []
        self._arrivals: list[tuple[int, float]] = []
        """When each event arrived, in wall time."""
        self._late: list[float] = []

    def obey(self) -> None:
        """Do what the lines on standard input ask for, and keep the connections alive between."""
        while True:
            ready, _, _ = select.select([0, self._epoll.fileno()], [], [])
            if self._epoll.fileno() in ready:
                self._read(_nothing)
            if 0 in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                how, seconds, number = line.split()
                self._run(how, float(seconds), float(number))

    def _run(self, how: str, seconds: float, number: float) -> None:
        for kept in (self._receipts, self._deliveries, self._arrivals, self._late):
            kept.clear()
        cpu, began = time.process_time(), time.perf_counter()
        if how == "peak":
            self._as_fast_as_answered(began + seconds, int(number))
        else:
            self._on_schedule(round(seconds * number), number)
        report = {
            "wall_s": time.perf_counter() - began,
            "cpu_s": time.process_time() - cpu,
            "receipts_s": [round(latency, 6) for latency in self._receipts],
            "deliveries_s": [round(latency, 6) for latency in self._deliveries],
            "arrivals": self._arrivals,
            "late_s": sorted(self._late)[int(0.99 * len(self._late))] if self._late else 0.0,
        }
        print(json.dumps(report), flush=True)

    def _as_fast_as_answered(self, end: float, in_flight: int) -> None:
        def again(client: Client) -> None:
            now = time.perf_counter()
            if now < end:
                self._send(client, now)

        for client in self._clients:
            for _ in range(in_flight):
                self._send(client, time.perf_counter())
        while self._unanswered or self._due:
            self._wait(_SILENCE_S)
            self._read(again)

    def _on_schedule(self, count: int, rate: float) -> None:
        began, sent = time.perf_counter(), 0
        while sent < count or self._unanswered or self._due:
            now = time.perf_counter()
            while sent < count and (due := began + sent / rate) <= now:
                self._send(self._clients[sent % len(self._clients)], due)
                self._late.append(now - due)
                sent += 1
            left_s = began + sent / rate - time.perf_counter() if sent < count else _SILENCE_S
            if self._wait(left_s):
                self._read(_nothing)

    def _send(self, client: Client, due: float) -> None:
        note = self._note_of[client]
        self._due[f"note:{note.note_id}", note.version + 1] = due
        client.send(1)
        client.sent_at[-1] = due
        self._unanswered += 1

    def _wait(self, timeout_s: float) -> bool:
        """Wait for something to read: by `select`, which counts in µs, `epoll` in ms."""
        if select.select([self._epoll.fileno()], [], [], max(0.0, timeout_s))[0]:
            return True
        if timeout_s >= _SILENCE_S:
            sys.exit("paced: nothing more comes")
        return False

    def _read(self, answered: Callable[[Client], None]) -> None:
        for number, _ in self._epoll.poll(0):
            client = self._by_number.get(number)
            if client is None:
                self._observe()
                continue
            count = client.read()
            now = time.perf_counter()
            for _ in range(count):
                self._receipts.append(now - client.sent_at.popleft())
                self._unanswered -= 1
                answered(client)

    def _observe(self) -> None:
        events = list(self._observer.read())
        now, wall = time.perf_counter(), time.time()
        for event in events:
            self._arrivals.append((event.event_seq, wall))
            self._deliveries.append(now - self._due.pop((event.entity, event.version)))


def _nothing(_client: Client) -> None:
    """Send nothing."""


def main() -> None:
    """Connect, and do what is asked for."""
    seed, port, cookie, workspace, chars, cursor, *ids = sys.argv[1:]
    random.seed(int(seed))
    notes = [Note("placed", workspace, note, int(chars)) for note in ids]
    clients = [Client(int(port), cookie, [note]) for note in notes]
    observer = Observer(int(port), cookie, workspace, int(cursor))
    print("ready", flush=True)
    Paced(clients, notes, observer).obey()


if __name__ == "__main__":
    main()
