"""SIGTERM drains and ends within ten seconds, whatever the clients do (X-SUP-6)."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from dalsegno.protocol import Close, Limits
from dalsegno.runtime.client import Client
from tests._http import PLAIN
from tests._patience import fail_after, patient, until
from tests._pids import is_alive
from tests.system._database import Database
from tests.system._load import Load
from tests.system._processes import EMAIL, PASSWORD, Owner, Processes, Server, connect

UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Cookie: {cookie}\r\n\r\n"
)


async def open_deaf(server: Server, owner: Owner) -> trio.SocketStream:
    """Open a WebSocket that will never answer anything."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(UPGRADE.format(port=server.port, cookie=owner.cookie).encode())
    answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return stream


async def test_x_sup_6_sigterm_drains_and_stops_postgres(server: Server, owner: Owner) -> None:
    load = Load(server, owner)
    postmaster = server.postmaster()
    deaf = [await open_deaf(server, owner) for _ in range(3)]
    idle = await trio.open_tcp_stream("127.0.0.1", server.port)
    await idle.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await idle.receive_some()).startswith(b"HTTP/1.1 200")
    late = await trio.open_tcp_stream("127.0.0.1", server.port)  # asks nothing at all
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        await load.wait(more=50)
        assert await server.stop(within_s=10) == 0
        assert not is_alive(postmaster)
        assert server.process is not None
        assert "Traceback" not in server.process.err
        said = b"".join([data async for data in deaf[0]])
        assert said[0] == 0x81, "a text, RFC 6455 §5.6"
        slot, close = said[2 : 2 + said[1]], said[2 + said[1] :]
        assert slot.startswith(b'{"type":"reconnect","after_ms":')
        assert close[0] == 0x88, "a close frame, RFC 6455 §5.5.1"
        assert int.from_bytes(close[2:4]) == Close.GOING_AWAY
        for stream in (*deaf, idle, late):
            await stream.aclose()
        await server.start()
        await load.wait(more=20)
        await load.finish()
    await load.check()


