"""The documents are true: their programs run, their tables match the code."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

import click
import httpx
import msgspec
import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from dalsegno.actors.domains.accounts import SetUp, users
from dalsegno.actors.domains.coordination import (
    caliber_dialect,
    coordination_app,
    coordination_domains,
    coordination_routes,
)
from dalsegno.actors.domains.coordination._refusals import as_known
from dalsegno.actors.domains.jobs import job_app
from dalsegno.actors.domains.notes import note_dialect, note_domains
from dalsegno.actors.domains.reviews import (
    COMMENT_STEPS,
    PROPOSAL_STEPS,
    REVIEWS as REVIEW_DIALECT,
    review_routes,
)
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import (
    App,
    Close,
    DalsegnoError,
    Limits,
    Reject,
    UnavailableError,
    http_status,
)
from dalsegno.protocol._errors import HTTP_STATUS
from dalsegno.protocol.dialects import GENERIC, SHARED, Ack, Language, Ping
from dalsegno.runtime import Runtime
from dalsegno.runtime._app_file import load_app
from dalsegno.runtime._cli import cli
from dalsegno.runtime._config import FileSettings
from dalsegno.runtime._server import Ready, ServeConfig, serve
from dalsegno.runtime.files import EventStoreError, SessionError
from dalsegno.runtime.providers import (
    Category,
    ProviderError,
    ProviderLimits,
    Providers,
    ProviderSettings,
    open_providers,
)
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.store import MemoryAccounts
from dalsegno.runtime.web import create_app
from dalsegno.runtime.web._auth import COOKIE, open_session
from tests import _provider
from tests._http import PLAIN
from tests._librarian import operation, proposes
from tests._patience import fail_after, patient
from tests.tasks_domain import app as tasks_app

ROOT = Path(__file__).parents[1]
README, PROTOCOL, EMBEDDING, OPERATIONS = (
    ROOT / "README.md",
    ROOT / "docs" / "protocol.md",
    ROOT / "docs" / "embedding.md",
    ROOT / "docs" / "operations.md",
)
SERVING = ROOT / "docs" / "serving.md"
TESTING = ROOT / "docs" / "testing.md"
COORDINATION = ROOT / "docs" / "coordination.md"
REVIEWS = ROOT / "docs" / "reviews.md"
FILES = ROOT / "docs" / "files.md"
RUNS = ROOT / "docs" / "runs.md"
PROVIDERS = ROOT / "docs" / "providers.md"
AUTOMATION = ROOT / "docs" / "automation.md"
JOBS = ROOT / "docs" / "jobs.md"
ARCHITECTURE, CONTRIBUTING = ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"
DOCUMENTS = (
    *(README, PROTOCOL, EMBEDDING, SERVING, COORDINATION, REVIEWS, FILES, RUNS, PROVIDERS),
    *(AUTOMATION, JOBS),
    *(OPERATIONS, TESTING, ARCHITECTURE, CONTRIBUTING),
    ROOT / "docs" / "deployment.md",
    ROOT / "docs" / "security.md",
    ROOT / "CHANGELOG.md",
)
PATIENCE_S = 30.0

EMAIL, PASSWORD = "ada@example.com", "correct horse battery"

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}

Json = dict[str, Any]


# ---------------------------------------------------------------------------------- reading them


def fences(document: Path) -> list[tuple[str, str]]:
    """Every fenced block: its language and its text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def programs(document: Path) -> list[tuple[str, str, str]]:
    """Every Python program: its name, its text, and the text block behind it, if there is one."""
    blocks = [*fences(document), ("", "")]
    return [
        (match[1] if (match := re.match(r"# (\w+\.py)\n", text)) else "main.py", text, said)
        for (language, text), (next_language, next_text) in pairwise(blocks)
        if language == "python"
        for said in [next_text if next_language == "text" else ""]
    ]


def rows(document: Path, first: str) -> list[list[str]]:
    """The rows of every table whose first column has this title."""
    found = []
    for table in re.findall(
        rf"^\| {first} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", document.read_text(), re.M
    ):
        found += [[cell.strip() for cell in row[1:-1].split(" |")] for row in table.splitlines()]
    return found


def plain(cell: str) -> str:
    return cell.strip("`")


def headings(document: Path) -> set[str]:
    """The anchors that are derived from a document's headings."""
    texts = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in texts}


