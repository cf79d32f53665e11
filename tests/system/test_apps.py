"""A file of deciders is a backend: the README's, served, driven by all that can talk to it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from dalsegno.runtime.client import Client
from tests._patience import fail_after, until
from tests.system._database import Database
from tests.system._processes import QUICK, Owner, Processes, Server, connect

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The README's program, in a file."""
    (program,) = re.findall(r"^```python\n(# board\.py\n.*?)^```$", README.read_text(), re.M | re.S)
    path = tmp_path / "board.py"
    path.write_text(program)
    return path


async def next_event(client: Client, stream: str) -> tuple[int, str]:
    async with client.subscribe(stream, cursor=0) as events:
        async for event in events:
            return event.event_seq, event.event_type
    raise AssertionError("a subscription does not end")


async def test_a_file_is_served_to_http_sockets_and_the_command_line(
    processes: Processes, cluster: Database, owner: Owner, board: Path
) -> None:
    server = Server(processes, board.parent, database=cluster.dsn, node_id="a", environment=QUICK)
    await server.start("--app", str(board))
    stream = f"workspace:{owner.workspace}"
    tail = await processes.talk(server, "tail", stream)
    async with (
        connect(server, owner) as one,
        connect(server, owner, client_id="two") as two,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
    ):
        http.headers["cookie"] = owner.cookie
        session = (await http.get("/api/auth/session")).json()
        http.headers["x-csrf-token"] = session["csrf_token"]
        space = f"/api/workspaces/{owner.workspace}"

        made = await http.post(f"{space}/commands/add_task", json={"task_id": "t", "title": "One"})
        assert (made.status_code, made.json()["event_seq"]) == (200, 1)
        done = await one.send(owner.workspace, "finish_task", {"task_id": "t"})
        assert (done.event_seq, done.version) == (2, 2)
        with fail_after(10):
            assert await next_event(two, stream) == (1, "task_added")
            assert await next_event(two, "task:t") == (1, "task_added")
        entity = await http.get(f"{space}/entities/task/t")
        assert entity.json()["state"] == {"title": "One", "done": True}
        await until(lambda: len(tail.lines) == 2)
        assert [line.split()[1] for line in tail.lines] == ["task_added", "task_finished"]

        await server.kill()
        await server.start("--app", str(board))
        poll = await http.get(f"{space}/events", params={"after": "2", "wait": "0"})
        assert (poll.json()["head"], poll.json()["items"]) == (2, [])
    # Another app finds what this one has written, and does not serve what it does not know.
    assert await server.stop() == 0
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        http.headers["cookie"] = owner.cookie
        assert (await http.get(f"{space}/entities/task/t")).json()["code"] == "NOT_FOUND"
        assert (await http.get(f"{space}/events")).json()["head"] == 2
    assert await server.stop() == 0
