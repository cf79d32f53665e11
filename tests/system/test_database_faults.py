"""Faults of a database, and how the server that uses it recovers (X-SUP-8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest
import trio

from dalsegno.runtime.store import Connection, ConnectionBrokenError, connect
from tests._drivers import SERVED_BY_EACH
from tests._patience import fail_after, until
from tests.system._crowd import NOT_NOW, ORDINARY, Crowd
from tests.system._database import Database
from tests.system._processes import QUICK, Owner, Processes, Server
from tests.system._socket import Message, Socket, open_socket

MIB = 2**20
PATIENCE_S = 30.0


@pytest.fixture
async def guest(
    processes: Processes, cluster: Database, owner: Owner, environment: dict[str, str]
) -> AsyncIterator[tuple[Server, Crowd]]:
    """A server on a database that is managed elsewhere, with a crowd that uses it."""
    settings = QUICK | environment
    server = Server(processes, cluster.data_dir, database=cluster.dsn, environment=settings)
    await server.start()
    yield server, Crowd(owner, server.port)
    assert await server.stop() == 0
    assert server.process is not None
    assert "Traceback" not in server.process.err


async def finish(crowd: Crowd, cluster: Database) -> None:
    """By itself: only the database was touched."""
    await crowd.wait(more=60)
    await crowd.settle()
    await crowd.judge(cluster.dsn)
    assert set(crowd.codes) <= NOT_NOW | ORDINARY


@pytest.mark.parametrize("environment", SERVED_BY_EACH)
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_x_sup_8_fi_10_postgres_is_restarted_in_the_middle_of_a_load(
    guest: tuple[Server, Crowd], cluster: Database, mode: str
) -> None:
    _, crowd = guest
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        for _ in range(2):
            await crowd.wait(more=60)
            await cluster.restart(mode)
        await finish(crowd, cluster)


@pytest.mark.parametrize("environment", SERVED_BY_EACH)
async def test_backends_are_terminated_all_the_time(
    guest: tuple[Server, Crowd], cluster: Database
) -> None:
    """One of them every ten milliseconds, whatever it is doing, for some seconds."""
    _, crowd = guest
    killed = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=20)
        operator = await connect(f"{cluster.dsn}&application_name=operator")
        try:
            with trio.move_on_after(3):
                while True:
                    killed += await terminate_one(operator)
                    await trio.sleep(0.01)
        finally:
            await operator.aclose()
        await finish(crowd, cluster)
    assert killed >= 10


async def terminate_one(operator: Connection) -> int:
    """End a backend that serves us."""
    terminated = await operator.fetch(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'dalsegno' order by random() limit 1"
    )
    return len(terminated)


async def test_fi_11_the_databases_disk_is_full(
    guest: tuple[Server, Crowd], cluster: Database
) -> None:
    """Nothing is acknowledged, all clients are told so, and with room again all continues."""
    _, crowd = guest
    # The statement writes this table too.  A file that is larger than the limit cannot grow, and
    # the log's own files, of 16 MiB each, are not in its way.
    await cluster.ask(
        "insert into dalsegno.command_result"
        " select 'filler', 's', n::text, '\\x00', to_json(repeat('x', 80)), 0,"
        " clock_timestamp() + interval '1 day' from generate_series(1, 120000) n"
    )
    await cluster.ask("checkpoint")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=20)
        cluster.limit_files(16 * MIB)
        try:
            await until(lambda: crowd.codes["STORE_UNAVAILABLE"] >= 20)
            refused = crowd.receipts
            await until(lambda: crowd.codes["STORE_UNAVAILABLE"] >= 40)
            assert crowd.receipts == refused
            assert crowd.codes["OUTCOME_UNKNOWN"] == 0, "a definite error is known"
        finally:
            cluster.limit_files(None)
        await finish(crowd, cluster)


async def test_the_database_takes_no_more_connections(
    guest: tuple[Server, Crowd], cluster: Database
) -> None:
    """Others hold them all; ours were lost, and none can be opened until they leave."""
    server, crowd = guest
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=20)
        async with AsyncExitStack() as others:
            operator = await connect(f"{cluster.dsn}&application_name=operator")
            others.push_async_callback(operator.aclose)
            with fail_after(PATIENCE_S):
                # Each waits some seconds for it: a few prove as much as many.
                while crowd.codes["STORE_UNAVAILABLE"] < 5:
                    if await ours(operator):
                        # It would take a connection back as soon as one is free.
                        with server.stopped():
                            await take_all(operator, cluster, others)
                    await trio.sleep(0.05)
        await finish(crowd, cluster)


async def ours(operator: Connection) -> int:
    """Count the connections of the server under test."""
    ((count,),) = await operator.fetch(
        "select count(*) from pg_stat_activity where application_name = 'dalsegno'"
    )
    return int(count)


async def take_all(operator: Connection, cluster: Database, others: AsyncExitStack) -> None:
    """End the server's connections, and hold every one that the database has."""
    while await ours(operator):
        await operator.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'dalsegno'"
        )
    with suppress(ConnectionBrokenError):
        while True:
            other = await connect(f"{cluster.dsn}&application_name=other")
            others.push_async_callback(other.aclose)


# ------------------------------------------------------------------------ another's hand in it


async def write(socket: Socket, owner: Owner, name: str, **payload: object) -> Message:
    """Request a change; return the answer, whatever it is."""
    await socket.say("command", workspace_id=owner.workspace, name=name, payload=payload)
    with fail_after(30):
        while (said := await socket.hear())["type"] not in {"committed", "rejected"}:
            pass
    return said