def looks_like(text: str, sample: str) -> bool:
    """Whether a text is the sample, whose ``…`` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, sample.split("…"))), text, re.DOTALL) is not None


# ------------------------------------------------------------------------------ programs that run


def run(folder: Path, *command: str, **environment: str) -> str:
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=patient(4 * PATIENCE_S),
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.processes
def test_the_readmes_program_runs_and_once_is_enough(short_path: Path) -> None:
    ((name, program, said),) = programs(README)
    (short_path / name).write_text(program)
    assert run(short_path, sys.executable, name) == said
    assert run(short_path, sys.executable, name) == said


def test_the_readmes_domain_is_the_one_that_is_tested() -> None:
    """`tests/tasks_domain.py` is what other tests use."""

    def parts(source: str) -> list[str]:
        return [
            ast.dump(node)
            for node in ast.parse(source).body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Assign))
        ]

    ((_, program, _),) = programs(README)
    tested = (ROOT / "tests" / "tasks_domain.py").read_text()
    assert parts(program) == parts(tested) != []


@pytest.mark.processes
@pytest.mark.parametrize("name", [name for name, _, _ in programs(EMBEDDING) if name != "api.py"])
def test_the_embedding_programs_run(name: str, tmp_path: Path, migrated: str) -> None:
    told = ""
    for other, program, said in programs(EMBEDDING):
        embedded = 'data_dir="rooms-data"'
        assert (embedded in program) is (other == "rooms.py")
        (tmp_path / other).write_text(program.replace(embedded, f"database={migrated!r}"))
        told = said if other == name else told
    if name.startswith("test_"):
        assert "2 passed" in run(tmp_path, sys.executable, "-m", "pytest", "-q", name)
    else:
        assert told
        assert looks_like(run(tmp_path, sys.executable, name), told)


def test_the_app_of_the_embedding_is_one_to_serve(tmp_path: Path) -> None:
    (program,) = (text for name, text, _ in programs(EMBEDDING) if name == "shelf.py")
    (tmp_path / "shelf.py").write_text(program)
    assert [domain.name for domain in load_app(str(tmp_path / "shelf.py")).domains] == ["book"]


@pytest.mark.processes
def test_the_documented_store_passes_the_suite(tmp_path: Path) -> None:
    name, program, _ = programs(TESTING)[1]
    (tmp_path / name).write_text(program)
    told = run(tmp_path, sys.executable, "-m", "pytest", "-q", name)
    assert re.search(r"^\d{2,} passed", told, re.MULTILINE)


# ------------------------------------------------------------------------------ a server, as told


@asynccontextmanager
async def serving(
    database: str,
    app: App | None = None,
    *,
    providers: Callable[[], AbstractAsyncContextManager[Providers]] | None = None,
    artifacts: Path | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Ready]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        config = ServeConfig(
            port=0,
            database=database,
            limits=limits or Limits(),
            app=app or job_app,
            providers=providers,
            artifacts=artifacts,
        )
        ready: Ready = await nursery.start(partial(serve, config, stop=stop))
        try:
            yield ready
        finally:
            stop.set()


async def listen(ws: WebSocketConnection) -> Json:
    """The next message that is not a heartbeat."""
    while True:
        said: Json = msgspec.json.decode(await ws.get_message())
        if said["type"] != "heartbeat":
            return said


def agrees(said: object, sample: object) -> bool:
    """Whether a message is the sample, whose ``"…"`` stands for any text."""
    if isinstance(said, dict) and isinstance(sample, dict):
        return said.keys() == sample.keys() and all(agrees(said[k], sample[k]) for k in said)
    if isinstance(said, list) and isinstance(sample, list):
        return len(said) == len(sample) and all(map(agrees, said, sample))
    return (isinstance(said, str) and sample == "…") or said == sample


def conversation() -> Iterator[tuple[str, str]]:
    for language, text in fences(PROTOCOL):
        if language == "text" and text.startswith("→ "):
            for line in text.splitlines():
                yield line[0], line[2:]


async def test_the_conversation_of_the_protocol_takes_place(migrated: str) -> None:
    never_settles = Limits(presence_linger_s=3_600)  # it is a fresh server's, however slow this is
    async with serving(migrated, limits=never_settles) as server:
        rt = server.runtime
        command = SetUp(
            user_id="ada", email=EMAIL, display_name="Ada", workspace_id="acme", slug="m", name="A"
        )
        await rt.system.send(command)
        ada = await rt.system.get(users, "ada")
        assert ada is not None
        token, _ = await open_session(rt, "ada", ada)
        url = f"ws://127.0.0.1:{server.port}/ws?client_id=laptop"
        cookie = [(b"cookie", f"{COOKIE}={token}".encode())]
        async with open_websocket_url(
            url, subprotocols=["dalsegno.v1"], extra_headers=cookie
        ) as ws:
            assert ws.subprotocol == "dalsegno.v1"
            with fail_after(PATIENCE_S):
                for who, line in conversation():
                    if who == "→":
                        await ws.send_message(line)
                    else:
                        said, sample = await listen(ws), msgspec.json.decode(line)
                        assert agrees(said, sample), f"\nserver:   {said}\ndocument: {sample}"


def test_the_conversation_has_every_message_of_a_client() -> None:
    said = {
        type(Language(GENERIC, note_dialect).decode(line, Limits()))
        for who, line in conversation()
        if who == "→"
    }
    assert said == {Ack, Ping, *GENERIC.messages, *note_dialect.messages}


def test_every_message_of_the_server_is_told() -> None:
    types: list[type[msgspec.Struct]] = [*SHARED, *GENERIC.says, *note_dialect.says]
    said = {str(type_.__struct_config__.tag) for type_ in types}
    assert {"subscribed", "committed", "patch_committed", "hidden", "automation_event"} <= said
    text = PROTOCOL.read_text()
    assert not {name for name in said if f'"{name}"' not in text and f"`{name}`" not in text}


async def set_up(server: Ready, folder: Path, *, has_notes: bool = True) -> str:
    """Play the README's first block; return the workspace that it makes."""
    (block,) = (text for _, text in fences(README) if "/api/setup/register" in text)
    assert "http://127.0.0.1:8000" in block
    block = block.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{server.port}")
    script = f'{block}\nprintf %s "$WORKSPACE" > workspace\n'
    ended = await trio.run_process(
        ["sh", "-eu", "-c", script], cwd=folder, capture_stdout=True, capture_stderr=True
    )
    assert (msgspec.json.decode(ended.stdout).get("markdown") == "Hello world") is has_notes
    return (folder / "workspace").read_text()


