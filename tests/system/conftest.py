from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from tests._http import PLAIN
from tests.system._database import Database, open_database
from tests.system._processes import EMAIL, PASSWORD, Owner, Processes, Server


class Prepared(msgspec.Struct, frozen=True):
    data_dir: Path
    owner: Owner


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A data directory that was set up and stopped: tests begin with a copy of it."""
    folder = tmp_path_factory.mktemp("prepared")

    async def prepare() -> Owner:
        processes = Processes(folder)
        server = Server(processes, folder / "data")
        await server.start()
        body = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
        async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
            answer = await http.post("/api/setup/register", json=body)
            assert answer.status_code == 201, answer.text
            cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
        assert await server.stop() == 0, server.process and server.process.err
        return Owner(answer.json()["workspace_id"], cookies, answer.json()["user_id"])

    return Prepared(folder / "data", trio.run(prepare))


@pytest.fixture
def owner(prepared: Prepared) -> Owner:
    return prepared.owner


@pytest.fixture
def data_dir(prepared: Prepared, short_path: Path) -> Iterator[Path]:
    """A data directory of the test's own; a PostgreSQL that is left in it is killed."""
    copy = short_path / "data"
    # With owners and modes: as root, the cluster belongs to another user.
    subprocess.run(["cp", "-a", str(prepared.data_dir), str(copy)], check=True)  # noqa: S607
    yield copy
    pid_file = copy / "postgres" / "postmaster.pid"
    if pid_file.exists():
        subprocess.run(["kill", "-9", pid_file.read_text().split()[0]], check=False)  # noqa: S607


@pytest.fixture
async def cluster(data_dir: Path) -> AsyncIterator[Database]:
    """A PostgreSQL that was set up, for servers that are given its DSN."""
    async with open_database(data_dir) as database:
        yield database


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.end_all()


@pytest.fixture
def environment() -> dict[str, str]:
    """Settings of the server, for a test to give others."""
    return {}


@pytest.fixture
async def server(
    processes: Processes, data_dir: Path, environment: dict[str, str]
) -> AsyncIterator[Server]:
    """A server that runs."""
    server = Server(processes, data_dir, environment=environment)
    await server.start()
    yield server
    if server.process is not None and server.process.is_running:
        await server.stop()
