"""Who listens: `sink.c` where there is a C compiler, and else the same in Python.

The Python one takes more time for a message than our server, so what it measures is itself; it is
there so that the benchmark runs everywhere.
"""

from __future__ import annotations

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

from ._client import PONG, TextCounter, upgraded, written
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

    async def wait(self) -> tuple[float, int]:
        """Wait for them; tell the seconds from the first byte to the last, and the bytes."""
        wall, _cpu, size = (await self._process.hear()).split()
        return float(wall), int(size)


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
    """Have clients for the length of a block, each with the answers to what it first said.

    Args:
        folder: where the program may be built.
        port: where the server listens, on loopback.
        connections: how many clients.
        path: what they ask for.
        cookie: with which cookies; none if empty.
        first: what each says then; nothing if empty.
        prefix: how a message begins that counts.
        replies: how many other messages each client is sent before.

    """
    program = await trio.to_thread.run_sync(_build, folder)
    command = [str(program)] if program else python("bench._sink")
    command += [str(port), str(connections), path, cookie, first, prefix, str(replies)]
    async with child("sink", command, core=OTHER_CORE) as process:
        answer = await process.hear()
        assert answer == "ready"
        yield Sink(process, connections=connections, is_python=program is None)


def _build(folder: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    program = folder / "sink"
    if not program.exists():
        subprocess.run([compiler, "-O2", "-o", program, _SOURCE], check=True)
    return program


class _Client:
    """One connection, and how much it has had."""

    def __init__(self, sock: socket.socket, prefix: bytes) -> None:
        self.sock = sock
        self.counter = TextCounter(prefix)
        self.wanted = 0

    def waits(self, replies: int) -> bool:
        """Whether more is to come."""
        return self.counter.counted < self.wanted or self.counter.other < replies

    def answer_pings(self) -> None:
        """Say that we live."""
        if self.counter.pings:
            self.sock.sendall(PONG)
            self.counter.pings = 0


def _drain(selector: selectors.BaseSelector, clients: list[_Client], replies: int) -> float:
    """Read until every client has what it waits for; tell the time of the first byte."""
    first = 0.0
    waiting = sum(client.waits(replies) for client in clients)
    while waiting:
        ready = selector.select(_SILENCE_S)
        if not ready:
            sys.exit("sink: nothing more comes")
        for key, _ in ready:
            client: _Client = key.data
            data = client.sock.recv(_READ_BYTES)
            if not data:
                sys.exit("sink: the server hung up")
            first = first or time.perf_counter()
            waited = client.waits(replies)
            client.counter.feed(data)
            client.answer_pings()
            waiting -= waited and not client.waits(replies)
    return first


def main() -> None:
    """Do what `sink.c` says."""
    port, connections, path, cookie, said, prefix, replies = sys.argv[1:]
    clients = []
    with selectors.DefaultSelector() as selector:
        for _ in range(int(connections)):
            sock, rest = upgraded(int(port), path, cookie)
            client = _Client(sock, prefix.encode())
            client.counter.feed(rest)
            if said:
                sock.sendall(written(said))
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, client)
            clients.append(client)
        _drain(selector, clients, int(replies))
        print("ready", flush=True)
        for line in sys.stdin:
            for client in clients:
                client.wanted += int(line)
            before = sum(client.counter.bytes for client in clients)
            cpu = time.process_time()
            print("go", flush=True)
            wall_s = -_drain(selector, clients, 0) + time.perf_counter()
            size = sum(client.counter.bytes for client in clients) - before
            print(f"{wall_s:.6f} {time.process_time() - cpu:.6f} {size}", flush=True)


if __name__ == "__main__":
    main()
