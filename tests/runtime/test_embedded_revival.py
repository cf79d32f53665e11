"""An embedded PostgreSQL that ends is started again, and not for ever."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from dalsegno.runtime.store import connect
from dalsegno.runtime.store._account import EmbeddedPostgresError
from dalsegno.runtime.store._cluster import read_postmaster
from dalsegno.runtime.store._embedded import _REVIVALS_MAX, open_embedded
from tests._patience import fail_after


@pytest.mark.processes
async def test_it_is_started_again_and_given_up_when_it_does_not_stay(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = short_path / "data" / "postgres"
    killed = 0

    async def kill_it_again_and_again() -> None:
        nonlocal killed
        async with open_embedded(short_path / "data") as server:
            while True:
                running = read_postmaster(cluster)
                assert running is not None
                os.kill(running.pid, signal.SIGKILL)
                killed += 1
                with fail_after(30):
                    while caplog.text.count("was started again") < killed:
                        await trio.sleep(0.02)
                connection = await connect(server.dsn)
                await connection.aclose()

    with pytest.raises(ExceptionGroup) as caught:
        await kill_it_again_and_again()
    assert caught.group_contains(EmbeddedPostgresError, match="does not stay up")
    assert killed == _REVIVALS_MAX + 1
    assert read_postmaster(cluster) is None
