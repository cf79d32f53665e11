"""A PostgreSQL of Debian's, as a host runs one, and PgBouncer in front of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import trio

from dalsegno.runtime.store._account import Account, choose_account
from tests._patience import fail_after
from tests.system._processes import free_port

BINARIES = Path("/usr/lib/postgresql/15/bin")
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or ""

needs_postgres = pytest.mark.skipif(
    not BINARIES.exists(), reason="Debian's postgresql-15 is not installed"
)
needs_pgbouncer = pytest.mark.skipif(
    not BINARIES.exists() or not PGBOUNCER, reason="pgbouncer or postgresql-15 is not installed"
)

_START_S = 60
SECRET = "of the superuser"


class Ordinary:
    """A cluster of PostgreSQL 15 that listens on a port, with a password for each role."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._cluster = folder / "cluster"
        self.account = choose_account(folder, self._cluster, BINARIES / "postgres")

    def create(self) -> None:
        self.account.own(self.folder)
        secret = self.folder / "secret"
        secret.write_text(f"{SECRET}\n")
        self.account.own(secret)
        self._run(
            *("initdb", "-D", self._cluster, "--encoding=UTF8", "--locale=C"),
            *("--username=super", "--auth=scram-sha-256", f"--pwfile={secret}"),
        )
        with (self._cluster / "postgresql.auto.conf").open("a") as file:
            file.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n")
            file.write(f"unix_socket_directories = '{self.folder}'\n")

    def start(self) -> None:
        self._run("pg_ctl", "start", "-w", "-D", self._cluster, "-l", self.folder / "log")

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._cluster)

    def _run(self, program: str, *arguments: str | Path) -> None:
        ended = self.account.run([BINARIES / program, *arguments], timeout_s=_START_S)
        assert ended.ok, ended.said

    def dsn(
        self,
        database: str = "postgres",
        user: str = "super",
        password: str = SECRET,
        port: int | None = None,
    ) -> str:
        who = f"{quote(user)}:{quote(password)}"
        return f"postgresql://{who}@127.0.0.1:{port or self.port}/{database}"

    def ask(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as an administrator does."""
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@contextmanager
def ordinary(folder: Path) -> Iterator[Ordinary]:
    """Run a new cluster for the length of a block."""
    server = Ordinary(folder)
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def pooled(
    server: Ordinary, folder: Path, mode: str, *, sessions: int = 9
) -> AsyncIterator[int]:
    """Run PgBouncer in front of it, with so many sessions for a database; yield its port."""
    port = free_port()
    users, ini = folder / "users", folder / "pgbouncer.ini"
    users.write_text(f'"super" "{SECRET}"\n')
    ini.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = {mode}\n"
        f"default_pool_size = {sessions}\nmax_db_connections = {sessions}\n"
    )
    account = _reader_of(folder, server.account)
    command = [*account.prefix, PGBOUNCER, str(ini)]
    other = os.geteuid() != account.uid
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                user=account.uid if other else None,
                group=account.gid if other else None,
                extra_groups=[] if other else None,
            )
        )
        with fail_after(10):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None
                    await trio.sleep(0.02)
        try:
            yield port
        finally:
            process.terminate()


def _reader_of(folder: Path, account: Account) -> Account:
    """PgBouncer, too, refuses to run as root."""
    for path in (folder, *folder.iterdir()):
        account.own(path)
    return account
