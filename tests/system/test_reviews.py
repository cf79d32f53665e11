"""Reviews as their users have them: the document's walk, and servers that are killed in the middle.

A validation and an iteration end once, whatever dies, and what they leave behind is what the log
says: lines, a lock that is given back, and files that are all there or not at all.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from dalsegno.runtime.disk import RealDisk
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests._pids import is_alive
from tests._provider import ScriptedProvider, Wire, chunk, says, scripted, then
from tests._reviews import Json, One, answer, logged_in
from tests.runtime._coordination_wire import make_key
from tests.runtime._serving import Person
from tests.system._database import Database
from tests.system._processes import QUICK, Owner, Processes, Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "reviews.md"
ENVIRONMENT = QUICK | {"DALSEGNO_LIMIT_RUNS_SCAN_S": "0.5"}

VALIDATOR = """
import os, subprocess, sys, time
from pathlib import Path

seen = Path(os.environ["SEEN"])
with (seen / "executed").open("a") as executed:
    executed.write("once\\n")
if (seen / "done").exists():
    sys.exit(0)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(seen / "pids").write_text(f"{os.getpid()} {child.pid}")
print("one", flush=True)
while not (seen / "go").exists():
    time.sleep(0.05)
print("two", flush=True)
print("three", file=sys.stderr, flush=True)
time.sleep(600)
"""
"""Says how often it was executed, and goes on until it is killed, with a child of its own."""

PROGRAM = """
import os
import sys

from dalsegno.actors.domains.reviews import reviews
from dalsegno.protocol.providers import ProviderSettings

