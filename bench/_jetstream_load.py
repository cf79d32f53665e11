"""The load of NATS JetStream: publishers that wait for each ack, as fast as they get them.

    python -m bench._jetstream_load PORT BYTES PUBLISHERS

It makes a stream with file storage, and connects the publishers.  Its lines are those of `_load`:
``SECONDS CLIENTS IN_FLIGHT``, answered with JSON; more than one in flight is not asked for.

The protocol is NATS's own (docs.nats.io, "Client Protocol"): ``PUB subject inbox length``, and the
ack is a message to that inbox, as the answer to every request of JetStream is.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import deque

from ._load import Load

_READ_BYTES = 1 << 16
_SUBJECT = "bench"
_STREAM = {"name": "BENCH", "subjects": [_SUBJECT], "storage": "file", "num_replicas": 1}


class Publisher:
    """One connection with an inbox of its own, and one message in flight at most."""

    def __init__(self, port: int, number: int, payload: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at: deque[float] = deque()
        self._inbox = f"inbox.{number}"
        self._publish = self._request(_SUBJECT, payload)
        self._said = b""
        self.sock.sendall(b'CONNECT {"verbose":false}\r\n' + f"SUB {self._inbox} 1\r\n".encode())

    def _request(self, subject: str, payload: bytes) -> bytes:
        return f"PUB {subject} {self._inbox} {len(payload)}\r\n".encode() + payload + b"\r\n"

    def create_stream(self) -> None:
        """Make the stream, and wait until it is there."""
        create = f"$JS.API.STREAM.CREATE.{_STREAM['name']}"
        self.sock.sendall(self._request(create, json.dumps(_STREAM).encode()))
        while not self._answers():
            pass

    def send(self, count: int) -> None:
        """Publish the message."""
        self.sock.sendall(self._publish * count)
        self.sent_at.append(time.perf_counter())

    def read(self) -> int:
        """Read what has arrived; return 1 if the ack is complete."""
        return int(self._answers())

    def _answers(self) -> bool:
        """Read once; return whether there is an answer to what was sent."""
        data = self.sock.recv(_READ_BYTES)
        self._said += data
        if not data or b'"error"' in self._said or b"-ERR" in self._said:
            sys.exit(f"jetstream load: {self._said.decode(errors='replace')[-500:]}")
        if self._said.endswith(b"PING\r\n"):
            self.sock.sendall(b"PONG\r\n")
        if b"}\r\n" not in self._said.partition(b"MSG ")[2]:
            return False
        self._said = b""
        return True


def main() -> None:
    """Connect, and do what is asked for."""
    port, payload_bytes, count = map(int, sys.argv[1:])
    publishers = [Publisher(port, number, b"x" * payload_bytes) for number in range(count)]
    publishers[0].create_stream()
    load = Load(publishers)
    print("ready", flush=True)
    while line := load.idle():
        seconds, clients, in_flight = line.split()
        print(load.run(float(seconds), int(clients), int(in_flight)), flush=True)


if __name__ == "__main__":
    main()
