"""A server that runs out of file descriptors goes on, and says so."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from dalsegno.runtime.resources import raise_descriptor_limit
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.system._processes import Owner, Processes, Server
from tests.system._socket import Socket, open_socket

LIMIT = 1024
IDLE = 1100
NO_HURRY = {"DALSEGNO_LIMIT_HEAD_DEADLINE_S": "120"}
"""So that a connection that asks nothing stays for the length of a test."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="another process's limits, and /proc")


@asynccontextmanager
async def idle(server: Server, count: int) -> AsyncIterator[list[trio.SocketStream]]:
    """Connections that ask nothing, for the length of a block."""
    raise_descriptor_limit()  # they are this process's, too
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(count):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            streams.append(await stack.enter_async_context(stream))
        yield streams


async def committed(socket: Socket, owner: Owner, title: str) -> None:
    """Create a note; sent again as a client does, under its key, while the database is away."""
    with fail_after(20):
        await socket.create_note(owner, title)
        while (answer := await socket.hear())["type"] != "committed":
            assert answer["code"] == "STORE_UNAVAILABLE", answer
            await socket.create_note(owner, title)


async def asked(server: Server) -> int:
    """The status of a request on a connection of its own; 0 if that is closed without one."""
    async with httpx.AsyncClient(**PLAIN) as http:
        try:
            return (await http.get(f"{server.url}/healthz")).status_code
        except httpx.TransportError:
            return 0


async def until_answered(server: Server, status: int) -> None:
    with fail_after(20):
        while await asked(server) != status:
            await trio.sleep(0.05)


async def test_more_connections_than_descriptors_end_nothing(
    processes: Processes, data_dir: Path, owner: Owner
) -> None:
    server = Server(processes, data_dir, environment=NO_HURRY, descriptors=(LIMIT, LIMIT))
    process = await server.start()
    async with open_socket(server.port, owner) as socket:
        await committed(socket, owner, "before")
        async with idle(server, IDLE):
            await committed(socket, owner, "meanwhile")
            await until_answered(server, 503)
            first = server.postmaster()
            os.kill(first, signal.SIGKILL)  # what looks after it has descriptors left
            await until(lambda: server.postmaster() not in {0, first})
            assert process.is_running
        await committed(socket, owner, "afterwards")
        await until_answered(server, 200)
    assert "accept_failed" not in process.err
    assert await server.stop() == 0


@linux
async def test_the_soft_limit_is_raised_to_the_hard_one(
    processes: Processes, data_dir: Path
) -> None:
    server = Server(processes, data_dir, descriptors=(256, 2048))
    process = await server.start()
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (2048, 2048)
    assert await server.stop() == 0


@linux
async def test_what_could_not_look_for_want_of_a_descriptor_looks_again(
    processes: Processes, data_dir: Path, owner: Owner
) -> None:
    server = Server(processes, data_dir, environment=NO_HURRY)
    process = await server.start()
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    async with open_socket(server.port, owner) as socket:
        await committed(socket, owner, "before")
        # Somebody else takes what it had reckoned with: here, by lowering the limit.
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.open_files + 16, before[1]))
        async with idle(server, 32):
            await until(lambda: "could not look after PostgreSQL" in process.err)
            await until(lambda: "accept_failed" in process.err)
            assert process.is_running
            await until_answered(server, 503)
            await committed(socket, owner, "meanwhile")
            await until(lambda: process.err.count("could not look after PostgreSQL") > 1)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        await until_answered(server, 200)
        first = server.postmaster()
        os.kill(first, signal.SIGKILL)
        await until(lambda: "was started again" in process.err)
        await committed(socket, owner, "afterwards")
    assert await server.stop() == 0
