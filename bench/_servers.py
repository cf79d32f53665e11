"""Servers of a measurement's own: PostgreSQL, and a real ``dalsegno serve`` with a user."""

from __future__ import annotations

import http.client
import json
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from dalsegno.runtime.store._embedded import embedded

from ._processes import OTHER_CORE, SUBJECT_CORE, Child, child, cpu_s, pinned, python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_WHO = {"email": "bench@example.com", "password": "correct horse battery", "display_name": "B"}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A database server of a bench's own."""

    dsn: str
    pid: int
    folder: Path
    """Where a bench may leave files as long as the server runs."""

    def cpu_s(self) -> float:
        """Tell how much processor time all its processes have had."""
        return cpu_s(self.pid, tree=True)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Have a fresh embedded PostgreSQL, with the settings that users get, on the other core."""
    with TemporaryDirectory(prefix="dalsegno-bench-") as name:
        folder = Path(name)
        with pinned(OTHER_CORE):
            server = embedded(folder / "data")
            running = server.__enter__()
        try:
            pid = (folder / "data" / "postgres" / "postmaster.pid").read_text().split("\n")[0]
            yield Postgres(running.dsn, int(pid), folder)
        finally:
            server.__exit__(None, None, None)


class Server:
    """The process, and HTTP with a session's cookie."""

    def __init__(self, process: Child, port: int) -> None:
        self.process = process
        self.port = port
        self.cookie = ""
        self._csrf_token = ""

    async def set_up(self) -> None:
        """Register the first user, who is then logged in."""
        identity = await self.post("/api/setup/register", _WHO)
        self._csrf_token = identity["csrf_token"]

    async def workspace(self, slug: str) -> str:
        """Make a workspace; tell its id."""
        made = await self.post("/api/workspaces", {"slug": slug, "name": slug})
        return str(made["workspace_id"])

    async def note(self, workspace_id: str, chars: int) -> str:
        """Write a note of so many characters; tell its id."""
        body = {"workspace_id": workspace_id, "title": "A note", "markdown": "x" * chars}
        return str((await self.post("/api/notes", body))["note_id"])

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the server for something over HTTP."""
        return await trio.to_thread.run_sync(self._post, path, json.dumps(body))

    def _post(self, path: str, body: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"content-type": "application/json"}
        if self.cookie:
            headers |= {"cookie": self.cookie, "x-csrf-token": self._csrf_token}
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{path}: {response.status} {answer.decode(errors='replace')}")
        if (cookie := response.getheader("set-cookie")) is not None:
            self.cookie = cookie.partition(";")[0]
        answered: dict[str, Any] = json.loads(answer)
        return answered


@asynccontextmanager
async def serving(database: Postgres) -> AsyncIterator[Server]:
    """Have a server on the core for subjects, with a user."""
    command = python("dalsegno.runtime", "serve", "--bind", "127.0.0.1:0")
    command += ["--database", database.dsn, "--log-level", "warning"]
    async with child("serve", command, core=SUBJECT_CORE) as process:
        url = (await process.hear()).split()[-1]
        server = Server(process, urlsplit(url).port or 0)
        await server.set_up()
        yield server
