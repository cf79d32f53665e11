"""Runs under real kills and pauses: each ends once, its steps take effect once (I12, P1, P7)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import trio

from tests._patience import fail_after
from tests.system._database import Database
from tests.system._processes import QUICK, Owner, Processes, Server, connect

PROGRAM = """
import trio

from dalsegno.actors.domains.notes import CreateNote, NoteCreated, note_app, notes
from dalsegno.protocol.runs import Retry, worker
from dalsegno.runtime import App


@worker("counting", deadline_s=120, retry=Retry(attempts_max=20, first_s=0.05, max_s=0.1))
async def counting(run):
    # Each of the first attempts hangs in the middle, and has to be killed.
    for number in range(20):
        if run.attempt <= run.input and number == 5 * run.attempt:
            await trio.sleep_forever()
        await run.send(CreateNote(title=f"{run.id} {number}"), step=f"n{number}")


@notes.react(NoteCreated, name="greet", deadline_s=120, retry=Retry(first_s=0.05, max_s=0.1))
async def greet(run, event):
    await trio.sleep(0.05)
    return CreateNote(title=f"re: {event.title}")


@worker("watched", concurrency=1, on_disconnect="cancel")
async def watched(run):
    await trio.sleep_forever()


app = App(
    note_app.domains,
    routes=note_app.routes,
    dialects=note_app.dialects,
    workers=[counting, greet, watched],
)
"""
STEPS = 20
ENVIRONMENT = QUICK | {"DALSEGNO_LIMIT_RUNS_SCAN_S": "0.5"}

Row = tuple[int, str, str]


def program(folder: Path) -> str:
    path = folder / "counting.py"
    path.write_text(PROGRAM)
    return str(path)


def a_server(processes: Processes, cluster: Database, node_id: str) -> Server:
    return Server(
        processes,
        cluster.data_dir,
        database=cluster.dsn,
        node_id=node_id,
        environment=ENVIRONMENT,
    )


async def request(server: Server, owner: Owner, run_id: str, *, hangs: int) -> None:
    asked = {"run_id": run_id, "worker": "counting", "input": hangs}
    async with connect(server, owner) as client:
        await client.send(owner.workspace, "request_run", asked)


async def events_of(cluster: Database, owner: Owner, run_id: str) -> list[Row]:
    rows = await cluster.ask(
        "select event_seq, type, payload::text from dalsegno.event"
        " where workspace_id = %s and stream_id = %s order by event_seq",
        owner.workspace,
        f"run:{run_id}",
    )
    return [(int(seq), str(type_), str(payload)) for seq, type_, payload in rows]


async def steps_done(cluster: Database, owner: Owner, run_id: str) -> int:
    rows = await events_of(cluster, owner, run_id)
    return sum(type_ == "step_finished" for _, type_, _ in rows)


async def wait_steps(cluster: Database, owner: Owner, run_id: str, count: int) -> None:
    with fail_after(30):
        while await steps_done(cluster, owner, run_id) < count:
            await trio.sleep(0.02)


async def check_ended_once(cluster: Database, owner: Owner, run_id: str) -> list[str]:
    """Wait for the end, and look at all of it; the types of its events."""
    with fail_after(40):
        while not any(t == "run_finished" for _, t, _ in await events_of(cluster, owner, run_id)):
            await trio.sleep(0.05)
    await trio.sleep(0.5)  # whoever comes back late has come back
    rows = await events_of(cluster, owner, run_id)
    types = [type_ for _, type_, _ in rows]
    assert types[-1] == "run_finished"
    assert types.count("run_finished") == 1
    assert msgspec.json.decode(rows[-1][2])["outcome"] == "succeeded", rows[-1]
    assert types.count("step_finished") == STEPS
    effects = await cluster.ask(
        "select event_seq, payload::json->>'title' from dalsegno.event"
        " where workspace_id = %s and causation = %s and type = 'note_created'",
        owner.workspace,
        f"run:{run_id}",
    )
    titles = Counter(str(title) for _, title in effects)
    assert titles == Counter(f"{run_id} {number}" for number in range(STEPS))
    done = {seq - 1 for seq, type_, _ in rows if type_ == "step_finished"}
    assert done == {int(seq) for seq, _ in effects}, "each with its mark, in one commit"
    return types


async def test_p1_a_run_whose_server_is_killed_again_and_again_ends_once(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    server = a_server(processes, cluster, "a")
    app = program(tmp_path)
    await server.start("--app", app)
    await request(server, owner, "killed", hangs=3)
    for count in (5, 10, 15):
        await wait_steps(cluster, owner, "killed", count)
        await server.kill()
        await server.start("--app", app)
    types = await check_ended_once(cluster, owner, "killed")
    assert types.count("run_restarted") == 3
    assert await server.stop() == 0


async def test_p1_a_run_whose_owner_is_paused_past_its_lease_ends_once(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    """The other server goes on with it; the one that wakes up changes nothing."""
    app, servers = program(tmp_path), list[Server]()
    for node_id in ("a", "b"):
        server = a_server(processes, cluster, node_id)
        await server.start("--app", app)
        servers.append(server)
    await request(servers[0], owner, "paused", hangs=1)
    await wait_steps(cluster, owner, "paused", 5)
    ((owning,),) = await cluster.ask(
        "select owner from dalsegno.workspace_head where workspace_id = %s", owner.workspace
    )
    paused = servers[0] if owning == "a" else servers[1]
    with paused.stopped():
        await wait_steps(cluster, owner, "paused", 20)
    types = await check_ended_once(cluster, owner, "paused")
    assert types.count("run_restarted") == 1
    for server in servers:
        assert await server.stop() == 0
        assert server.process is not None
        assert "Traceback" not in server.process.err


async def test_a_run_goes_on_with_the_next_server_when_one_is_stopped(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    server = a_server(processes, cluster, "a")
    app = program(tmp_path)
    await server.start("--app", app)
    await request(server, owner, "moved", hangs=1)
    await wait_steps(cluster, owner, "moved", 5)
    assert await server.stop() == 0
    rows = await events_of(cluster, owner, "moved")
    assert rows[-1][1] == "run_released"
    await server.start("--app", app)
    types = await check_ended_once(cluster, owner, "moved")
    assert types.count("run_released") == types.count("run_restarted") == 1
    assert await server.stop() == 0


async def test_x_auto_4_what_events_ask_for_is_done_once_under_kills(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    """Killed between a commit and its reactor, in the middle of a run, and again after that."""
    server = a_server(processes, cluster, "a")
    app = program(tmp_path)
    await server.start("--app", app)
    titles = [f"greeted {number}" for number in range(30)]
    for first in range(0, len(titles), 10):
        async with connect(server, owner) as client:
            for title in titles[first : first + 10]:
                await client.send(owner.workspace, "create_note", {"title": title}, key=title)
        await server.kill()
        await server.start("--app", app)
    ended: dict[str, int] = {}
    with fail_after(60):
        while sum(ended.values()) < len(titles):
            await trio.sleep(0.1)
            rows = await cluster.ask(
                "select payload::json->>'outcome', count(*) from dalsegno.event"
                " where workspace_id = %s and type = 'run_finished' and stream_id in"
                " (select stream_id from dalsegno.event where workspace_id = %s"
                "   and type = 'run_requested' and payload::json->>'worker' = 'greet')"
                " group by 1",
                owner.workspace,
                owner.workspace,
            )
            ended = {str(outcome): int(count) for outcome, count in rows}
    assert ended == {"succeeded": len(titles)}
    made = await cluster.ask(
        "select payload::json->>'title' from dalsegno.event"
        " where workspace_id = %s and type = 'note_created'"
        "   and payload::json->>'title' like 're: greeted %%'",
        owner.workspace,
    )
    assert Counter(str(title) for (title,) in made) == Counter(f"re: {each}" for each in titles)
    assert await server.stop() == 0


# ------------------------------------------------------------------------- with their connection


async def test_runs_of_a_connection_to_a_killed_server_end_with_the_next_one(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    """The one that was carried out, and the one that waited for its turn."""
    servers = [a_server(processes, cluster, node_id) for node_id in ("a", "b")]
    await servers[0].start("--app", program(tmp_path))
    async with connect(servers[0], owner) as client:
        for run_id in ("first", "second"):
            asked = {"run_id": run_id, "worker": "watched"}
            await client.send(owner.workspace, "request_run", asked)
        with fail_after(30):
            while len(await events_of(cluster, owner, "first")) < 2:
                await trio.sleep(0.02)
        await servers[0].kill()
    await servers[1].start("--app", program(tmp_path))
    for run_id in ("first", "second"):
        with fail_after(40):
            while (await events_of(cluster, owner, run_id))[-1][1] != "run_finished":
                await trio.sleep(0.05)
        rows = await events_of(cluster, owner, run_id)
        assert [type_ for _, type_, _ in rows].count("run_finished") == 1
        assert msgspec.json.decode(rows[-1][2])["outcome"] == "cancelled"
        reasons = [msgspec.json.decode(p)["reason"] for _, t, p in rows if "cancel" in t]
        assert reasons == ["the connection that asked is gone"]
    assert await servers[1].stop() == 0