async def read_line(stream: trio.abc.ReceiveStream, text: bytes = b"") -> str:
    with fail_after(PATIENCE_S):
        while not text.endswith(b"\n"):
            text += await stream.receive_some()
    return text.decode()


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README uses curl")
async def test_the_readmes_shell_commands_do_what_it_says(migrated: str, tmp_path: Path) -> None:
    dalsegno = str(Path(sys.executable).with_name("dalsegno"))
    tail, send = (
        text.replace(".venv/bin/dalsegno", dalsegno)
        for _, text in fences(README)
        if ".venv/bin/dalsegno" in text and "--app" not in text and "key make" not in text
    )
    async with serving(migrated) as server:
        workspace_id = await set_up(server, tmp_path)
        environment = {
            **os.environ,
            "DALSEGNO_URL": f"http://127.0.0.1:{server.port}",
            "DALSEGNO_EMAIL": EMAIL,
            "DALSEGNO_PASSWORD": PASSWORD,
            "WORKSPACE": workspace_id,
        }
        async with trio.open_nursery() as nursery:
            following: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    ["sh", "-eu", "-c", tail.replace(dalsegno, f"exec {dalsegno}")],
                    env=environment,
                    stdout=subprocess.PIPE,
                    check=False,
                )
            )
            assert following.stdout is not None
            assert (await read_line(following.stdout)).startswith("1 note_created note:")
            sent = await trio.run_process(
                ["sh", "-eu", "-c", send], env=environment, capture_stdout=True
            )
            first, second = map(msgspec.json.decode, sent.stdout.splitlines())
            assert first["event_seq"] == second["event_seq"] == 2
            assert first["entity"] == second["entity"]
            assert (await read_line(following.stdout)).startswith(
                f"2 note_created {first['entity']}"
            )
            following.terminate()
        # Nothing else was printed, so nothing happened twice.
        assert await server.runtime.workspace(workspace_id).head() == 2


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("curl") is None, reason="the document uses curl")
async def test_a_rule_does_what_its_document_says(migrated: str, tmp_path: Path) -> None:
    """And so does the librarian that looks at its note, with a model that says what is scripted."""
    first, second = (text for language, text in fences(AUTOMATION) if language == "sh")
    async with (
        _provider.scripted(_retitles) as provider,
        serving(
            migrated, providers=partial(open_providers, origins=[provider.url], trust_env=False)
        ) as server,
    ):
        await set_up(server, tmp_path)
        given = (
            f"URL=http://127.0.0.1:{server.port}\nWORKSPACE=$(cat workspace)\n"
            f"MODEL_URL={provider.url}\n"
            """CSRF=$(sed 's/.*"csrf_token":"\\([^"]*\\)".*/\\1/' me)\n"""
        )
        waiting = first.replace(
            "sleep 1",
            "until ask $URL/api/automation/runs?workspace_id=$WORKSPACE | grep -q succeeded"
            "; do :; done",
        )
        assert waiting != first
        with fail_after(PATIENCE_S):
            ended = await trio.run_process(
                ["sh", "-eu", "-c", given + waiting + second], cwd=tmp_path, capture_stdout=True
            )
    *_, listed, tagged, _, reviewed, retitled = map(msgspec.json.decode, ended.stdout.splitlines())
    (run,) = listed["runs"]
    assert run["triggering_event_id"] == f"note:{tagged['note_id']}:2"
    assert (run["status"], run["result_json"]["tag"]) == ("succeeded", "long")
    assert (tagged["version"], tagged["tags"]) == (3, ["long"])
    (applied,) = reviewed["run"]["result_json"]["operation_applied"]
    assert (applied["result"], applied["version"]) == ("retitled", 4)
    assert (retitled["title"], retitled["version"]) == ("From the sign", 4)


