"""What was acknowledged survives whatever is killed, and nothing happens twice (I1, I4, I5)."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from tests._drivers import SERVED_BY_EACH
from tests._patience import fail_after, until
from tests._pids import is_alive
from tests.system._crowd import ACKS_UNWRITTEN_S, NOT_NOW, ORDINARY, Crowd
from tests.system._load import Load, read_log
from tests.system._processes import Owner, Processes, Server, connect, write
from tests.system._socket import EndedError, open_socket


@pytest.mark.parametrize("environment", SERVED_BY_EACH)
async def test_x_per_4_fi_9_the_server_is_killed_in_the_middle_of_a_load(
    server: Server, owner: Owner
) -> None:
    load, crowd = Load(server, owner), Crowd(owner, server.port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        nursery.start_soon(load.run_impatiently)
        nursery.start_soon(crowd.run)
        for _ in range(2):
            await load.wait(more=60)
            await crowd.wait(more=60)
            postmaster = server.postmaster()
            await server.kill()
            crowd.recorder.crashed(acks_unwritten_s=ACKS_UNWRITTEN_S)
            await server.start()
            assert server.postmaster() == postmaster, "the PostgreSQL that was left is adopted"
        await load.wait(more=60)
        await crowd.settle(beside=await load.finish())
    await load.check()
    await crowd.judge(server.dsn)
    assert set(load.failures) <= {
        "UNREACHABLE",
        "STORE_UNAVAILABLE",
        "NOT_READY",
        "DRAINING",
        "OUTCOME_UNKNOWN",
    }
    assert await server.stop() == 0
    assert not is_alive(postmaster), "who adopts it also stops it"


@pytest.mark.parametrize("environment", SERVED_BY_EACH)
async def test_x_sup_8_fi_10_postgres_is_killed_in_the_middle_of_a_load(
    server: Server, owner: Owner
) -> None:
    load, crowd = Load(server, owner), Crowd(owner, server.port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        nursery.start_soon(crowd.run)
        for _ in range(2):
            await load.wait(more=60)
            await crowd.wait(more=60)
            os.kill(killed := server.postmaster(), signal.SIGKILL)
            await until(lambda: server.postmaster() not in {0, killed})
        await load.wait(more=60)  # by itself
        await crowd.settle(beside=await load.finish())
    await load.check()
    await crowd.judge(server.dsn)
    assert set(crowd.codes) <= NOT_NOW | ORDINARY
    assert server.process is not None
    assert "Traceback" not in server.process.err


async def test_both_are_killed_in_the_middle_of_a_load(server: Server, owner: Owner) -> None:
    crowd = Crowd(owner, server.port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=60)
        os.kill(server.postmaster(), signal.SIGKILL)
        await server.kill()
        crowd.recorder.crashed(acks_unwritten_s=ACKS_UNWRITTEN_S)
        await server.start()
        await crowd.wait(more=60)
        await crowd.settle()
    await crowd.judge(server.dsn)


async def test_x_seq_6_x_ack_2_a_restart_goes_on_where_it_was(server: Server, owner: Owner) -> None:
    stream = f"workspace:{owner.workspace}"
    async with connect(server, owner) as client, client.subscribe(stream) as events:
        assert [await write(client, owner, f"note {number}") for number in (1, 2, 3)] == [1, 2, 3]
        events.ack(await anext(events))
        events.ack(await anext(events))
        assert await server.stop() == 0
        await server.start()
        assert (await anext(events)).seq == 3
        assert await write(client, owner, "after the restart") == 4
    async with connect(server, owner) as client, client.subscribe(stream) as events:
        assert (await anext(events)).seq == 3
    assert len(await read_log(server, owner, 4)) == 4


async def test_a_second_server_is_refused(
    server: Server, owner: Owner, processes: Processes
) -> None:
    here = ["--bind", "127.0.0.1:0", "--data-dir", str(server.data_dir)]
    second = await processes.run("serve", *here)
    assert await second.ended() == 1
    assert server.process is not None
    (line,) = second.err.splitlines()
    assert f"in use by process {server.process.pid}" in line
    async with connect(server, owner) as client:
        assert await write(client, owner, "undisturbed") == 1


async def test_postgres_away_at_the_start_is_said_in_a_line(processes: Processes) -> None:
    dsn = "postgresql://postgres:secret@127.0.0.1:1/nothing"
    process = await processes.run(
        *("serve", "--bind", "127.0.0.1:0", "--database", dsn),
        environment={"DALSEGNO_LIMIT_DATABASE_WAIT_S": "0.2"},
    )
    assert await process.ended() == 1
    waiting, line = process.err.splitlines()
    assert "waiting for the database" in waiting
    assert "the database cannot be reached" in line
    assert "secret" not in process.err


async def test_a_fatal_end_says_that_it_is_a_fault(server: Server, owner: Owner) -> None:
    assert server.process is not None
    cluster = server.data_dir / "postgres"
    async with open_socket(server.port, owner) as socket:
        await socket.subscribe(owner)
        (cluster / "global" / "pg_control").rename(cluster / "global" / "pg_control.away")
        os.kill(server.postmaster(), signal.SIGKILL)
        with fail_after(30), pytest.raises(EndedError) as ended:
            await socket.hear_type("the end")
        assert ended.value.code == 1011
    assert await server.process.ended() == 1
