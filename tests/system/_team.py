"""Agents that lock, delegate, ask for runs, review what librarians propose and export it, have
proposals validated and iterated on, whatever happens, and what must come of it.

Each of them sends its commands over HTTP, to one of the servers.  One that is silent, or refuses
the workspace, makes it go on to the next, with the same command under the same key, until that is
committed or refused.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

from dalsegno.actors.domains.automation import of_note, run_id_of
from dalsegno.actors.domains.coordination import coordination_domains
from dalsegno.actors.testing.simulation._invariant import check_invariant
from dalsegno.protocol import Event, run_id_for
from tests._coordination import AGENT
from tests._http import PLAIN
from tests._librarian import answers, operation, response, structuring
from tests._patience import patient, until
from tests._provider import Wire, says
from tests.simulation._automation import automation_faults
from tests.simulation._coordination_rules import (
    left_undone,
    wrong_lives,
    wrong_state,
    wrong_times,
)
from tests.simulation._reviews import review_faults
from tests.simulation._run_schedules import run_faults

from ._crowd import NOT_NOW
from ._database import read_logs

USUAL = frozenset(
    {"LOCK_CONFLICT", "LOCK_EXPIRED", "STATE_CONFLICT", "JOB_RUNNING", "JOB_NOT_RUNNING"}
)
"""Refusals that a team gets without any fault."""
_AGENTS = ("ada", "bob", "cyd", "dan")
_RESOURCES = ("main.py", "test.py")
_TIMEOUT_S = 1.0
_SETTINGS = ("agent_offline_after_s", "delegation_timeout_s", "handoff_timeout_s")
_SILENCE_S = 3.0
_PAUSE_S = 0.1
_NEVER = datetime.max.replace(tzinfo=UTC)

_APART = frozenset({"automation", "review_validation", "review_iteration"})
"""The workers that say what nobody here knows."""

WITNESSED = "note_tags_updated"
"""The type of events for which a rule asks for a run."""
PROPOSED = ("new", "title", "tags", "later")
"""What a librarian's operations are called."""

Json = dict[str, Any]


async def propose(wire: Wire) -> None:
    """Propose something for the paper, each time in other words; at times it is no proposal."""
    if random.random() < 0.1:
        await says("Sure! I would say:")(wire)
        return
    if "You revise the files" in wire.asked.body["messages"][0]["content"]:
        paths = random.sample(["a.md", "b.md", "c/d.md"], random.randint(1, 3))
        files = (f"<<<<<< {path}\n{random.random()}\n>>>>>>\n" for path in paths)
        await says("I would say:\n", *files)(wire)
        return

    def written(request_id: str) -> str:
        return response(
            request_id,
            operation("new", "create_note", title=f"{request_id} new"),
            operation("title", "retitle_note", target_note_id="paper", title=request_id),
            operation("tags", "retag_note", target_note_id="paper", body_markdown=request_id[:32]),
            operation("later", "defer", target_note_id="paper"),
        )

    await answers(written)(wire)


class _Body(httpx.AsyncByteStream):
    """A request's body.

    httpx's own is a generator, which is left to the collector where a connection breaks before all
    is sent: Trio warns of that.
    """

    def __init__(self, body: bytes) -> None:
        self._parts = iter([body])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            return part
        raise StopAsyncIteration