app = reviews(
    root=os.environ["REVIEWS_ROOT"],
    validate=[sys.executable, os.environ["VALIDATOR"]] if "VALIDATOR" in os.environ else [],
    env={"SEEN": os.environ.get("SEEN", "")},
    models=[
        ProviderSettings(
            provider_kind="lmstudio",
            model="m",
            timeout_ms=60_000,
            retry_limit=0,
            base_url=os.environ["MODEL_URL"],
        )
    ],
)
"""


class Place:
    """A server of reviews that may be killed, its owner, and where its files are."""

    def __init__(
        self, server: Server, app: Path, owner: Owner, one: One, cluster: Database
    ) -> None:
        self.server = server
        self.app = app
        self.one = one
        self.root = app.parent / "projects"
        self.folder = self.root / owner.workspace
        self._project = owner.workspace
        self._cluster = cluster

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def files(self) -> dict[str, str]:
        return {
            str(each.relative_to(self.folder)): each.read_text()
            for each in sorted(self.folder.rglob("*"))
            if each.is_file()
        }

    def staged(self) -> list[Path]:
        return [*(self.root / ".staging").glob("[!.]*")]

    async def events(self) -> list[tuple[str, str, Json]]:
        """The log: of each event its entity, its type and its payload."""
        rows = await self._cluster.ask(
            "select stream_id, type, payload::text from dalsegno.event"
            " where workspace_id = %s order by event_seq",
            self._project,
        )
        return [(str(at), str(type_), msgspec.json.decode(str(said))) for at, type_, said in rows]

    async def of_job(self, job_id: str) -> list[tuple[str, Json]]:
        return [(type_, said) for at, type_, said in await self.events() if at == f"run:{job_id}"]

    async def is_unlocked(self) -> bool:
        locks = Counter(type_ for at, type_, _ in await self.events() if at == "project_lock:main")
        return locks["project_lock_used"] == locks["project_unlocked"] > 0

    async def check(self, job_id: str, outcome: str) -> None:
        """Check that a job has begun once and ended once, and that its lock was given back."""
        with fail_after(20):
            while not await self.is_unlocked():
                await trio.sleep(0.05)
        job = await self.of_job(job_id)
        types = Counter(type_ for type_, _ in job)
        assert types["run_started"] == types["run_finished"] == 1
        assert (job[-1][0], job[-1][1]["outcome"]) == ("run_finished", outcome)
        locks = [type_ for at, type_, _ in await self.events() if at == "project_lock:main"]
        assert locks == ["project_lock_used", "project_unlocked"] * (len(locks) // 2)
        lock = await self.one.get(f"/api/v1/projects/{self._project}/lock")
        assert not lock["locked"]


@asynccontextmanager
async def placed(
    processes: Processes,
    cluster: Database,
    owner: Owner,
    folder: Path,
    provider: ScriptedProvider,
    **environment: str,
) -> AsyncIterator[Place]:
    app = folder / "reviews.py"
    app.write_text(PROGRAM)
    environment = {
        **ENVIRONMENT,
        "REVIEWS_ROOT": str(folder / "projects"),
        "MODEL_URL": provider.url,
        "DALSEGNO_MODELS": f"http://127.0.0.1:{provider.port}",
        **environment,
    }
    server = Server(processes, folder, database=cluster.dsn, node_id="a", environment=environment)
    await server.start("--app", str(app))
    async with httpx.AsyncClient(**PLAIN) as http:
        person = Person(server.url, owner.user_id, owner.workspace, owner.cookie)
        one = await logged_in(http, person, owner.workspace)
        yield Place(server, app, owner, one, cluster)
    assert await server.stop() == 0
    assert server.process is not None
    assert "Traceback" not in server.process.err


# -------------------------------------------------------------------------------- the document's


def program(name: str) -> str:
    (found,) = re.findall(rf"^```python\n(# {name}\n.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    return str(found)


async def test_the_walk_through_ends_as_it_says(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    for name in ("reviews.py", "check.py", "walk.py"):
        (tmp_path / name).write_text(program(name))
    printed = re.findall(r"^```text\n(a validation.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    slow = then(chunk({"role": "assistant", "content": "Let me"}))
    better = says(*answer(login_md="# Log-in\nWith a password of 12 characters."))
    async with scripted(slow, better) as provider:
        environment = {
            **ENVIRONMENT,
            "REVIEWS_ROOT": str(tmp_path / "projects"),
            "MODEL_URL": provider.url,
            "DALSEGNO_MODELS": f"http://127.0.0.1:{provider.port}",
        }
        server = Server(
            processes, tmp_path, database=cluster.dsn, node_id="a", environment=environment
        )
        await server.start("--app", str(tmp_path / "reviews.py"))
        told = environment | {"REVIEWS_URL": server.url, "WORKSPACE": owner.workspace}
        async with httpx.AsyncClient(**PLAIN) as http:
            http.headers["cookie"] = owner.cookie
            shown = (await http.get(f"{server.url}/api/auth/session")).json()
            headers = {"x-csrf-token": shown["csrf_token"]}
            for role in ("author", "reviewer", "admin"):
                key = await make_key(http, server.url, owner.workspace, headers, role)
                told[f"REVIEWS_{role.upper()}"] = key
        with fail_after(60):
            ended = await trio.run_process(
                [sys.executable, "walk.py"],
                cwd=tmp_path,
                env={**os.environ, **told},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert ended.returncode == 0, ended.stderr.decode()
        assert [ended.stdout.decode()] == printed
        assert await server.stop() == 0


# --------------------------------------------------------------------------- killed in the middle


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "drained"])
async def test_a_validation_whose_server_is_killed_ends_once_and_is_not_repeated(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path, *, is_killed: bool
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    (tmp_path / "validator.py").write_text(VALIDATOR)
    given = {"SEEN": str(seen), "VALIDATOR": str(tmp_path / "validator.py")}
    async with (
        scripted(says("")) as provider,
        placed(processes, cluster, owner, tmp_path, provider, **given) as it,
    ):
        it.write("a.md", "fine")
        proposal = await it.one.propose()
        path = f"/api/v1/proposals/{proposal}/validate?async=true"
        job = (await it.one.post(path, expect=202))["job_id"]
        async with it.one.listening(proposal_id=proposal) as page:
            first = await page.hear("output")
        (seen / "go").touch()
        with fail_after(20):
            while not {"two", "three"} <= set(re.findall(r"\w+", str(await it.of_job(job)))):
                await trio.sleep(0.02)
        pids = [int(each) for each in (seen / "pids").read_text().split()]
        assert all(map(is_alive, pids))

        if is_killed:
            await it.server.kill()
        else:
            assert await it.server.stop() == 0
        await it.server.start("--app", str(it.app))
        await until(lambda: not any(map(is_alive, pids)))
        async with it.one.listening(proposal_id=proposal, cursor=first["cursor"]) as page:
            told = [each for each in await page.until("validation_error") if "job_id" in each]
        lines = [first, *told[:-1]]
        assert [each["line_no"] for each in lines] == [1, 2, 3]
        said = {(each["stream"], each["line"]) for each in lines}  # they are two pipes
        assert said == {("stdout", "one"), ("stdout", "two"), ("stderr", "three")}
        assert told[-1]["code"] == "VALIDATION_INTERRUPTED"
        await it.check(job, "failed")
        assert (seen / "executed").read_text() == "once\n"
        status = await it.one.get(f"/api/v1/validations/{job}/status")
        assert (status["status"], status["error"]["code"]) == ("failed", "VALIDATION_INTERRUPTED")
        shown = await it.one.get(f"/api/v1/proposals/{proposal}")
        assert (shown["job"], shown["validation"]["status"]) == (None, "error")

        # And the next one is carried out as ever.
        (seen / "done").touch()
        done = await it.one.post(f"/api/v1/proposals/{proposal}/validate")
        assert done["result"]["status"] == "passed"
        await it.check(done["job_id"], "succeeded")


@pytest.mark.parametrize("is_socket", [True, False], ids=["socket", "http"])
async def test_an_iteration_whose_server_is_killed_is_cancelled_and_writes_nothing(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path, *, is_socket: bool
) -> None:
    """It ends with its socket, and that has ended with the server; by HTTP, with the server."""
    begun = then(chunk({"role": "assistant", "content": "<<<<<< a.md\nhalf of"}))
    async with (
        scripted(begun, says(*answer(b_md="new"))) as provider,
        placed(processes, cluster, owner, tmp_path, provider) as it,
    ):
        it.write("a.md", "as it was")
        proposal = await it.one.propose()
        path = f"/api/v1/proposals/{proposal}/iterate"
        async with it.one.listening(proposal_id=proposal) as page:
            if is_socket:
                await page.say("iterate", proposal_id=proposal)
            else:
                await it.one.post(f"{path}?async=true", expect=202)
            job = (await page.hear("token"))["job_id"]
            while "cursor" not in page.heard[-1]:
                await page.next()
            cursor = page.heard[-1]["cursor"]
            await it.server.kill()
        await it.server.start("--app", str(it.app))
        async with it.one.listening(proposal_id=proposal, cursor=cursor) as page:
            told = await page.until("iteration_cancelled", "iteration_error")
        assert (told[-1]["type"], told[-1]["job_id"]) == ("iteration_cancelled", job)
        await it.check(job, "cancelled")
        assert it.files() == {"a.md": "as it was"}

        # The next one finds what was left behind, before it begins; so does the sweep.
        done = await it.one.post(path)
        assert done["result"]["files_modified"] == ["b.md"]
        await until(lambda: it.files() == {"a.md": "as it was", "b.md": "new\n"})
        await until(lambda: it.staged() == [])
        assert len(provider.asked) == 2


async def test_an_iteration_that_has_ended_is_put_in_place_by_the_next_server(
    processes: Processes, cluster: Database, owner: Owner, tmp_path: Path
) -> None:
    """Killed between the commit of its end and the first renaming, which waits for a lock."""
    is_locked = trio.Event()

    async def reply(wire: Wire) -> None:
        await is_locked.wait()
        await says(*answer(a_md="better", new__b_md="new"))(wire)

    async with (
        scripted(reply) as provider,
        placed(processes, cluster, owner, tmp_path, provider) as it,
    ):
        it.write("a.md", "as it was")
        proposal = await it.one.propose()
        path = f"/api/v1/proposals/{proposal}/iterate?async=true"
        job = (await it.one.post(path, expect=202))["job_id"]
        await until(lambda: len(provider.asked) == 1)
        locks = it.root / ".staging" / ".locks"
        locks.mkdir(mode=0o700)
        lock = RealDisk().try_lock(locks / owner.workspace, shared=False)
        assert lock is not None
        is_locked.set()
        with fail_after(20):
            while (await it.of_job(job))[-1][0] != "run_finished":
                await trio.sleep(0.02)
        assert it.files() == {"a.md": "as it was"}
        await it.server.kill()
        assert it.files() == {"a.md": "as it was"}, "nothing was renamed"
        lock.release()
        await it.server.start("--app", str(it.app))
        await until(lambda: it.files() == {"a.md": "better\n", "new/b.md": "new\n"})
        await until(lambda: it.staged() == [])
        await it.check(job, "succeeded")
        assert len(provider.asked) == 1
