"""`dalsegno` as processes: started, killed, looked at."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
import trio

from dalsegno.runtime.client import Client, ClientLimits, open_client
from dalsegno.runtime.store._embedded import EmbeddedPostgres
from tests._http import PLAIN
from tests._patience import fail_after

EMAIL, PASSWORD = "owner@example.org", "a long enough password"
SOON = ClientLimits(
    backoff_first_s=0.05, backoff_max_s=0.2, at_once_s=0.05, attempts_max=None, looks_max=None
)

QUICK = {
    "DALSEGNO_LIMIT_MAILBOX_DEADLINE_S": "1",
    "DALSEGNO_LIMIT_COMMIT_DEADLINE_S": "2",
    "DALSEGNO_LIMIT_COMMAND_DEADLINE_S": "4",
    "DALSEGNO_LIMIT_ANSWER_DEADLINE_S": "2",
    "DALSEGNO_LIMIT_BACKOFF_MAX_S": "0.5",
    "DALSEGNO_LIMIT_HEARTBEAT_INTERVAL_S": "0.5",
    "DALSEGNO_LIMIT_LEASE_S": "2",
    "DALSEGNO_LIMIT_LEASE_BEAT_S": "0.4",
}
"""Limits for a server whose outages a test waits through: all waits are short."""

ONE_USER = {
    "DALSEGNO_LIMIT_SOCKETS_PER_USER_MAX": "0",
    "DALSEGNO_LIMIT_API_PER_MINUTE_MAX": "0",
    "DALSEGNO_LIMIT_AUTH_PER_MINUTE_MAX": "0",
}
"""For servers whose many clients are all the owner's, at one address: no bounds by either."""

DALSEGNO = (sys.executable, "-m", "dalsegno.runtime")

_chance = random.SystemRandom()  # workers must not draw the same


class Owner(msgspec.Struct, frozen=True):
    workspace: str
    cookie: str
    user_id: str


def free_port() -> int:
    """Return a port that nobody gets by chance while its server is down.

    From 32768 on the kernel gives them to whatever connects or listens meanwhile, such as another
    worker's test (ip(7), ``ip_local_port_range``).
    """
    while True:
        port = _chance.randrange(10_000, 32_768)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Command:
    """A process of ours, and what it prints."""

    def __init__(self, process: trio.Process, out: Path, err: Path) -> None:
        self._process = process
        self._out = out
        self._err = err

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def resident_bytes(self) -> int:
        """Its resident memory (proc(5), ``VmRSS``)."""
        (line,) = (
            line
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        )
        return int(line.split()[1]) * 1024

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self, within_s: float = 20) -> int:
        with fail_after(within_s):
            return await self._process.wait()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


class Processes:
    """Starts processes in a folder; none is left at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._commands: list[Command] = []

    async def run(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        descriptors: tuple[int, int] | None = None,
        through: tuple[str, ...] = (),
        program: tuple[str, ...] = DALSEGNO,
    ) -> Command:
        """Start a command, where given with these soft and hard limits of its descriptors.

        ``through`` is a program that becomes it, ``program`` one that understands its arguments.
        """
        number = len(self._commands)
        limited = through
        if descriptors is not None:
            script = f'ulimit -Sn {descriptors[0]}; ulimit -Hn {descriptors[1]}; exec "$@"'
            limited = ("/bin/sh", "-c", script, "sh")
        out, err = self._folder / f"{number}.out", self._folder / f"{number}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                [*limited, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
            )
        command = Command(process, out, err)
        self._commands.append(command)
        return command

    async def talk(self, server: Server, *arguments: str) -> Command:
        """Run a command that logs in to a server."""
        return await self.run(
            *arguments,
            environment={
                "DALSEGNO_URL": server.url,
                "DALSEGNO_EMAIL": EMAIL,
                "DALSEGNO_PASSWORD": PASSWORD,
            },
        )

    async def end_all(self) -> None:
        for command in self._commands:
            await command.kill()


class Server:
    """A server, through the lives of several processes.

    Its data are in a data directory, or, with ``database``, in a PostgreSQL that is
    managed elsewhere.
    """

    def __init__(
        self,
        processes: Processes,
        data_dir: Path,
        port: int | None = None,
        *,
        database: str | None = None,
        node_id: str | None = None,
        environment: dict[str, str] | None = None,
        descriptors: tuple[int, int] | None = None,
        program: tuple[str, ...] = DALSEGNO,
    ) -> None:
        self._processes = processes
        self._program = program
        self._environment = {**ONE_USER, **(environment or {})}
        self._descriptors = descriptors
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.node_id = node_id
        self._database = database
        self.process: Command | None = None

    async def start(self, *arguments: str, through: tuple[str, ...] = ()) -> Command:
        place = ["--bind", f"127.0.0.1:{self.port}"]
        if self._database is None:
            place += ["--data-dir", str(self.data_dir)]
        else:
            place += ["--database", self._database]
        if self.node_id is not None:
            place += ["--node-id", self.node_id]
        self.process = await self._processes.run(
            "serve",
            *place,
            *arguments,
            environment=self._environment,
            descriptors=self._descriptors,
            through=through,
            program=self._program,
        )
        await self.wait_ready()
        return self.process

    async def wait_ready(self) -> None:
        assert self.process is not None
        with fail_after(30):
            while not await self._answers():
                assert self.process.is_running, self.process.err
                await trio.sleep(0.05)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process for the length of a block."""
        assert self.process is not None
        self.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT)

    async def _answers(self) -> bool:
        try:
            async with httpx.AsyncClient(**PLAIN) as http:
                return (await http.get(f"{self.url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def kill(self) -> None:
        assert self.process is not None
        await self.process.kill()

    async def stop(self, within_s: float = 10) -> int:
        assert self.process is not None
        self.process.signal(signal.SIGTERM)
        return await self.process.ended(within_s)

    @property
    def dsn(self) -> str:
        """How to connect to its PostgreSQL, past the server."""
        return self._database or EmbeddedPostgres(self.data_dir).dsn

    def postmaster(self) -> int:
        """The process of its PostgreSQL; 0 while there is none."""
        try:
            return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return 0


def connect(
    server: Server, owner: Owner, *, client_id: str = "default"
) -> AbstractAsyncContextManager[Client]:
    return open_client(server.url, cookie=owner.cookie, limits=SOON, client_id=client_id)


async def write(client: Client, owner: Owner, title: str) -> int:
    fields = {"note_id": None, "title": title}
    return (await client.send(owner.workspace, "create_note", fields)).event_seq
