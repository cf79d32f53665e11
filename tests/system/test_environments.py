"""Databases and users as hosts have them: what works, and what is refused with what to do."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from dalsegno.runtime.store import Connect, DriverName, ServerUnsuitableError, bring_up_to_date
from tests._http import PLAIN
from tests._patience import until
from tests.system._ordinary import (
    Ordinary,
    needs_pgbouncer,
    needs_postgres,
    ordinary,
    pooled,
)
from tests.system._processes import (
    EMAIL,
    PASSWORD,
    Owner,
    Processes,
    Server,
    connect as connected,
    write,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ordinary]:
    with ordinary(tmp_path_factory.mktemp("host")) as server:
        yield server


async def use(server: Server) -> None:
    """Set a server up, and write and read as its owner."""
    body = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        answer = await http.post("/api/setup/register", json=body)
        assert answer.status_code == 201, answer.text
        cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    owner = Owner(answer.json()["workspace_id"], cookies, answer.json()["user_id"])
    async with connected(server, owner) as client, trio.open_nursery() as nursery:
        for _ in range(8):  # readers and writers together
            nursery.start_soon(write, client, owner, "a note")
        async with client.subscribe(f"workspace:{owner.workspace}", cursor=0) as events:
            async for event in events:
                if event.event_seq == 8:
                    break


async def refused(processes: Processes, dsn: str, driver: str = "psycopg") -> str:
    """Start a server that does not start; return the one line that it says."""
    process = await processes.run(
        *("serve", "--bind", "127.0.0.1:0", "--database", dsn, "--driver", driver)
    )
    assert await process.ended() == 1
    (line,) = process.err.splitlines()
    assert line.startswith("dalsegno: ")
    assert not process.out
    return line


@needs_postgres
async def test_an_ordinary_postgresql_15_with_a_role_of_few_rights(
    processes: Processes, host: Ordinary, short_path: Path, driver: DriverName
) -> None:
    """It has a schema of its own and may create nothing else; its settings are not ours."""
    host.ask(
        "drop database if exists few",
        "drop role if exists app",
        "create role app login password 'app''s'",
        "alter role app set array_nulls = off",
        "alter role app set standard_conforming_strings = off",
        "alter role app set client_min_messages = error",
        "create database few",
        "revoke all on database few from public",
        "grant connect on database few to app",
    )
    dsn = host.dsn("few", "app", "app's")
    line = await refused(processes, dsn, driver)
    assert "`create schema dalsegno authorization app`" in line
    host.ask("create schema dalsegno authorization app", database="few")
    server = Server(processes, short_path, database=dsn)
    await server.start("--driver", driver)
    await use(server)
    assert await server.stop() == 0
    assert await bring_up_to_date(dsn, wait_s=0.0) == []  # with everything applied


@needs_postgres
async def test_a_database_that_is_not_utf8_is_refused_before_anything_is_written(
    processes: Processes, host: Ordinary
) -> None:
    host.ask("create database latin encoding 'LATIN1' locale 'C' template template0")
    line = await refused(processes, host.dsn("latin"))
    assert "encoding is LATIN1" in line
    assert "createdb --encoding=UTF8 --template=template0" in line
    host.ask("do $$ begin assert to_regnamespace('dalsegno') is null; end $$", database="latin")


# -------------------------------------------------------------------------------------- poolers


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_that_shares_sessions_is_refused(
    processes: Processes,
    host: Ordinary,
    short_path: Path,
    mode: str,
    driver: DriverName,
    connect: Connect,
) -> None:
    host.ask(f"drop database if exists {mode} with (force)", f"create database {mode}")
    async with pooled(host, short_path, mode) as port:
        dsn = host.dsn(mode, port=port)
        line = await refused(processes, dsn, driver)
        assert "a pooler in transaction or statement mode" in line
        assert "pool_mode=session" in line
        for _ in range(3):  # these find sessions that others have used
            with pytest.raises(ServerUnsuitableError):
                await bring_up_to_date(dsn, wait_s=0.0, connect=connect)
    host.ask("do $$ begin assert to_regnamespace('dalsegno') is null; end $$", database=mode)


@needs_pgbouncer
async def test_a_pooler_in_session_mode_needs_as_many_sessions_as_documented(
    processes: Processes, host: Ordinary, short_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert re.search(r"at least nine sessions", text)
    host.ask("create database pooled")
    async with pooled(host, short_path, "session", sessions=9) as port:
        server = Server(processes, short_path, database=host.dsn("pooled", port=port))
        await server.start()
        await use(server)
        assert await server.stop() == 0
    assert server.process is not None
    assert "unavailable" not in server.process.err


# ---------------------------------------------------------------------- a database that is away


@needs_postgres
async def test_a_database_that_is_away_at_the_start_is_waited_for(
    processes: Processes, host: Ordinary, short_path: Path
) -> None:
    host.ask("create database late")
    server = Server(processes, short_path, database=host.dsn("late"))
    await trio.to_thread.run_sync(host.stop)
    try:
        process = await processes.run(
            "serve", "--bind", f"127.0.0.1:{server.port}", "--database", host.dsn("late")
        )
        await until(lambda: "waiting for the database, at most 30 s" in process.err)
        assert "Connection refused" in process.err
        impatient = await processes.run(
            *("migrate", "--database", host.dsn("late")),
            environment={"DALSEGNO_LIMIT_DATABASE_WAIT_S": "0.5"},
        )
        assert await impatient.ended() == 1
        assert "(waited 0.5 s)" in impatient.err.splitlines()[-1]
    finally:
        await trio.to_thread.run_sync(host.start)
    server.process = process
    await server.wait_ready()
    assert process.err.count("waiting for the database") == 1
    assert await server.stop() == 0


# ------------------------------------------------------------------------- a user without a name

NAMELESS = (
    "setpriv",
    *("--reuid=54321", "--regid=54321", "--clear-groups"),
    # Python itself may be in root's home.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder that belongs to a user without a name, as a container's volume may."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, 54321, 54321)
        yield Path(name)


@as_root
async def test_a_user_without_a_name_serves(processes: Processes, theirs: Path) -> None:
    """A cluster of its own, again after a restart."""
    server = Server(processes, theirs / "data", environment={"HOME": "/", "USER": ""})
    await server.start(through=NAMELESS)
    await use(server)
    assert await server.stop() == 0
    assert (theirs / "data" / "postgres").stat().st_uid == 54321
    again = await processes.run("migrate", "--data-dir", str(theirs / "data"), through=NAMELESS)
    assert await again.ended() == 0, again.err


@as_root
async def test_a_user_that_gets_no_name_is_told_what_to_do(
    processes: Processes, theirs: Path
) -> None:
    fake = theirs / "unshare"
    fake.write_text("#!/bin/sh\necho unshare failed: Operation not permitted; exit 1\n")
    fake.chmod(0o755)
    process = await processes.run(
        *("migrate", "--data-dir", str(theirs / "data")),
        environment={"PATH": f"{theirs}:{os.environ['PATH']}"},
        through=NAMELESS,
    )
    assert await process.ended() == 1
    (line,) = process.err.splitlines()
    assert "uid 54321 has none here" in line
    assert "(unshare failed: Operation not permitted)" in line
    assert "`app:x:54321:54321::/:/bin/false` in /etc/passwd" in line
    assert "--database" in line
