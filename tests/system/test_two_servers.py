"""Two servers on one database: one of them serves a workspace, and the other can take it over.

Leases decide who owns it; the epoch alone decides what may be written (I3).  So whatever is frozen,
cut off or killed here, each history must be one that a single server could have led to (X-SEQ-4,
FI-12).
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator

import pytest
import trio

from tests._patience import fail_after, until
from tests.system._crowd import ACKS_UNWRITTEN_S, NOT_NOW, ORDINARY, Crowd
from tests.system._database import Database
from tests.system._processes import QUICK, Owner, Processes, Server
from tests.system._proxy import Proxy, open_proxy
from tests.system._socket import Message, Socket, open_socket

LONG = QUICK | {
    "DALSEGNO_LIMIT_LEASE_S": "600",
    "DALSEGNO_LIMIT_COMMIT_DEADLINE_S": "60",
    "DALSEGNO_LIMIT_ANSWER_DEADLINE_S": "60",
}
"""Who has to wait for a lease to run out, or for an answer that does not come, gets nowhere.

A commit that a pause outlasts has no known outcome, and takes a new epoch (I4); so does a workspace
whose read was outlasted, since it ends.
"""
SOON_S = 20.0
SILENCE_S = 2.0

TITLES = itertools.count()

Pair = tuple[Server, Server, Crowd]


async def start_pair(
    processes: Processes,
    cluster: Database,
    owner: Owner,
    environment: dict[str, str],
    *,
    database: str | None = None,
) -> Pair:
    """Two servers, ``a`` and ``b``, and a crowd at both; ``a`` is reached by ``database``."""
    servers = []
    for node_id, dsn in (("a", database or cluster.dsn), ("b", cluster.dsn)):
        server = Server(
            processes, cluster.data_dir, database=dsn, node_id=node_id, environment=environment
        )
        await server.start()
        servers.append(server)
    a, b = servers
    return a, b, Crowd(owner, a.port, b.port, silence_s=SILENCE_S)


@pytest.fixture
async def pair(processes: Processes, cluster: Database, owner: Owner) -> AsyncIterator[Pair]:
    a, b, crowd = await start_pair(processes, cluster, owner, QUICK)
    yield a, b, crowd
    await end(a, b)


@pytest.fixture
async def patient_pair(
    processes: Processes, cluster: Database, owner: Owner
) -> AsyncIterator[Pair]:
    """… whose leases are long: workspaces move without waiting for them."""
    a, b, crowd = await start_pair(processes, cluster, owner, LONG)
    yield a, b, crowd
    await end(a, b)


async def end(*servers: Server) -> None:
    for server in servers:
        assert server.process is not None
        if server.process.is_running:
            assert await server.stop() == 0
        assert "Traceback" not in server.process.err


async def owner_of(cluster: Database, owner: Owner) -> tuple[str | None, int]:
    ((node_id, epoch),) = await cluster.ask(
        "select owner, epoch from dalsegno.workspace_head where workspace_id = %s", owner.workspace
    )
    return node_id, epoch


async def wait_owner(cluster: Database, owner: Owner, *, other_than: str | None) -> str:
    with fail_after(SOON_S):
        while True:
            node_id, _ = await owner_of(cluster, owner)
            if node_id is not None and node_id != other_than:
                return node_id
            await trio.sleep(0.05)


def which(pair: Pair, node_id: str) -> tuple[Server, Server]:
    """The server of a node, and the other one."""
    a, b, _ = pair
    return (a, b) if node_id == "a" else (b, a)


async def finish(crowd: Crowd, cluster: Database) -> None:
    await crowd.wait(more=60)
    await crowd.settle()
    await crowd.judge(cluster.dsn)
    assert set(crowd.codes) <= NOT_NOW | ORDINARY


async def test_x_seq_4_fi_12_two_servers_are_asked_for_one_workspace(
    pair: Pair, cluster: Database, owner: Owner
) -> None:
    """One serves it; the other names that one, and accepts nothing."""
    _, _, crowd = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=100)
        serving, epoch = await owner_of(cluster, owner)
        await until(lambda: crowd.codes["WORKSPACE_MOVED"] > 0)
        await finish(crowd, cluster)
    assert await owner_of(cluster, owner) == (serving, epoch)
    assert crowd.owners == {serving}


async def test_a_drained_servers_workspaces_are_taken_over_at_once(
    patient_pair: Pair, cluster: Database, owner: Owner
) -> None:
    crowd = patient_pair[2]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=60)
        for _ in range(2):  # there and back again
            serving, _ = await owner_of(cluster, owner)
            assert serving is not None
            leaving, staying = which(patient_pair, serving)
            assert await leaving.stop() == 0
            await crowd.wait(more=60, within_s=SOON_S)
            assert await owner_of(cluster, owner) == (
                staying.node_id,
                (await owner_of(cluster, owner))[1],
            )
            await leaving.start()
        await finish(crowd, cluster)


async def test_fi_9_a_killed_servers_workspaces_are_taken_over_after_its_lease(
    pair: Pair, cluster: Database, owner: Owner
) -> None:
    crowd = pair[2]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=60)
        serving, epoch = await owner_of(cluster, owner)
        assert serving is not None
        killed, other = which(pair, serving)
        await killed.kill()
        crowd.recorder.crashed(acks_unwritten_s=ACKS_UNWRITTEN_S)
        await crowd.wait(more=60)
        taken, later = await owner_of(cluster, owner)
        assert taken == other.node_id
        assert later > epoch
        await finish(crowd, cluster)
    assert serving in crowd.owners, "until then, who asked was told whose it is"


async def test_a_killed_server_that_comes_back_has_its_workspaces_at_once(
    patient_pair: Pair, cluster: Database, owner: Owner
) -> None:
    """The node is the same, the process another: its lease is its own."""
    crowd = patient_pair[2]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=60)
        serving, _ = await owner_of(cluster, owner)
        assert serving is not None
        killed, _ = which(patient_pair, serving)
        await killed.kill()
        crowd.recorder.crashed(acks_unwritten_s=ACKS_UNWRITTEN_S)
        await killed.start()
        await crowd.wait(more=60, within_s=SOON_S)
        assert (await owner_of(cluster, owner))[0] == serving
        await finish(crowd, cluster)


async def test_a_paused_owner_is_fenced_and_sends_its_clients_away(
    pair: Pair, cluster: Database, owner: Owner
) -> None:
    """Stopped past its lease, then let go on: not a number of it is written (I3)."""
    crowd = pair[2]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=60)
        for _ in range(2):  # there and back again
            serving, epoch = await owner_of(cluster, owner)
            assert serving is not None
            paused, other = which(pair, serving)
            async with open_socket(paused.port, owner, client_id="loyal") as loyal:
                await loyal.subscribe(owner)
                async with crowd.without_acks():
                    with paused.stopped():
                        await loyal.create_note(owner, f"late {next(TITLES)}")
                        await wait_owner(cluster, owner, other_than=serving)
                        await crowd.wait(more=10)
                await check_sent_away(loyal, owner, other)
            await crowd.wait(more=60)
            taken, later = await owner_of(cluster, owner)
            assert taken == other.node_id
            assert later > epoch
        await finish(crowd, cluster)


async def check_sent_away(loyal: Socket, owner: Owner, other: Server) -> None:
    """Its command is refused, its subscription ended, both with the name of the new owner.

    At first the server may not know whether the session has ended, for it was away itself.
    """
    told: dict[str, Message] = {}
    with fail_after(SOON_S):
        while not told.keys() >= {"rejected", "error"}:
            said = await loyal.hear()
            if said.get("code") == "STORE_UNAVAILABLE":
                await trio.sleep(0.05)
                await loyal.create_note(owner, f"again {next(TITLES)}")
            else:
                told[said["type"]] = said
    for said in (told["rejected"], told["error"]):
        assert said["code"] == "WORKSPACE_MOVED", said
        assert said["details"]["owner"] == other.node_id


async def test_a_paused_owner_that_comes_back_in_time_goes_on(
    processes: Processes, cluster: Database, owner: Owner, proxy: Proxy
) -> None:
    """… with what it was waiting for from the database."""
    a, b, crowd = await start_pair(processes, cluster, owner, LONG, database=proxy.dsn)
    async with open_socket(a.port, owner, client_id="first") as first:
        await first.create_note(owner, "the first")
        await first.hear_type("committed")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=60)
        serving, epoch = await owner_of(cluster, owner)
        assert serving == "a"
        async with crowd.without_acks():
            proxy.freeze()
            await trio.sleep(0.2)
            told = crowd.codes["WORKSPACE_MOVED"]
            with a.stopped():
                await until(lambda: crowd.codes["WORKSPACE_MOVED"] > told)
                await trio.sleep(float(QUICK["DALSEGNO_LIMIT_ANSWER_DEADLINE_S"]))
                proxy.thaw()
        await finish(crowd, cluster)
        assert await owner_of(cluster, owner) == (serving, epoch)
    await end(a, b)


@pytest.fixture
async def proxy(cluster: Database) -> AsyncIterator[Proxy]:
    async with open_proxy(cluster.dsn) as proxy:
        yield proxy


@pytest.mark.parametrize("silently", [False, True], ids=["cut", "silent"])
async def test_an_owner_that_is_cut_off_from_the_database_past_its_lease(
    processes: Processes, cluster: Database, owner: Owner, proxy: Proxy, silently: bool
) -> None:
    """It cannot know; its clients can reach it all the while, and get nothing that is false."""
    a, b, crowd = await start_pair(processes, cluster, owner, QUICK, database=proxy.dsn)
    async with (
        open_socket(a.port, owner, client_id="loyal") as loyal,
        trio.open_nursery() as nursery,
    ):
        await loyal.subscribe(owner)
        await loyal.create_note(owner, "the first")
        await loyal.hear_type("committed")
        assert (await owner_of(cluster, owner))[0] == "a"
        nursery.start_soon(crowd.run)
        await crowd.wait(more=40)
        async with crowd.without_acks():
            if silently:
                proxy.freeze()
            else:
                await proxy.go_away()
            await wait_owner(cluster, owner, other_than="a")
            await crowd.wait(more=20)
            proxy.thaw()
            proxy.come_back()
        await loyal.create_note(owner, "the last")
        await check_sent_away(loyal, owner, b)
        await finish(crowd, cluster)
    await end(a, b)


async def test_a_node_that_is_started_twice_ends_the_first(
    processes: Processes, cluster: Database, owner: Owner
) -> None:
    """A copied data directory, say: the later process is the node, the earlier one ends."""
    first, second = (
        Server(processes, cluster.data_dir, database=cluster.dsn, node_id="a", environment=QUICK)
        for _ in range(2)
    )
    await first.start()
    crowd = Crowd(owner, first.port, second.port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run)
        await crowd.wait(more=20)
        await second.start()
        assert first.process is not None
        assert await first.process.ended() == 1
        assert "another process serves as node a" in first.process.err
        await finish(crowd, cluster)
    assert await second.stop() == 0


async def test_send_and_tail_at_the_wrong_server_go_to_the_owner_or_say_whose_it_is(
    processes: Processes, cluster: Database, owner: Owner
) -> None:
    """One that advertises its address is found; one that does not is named, and that is the end."""
    a, b = (
        Server(processes, cluster.data_dir, database=cluster.dsn, node_id=name, environment=QUICK)
        for name in "ab"
    )
    await a.start("--advertise", a.url)
    await b.start()
    note = ["send", owner.workspace, "create_note"]
    stream = ["tail", f"workspace:{owner.workspace}"]
    first = await processes.talk(a, *note, '{"title": "a has it now"}')
    assert await first.ended() == 0, first.err
    sent = await processes.talk(b, *note, '{"title": "found"}')
    tail = await processes.talk(b, *stream)
    assert await sent.ended() == 0, sent.err
    await until(lambda: len(tail.lines) == 2)
    for command in (sent, tail):
        assert f"node 'a', at {a.url}; going there" in command.err
        assert f"connected to {a.url}" in command.err
        assert "connection lost" not in command.err

    assert await a.stop() == 0
    sent = await processes.talk(b, *note, '{"title": "b has it now"}')
    assert await sent.ended() == 0, sent.err
    await until(lambda: len(tail.lines) == 3)  # it came back to where it knew of
    tail.signal(signal.SIGINT)
    assert await tail.ended() == 130
    await a.start("--advertise", a.url)
    lost = [
        await processes.talk(a, *command, "--attempts", "2")
        for command in ([*note, '{"title": "never"}'], stream)
    ]
    for command in lost:
        assert await command.ended() == 1
        assert not command.out
        *earlier, last = command.err.splitlines()
        assert "node 'b', which gives no address; asking again in" in earlier[0]
        assert last.startswith("dalsegno: ")
        assert "node 'b', which gives no address" in last
    await end(a, b)
