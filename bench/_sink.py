"""The readers: `sink.c` if there is a C compiler, else the same in Python.

The Python one takes more time for a message than our server, so what it measures is itself; it
exists so that the benchmark runs everywhere.
"""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ._client import PONG, AnyCounter, TextCounter, upgraded, written
from ._processes import OTHER_CORE, Child, child, python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SOURCE = Path(__file__).with_name("sink.c")
_READ_BYTES = 1 << 20
_SILENCE_S = 30.0


class Sink:
    """Many clients in a process of their own."""

    def __init__(self, process: Child, *, connections: int, is_python: bool) -> None:
        self.connections = connections
        self.is_python = is_python
        self._process = process

    async def expect(self, messages: int) -> None:
        """Begin to wait for so many messages on each connection."""
        answer = await self._process.ask(str(messages))
        assert answer == "go"

    async def wait(self) -> float:
        """Wait for them; return the seconds from the first byte to the last."""
        return float(await self._process.hear())


@asynccontextmanager
async def sink(
    folder: Path,
    port: int,
    *,
    connections: int,
    path: str = "/",
    cookie: str = "",
    first: str = "",
    prefix: str,
    replies: int = 0,
) -> AsyncIterator[Sink]:
    """Open clients for the length of a block, each after the answers to its first message.

    Args:
        folder: where the program may be built.
        port: where the server listens, on loopback.
        connections: how many clients.
        path: what they request; empty if they speak NATS, which the Python one cannot.
        cookie: with which cookies; none if empty.
        first: what each sends then; nothing if empty.
        prefix: how a message begins that counts; with a star before it, wherever that is in what
            comes, of a path that ends with ``/events`` without an upgrade.
        replies: how many other messages each client is sent before.

    """
    program = await trio.to_thread.run_sync(_build, folder)
    command = [str(program)] if program else python("bench._sink")
    command += [str(port), str(connections), path, cookie, first, prefix, str(replies)]
    async with child("sink", command, core=OTHER_CORE) as process:
        answer = await process.hear()
        assert answer == "ready"
        yield Sink(process, connections=connections, is_python=program is None)


def compiler() -> str | None:
    """Find a compiler for `sink.c`, on a system that it supports."""
    is_linux = sys.platform.startswith("linux")
    return (shutil.which("cc") or shutil.which("gcc")) if is_linux else None


def _build(folder: Path) -> Path | None:
    found = compiler()
    if found is None:
        return None
    program = folder / "sink"
    if not program.exists():
        subprocess.run([found, "-O2", "-o", program, _SOURCE], check=True)
    return program


class _Client:
    """One connection, and how much it has had."""

    def __init__(self, sock: socket.socket, prefix: str) -> None:
        self.sock = sock
        self.counter: TextCounter | AnyCounter
        if prefix.startswith("*"):
            self.counter = AnyCounter(prefix[1:].encode())
        else:
            self.counter = TextCounter(prefix.encode())
        self.wanted = 0

    def waits(self, replies: int) -> bool:
        """Whether more is to come."""
        return self.counter.counted < self.wanted or self.counter.other < replies

    def read(self) -> None:
        """Count what has arrived, and answer pings."""
        data = self.sock.recv(_READ_BYTES)
        if not data:
            sys.exit("sink: the server hung up")
        self.counter.feed(data)
        if self.counter.pings:
            self.sock.sendall(PONG)
            self.counter.pings = 0


class _Clients:
    """All of them."""

    def __init__(self, clients: list[_Client], replies: int) -> None:
        self._clients = clients
        self._replies = replies
        self._first_s = 0.0
        self._selector = selectors.DefaultSelector()
        for client in clients:
            self._selector.register(client.sock, selectors.EVENT_READ, client)

    def take_lines(self) -> None:
        """Look at standard input from now on."""
        self._selector.register(0, selectors.EVENT_READ, None)

    def pump(self, timeout_s: float | None = None) -> bool:
        """Read what has arrived; return whether there is something on standard input."""
        ready = self._selector.select(timeout_s)
        if not ready:
            sys.exit("sink: nothing more comes")
        for key, _ in ready:
            if key.data is not None:
                self._first_s = self._first_s or time.perf_counter()
                key.data.read()
        return any(key.data is None for key, _ in ready)

    def drain(self) -> None:
        """Read until every client has what it waits for."""
        while any(client.waits(self._replies) for client in self._clients):
            self.pump(_SILENCE_S)

    def answer(self) -> bool:
        """Answer one line on standard input; return whether there was one."""
        line = os.read(0, 64)
        if not line:
            return False
        for client in self._clients:
            client.wanted += int(line)
        self._first_s = 0.0
        print("go", flush=True)
        self.drain()
        print(f"{time.perf_counter() - self._first_s:.6f}", flush=True)
        return True


def main() -> None:
    """Do what `sink.c` does."""
    port, connections, path, cookie, first, prefix, replies = sys.argv[1:]
    clients = []
    for _ in range(int(connections)):
        is_stream = prefix.startswith("*") and path.endswith("/events")
        sock, rest = upgraded(int(port), path, cookie, is_stream=is_stream)
        client = _Client(sock, prefix)
        client.counter.feed(rest)
        if first:
            sock.sendall(written(first))
        clients.append(client)
    together = _Clients(clients, int(replies))
    together.drain()
    print("ready", flush=True)
    together.take_lines()
    while not together.pump() or together.answer():
        pass


if __name__ == "__main__":
    main()
