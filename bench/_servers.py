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

import psycopg
import trio
from psycopg.sql import SQL, Identifier

from dalsegno.runtime.store._embedded import embedded

from ._processes import OTHER_CORE, SUBJECT_CORE, Child, child, cpu_s, pinned, python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

_WHO = {"email": "bench@example.com", "password": "correct horse battery", "display_name": "B"}

_UNBUDGETED = {"DALSEGNO_LIMIT_WRITTEN_BYTES_PER_MINUTE": str(2**40)}
_ONE_USER = {
    f"DALSEGNO_LIMIT_{what}_MAX": "0"
    for what in (
        "SESSIONS_PER_USER",
        "SOCKETS_PER_USER",
        "WORKSPACES_PER_USER",
        "API_PER_MINUTE",
        "AUTH_PER_MINUTE",
    )
}
"""No bounds by user and address: a load has one user, at one address, for all of its clients."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A database server of a bench's own."""

    dsn: str
    pid: int
    folder: Path
    """Where a benchmark may keep files while the server runs."""

    def cpu_s(self) -> float:
        """Return how much processor time all its processes have had."""
        return cpu_s(self.pid, tree=True)


@contextmanager
def postgres(**settings: str) -> Iterator[Postgres]:
    """Open a fresh embedded PostgreSQL on the other core.

    It has the settings that users get, and those that a measurement needs to see something.
    """
    with TemporaryDirectory(prefix="dalsegno-bench-") as name:
        folder, data = Path(name), Path(name) / "data"
        if settings:
            with _embedded(data) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
                for setting, value in settings.items():
                    names = SQL("alter system set {} = {}").format(Identifier(setting), value)
                    connection.execute(names)
        with _embedded(data) as dsn:
            pid = (data / "postgres" / "postmaster.pid").read_text().split("\n")[0]
            yield Postgres(dsn, int(pid), folder)


@contextmanager
def _embedded(data: Path) -> Iterator[str]:
    """Start a server, whose processes then stay on the other core."""
    server = embedded(data)
    with pinned(OTHER_CORE):
        running = server.__enter__()
    try:
        yield running.dsn
    finally:
        server.__exit__(None, None, None)


class Server:
    """The process, and HTTP with a session's cookie."""

    def __init__(self, process: Child, port: int) -> None:
        self.process = process
        self.port = port
        self.cookie = ""
        self._csrf_token = ""

    def acting(self, cookie: str, csrf_token: str) -> Server:
        """Return the same server with another session."""
        server = Server(self.process, self.port)
        server.cookie, server._csrf_token = cookie, csrf_token
        return server

    def join(self, other: Server) -> None:
        """Use the session of another server on the same database."""
        self.cookie, self._csrf_token = other.cookie, other._csrf_token

    async def set_up(self) -> None:
        """Register the first user, who is then logged in."""
        identity = await self.post("/api/setup/register", _WHO)
        self._csrf_token = identity["csrf_token"]

    async def workspace(self, slug: str) -> str:
        """Create a workspace; return its id."""
        made = await self.post("/api/workspaces", {"slug": slug, "name": slug})
        return str(made["workspace_id"])

    async def note(self, workspace_id: str, chars: int) -> str:
        """Create a note of so many characters; return its id."""
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
async def started(
    database: Postgres,
    *options: str,
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
    module: str = "dalsegno.runtime",
) -> AsyncIterator[Server]:
    """Open a server on the core for subjects, on a database that may have users already.

    Args:
        database: where its log is.
        options: of ``dalsegno serve``, beside the usual ones; if an option is repeated, the last
            counts.
        environ: more settings.
        log: a file for its log.
        module: what has the command line.

    """
    environ = {**_ONE_USER, **(environ or {})}
    command = python(module, "serve", "--bind", "127.0.0.1:0")
    command += ["--database", database.dsn, "--log-level", "warning", *options]
    async with child("serve", command, core=SUBJECT_CORE, environ=environ, log=log) as process:
        url = (await process.hear()).split()[-1]
        yield Server(process, urlsplit(url).port or 0)


@asynccontextmanager
async def serving(
    database: Postgres,
    *options: str,
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
    module: str = "dalsegno.runtime",
) -> AsyncIterator[Server]:
    """Open a server as `started` does, the first on its database, with a user.

    The user is one for all clients of a load, and may have as much written as they can.
    """
    environ = {**_UNBUDGETED, **(environ or {})}
    async with started(database, *options, environ=environ, log=log, module=module) as server:
        await server.set_up()
        yield server