async def test_fi_13_a_row_that_was_changed_halts_its_workspace_until_it_is_repaired(
    processes: Processes, cluster: Database, owner: Owner
) -> None:
    server = Server(processes, cluster.data_dir, database=cluster.dsn, environment=QUICK)
    patch = {"note_id": "n", "patch_ops": [{"insert": "x"}], "base_version": 1}
    await server.start()
    async with open_socket(server.port, owner) as socket:
        await write(socket, owner, "create_note", note_id="n", title="sound")
    assert await server.stop() == 0

    place = owner.workspace, 1
    ((sound,),) = await cluster.ask(
        "select payload::text from dalsegno.event where workspace_id = %s and event_seq = %s",
        *place,
    )
    change = (
        "update dalsegno.event set payload = %s::json where workspace_id = %s and event_seq = %s"
    )
    await cluster.ask(change, '"no note"', *place)
    for _ in range(2):  # a restart does not repair it
        await server.start()
        async with open_socket(server.port, owner) as socket:
            assert (await write(socket, owner, "apply_patch", **patch))[
                "code"
            ] == "WORKSPACE_HALTED"
        assert await server.stop() == 0

    repair = "repair", "--database", cluster.dsn, owner.workspace
    refused = await processes.run(*repair)
    assert await refused.ended() == 1
    assert "Traceback" not in refused.err
    await cluster.ask(change, sound, *place)
    repaired = await processes.run(*repair)
    assert await repaired.ended() == 0, repaired.err
    await server.start()
    async with open_socket(server.port, owner) as socket:
        assert (await write(socket, owner, "apply_patch", **patch))["type"] == "committed"
    assert await server.stop() == 0


async def test_a_database_that_was_restored_is_told_from_the_one_before(
    processes: Processes, cluster: Database, owner: Owner
) -> None:
    """A reader ahead of the backup never gets other events under numbers that it has seen."""
    server = Server(processes, cluster.data_dir, database=cluster.dsn, environment=QUICK)
    await server.start()
    before = await write_and_read(server, owner, "kept", 3)
    assert await server.stop() == 0
    await cluster.save()
    await server.start()
    lost = await write_and_read(server, owner, "lost", 3)
    assert await server.stop() == 0
    await cluster.restore()
    await server.start()
    await write_and_read(server, owner, "another", 2)
    stream_id = f"workspace:{owner.workspace}"
    answers = {before[-1]: "subscribed", lost[0]: "CURSOR_DIVERGED", lost[-1]: "CURSOR_AHEAD"}
    for cursor, answer in answers.items():
        async with open_socket(server.port, owner) as socket:
            await socket.say("subscribe", stream_id=stream_id, cursor=cursor)
            said = await socket.hear()
            assert answer in {said["type"], said.get("code")}, said
    assert await server.stop() == 0


async def test_an_ack_that_waits_while_a_backup_is_restored_skips_nothing(
    guest: tuple[Server, Crowd], cluster: Database, owner: Owner
) -> None:
    """It was written into the restored log, and hid from its client what came there later."""
    server, _ = guest
    kept = await write_and_read(server, owner, "kept", 2)
    head = int(kept[-1].partition("-")[0])
    await cluster.save()
    await until_it_serves(server, owner, head)
    async with open_socket(server.port, owner) as socket:
        await socket.subscribe(owner, cursor=head)
        for number in range(3):
            await socket.create_note(owner, f"lost {number}")
        with fail_after(PATIENCE_S):
            while (await socket.hear_type("event"))["seq"] < head + 3:
                pass
        await cluster.stop()
        await socket.say("ack", stream_id=f"workspace:{owner.workspace}", seq=head + 3)
        await socket.say("ping")
        await socket.hear_type("pong")
    await cluster.restore()
    await until_it_serves(server, owner, head)
    await write_and_read(server, owner, "another", 4)
    async with open_socket(server.port, owner) as socket:
        begun = await socket.subscribe(owner, cursor=None)
        assert (begun["head"], begun["cursor"]) == (head + 4, 0), "nothing of it was acknowledged"
        seen = [(await socket.hear_type("event"))["seq"] for _ in range(head + 4)]
        assert seen == [*range(1, head + 5)]


async def until_it_serves(server: Server, owner: Owner, head: int) -> None:
    """Wait until the server answers for the workspace as it is in the database now, to its head.

    That the log was replaced is found out with the next beat; until then readers are given what
    was published before, and then an end.
    """
    command = {"name": "set_title", "payload": {"note_id": "x", "title": "x", "base_version": 1}}
    with fail_after(PATIENCE_S):
        while True:
            async with open_socket(server.port, owner) as socket:
                await socket.say(
                    "command", workspace_id=owner.workspace, request_id="probe", **command
                )
                while (answer := await socket.hear()).get("request_id") != "probe":
                    pass
                stream_id = f"workspace:{owner.workspace}"
                await socket.say("subscribe", stream_id=stream_id, cursor=0, request_id="s")
                while (begun := await socket.hear()).get("request_id") != "s":
                    pass
            if answer["code"] == "NOTE_NOT_FOUND" and begun.get("head") == head:
                return
            await trio.sleep(0.05)


async def write_and_read(server: Server, owner: Owner, prefix: str, count: int) -> list[str]:
    """Write some notes, and return the cursors of a subscriber that has seen them."""
    cursors: list[str] = []
    async with open_socket(server.port, owner) as socket:
        head = (await socket.subscribe(owner, cursor=None))["head"]
        for number in range(count):
            await socket.create_note(owner, f"{prefix} {number}")
        with fail_after(30):
            while len(cursors) < count:
                event = await socket.hear_type("event")
                if event["seq"] > head:
                    cursors.append(f"{event['seq']}-{event['chain']}")
    return cursors
