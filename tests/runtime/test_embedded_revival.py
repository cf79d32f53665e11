"""An embedded PostgreSQL that ends is started again, and not for ever."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from dalsegno.runtime.store import DriverError, connect
from dalsegno.runtime.store._account import EmbeddedPostgresError
from dalsegno.runtime.store._cluster import read_postmaster
from dalsegno.runtime.store._embedded import _REVIVALS_MAX, EmbeddedPostgres, open_embedded


async def kill_and_wait(server: EmbeddedPostgres) -> None:
    """Kill the server, and wait until another one answers."""
    killed = read_postmaster(server.directory / "postgres")
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    with trio.fail_after(30):
        while True:
            now = read_postmaster(server.directory / "postgres")
            if now is not None and now.pid != killed.pid and await answers(server):
                return
            await trio.sleep(0.02)


async def answers(server: EmbeddedPostgres) -> bool:
    try:
        connection = await connect(server.dsn)
    except (DriverError, EmbeddedPostgresError):
        return False
    await connection.aclose()
    return True


async def test_it_is_started_again_and_given_up_when_it_does_not_stay(tmp_path: Path) -> None:
    times = 0

    async def kill_it_again_and_again() -> None:
        nonlocal times
        async with open_embedded(tmp_path / "data") as server:
            while True:
                await kill_and_wait(server)
                times += 1

    with pytest.raises(ExceptionGroup) as caught:
        await kill_it_again_and_again()
    assert caught.group_contains(EmbeddedPostgresError, match="does not stay up")
    assert _REVIVALS_MAX <= times <= _REVIVALS_MAX + 1
    assert read_postmaster(tmp_path / "data" / "postgres") is None
