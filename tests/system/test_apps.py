"""A file of deciders is a backend: the README's, served, driven by all that can talk to it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx
import jwt
import pytest

from dalsegno.protocol import Reject
from dalsegno.runtime._app_file import load_app
from dalsegno.runtime.client import Client, open_client
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests.system._database import Database
from tests.system._processes import QUICK, Owner, Processes, Server, connect

ISSUER, SECRET = "https://id.example.org", b"a secret of thirty-two bytes, or more"
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
        httpx.AsyncClient(base_url=server.url, **PLAIN) as http,
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
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        http.headers["cookie"] = owner.cookie
        assert (await http.get(f"{space}/entities/task/t")).json()["code"] == "NOT_FOUND"
        assert (await http.get(f"{space}/events")).json()["head"] == 2
    assert await server.stop() == 0


async def test_a_key_and_a_token_drive_it_typed_by_the_file(
    processes: Processes, cluster: Database, owner: Owner, board: Path
) -> None:
    """What a program has of the server is the file with the app, an address and a credential."""
    secret = board.with_name("secret")
    secret.write_bytes(SECRET)
    server = Server(processes, board.parent, database=cluster.dsn, node_id="a", environment=QUICK)
    await server.start(
        *("--app", str(board), "--jwt-issuer", ISSUER, "--jwt-audience", "board"),
        *("--jwt-secret-file", str(secret)),
    )
    space = f"/api/workspaces/{owner.workspace}"
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        http.headers["cookie"] = owner.cookie
        session = (await http.get("/api/auth/session")).json()
        http.headers["x-csrf-token"] = session["csrf_token"]
        made = await http.post(f"{space}/keys", json={"name": "import", "role": "editor"})
        joined = await http.put(f"{space}/members/jwt:bob", json={"role": "viewer"})
        assert (made.status_code, joined.status_code) == (201, 200)
    claims = {"iss": ISSUER, "aud": "board", "sub": "bob", "exp": time.time() + 300}
    token = jwt.encode(claims, SECRET, "HS256")

    app = load_app(str(board))
    (tasks,) = app.domains
    add, finish = tasks.commands["add_task"], tasks.commands["finish_task"]
    async with (
        open_client(server.url, api_key=made.json()["key"], app=app) as importer,
        open_client(server.url, api_key=token, app=app) as bob,
    ):
        writing, reading = importer.workspace(owner.workspace), bob.workspace(owner.workspace)
        with fail_after(20):
            async with reading.subscribe(after=2) as events:  # they became members at 1 and 2
                sent = await writing.send(add(task_id="t", title="One"), key="k")
                await writing.send(finish(task_id="t"))
                heard = [await anext(events) for _ in range(2)]
            assert [each.event_type for each in heard] == ["task_added", "task_finished"]
            assert [each.event_seq for each in heard] == [sent.event_seq, sent.event_seq + 1]
            assert (await reading.get(tasks, "t", min_seq=heard[-1].event_seq)) == tasks.state(
                title="One", done=True
            )
            with pytest.raises(Reject, match="ROLE_FORBIDDEN"):
                await reading.send(add(task_id="u", title="Two"))
    assert await server.stop() == 0