async def _retitles(wire: _provider.Wire) -> None:
    """Propose another title for the note that is shown."""
    shown = wire.asked.body["messages"][1]["content"]
    note_id = shown.partition("<source_id>")[2].partition("<")[0]
    said = operation("o1", "retitle_note", target_note_id=note_id, title="From the sign")
    await proposes(said)(wire)


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("curl") is None, reason="the document uses curl")
async def test_a_job_does_what_its_document_says(migrated: str, tmp_path: Path) -> None:
    export, backup, _ = (text for language, text in fences(JOBS) if language == "sh")
    async with serving(migrated, artifacts=tmp_path / "artifacts") as server:
        await set_up(server, tmp_path)
        given = (
            f"URL=http://127.0.0.1:{server.port}\nWORKSPACE=$(cat workspace)\n"
            """CSRF=$(sed 's/.*"csrf_token":"\\([^"]*\\)".*/\\1/' me)\n"""
        )
        waiting = export.replace(
            "sleep 1", "until ask $URL/api/admin/export/$JOB | grep -q succeeded; do :; done"
        ).replace("python3", sys.executable)
        assert waiting != export
        with fail_after(PATIENCE_S):
            ended = await trio.run_process(
                ["sh", "-eu", "-c", given + waiting + backup], cwd=tmp_path, capture_stdout=True
            )
    queued, succeeded, *listed, asked = ended.stdout.decode().splitlines()
    assert msgspec.json.decode(queued)["job"]["status"] == "queued"
    assert msgspec.json.decode(succeeded)["job"]["status"] == "succeeded"
    assert any("manifest.json" in line for line in listed)
    assert msgspec.json.decode(asked)["job"]["job_type"] == "backup_sql"


@pytest.mark.processes
def test_a_session_in_files_goes_on_where_it_was(tmp_path: Path) -> None:
    ((name, program, said), *_) = programs(FILES)
    (tmp_path / name).write_text(program)
    assert run(tmp_path, sys.executable, name) == said
    assert run(tmp_path, sys.executable, name) == (
        "appended up to 4\nthere already, up to 4\nderived up to 4\n"
        "[(3, 'Turn 3'), (4, 'Turn 4')]\n"
    )


@pytest.mark.processes
async def test_a_worker_streams_is_cancelled_and_survives_a_kill(tmp_path: Path) -> None:
    ((name, program, _), *_) = programs(RUNS)
    assert len(program.strip().splitlines()) < 40
    (tmp_path / name).write_text(program)

    async def heard(until: str, *arguments: str) -> list[str]:
        """Start the program, kill it once it has said that, unless that is its end."""
        command = [sys.executable, name, *arguments]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=tmp_path)
        assert process.stdout is not None
        said = b""
        try:
            while f"\n{until}" not in said.decode():
                part = await process.stdout.receive_some()
                assert part, f"it ended before {until!r}"
                said += part
            if until.startswith("run_finished"):
                await process.wait()  # and its database is stopped
        finally:
            process.kill()
            await process.wait()
            await process.stdout.aclose()
        return [line.strip() for line in said.decode().splitlines()]

    words = ["da", "capo", "al", "fine", "e", "poi", "la", "coda"]
    with fail_after(60):
        lines = await heard("da capo al", "r1", "ask", *words)
        assert "run_started" in lines
        assert "da capo" in lines, "as it was said"
        lines = await heard(f"run_finished {' '.join(words)}", "r1", "follow")
        assert lines[:2] == ["run_requested", "run_started"]
        assert any(line.startswith("run_restarted") for line in lines)
        await heard("da capo al", "r2", "ask", *words)
        lines = await heard("run_finished", "r2", "cancel")
        assert any(line.startswith("run_cancel_requested") for line in lines)
        assert "coda" not in lines[-1]


@pytest.mark.processes
def test_runs_end_as_their_document_says(tmp_path: Path) -> None:
    for name, program, said in (each for each in programs(RUNS) if each[2]):
        (tmp_path / name).write_text(program)
        assert run(tmp_path, sys.executable, name) == said


@pytest.mark.processes
async def test_a_worker_streams_a_model_as_its_document_says(tmp_path: Path) -> None:
    ((name, program, _),) = programs(PROVIDERS)
    (tmp_path / name).write_text(program)
    script = [
        _provider.then(_provider.chunk({"content": "From the "}), cut=True),
        _provider.status(503),
        _provider.says("From the ", "sign."),
    ]
    async with _provider.scripted(*script) as provider:
        with fail_after(4 * PATIENCE_S):
            said = await trio.to_thread.run_sync(
                partial(run, tmp_path, sys.executable, name, "What?", MODEL_URL=provider.url)
            )
    assert provider.models == ["qwen2.5-7b-instruct"] * 2 + ["qwen2.5-0.5b-instruct"]
    assert {each.body["messages"][0]["content"] for each in provider.asked} == {"What?"}
    lines = said.splitlines()
    assert lines[0] == "From the ", "as it was said"
    assert lines[-1] == "qwen2.5-0.5b-instruct: From the sign."


