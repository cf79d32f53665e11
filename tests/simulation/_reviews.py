"""Schedules of reviews: people who propose and comment, validators and models that are unreliable,
and a disk on which what iterations have changed is put in place, now or later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from random import Random
from typing import Any, Self

import msgspec
import trio

from dalsegno.actors._service import Service
from dalsegno.actors.domains.reviews import (
    proposal_comments,
    review_domains,
    review_workers,
)
from dalsegno.actors.domains.reviews._comments import AddComment, SelectComment, SettleComment
from dalsegno.actors.domains.reviews._job_commands import (
    CancelJob,
    IterateProposal,
    ValidateProposal,
)
from dalsegno.actors.domains.reviews._locks import LockProject, ProjectLock, UnlockProject
from dalsegno.actors.domains.reviews._proposals import (
    AdvanceProposal,
    CreateProposal,
    DeleteProposal,
    EditProposal,
    Proposal,
)
from dalsegno.actors.domains.reviews._words import ProposalStep
from dalsegno.actors.testing import OPERATIONS, Ask, Choices, SeededChoices, Simulated, simulate
from dalsegno.actors.testing.simulation._invariant import fold_into
from dalsegno.protocol import App, Event, FolderError, Role
from dalsegno.protocol.providers import (
    Answered,
    ChatPart,
    ChatRequest,
    ProviderError,
    ProviderSettings,
    Restarted,
    TextDelta,
)
from dalsegno.protocol.runs import (
    Ended,
    EndedBy,
    Line,
    ProcessNotStartedError,
    Retry,
    RunState,
    Staged,
    StagedFile,
    Worker,
    runs,
)

from ._answer import Answer

PROPOSALS, COMMENTS = "pppq", "cde"
ROOT = "projects"
PATHS = ("a.md", "b.md", "c/d.md")
_MODEL = ProviderSettings(provider_kind="lmstudio", model="m", base_url="http://models")


def _quicker(each: Any) -> Any:
    """A worker of the app, which has no hours: a schedule is over in a minute."""
    if not isinstance(each, Worker):
        return each
    retry = msgspec.structs.replace(_RETRY, attempts_max=each.retry.attempts_max, on=each.retry.on)
    return msgspec.structs.replace(each, deadline_s=8.0, retry=retry)


_RETRY = Retry(first_s=0.2, max_s=1.0)


def _app(*, validate: Sequence[str] = ("check",), **more: Any) -> App:
    workers = review_workers(root=ROOT, validate=validate, models=[_MODEL])
    quicker = [
        msgspec.structs.replace(each, **more) if isinstance(each, Worker) else each
        for each in map(_quicker, workers)
    ]
    return App(review_domains, workers=quicker, roles={"editor": Role(commands=_SENT)})


_SENT = frozenset(name for domain in (*review_domains, runs) for name in domain.offered)
_APPS = [_app(), _app(on_disconnect="continue", retry=_RETRY), _app(validate=())]
"""Every client may ask for everything, and is refused what is for others.  In the second one an
iteration outlives its connection and its node, so that more is changed; in the third one nothing
has to be validated, so that more is commented on."""

# ------------------------------------------------------------------------- what is outside of it


_ENDS: Sequence[EndedBy] = ("itself", "itself", "itself", "itself", "itself", "timeout")


class _Process:
    def __init__(self, random: Random) -> None:
        self._random = random
        self._left = random.choice([0, 1, 3, 10])
        self._ended: Ended | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Line:
        random = self._random
        await trio.sleep(random.choice([0.0, 0.0, 0.1, 1.0, 3.0]))
        if self._left == 0:
            code = random.choice([0, 0, 0, 1, -9])
            self._ended = Ended(code, random.choice(_ENDS))
            raise StopAsyncIteration
        self._left -= 1
        return Line(random.choice(["stdout", "stderr"]), random.choice(["fine", "", "\u2028 x"]))

    @property
    def ended(self) -> Ended:
        assert self._ended is not None
        return self._ended


class SimProcesses:
    """Processes that end well, badly, or not in time."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    @asynccontextmanager
    async def start(self, argv: Sequence[str], **_bounds: Any) -> AsyncIterator[_Process]:
        await trio.lowlevel.checkpoint()
        if self._random.random() < 0.1:
            raise ProcessNotStartedError("not there", error="ENOENT")
        yield _Process(self._random)


