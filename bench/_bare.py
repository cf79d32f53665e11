"""The floor: a process that hands the same bytes to the same number of sockets, and does no more.

No scheduler, no connection state, no slow reader: a loop around `send` with each commit's frames
prepared and joined in advance.  What our delivery path costs beyond this is ours; the rest is the
kernel's.

It prints its port, then answers each ``COMMITS EVENTS`` with the processor time that this took.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

from dalsegno.protocol import Frames

from ._commits import asked, commits, messages

_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def _accepted(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    sock.sendall(_ACCEPTED)
    return sock


def _send(clients: list[socket.socket], head: int, count: int, events: int) -> float:
    ready = [Frames(messages(commit)).wire for commit in commits(head, count, events)]
    cpu = time.process_time()
    for wire in ready:
        for client in clients:
            client.sendall(wire)
    return time.process_time() - cpu


def main() -> None:
    """Serve, and send what is asked for, until the input ends."""
    clients: list[socket.socket] = []
    head = 0
    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as ready:
        print(listener.getsockname()[1], flush=True)
        ready.register(listener, selectors.EVENT_READ)
        ready.register(0, selectors.EVENT_READ)
        while True:
            if any(key.fileobj == 0 for key, _ in ready.select()):
                line = sys.stdin.readline()
                if not line:
                    return
                count, events = asked(line)
                print(_send(clients, head, count, events), flush=True)
                head += count * events
            else:
                clients.append(_accepted(listener))


if __name__ == "__main__":
    main()