@pytest.mark.processes
def test_a_service_of_sessions_records_turns_as_its_document_says(tmp_path: Path) -> None:
    (_, (name, program, said), *_) = programs(FILES)
    (tmp_path / name).write_text(program)
    assert run(tmp_path, sys.executable, name) == said


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("curl") is None, reason="the document uses curl")
async def test_the_board_is_served_as_its_document_says(migrated: str, tmp_path: Path) -> None:
    ((name, program, _),) = programs(SERVING)
    (tmp_path / name).write_text(program)
    ((_, asked),) = [(lang, text) for lang, text in fences(SERVING) if lang == "sh"]
    answers, heard = (text for lang, text in fences(SERVING) if lang == "text")
    async with serving(migrated, load_app(str(tmp_path / name))) as server:
        workspace_id = await set_up(server, tmp_path, has_notes=False)
        csrf = re.search(r'"csrf_token":"([^"]*)"', (tmp_path / "me").read_text())
        assert csrf is not None
        url = f"http://127.0.0.1:{server.port}"
        environment = {**os.environ, "URL": url, "WORKSPACE": workspace_id, "CSRF": csrf[1]}
        ended = await trio.run_process(
            ["sh", "-eu", "-c", asked],
            cwd=tmp_path,
            env=environment,
            capture_stdout=True,
            capture_stderr=True,
        )
        assert looks_like(ended.stdout.decode(), answers), ended.stdout.decode()
        token = re.search(r"dalsegno_session\s+(\S+)", (tmp_path / "cookies").read_text())
        assert token is not None
        live = f"ws://127.0.0.1:{server.port}/boards/{workspace_id}/live?after=0"
        cookie = [(b"cookie", f"{COOKIE}={token[1]}".encode())]
        with fail_after(PATIENCE_S):
            async with open_websocket_url(live, extra_headers=cookie) as ws:
                lines = [await ws.get_message() for _ in range(5)]
    shown = "\n".join(each.decode() if isinstance(each, bytes) else each for each in lines)
    assert looks_like(shown, heard.rstrip("\n") + "…"), shown


@pytest.mark.processes
async def test_the_walk_through_of_coordination_ends_as_it_says(
    migrated: str, tmp_path: Path
) -> None:
    ((name, program, printed),) = programs(COORDINATION)
    (tmp_path / name).write_text(program)
    async with serving(migrated, coordination_app) as server:
        workspace_id = await set_up(server, tmp_path, has_notes=False)
        url = f"http://127.0.0.1:{server.port}"
        kept = re.search(r"dalsegno_session\s+(\S+)", (tmp_path / "cookies").read_text())
        csrf = re.search(r'"csrf_token":"([^"]*)"', (tmp_path / "me").read_text())
        assert kept is not None
        assert csrf is not None
        cookies = {COOKIE: kept[1]}
        async with httpx.AsyncClient(base_url=url, cookies=cookies, **PLAIN) as http:
            made = await http.post(
                f"/api/workspaces/{workspace_id}/keys",
                json={"name": "walk", "role": "admin"},
                headers={"x-csrf-token": csrf[1]},
            )
        with fail_after(2 * PATIENCE_S):
            said = await trio.to_thread.run_sync(
                partial(
                    run,
                    tmp_path,
                    sys.executable,
                    name,
                    AGENTS_URL=url,
                    AGENTS_KEY=made.json()["key"],
                )
            )
    assert said == printed


