"""Many readers over real sockets: all at once, beside one that never reads, or all of them stopped.

What the server holds for them is bounded, its share of the kernel's memory included, and a client
that reads again gets every event, on the same connection or by cursor on the next (X-BP-1, X-BP-2).
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress

import msgspec
import pytest
import trio

from dalsegno.protocol import Limits
from tests._patience import fail_after, until
from tests.runtime._blocks import following
from tests.runtime._serving import Person
from tests.system._database import Database
from tests.system._processes import Owner, Processes, Server
from tests.system._proxy import Proxy, open_proxy
from tests.system._socket import EndedError, RefusedError, Socket, open_socket

MIB = 2**20
KIB = 2**10
MANY, CROWD = 1_000, 200
PATIENCE_S = 60.0
NOTE = "hot"
TEXT = "x" * 4 * KIB
"""What every change puts in place of what was there, so that its event is as large."""


class Seen(msgspec.Struct):
    type: str
    seq: int = 0


see = msgspec.json.Decoder(Seen).decode


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """A socket is a file, and many a shell allows a thousand."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Reader:
    """Follows the note, and counts."""

    def __init__(self, server: Server, owner: Owner, name: str, seq: int = 0) -> None:
        self.seq = seq
        self._server = server
        self._owner = owner
        self.name = name

    async def read(self, socket: Socket, until_seq: int) -> None:
        """Read densely up to a number."""
        while self.seq < until_seq:
            said = see(await socket.hear_text())
            if said.type == "event":
                assert said.seq == self.seq + 1, (self.name, said.seq, self.seq)
                self.seq = said.seq

    async def subscribe(self, socket: Socket) -> None:
        await socket.say(
            "subscribe",
            stream_id=f"note:{NOTE}",
            workspace_id=self._owner.workspace,
            cursor=self.seq,
        )

    async def follow(
        self, until_seq: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, as often as it takes, and read up to a number."""
        while self.seq < until_seq:
            try:
                async with open_socket(
                    self._server.port, self._owner, client_id=self.name
                ) as socket:
                    await self.subscribe(socket)
                    await socket.hear_type("subscribed")
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await self.read(socket, until_seq)
            except (OSError, RefusedError, EndedError, trio.BrokenResourceError):
                await trio.sleep(0.2 * random.random())


class Editor:
    """The writer."""

    def __init__(self, socket: Socket, owner: Owner) -> None:
        self.version = 0
        self._socket = socket
        self._owner = owner

    async def create(self) -> None:
        await self._say("create_note", note_id=NOTE, title="hot", markdown=TEXT)
        await self._hear(1)

    async def change(self, count: int, *, at_a_time: int = 20) -> None:
        """Change the note so many times; it keeps its length."""
        goal = self.version + count
        while self.version < goal:
            step = min(at_a_time, goal - self.version)
            for number in range(step):
                await self._say(
                    "apply_patch",
                    note_id=NOTE,
                    patch_ops=[{"delete": len(TEXT)}, {"insert": TEXT}],
                    base_version=self.version + number,
                )
            await self._hear(step)

    async def _say(self, name: str, **payload: object) -> None:
        await self._socket.say(
            "command", workspace_id=self._owner.workspace, name=name, payload=payload
        )

    async def _hear(self, count: int) -> None:
        for _ in range(count):
            await self._socket.hear_type("committed")
        self.version += count


@pytest.fixture
async def busy(processes: Processes, cluster: Database, owner: Owner) -> AsyncIterator[Server]:
    """A server whose bounds are reached soon."""
    environment = {"DALSEGNO_LIMIT_WRITE_DEADLINE_S": "3"}
    server = Server(processes, cluster.data_dir, database=cluster.dsn, environment=environment)
    await server.start()
    yield server
    assert await server.stop() == 0
    assert server.process is not None
    assert "Traceback" not in server.process.err


@pytest.fixture
async def editor(busy: Server, owner: Owner) -> AsyncIterator[Editor]:
    async with open_socket(busy.port, owner, client_id="editor") as socket:
        editor = Editor(socket, owner)
        await editor.create()
        yield editor


async def send_buffers(port: int) -> list[int]:
    """The size of the send buffer of each socket of a port; [] if it is not known."""
    ss = shutil.which("ss")
    if ss is None:
        assert "DALSEGNO_TEST_ALL" not in os.environ, "ss is needed, of Debian's iproute2"
        return []
    command = [ss, "-tmnH", "state", "established", f"( sport = :{port} )"]
    listed = await trio.run_process(command, capture_stdout=True)
    return [int(size) for size in re.findall(rb",tb(\d+),", listed.stdout)]


async def test_x_bp_1_one_that_never_reads_beside_two_hundred_that_do(
    busy: Server, editor: Editor, owner: Owner
) -> None:
    changes = 300
    process = busy.process
    assert process is not None
    async with (
        open_socket(busy.port, owner, client_id="deaf", receive_buffer=4 * KIB) as deaf,
        trio.open_nursery() as nursery,
    ):
        sleeper = Reader(busy, owner, "deaf")
        await sleeper.subscribe(deaf)
        readers = [Reader(busy, owner, f"r{number}") for number in range(CROWD)]
        with fail_after(PATIENCE_S):
            for reader in readers:
                await nursery.start(reader.follow, changes)
            await editor.change(changes // 3)
            before = process.resident_bytes
            await editor.change(changes - changes // 3)
            await until(lambda: all(reader.seq >= changes for reader in readers))
            assert process.resident_bytes - before < 32 * MIB
            assert all(
                size <= 2 * Limits().send_buffer_bytes for size in await send_buffers(busy.port)
            )
            await sleeper.follow(changes)


async def test_x_bp_2_two_hundred_that_stop_hold_no_memory_and_miss_nothing(
    busy: Server, editor: Editor, owner: Owner
) -> None:
    changes = 400
    process = busy.process
    assert process is not None
    readers = [Reader(busy, owner, f"r{number}") for number in range(CROWD)]
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        sockets = []
        with fail_after(PATIENCE_S):
            for reader in readers:
                context = open_socket(
                    busy.port, owner, client_id=reader.name, receive_buffer=4 * KIB
                )
                socket = await stack.enter_async_context(context)
                await reader.subscribe(socket)
                await socket.hear_type("subscribed")
                sockets.append(socket)
            await editor.change(50)
            before = process.resident_bytes
            await editor.change(changes - 50)
            # All that they were not given is five times as much.
            assert process.resident_bytes - before < 64 * MIB
            for reader, socket in zip(readers, sockets, strict=True):
                nursery.start_soon(resume, reader, socket, changes)


@pytest.mark.parametrize("count", [CROWD, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_x_bp_1_event_streams_that_nobody_reads_are_cut_off_and_hold_no_memory(
    busy: Server, editor: Editor, owner: Owner, count: int
) -> None:
    changes = 400
    process = busy.process
    assert process is not None
    path = f"/api/v1/streams/note:{NOTE}/events"
    asked = f"GET {path}?workspace_id={owner.workspace}&cursor=head HTTP/1.1\r\n"
    head = f"{asked}Host: 127.0.0.1\r\nCookie: {owner.cookie}\r\n\r\n".encode()
    readers = [Reader(busy, owner, f"r{number}") for number in range(5)]
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        with fail_after(PATIENCE_S + count / 50):
            for reader in readers:
                await nursery.start(reader.follow, changes)
            before_them = process.open_files
            for _ in range(count):
                sock = trio.socket.socket()
                sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4 * KIB)
                await sock.connect(("127.0.0.1", busy.port))
                stream = await stack.enter_async_context(trio.SocketStream(sock))
                await stream.send_all(head)
                assert b" 200 " in await stream.receive_some(128)
            await editor.change(50)
            before = process.resident_bytes
            await editor.change(changes - 50)
            await until(lambda: all(reader.seq >= changes for reader in readers))
            # All that they were not given is five times as much.
            assert process.resident_bytes - before < 64 * MIB + count * 192 * KIB
            await until(lambda: process.open_files < before_them + count / 20)
        person = Person(busy.url, owner.user_id, owner.workspace, owner.cookie)
        query = {"workspace_id": owner.workspace}
        async with following(person, path, last_event_id="50", **query) as blocks:
            seen = [(await blocks.hear("note_patched")).said["seq"] for _ in range(changes - 50)]
        assert seen == [*range(51, changes + 1)]


async def resume(reader: Reader, socket: Socket, until_seq: int) -> None:
    """Read on; if the server has ended the connection, on another one."""
    with suppress(EndedError):
        await reader.read(socket, until_seq)
    await reader.follow(until_seq)


@pytest.fixture
async def proxy(cluster: Database) -> AsyncIterator[Proxy]:
    async with open_proxy(cluster.dsn) as proxy:
        yield proxy


async def test_a_thousand_reconnect_at_once(
    processes: Processes, cluster: Database, owner: Owner, proxy: Proxy
) -> None:
    """All of them at one cursor, to a server that was restarted and has nothing in memory.

    Every client gets everything, and the database has hardly any work.
    """
    server = Server(processes, cluster.data_dir, database=proxy.dsn)
    await server.start()
    async with open_socket(server.port, owner, client_id="editor") as socket:
        editor = Editor(socket, owner)
        await editor.create()
        seen = editor.version
        await editor.change(30)
    assert await server.stop() == 0
    await server.start()
    readers = [Reader(server, owner, f"r{number}", seen) for number in range(MANY)]
    pages = proxy.requests["read_stream"] + proxy.requests["read_events"]
    with fail_after(PATIENCE_S):
        await follow_all(readers, editor.version)
    pages = proxy.requests["read_stream"] + proxy.requests["read_events"] - pages
    assert pages < MANY // 20
    assert await server.stop() == 0


async def follow_all(readers: list[Reader], until_seq: int) -> None:
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.follow, until_seq)