class SimModels:
    """A model that changes some files, mostly."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def of(self, _settings: ProviderSettings) -> Self:
        return self

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[Answer]:
        yield Answer(self._parts(request))

    def _parts(self, request: ChatRequest) -> list[ChatPart | float | ProviderError]:
        random = self._random
        files = random.sample(PATHS, random.randint(1, len(PATHS)))
        said = "".join(f"<<<<<< {path}\n{random.random()}\n>>>>>>\n" for path in files)
        if random.random() < 0.1:
            said = random.choice(["Sure!", said[:-5], said + said])
        cut = random.randint(1, len(said) - 1)
        parts: list[ChatPart | float | ProviderError] = [random.choice([0.0, 0.2, 2.0])]
        if random.random() < 0.2:
            parts += [TextDelta(said[:cut]), Restarted(2, request.model, "timeout")]
        parts += [TextDelta(said[:cut]), random.choice([0.0, 0.2, 2.0]), TextDelta(said[cut:])]
        if random.random() < 0.1:
            return [*parts[:-1], ProviderError("timeout", "silent for too long")]
        whole = Answered(finish_reason="stop", model=request.model, provider_kind="lmstudio")
        return [*parts, whole]


class SimFolders:
    """The folders of projects, and the stages beside them: slow, full at times, and not lost."""

    def __init__(self, seed: int) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """By workspace and path."""
        self.stages: dict[str, dict[str, bytes]] = {}
        self._random = Random(seed)
        self._locks: dict[str, trio.Lock] = {}

    async def turn(self, fails: float = 0.01) -> None:
        await trio.sleep(self._random.choice([0.0, 0.0, 0.1, 0.5]))
        if self._random.random() < fails:
            raise FolderError("no space left")

    async def folder(self, _root: str, workspace_id: str) -> str:
        await self.turn()
        return f"/{ROOT}/{workspace_id}"

    @asynccontextmanager
    async def stage(self, _root: str, workspace_id: str, name: str) -> AsyncIterator[SimStage]:
        await self.turn()
        stage = SimStage(self, workspace_id, name)
        self.stages[name] = {}
        try:
            yield stage
        finally:
            if stage.finished is None:
                del self.stages[name]

    async def names(self, _root: str) -> list[str]:
        await self.turn(0)
        return list(self.stages)

    @asynccontextmanager
    async def settling(self, _root: str, workspace_id: str) -> AsyncIterator[None]:
        async with self._locks.setdefault(workspace_id, trio.Lock()):
            yield

    async def place(self, _root: str, workspace_id: str, staged: Staged) -> None:
        for file in staged.files:
            await self.turn(0.2)  # whoever dies here leaves the rest
            data = self.stages[staged.name].pop(file.path, None)
            if data is not None:
                assert sha256(data).hexdigest() == file.sha256
                self.files.setdefault(workspace_id, {})[file.path] = data
        del self.stages[staged.name]

    async def delete(self, _root: str, name: str) -> None:
        await self.turn()
        self.stages.pop(name, None)


class SimStage:
    """A stage on this disk."""

    def __init__(self, folders: SimFolders, workspace_id: str, name: str) -> None:
        self.finished: Staged | None = None
        self._folders = folders
        self._workspace_id = workspace_id
        self._name = name

    async def read(self, path: str, *, bytes_max: int = 0) -> bytes | None:
        await self._folders.turn()
        return self._folders.files.get(self._workspace_id, {}).get(path)

    async def paths(self, limit: int = 0) -> list[str]:
        await self._folders.turn()
        return sorted(self._folders.files.get(self._workspace_id, {}))

    async def write(self, path: str, data: bytes) -> None:
        await self._folders.turn()
        self._folders.stages[self._name][path] = data

    @asynccontextmanager
    async def tried(self) -> AsyncIterator[str]:
        await self._folders.turn()
        yield f"/{ROOT}/.staging/{self._name}/tried"

    async def finish(self) -> Staged:
        await self._folders.turn()
        kept = self._folders.stages[self._name]
        files = [
            StagedFile(path=path, bytes=len(data), sha256=sha256(data).hexdigest())
            for path, data in sorted(kept.items())
        ]
        self.finished = Staged(name=self._name, files=tuple(files))
        return self.finished


# ------------------------------------------------------------------------------- the schedules


_STEPS: Sequence[ProposalStep] = (
    *("submit", "submit", "submit", "submit", "submit"),
    *("approve", "request-changes", "mark-ready", "return-to-draft", "merge"),
)


def draw(choices: Choices) -> Ask:
    """Draw a command: mostly of jobs and of the lock."""
    proposal_id, comment_id = choices.pick(PROPOSALS), choices.pick(COMMENTS)
    drawn: list[Callable[[], msgspec.Struct]] = [
        *[lambda: CreateProposal(name=f"Of {proposal_id}", proposal_id=proposal_id)] * 3,
        lambda: EditProposal(proposal_id=proposal_id, description=f"{choices.integer(0, 9)}"),
        *[lambda: DeleteProposal(proposal_id=proposal_id)] * choices.chance(0.3),
        *[lambda: AdvanceProposal(proposal_id=proposal_id, step=choices.pick(_STEPS))] * 6,
        *[lambda: ValidateProposal(proposal_id=proposal_id)] * 4,
        *[lambda: IterateProposal(proposal_id=proposal_id)] * 5,
        lambda: CancelJob(proposal_id=proposal_id),
        lambda: LockProject(),
        lambda: UnlockProject(force=choices.chance(0.5)),
        *[
            lambda: AddComment(
                proposal_comment_id=comment_id,
                proposal_id=proposal_id,
                target_file="a.md",
                comment_text="Why?",
            )
        ]
        * 2,
        *[lambda: SelectComment(proposal_comment_id=comment_id)] * 2,
        *[
            lambda: SettleComment(
                proposal_comment_id=comment_id, step=choices.pick(["resolve", "reopen", "accept"])
            )
        ]
        * 3,
    ]
    return Ask(drawn[choices.integer(0, len(drawn) - 1)]())


def simulated_reviews(seed: int, **more: Any) -> Simulated:
    """Run one schedule."""
    folders = SimFolders(seed)
    done = simulate(
        SeededChoices(seed),
        _APPS[seed % 3],
        commands=draw,
        make_service=partial(
            Service,
            providers=SimModels(seed),
            processes=SimProcesses(seed),
            folders=folders,
        ),
        operations=(*OPERATIONS, *("burst",) * 4),
        until="settled",
        **{"steps": 120, "workspaces": 1, "clients": 2, **more},
    )
    done.bugs.extend(review_faults(done.log))
    done.bugs.extend(file_faults(done.log, folders))
    return done


def happened(done: Simulated) -> Counter[str]:
    """Count what happened, by type."""
    return Counter(event.type for events in done.log.values() for event in events)


# ------------------------------------------------------------------------------------ the judge


def review_faults(log: Mapping[str, Sequence[Event]]) -> list[str]:
    """Return what may not be said of any project."""
    return [f"{workspace}: {wrong}" for workspace, events in log.items() for wrong in _of(events)]


def _of(events: Sequence[Event]) -> list[str]:
    domains = {domain.name: domain for domain in (*review_domains, runs)}
    states: dict[str, Any] = {}
    wrong: list[str] = []
    recorded: Counter[str] = Counter()
    returned = {event.command_id for event in events if event.stream_id == "project_lock:main"}
    for event in events:
        before: ProjectLock | None = states.get("project_lock:main")
        use = None if before is None else before.use
        holder = None if use is None else states.get(f"run:{use.run_id}")
        if use is not None and holder is not None and holder.is_open:
            is_own = event.causation == f"run:{use.run_id}"
            is_forced = msgspec.json.decode(event.payload).get("reason") == "forced"
            if event.type == "project_lock_used":
                wrong.append(f"{event.event_seq}: two jobs have the lock")
            elif event.type == "project_unlocked" and not (is_own or is_forced):
                wrong.append(f"{event.event_seq}: a job has lost the lock")
        fold_into(domains, states, event)
        said = msgspec.json.decode(event.payload)
        if event.type == "proposal_iterated":
            recorded[f"run:{said['run_id']}"] += 1
            if event.command_id not in returned:
                wrong.append(f"{event.event_seq}: an iteration has ended that had no lock")
    for stream_id, state in states.items():
        if isinstance(state, RunState):
            wrong += _unlike(stream_id, state, recorded[stream_id])
        if isinstance(state, Proposal):
            wrong += _left_open(stream_id, state, states)
    lock = states.get("project_lock:main")
    if lock is not None and lock.use is not None:
        wrong.append(f"the lock is still the one of {lock.use.run_id}")
    return wrong


def _unlike(stream_id: str, run: RunState, iterated: int) -> list[str]:
    """Return where what a run has come to is not what its proposal has."""
    if run.kind != "iteration":
        return []
    succeeded = run.status == "succeeded"
    return [] if iterated == succeeded else [f"{stream_id} {run.status}, {iterated} times recorded"]


def _left_open(stream_id: str, proposal: Proposal, states: Mapping[str, Any]) -> list[str]:
    """Return what a proposal has that is over: a job, or comments that are not as it says."""
    wrong = [] if proposal.job is None else [f"{stream_id} still has {proposal.job.run_id}"]
    for comment_id in proposal.unresolved:
        comment = states[proposal_comments.stream_id(comment_id)]
        if comment.status not in {"OPEN", "ACCEPTED"}:
            wrong.append(f"{stream_id} has {comment_id} open, which is {comment.status}")
    return wrong


def file_faults(log: Mapping[str, Sequence[Event]], folders: SimFolders) -> list[str]:
    """Return where a project's files are not what its iterations have committed, in their order."""
    wrong: list[str] = []
    for workspace_id, events in log.items():
        wanted: dict[str, str] = {}
        there = {
            path: sha256(data).hexdigest()
            for path, data in folders.files.get(workspace_id, {}).items()
        }
        for event in events:
            if event.type != "run_finished":
                continue
            result = msgspec.json.decode(event.payload)["result"]
            if not isinstance(result, dict) or "staged" not in result:
                continue
            staged = msgspec.convert(result["staged"], Staged)
            wanted |= {file.path: file.sha256 for file in staged.files}
            # What waits in its stage is put in place by whoever comes next, in this order.
            waits = folders.stages.pop(staged.name, {})
            there |= {path: sha256(data).hexdigest() for path, data in waits.items()}
        if there != wanted:
            wrong.append(f"{workspace_id}: there is {there}, and not {wanted}")
    return wrong