def documents(text: bytes) -> Iterator[Any]:
    """The JSON documents that were printed one behind the other."""
    left, decoder = text.decode().strip(), json.JSONDecoder()
    while left:
        document, end = decoder.raw_decode(left)
        yield document
        left = left[end:].lstrip()


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README uses curl")
async def test_the_readmes_app_is_served_as_it_says(migrated: str, tmp_path: Path) -> None:
    dalsegno = str(Path(sys.executable).with_name("dalsegno"))
    (asked,) = (text for _, text in fences(README) if "/commands/add_task" in text)
    (by_key,) = (text for _, text in fences(README) if "dalsegno key make" in text)
    (told,) = (
        text
        for _, text in fences(README)
        if text.startswith('{"workspace_id"') and "task:t1" in text
    )
    async with serving(migrated, tasks_app) as server:
        workspace_id = await set_up(server, tmp_path, has_notes=False)
        csrf = re.search(r'"csrf_token":"([^"]*)"', (tmp_path / "me").read_text())
        assert csrf is not None
        environment = {
            **os.environ,
            "DALSEGNO_URL": f"http://127.0.0.1:{server.port}",
            "DALSEGNO_EMAIL": EMAIL,
            "DALSEGNO_PASSWORD": PASSWORD,
            "URL": f"http://127.0.0.1:{server.port}",
            "WORKSPACE": workspace_id,
            "CSRF": csrf[1],
        }
        ended = await trio.run_process(
            ["sh", "-eu", "-c", (asked + by_key).replace(".venv/bin/dalsegno", dalsegno)],
            cwd=tmp_path,
            env=environment,
            capture_stdout=True,
        )
    committed, entity, page, log, schema, again, receipt = documents(ended.stdout)
    for said, sample in zip((committed, entity), told.splitlines(), strict=True):
        text = msgspec.json.encode(said).decode()
        assert looks_like(text, sample), f"\nserver:   {text}\ndocument: {sample}"
    assert [item["state"]["title"] for item in page["items"]] == ["Serve the README"]
    assert [item["type"] for item in log["items"]] == ["task_added"]
    assert "add_task" in schema["domains"]["task"]["commands"]
    assert again["state"] == entity["state"]
    assert (receipt["entity"], receipt["version"]) == ("task:t1", 2)


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README uses curl")
async def test_the_protocols_client_follows(migrated: str, tmp_path: Path) -> None:
    ((name, program, _),) = programs(PROTOCOL)
    (tmp_path / name).write_text(program)
    async with serving(migrated) as server:
        environment = {
            "DALSEGNO_URL": f"http://127.0.0.1:{server.port}",
            "DALSEGNO_EMAIL": EMAIL,
            "DALSEGNO_PASSWORD": PASSWORD,
            "WORKSPACE": await set_up(server, tmp_path),
        }
        with fail_after(4 * PATIENCE_S):
            printed = await trio.to_thread.run_sync(
                partial(run, tmp_path, sys.executable, name, **environment)
            )
    assert [line.split()[:2] for line in printed.splitlines()] == [
        ["1", "note_created"],
        ["2", "note_created"],
    ]


# -------------------------------------------------------------------------- tables that are true


_CALIBER = ROOT / "actors" / "domains" / "coordination"
_SESSIONS = ROOT / "actors" / "domains" / "sessions"
_CFLOW = ROOT / "actors" / "domains" / "reviews"
_ELSEWHERE = (_CALIBER, _SESSIONS, _CFLOW)
"""What has the codes of its source, in a document of its own."""


def raised(*folders: str) -> dict[str, int]:
    """Every code that some module raises, or gives to an error of its own, and its status."""
    codes = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        if any(path.is_relative_to(each) and ROOT / folders[0] != each for each in _ELSEWHERE):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="Reject"),
                    args=[ast.Constant(value=str(code)), *_],
                    keywords=named,
                ):
                    own = [ast.literal_eval(each.value) for each in named if each.arg == "status"]
                    codes[code] = http_status(Reject(code, status=own[0] if own else None))
                case ast.Assign(
                    targets=[ast.Name(id="code")], value=ast.Constant(value=str(code))
                ) if code.isupper():
                    codes[code] = http_status(Reject(code))
    return codes


_SERVER = "protocol", "actors", "runtime/web", "runtime/store", "runtime/folders"