class Team:
    """The agents of one workspace."""

    def __init__(
        self,
        workspace_id: str,
        headers: dict[str, str],
        *urls: str,
        models: str,
        artifacts: Path,
        projects: Path,
    ) -> None:
        self.codes: Counter[str] = Counter()
        """What was refused, by code."""
        self._workspace_id = workspace_id
        self._urls = urls
        self._models = models
        """Where the librarians' model is."""
        self._artifacts = artifacts
        self._projects = projects
        self._http = httpx.AsyncClient(headers=headers, timeout=_SILENCE_S, **PLAIN)
        self._receipts: set[tuple[str, int]] = set()
        """The versions of entities that were promised."""
        self._head = 0
        self._numbers = itertools.count()
        self._is_exporting = False
        self._is_enough = False
        self._is_over = False

    async def run(self) -> None:
        """Lock and delegate until `finish`."""
        async with self._http:
            await self._prepare()
            async with trio.open_nursery() as nursery:
                for agent in _AGENTS:
                    nursery.start_soon(self._work, agent)
        self._is_over = True

    async def wait(self, more: int) -> None:
        """Wait until so many more commands are committed."""
        goal = len(self._receipts) + more
        await until(lambda: len(self._receipts) >= goal, within_s=60)

    async def finish(self, dsn: str, within_s: float = 60) -> int:
        """Begin nothing more, wait until everything has ended; return the highest number."""
        self._is_enough = True
        await until(lambda: self._is_over, within_s)
        left: list[str] = []
        with trio.move_on_after(patient(within_s)) as scope:
            while left := [*left_undone(log := await self._read(dsn), _NEVER), *_open_runs(log)]:
                await trio.sleep(0.2)
        assert not scope.cancelled_caught, left[:5]
        return log[-1].event_seq

    async def judge(self, dsn: str) -> None:
        """Check that nothing was held by two, ended twice, or was promised and is not there."""
        log = await self._read(dsn)
        wrong = [*wrong_lives(log), *wrong_times(log), *_wrong_states(log)]
        logs = {self._workspace_id: [*log]}
        wrong += [*run_faults(logs, apart=_APART), *_effects_twice(log)]
        wrong += [*automation_faults(logs), *review_faults(logs)]
        wrong += _wrong_projects(log, self._projects, self._workspace_id)
        wrong += _wrong_files(log, self._artifacts)
        assert not wrong, "\n".join(wrong)
        assert self._receipts <= {(event.stream_id, event.stream_seq) for event in log}
        assert set(self.codes) <= NOT_NOW | USUAL

    async def _read(self, dsn: str) -> Sequence[Event]:
        return (await read_logs(dsn, self._workspace_id))[self._workspace_id]

    # --------------------------------------------------------------------------------- working

    async def _prepare(self) -> None:
        urls = deque(self._urls)
        config = dict.fromkeys(_SETTINGS, _TIMEOUT_S)
        await self._do(urls, "update_agent_config", config=config)
        for agent in _AGENTS:
            await self._do(urls, "register_agent", agent_id=agent, **AGENT)
        await self._do(urls, "create_trajectory", trajectory_id="work", name="W")
        scope = {"trajectory_id": "work", "name": "S", "token_budget": 1}
        await self._do(urls, "create_scope", scope_id="desk", **scope)
        await self._do(urls, "create_note", note_id="paper", title="Paper", markdown="text")
        action = structuring(self._models, plan={"scope": "note:paper"})
        for rule_id, trigger, asked in (
            ("librarian", "by-hand", action),
            ("witness", WITNESSED, {"kind": "noop"}),
        ):
            rule = {"trigger": trigger, "action_json": asked}
            await self._do(urls, "create_rule", rule_id=rule_id, **rule)

    async def _work(self, agent: str) -> None:
        """Agents begin at different servers."""
        urls = deque(self._urls)
        urls.rotate(_AGENTS.index(agent))
        while not self._is_enough:
            await self._do(urls, "heartbeat_agent", agent_id=agent)
            work = [
                self._lock,
                self._delegate,
                self._run,
                self._library,
                self._export,
                self._review,
            ]
            await random.choice(work)(urls, agent)
            await trio.sleep(_PAUSE_S * random.random())

    async def _lock(self, urls: deque[str], agent: str) -> None:
        """Lock a resource, perhaps for longer, and perhaps leave it to its time."""
        lock = {"agent_lock_id": f"lock-{next(self._numbers)}"}
        wanted = {
            "resource_type": "file",
            "resource_id": random.choice(_RESOURCES),
            "holder_agent_id": agent,
            "mode": random.choice(["Exclusive", "Exclusive", "Shared"]),
            "timeout_ms": random.choice([200, 500, 2_000]),
        }
        if not await self._do(urls, "acquire_agent_lock", **lock, **wanted):
            return
        await trio.sleep(3 * _PAUSE_S * random.random())
        if random.random() < 0.3:
            await self._do(urls, "extend_agent_lock", **lock, additional_ms=500)
        if random.random() < 0.6:
            await self._do(urls, "release_agent_lock", **lock, releasing_agent_id=agent)

    async def _delegate(self, urls: deque[str], agent: str) -> None:
        """Delegate to another agent, which may stop at any step."""
        other = random.choice([each for each in _AGENTS if each != agent])
        task = {"delegation_id": f"delegation-{next(self._numbers)}"}
        place = {"trajectory_id": "work", "scope_id": "desk", "task_description": "to do"}
        pair = {"from_agent_id": agent, "to_agent_id": other}
        steps: list[tuple[str, Json]] = [
            ("create_delegation", {**pair, **place}),
            ("accept_delegation", {"accepting_agent_id": other}),
            ("start_delegation", {"starting_agent_id": other}),
            ("complete_delegation", {"result": {"status": "Success"}}),
        ]
        if random.random() < 0.2:
            steps[1:] = [("reject_delegation", {"rejecting_agent_id": other, "reason": "busy"})]
        for name, given in steps:
            if not await self._do(urls, name, **task, **given) or random.random() < 0.2:
                return

    async def _run(self, urls: deque[str], _agent: str) -> None:
        """Ask for a run, and perhaps change one's mind."""
        run = {"run_id": f"run-{next(self._numbers)}"}
        worker = random.choice(["stepping", "stepping", "hanging"])
        if await self._do(urls, "request_run", **run, worker=worker) and random.random() < 0.3:
            await trio.sleep(5 * _PAUSE_S * random.random())
            await self._do(urls, "cancel_run", **run)

    async def _library(self, urls: deque[str], _agent: str) -> None:
        """Have a librarian look at the paper, and accept all that it proposes, perhaps too soon."""
        trigger_id = f"look-{next(self._numbers)}"
        if not await self._do(urls, "launch_rule", rule_id="librarian", trigger_id=trigger_id):
            return
        decisions = [{"operation_id": name, "decision": "accept"} for name in PROPOSED]
        for _ in range(random.randint(1, 3)):
            await trio.sleep(10 * _PAUSE_S * random.random())
            run_id = run_id_of("librarian", trigger_id)
            await self._do(urls, "review_run", run_id=run_id, decisions=decisions)

    async def _review(self, urls: deque[str], _agent: str) -> None:
        """Propose something, have it validated and iterated on, and perhaps change one's mind."""
        number = next(self._numbers)
        proposal = {"proposal_id": f"proposal-{number}"}
        if not await self._do(urls, "create_proposal", **proposal, name=f"No {number}"):
            return
        for _ in range(random.randint(1, 3)):
            asked = random.choice(["validate_proposal", "iterate_proposal"])
            await self._do(urls, asked, **proposal)
            await trio.sleep(5 * _PAUSE_S * random.random())
            if random.random() < 0.2:
                await self._do(urls, "cancel_job", **proposal)

    async def _export(self, urls: deque[str], _agent: str) -> None:
        """Have the notes exported, if nobody else does: one export runs after the other, and more
        would be asked for than are done.
        """
        if self._is_exporting:
            return
        self._is_exporting = True
        run_id = f"export-{next(self._numbers)}"
        if await self._do(urls, "request_run", run_id=run_id, worker="export_markdown"):
            while not self._is_enough and await self._is_open(urls, run_id):
                await trio.sleep(_PAUSE_S)
        self._is_exporting = False

    async def _is_open(self, urls: deque[str], run_id: str) -> bool:
        """Return whether a run has not ended, as far as a server that answers knows."""
        path = f"/api/workspaces/{self._workspace_id}/entities/run/{run_id}"
        with suppress(httpx.TransportError):
            answer = await self._http.get(f"{urls[0]}{path}")
            if answer.status_code == 200:
                return answer.json()["state"]["finished_at"] is None
        urls.rotate(-1)
        return True

    async def _do(self, urls: deque[str], command: str, /, **payload: object) -> bool:
        """Send a command until it is committed or refused; return whether it is committed."""
        body = msgspec.json.encode(payload)
        path = f"/api/workspaces/{self._workspace_id}/commands/{command}"
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "idempotency-key": f"team-{next(self._numbers)}",
        }
        while True:
            with suppress(httpx.TransportError):
                request = self._http.build_request("POST", f"{urls[0]}{path}", headers=headers)
                request.stream = _Body(body)
                answer = await self._http.send(request)
                said = answer.json()
                if answer.status_code == 200:
                    self._receipts.add((said["entity"], said["version"]))
                    return True
                self.codes[said["code"]] += 1
                if said["code"] not in NOT_NOW:
                    return False
            urls.rotate(-1)
            await trio.sleep(_PAUSE_S * random.random())