async def test_a_frozen_postgres_does_not_hold_the_shutdown(server: Server, owner: Owner) -> None:
    """It is left as it is, and the next start takes it up with all that was acknowledged."""
    load = Load(server, owner)
    postmaster = server.postmaster()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        await load.wait(more=50)
        frozen = [postmaster, *children_of(postmaster)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        assert await server.stop(within_s=12) == 0
        assert is_alive(postmaster)
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        await server.start()
        await load.wait(more=20)
        await load.finish()
    await load.check()


WAITING = """
import trio

from dalsegno.actors.domains.notes import note_app
from dalsegno.protocol.runs import worker
from dalsegno.runtime import App


@worker("waiting")
async def waiting(run):
    await run.say("I wait")
    await trio.sleep_forever()


app = App(
    note_app.domains,
    routes=note_app.routes,
    dialects=note_app.dialects,
    workers=[waiting],
)
"""


async def test_an_open_run_holds_a_shutdown_no_longer_where_the_database_is_frozen(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    """Its attempt cannot be ended in the log; the next server takes it for one that was killed."""
    program, limits = tmp_path / "waiting.py", Limits()
    program.write_text(WAITING)
    server = Server(processes, cluster.data_dir, database=cluster.dsn, node_id="a")
    await server.start("--app", str(program))
    async with connect(server, owner) as client:
        await client.send(owner.workspace, "request_run", {"run_id": "r", "worker": "waiting"})
        await wait_types(client, "run_output")
        frozen = [cluster.postmaster, *children_of(cluster.postmaster)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            assert await server.stop(within_s=30) == 0
            took = time.monotonic() - began
        finally:
            for pid in frozen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    # To drain, to close what is connected, and to end the lease: each has its bound, once.
    assert took < limits.drain_deadline_s + 2 * limits.close_deadline_s + patient(0.5)
    assert server.process is not None
    assert "Traceback" not in server.process.err
    await server.start("--app", str(program))
    async with connect(server, owner) as client:
        await wait_types(client, "run_restarted")
    assert await server.stop() == 0


async def wait_types(client: Client, type_: str) -> None:
    """Wait until the run has an event of a type."""
    with fail_after(20):
        async with client.subscribe("run:r", cursor=0) as events:
            async for event in events:
                if event.event_type == type_:
                    return


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_second_signal_ends_it_at_once_with_its_postgresql(
    server: Server, owner: Owner
) -> None:
    stream = await open_deaf(server, owner)
    postmaster = server.postmaster()
    process = server.process
    assert process is not None
    process.signal(signal.SIGINT)
    await until(lambda: "draining" in process.err)
    began = time.monotonic()
    process.signal(signal.SIGINT)
    assert await process.ended(within_s=4) == 130
    assert time.monotonic() - began < patient(2)
    assert not is_alive(postmaster)
    await stream.aclose()


async def test_sighup_drains_and_under_nohup_it_is_nothing(
    database: str, processes: Processes
) -> None:
    arguments = ["serve", "--database", database, "--bind", "127.0.0.1:0"]
    process = await processes.run(*arguments)
    await until(lambda: "Dal Segno serves on" in process.out)
    process.signal(signal.SIGHUP)
    assert await process.ended(within_s=10) == 0
    assert "SIGHUP" in process.err
    process = await processes.run(*arguments, through=("nohup",))
    await until(lambda: "Dal Segno serves on" in process.out)
    process.signal(signal.SIGHUP)
    process.signal(signal.SIGTERM)
    assert await process.ended(within_s=10) == 0
    assert "SIGHUP" not in process.err
    assert "SIGTERM" in process.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_during_the_start_ends_it_in_order(
    processes: Processes, number: signal.Signals
) -> None:
    """While it waits for a database, say."""
    arguments = ["serve", "--database", "postgresql://127.0.0.1:1/x", "--bind", "127.0.0.1:0"]
    process = await processes.run(*arguments)
    await until(lambda: "waiting for the database" in process.err)
    process.signal(number)
    assert await process.ended(within_s=10) == 128 + number
    assert "Traceback" not in process.err


@pytest.mark.parametrize("moment", ["postgres.new", "postgres/postmaster.pid"])
async def test_two_signals_in_the_middle_of_the_first_start_leave_no_postgresql(
    processes: Processes, short_path: Path, moment: str
) -> None:
    """While initdb runs, and while the server starts."""
    data_dir = short_path / "data"
    process = await processes.run("serve", "--bind", "127.0.0.1:0", "--data-dir", str(data_dir))
    await until((data_dir / moment).exists)
    process.signal(signal.SIGINT)
    process.signal(signal.SIGTERM)
    assert await process.ended(within_s=10) in {130, 143}
    assert "Traceback" not in process.err
    await until(lambda: not postgres_processes(data_dir), within_s=5)
    process = await processes.run("migrate", "--data-dir", str(data_dir))
    assert await process.ended() == 0, process.err  # what is left is taken up


def postgres_processes(data_dir: Path) -> list[str]:
    """The command lines that name the folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(data_dir) in line]


async def test_setup_from_elsewhere_wants_the_token_and_ctrl_c_ends_in_order(
    database: str, processes: Processes
) -> None:
    arguments = ["serve", "--database", database, "--bind"]
    process = await processes.run(*arguments, "0.0.0.0:0")
    await until(lambda: "x-setup-token: " in process.out)
    port = process.lines[0].rpartition(":")[2]
    token = process.out.partition("x-setup-token: ")[2].strip()
    body = {"email": EMAIL, "password": PASSWORD, "display_name": "Owner"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", **PLAIN) as http:
        refused = await http.post("/api/setup/register", json=body)
        assert refused.json()["code"] == "SETUP_TOKEN_INVALID"
        headers = {"x-setup-token": token}
        accepted = await http.post("/api/setup/register", json=body, headers=headers)
        assert accepted.status_code == 201
        assert "; Secure" in accepted.headers["set-cookie"]
    process.signal(signal.SIGINT)
    assert await process.ended(within_s=10) == 0

    process = await processes.run(*arguments, "127.0.0.1:0")
    await until(lambda: "Dal Segno serves on" in process.out)
    assert "setup" not in process.out
    process.signal(signal.SIGINT)
    assert await process.ended(within_s=10) == 0
