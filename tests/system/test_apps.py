"""A file of deciders is a backend: the README's, served, driven by all that can talk to it."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from trio_websocket import open_websocket_url

from dalsegno.protocol import Reject
from dalsegno.runtime._app_file import load_app
from dalsegno.runtime.client import Client, open_client
from tests._coordination import AGENT
from tests._everything import everything
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests._reviews import Listener
from tests.runtime._coordination_wire import make_key
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


# --------------------------------------------------------------------------------- all packages


@asynccontextmanager
async def heard(server: Server, path: str, key: str) -> AsyncIterator[Listener]:
    url = f"{server.url.replace('http', 'ws', 1)}{path}"
    async with open_websocket_url(url, extra_headers=[(b"x-api-key", key.encode())]) as ws:
        yield Listener(ws)


async def test_all_packages_are_served_by_one_app(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    """Notes, rules, jobs, coordination and reviews: a request and a socket of each, and roles."""
    server = Server(processes, tmp_path, database=cluster.dsn, node_id="a", environment=QUICK)
    await server.start("--app", str(everything(tmp_path)))
    space = owner.workspace
    (tmp_path / "projects" / space).mkdir(parents=True)
    async with httpx.AsyncClient(base_url=server.url, **PLAIN) as http:
        headers = {"cookie": owner.cookie}
        session = (await http.get("/api/auth/session", headers=headers)).json()
        headers["x-csrf-token"] = session["csrf_token"]
        keys = {
            role: await make_key(http, server.url, space, headers, role)
            for role in ("admin", "editor", "author", "reviewer")
        }

        async def post(role: str, path: str, status: int, **body: Any) -> dict[str, Any]:
            named = headers if role == "owner" else {"x-api-key": keys[role]}
            answer = await http.post(path, json=body, headers=named)
            assert answer.status_code == status, (path, answer.text)
            said: dict[str, Any] = answer.json() if answer.content else {}
            return said

        note = {"workspace_id": space, "title": "N", "markdown": "Text"}
        rule = {"workspace_id": space, "trigger": "note_created", "action_json": {"kind": "noop"}}
        proposals = f"/api/v1/projects/{space}/proposals"
        # What is somebody's to do in one package is nobody's for it in another one.
        for role, path, body in (
            ("author", "/api/notes", note),
            ("reviewer", "/api/v1/agents", AGENT),
            ("editor", proposals, {"name": "P"}),
            ("reviewer", proposals, {"name": "P"}),
            ("author", "/api/automation/rules", rule),
        ):
            await post(role, path, 403, **body)

        async with (
            heard(server, "/ws", keys["editor"]) as notes,
            heard(server, "/api/v1/ws", keys["editor"]) as agents,
            heard(server, f"/ws/projects/{space}", keys["reviewer"]) as project,
        ):
            await notes.say("subscribe_workspace", workspace_id=space)
            await notes.hear("subscribed")
            await agents.hear("Connected")
            await project.hear("connected")
            await post("owner", "/api/automation/rules", 201, **rule)
            made = await post("editor", "/api/notes", 201, **note)
            while (await notes.hear("automation_event"))["status"] != "succeeded":
                pass
            assert "workspace_event" in {each["type"] for each in notes.heard}
            one = (await post("editor", "/api/v1/agents", 201, **AGENT))["agent_id"]
            assert (await agents.hear("AgentRegistered"))["agent"]["agent_id"] == one

            proposal = (await post("author", proposals, 201, name="P"))["id"]
            done = await post("reviewer", f"/api/v1/proposals/{proposal}/validate", 200)
            assert done["result"]["status"] == "passed"
            while (await project.hear("lock_changed"))["locked"]:
                pass
            shown = {each["event_type"] for each in project.heard if each["type"] == "event"}
            assert {"note_created", "agent_registered", "run_finished"} <= shown
            assert not {each["type"] for each in project.heard} & {"validation_start", "output"}
            job = f"/ws/proposals/{proposal}/validate/{done['job_id']}"
            async with heard(server, job, keys["editor"]) as following:
                assert (await following.hear("validation_complete"))["status"] == "passed"
            rest = [each["type"] for each in agents.heard if each["type"][0].isupper()]
            assert rest == ["Connected", "AgentRegistered"]

            export = await post("owner", "/api/admin/export/markdown", 202, workspace_id=space)
            assert export["job"]["status"] == "queued"
        read = await http.get(f"/api/notes/{made['note_id']}", headers=headers)
        assert read.json()["markdown"] == "Text"
        for document in ("openapi.json", "asyncapi.json", "schema"):
            answer = await http.get(f"/api/{document}", headers=headers)
            assert (answer.status_code, type(answer.json())) == (200, dict)
    assert await server.stop() == 0
    assert server.process is not None
    assert "Traceback" not in server.process.err