def _open_runs(log: Sequence[Event]) -> Iterator[str]:
    """Yield the runs that have not ended, and those that nobody has asked for yet."""
    wanted = {
        f"run:{run_id_for('review', '', event.event_id)}"
        for event in log
        if event.type == "delegation_created"
    } | {
        f"run:{run_id_of('witness', of_note(event.stream_id.partition(':')[2], event.stream_seq))}"
        for event in log
        if event.type == WITNESSED
    }
    wanted |= {
        f"run:{run_id_for('review_job_ended', '', event.event_id)}"
        for event in log
        if event.type == "run_finished" and _came_to_nothing(event)
    }
    asked = {event.stream_id for event in log if event.type == "run_requested"}
    ended = {event.stream_id for event in log if event.type == "run_finished"}
    yield from sorted((wanted | asked) - ended)


def _came_to_nothing(event: Event) -> bool:
    """Return whether a run's end is that of a proposal's job without a result."""
    end = msgspec.json.decode(event.payload)
    return end["kind"] in {"validation", "iteration"} and end["outcome"] != "succeeded"


def _wrong_projects(log: Sequence[Event], root: Path, workspace_id: str) -> Iterator[str]:
    """Yield where a project's files are not those that its iterations have committed."""
    wanted: dict[str, str] = {}
    folder = root / workspace_id
    there = {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    for event in log:
        if event.type == "run_finished":
            result = msgspec.json.decode(event.payload)["result"] or {}
            staged: Json = result.get("staged", {}) if isinstance(result, dict) else {}
            for file in staged.get("files", ()):
                wanted[file["path"]] = file["sha256"]
                # What waits is put in place by the next run, or with the next sweep.
                waits = root / ".staging" / staged["name"] / "files" / file["path"]
                if waits.exists():
                    there[file["path"]] = sha256(waits.read_bytes()).hexdigest()
    if there != wanted:
        yield f"the files of {workspace_id} are {there}, and not {wanted}"


def _effects_twice(log: Sequence[Event]) -> Iterator[str]:
    """Yield the notes that a run made twice: each of its own has a title of its own."""
    titles = Counter(
        msgspec.json.decode(event.payload)["title"]
        for event in log
        if event.type == "note_created" and (event.causation or "").startswith("run:")
    )
    yield from (f"{title}: {count} times" for title, count in titles.items() if count > 1)


def _wrong_files(log: Sequence[Event], folder: Path) -> Iterator[str]:
    """Yield the exports whose files are not what they are said to be: the last one is there, and
    of the others those that were not deleted for it.  Of those that are asked for one is made.
    """
    ends = [msgspec.json.decode(each.payload) for each in log if each.type == "run_finished"]
    said = [each["result"]["artifact"] for each in ends if "artifact" in (each["result"] or {})]
    if not said and any(each.stream_id.startswith("run:export-") for each in log):
        yield "no export was made"
    for number, artifact in enumerate(reversed(said)):
        file = folder / artifact["name"]
        if not file.exists():
            if number == 0:
                yield f"{file.name} is gone"
        elif sha256(file.read_bytes()).hexdigest() != artifact["sha256"]:
            yield f"{file.name} has something else"


def _wrong_states(log: Sequence[Event]) -> Iterator[str]:
    """Ask what is wrong after each command; of notes it says nothing."""
    names = {domain.name for domain in coordination_domains}
    ours = [event for event in log if event.stream_id.partition(":")[0] in names]
    return map(str, check_invariant(wrong_state, coordination_domains, {"": ours}))