def test_the_codes_are_those_of_the_code() -> None:
    absent = {f"{domain.name.upper()}_NOT_FOUND": 404 for domain in note_domains if domain.commands}
    server = HTTP_STATUS | absent | raised(*_SERVER)
    client = raised("runtime/client").keys() - server.keys()
    assert {"NOTE_EXISTS", "UNKNOWN_COMMAND", "NOT_SUBSCRIBED"} <= server.keys()
    assert "UNREACHABLE" in client
    told = {plain(row[0]): int(row[1]) for row in rows(PROTOCOL, "Code") if row[0][1:2].isupper()}
    assert told == server
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)`", PROTOCOL.read_text()))
    assert named - server.keys() - METHODS == client


def test_the_codes_of_coordination_are_those_of_its_code() -> None:
    told = {
        code: int(status)
        for status, codes in rows(COORDINATION, "Status")
        for code in re.findall(r"`([A-Z_]+)`", codes)
    }
    ours = {*HTTP_STATUS, *(f"{domain.name.upper()}_NOT_FOUND" for domain in coordination_domains)}
    here = {error.code: http_status(error) for error in map(as_known, map(Reject, ours))}
    own = raised(str(_CALIBER)) | {"MISSING_FIELD": 400, "TENANT_NOT_FOUND": 404}
    assert own.items() <= told.items()
    assert told.items() <= (here | own | {"INVALID_RANGE": 400}).items()


def test_the_codes_of_reviews_are_those_of_its_code() -> None:
    told = {
        code: status
        for codes, status, _ in rows(REVIEWS, "Code")
        for code in re.findall(r"`(\w+)`", codes)
    }
    own = raised(str(_CFLOW))
    served = {*HTTP_STATUS} - {"PATH_FORBIDDEN"}
    assert own.keys() - served <= told.keys()
    renamed = {"NOT_CONFIGURED": 503}
    for code, status in (own | renamed).items():
        if told.get(code):
            assert int(told[code]) == status, code
    sources = "".join(path.read_text() for path in _CFLOW.glob("*.py"))
    assert not {code for code in told if f'"{code}"' not in sources} - {"LLM_UPSTREAM_ERROR"}


def test_the_routes_of_reviews_are_those_that_are_served() -> None:
    served = {f"{route.method} {route.path}" for route in review_routes}
    told = re.findall(rf"`((?:{'|'.join(METHODS)})) (/[^\s`?]*)`", REVIEWS.read_text())
    found = {f"{method} /api/v1{path.removeprefix('/api/v1')}" for method, path in told}
    assert found == served | {"GET /api/v1/api/openapi.json"}


def test_the_messages_of_reviews_are_those_that_are_sent() -> None:
    told = {plain(name): fields_ for name, fields_ in rows(REVIEWS, "Message")}
    own = {
        str(said.__struct_config__.tag): said
        for said in REVIEW_DIALECT.says
        if said.__module__.startswith(REVIEW_DIALECT.__module__.rpartition(".")[0])
    }
    assert told.keys() == own.keys()
    common = {"seq", "cursor", "proposal_id", "job_id", "request_id"}
    for name, said in own.items():
        named = set(re.findall(r"`(\w+)`", told[name].partition("Another")[0]))
        assert {*said.__struct_fields__} - named <= common, name
    asked = {plain(name) for name, *_ in rows(REVIEWS, "A client says")}
    assert asked == {"view", "leave", "validate", "iterate", "cancel"}


def test_what_reviews_put_on_record_is_what_is_told() -> None:
    (told,) = re.findall(r"^## On record\n(.*?)^## ", REVIEWS.read_text(), re.M | re.S)
    sources = "".join(path.read_text() for path in _CFLOW.glob("*.py"))
    of = "PROPOSAL|CONTENT|STATUS|REVIEWERS|COMMENT|PROJECT"
    recorded = set(re.findall(rf'"((?:{of})_(?:[A-Z]+_)*(?:[A-Z]+ED|FORCE))"', sources))
    assert set(re.findall(r"`([A-Z_]+)`", told)) == recorded


def test_the_steps_of_reviews_are_those_of_its_tables() -> None:
    told = {
        plain(name): ({*sources.split(", ")}, target, who)
        for name, sources, target, who in rows(REVIEWS, "Step")
    }
    assert told == {
        name: ({*step.sources}, step.target, step.who)
        for name, step in {**PROPOSAL_STEPS, **COMMENT_STEPS}.items()
    }


def test_the_codes_of_files_are_those_of_their_errors() -> None:
    kinds: list[type[DalsegnoError]] = [EventStoreError, SessionError]
    found = set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.add((kind.code, kind.__name__))
    found.remove((EventStoreError.code, EventStoreError.__name__))
    told = {(plain(code), plain(name)) for code, name, _ in rows(FILES, "Code")}
    assert told == {each for each in found if not each[1].startswith("_")}


def test_the_routes_of_coordination_are_those_that_are_served() -> None:
    served = {f"{route.method} {route.path}" for route in coordination_routes}
    told = re.findall(rf"`((?:{'|'.join(METHODS)})) (/[^\s`?]*)", COORDINATION.read_text())
    assert {f"{method} {path}" for method, path in told if path != "/api/v1/ws"} == {
        each.replace(" /api/v1", " ") for each in served
    } | {"GET /api/openapi.json"}


def test_the_messages_of_coordination_are_those_that_are_sent() -> None:
    told = {
        name for row in rows(COORDINATION, "Message") for name in re.findall(r"`(\w+)`", row[0])
    }
    assert told == {str(said.__struct_config__.tag) for said in caliber_dialect.says}


@pytest.mark.parametrize("document", [README, OPERATIONS], ids=lambda path: path.name)
def test_the_codes_that_are_told_exist(document: Path) -> None:
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", document.read_text()))
    assert "WORKSPACE_MOVED" in named
    ours = {name for name in named if not name.startswith("DALSEGNO_")}
    assert ours - {"WORKSPACE"} <= HTTP_STATUS.keys()


def test_the_close_codes_are_those_of_the_code() -> None:
    told = {int(row[0]): row[2] for row in rows(PROTOCOL, "Code") if row[0].isdigit()}
    assert told.keys() == set(Close)
    for code, then in told.items():
        assert then.startswith("comes back") is Close(code).reconnect, f"{code}: {then}"


async def test_the_routes_are_those_of_the_server() -> None:
    memory, accounts = MemoryStore(WORLD), MemoryAccounts(WORLD)
    app = job_app
    async with Runtime.open(app=app, store=memory, accounts=accounts) as rt:
        site = create_app(rt, secure_cookies=False, setup_token=None)
    served = {
        f"{method} {rule.rule.replace('<', '{').replace('>', '}')}"
        for rule in site.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    told = set(re.findall(rf"`((?:{'|'.join(METHODS)}) /[^\s`?]*)`", PROTOCOL.read_text()))
    assert told == served


def test_the_limits_are_those_of_the_code() -> None:
    units = {"KiB": 1024, "MiB": 1024**2, "s": 1, "h": 3600}
    declared = {field.name: field.default for field in fields(Limits)}
    for document in (README, OPERATIONS):
        told = rows(document, "Limit")
        assert told
        for name, default, _ in told:
            number, _, unit = default.partition(" ")
            assert declared[plain(name)] == float(number) * units.get(unit, 1), name
    assert [plain(name) for name, _, _ in told] == [*declared], "all of them, in their order"
    named = set(re.findall(r"`(\w+_(?:max|s|bytes))`", OPERATIONS.read_text()))
    assert named <= declared.keys()


def test_the_bounds_of_providers_are_those_of_the_code() -> None:
    units = {"KiB": 1024, "MiB": 1024**2, "s": 1}
    declared = {field.name: field.default for field in fields(ProviderLimits)}
    told = rows(PROVIDERS, "Bound")
    assert [plain(name) for name, _, _ in told] == [*declared]
    for name, default, _ in told:
        number, _, unit = default.partition(" ")
        assert declared[plain(name)] == float(number) * units.get(unit, 1), name


def test_the_failures_of_providers_are_those_of_the_code() -> None:
    told = rows(PROVIDERS, "`category`")
    assert {plain(category) for category, *_ in told} == {*get_args(Category)}
    for category, code, detail, *_ in told:
        error = ProviderError(cast("Category", plain(category)), "x")
        assert (error.code, error.details["detail"]) == (plain(code), plain(detail))
    settings = [plain(name) for name, *_ in rows(PROVIDERS, "Setting")]
    assert settings == [*ProviderSettings.__struct_fields__]


def test_a_limit_that_is_named_with_its_value_has_it() -> None:
    """As in: within `drain_deadline_s` (2.5 s)."""
    told = [
        (path.name, *found)
        for path in (README, *PROTOCOL.parent.glob("*.md"))
        for found in re.findall(r"`(?:Limits\.)?(\w+)` \((\d[\d.,]*) s\)", path.read_text())
    ]
    assert told
    for where, name, value in told:
        assert getattr(Limits(), name) == float(value.replace(",", "")), (where, name)


def test_every_error_that_means_try_again_is_in_the_table_of_errors() -> None:
    table = EMBEDDING.read_text().partition("## Errors")[2]
    kinds: set[type] = {UnavailableError, *UnavailableError.__subclasses__()}
    assert {kind.__name__ for kind in kinds} <= set(re.findall(r"`(\w+Error)`", table))
    assert f"any of these {('three', 'four', 'five')[len(kinds) - 4]}" in table


def test_what_is_seen_in_the_log_is_what_the_code_says() -> None:
    sources = "".join(
        path.read_text()
        for folder in ("actors", "runtime")
        for path in (ROOT / folder).rglob("*.py")
    )
    (alarms,) = re.findall(r"Worth an alarm: (.*?)\n\n", OPERATIONS.read_text(), re.DOTALL)
    said = [plain(phrase) for phrase in re.findall(r"`[^`]+`", alarms)]
    for row in rows(OPERATIONS, "What happens"):
        said += re.findall(r'"(?:… )?(.*?)(?: …)?"', row[3])
    assert len(said) > 10
    assert not {phrase for phrase in said if phrase not in sources}


def test_the_settings_are_those_of_serve() -> None:
    options = {
        parameter.opts[0]: parameter.envvar
        for parameter in cli.commands["serve"].params
        if isinstance(parameter, click.Option)
    }
    del options["--config"]
    assert {plain(row[0]): plain(row[1]) for row in rows(README, "Option")} == options
    keys = {option.removeprefix("--").replace("-", "_") for option in options}
    assert {*FileSettings.__struct_fields__} == {*keys, "limits"}


def test_the_dependencies_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}

    project = declared["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    assert {row[0] for row in rows(README, "Library")} == names(project["dependencies"] + extras)
    groups = declared["dependency-groups"]
    text = README.read_text()
    assert not {name for name in names(groups["test"] + groups["lint"]) if name not in text}


# ----------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        assert not anchor or anchor in headings(there), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_called_json_is_json(document: Path) -> None:
    for language, text in fences(document):
        if language == "json":
            msgspec.json.decode(text)
