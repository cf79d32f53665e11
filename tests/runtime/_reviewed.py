"""A project under review in a runtime of its own: real processes and files, a store in memory."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from dalsegno.actors import World
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.reviews import project_locks, proposals, reviews
from dalsegno.actors.domains.reviews._comments import AddComment, SelectComment
from dalsegno.actors.domains.reviews._job_commands import IterateProposal, ValidateProposal
from dalsegno.actors.domains.reviews._locks import LOCK_ID, ProjectLock
from dalsegno.actors.domains.reviews._proposals import AdvanceProposal, CreateProposal, Proposal
from dalsegno.actors.domains.reviews._said import OfEvent, OfJob, Output
from dalsegno.actors.domains.reviews._shown import messages_of
from dalsegno.actors.ports import PageBounds
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Event, Limits
from dalsegno.protocol.providers import ProviderSettings
from dalsegno.protocol.runs import RunState, runs
from dalsegno.runtime import Runtime, Workspace
from dalsegno.runtime.seams import WORLD
from dalsegno.runtime.store import MemoryAccounts
from tests._files import files_below, staged_below
from tests._patience import fail_after, until
from tests._provider import ScriptedProvider, providers

OneT = TypeVar("OneT", bound=OfEvent)

SOON = Limits(timer_tick_s=0.02, runs_scan_s=0.05)
"""Timers are looked for often."""


AT_ONCE = Limits(timer_tick_s=0.02, runs_scan_s=0.05, drain_deadline_s=1e-9)
"""… and nothing is recorded at the end, as if the process had died."""


class Clock:
    """The time, and how far it was moved."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return WORLD.now() + self.ahead

    def move(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class Reviewed:
    """A project, its people and its files."""

    rt: Runtime
    root: Path
    clock: Clock
    id: str = "acme"
    providers: list[ScriptedProvider] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / self.id

    @property
    def workspace(self) -> Workspace:
        return self.rt.workspace(self.id)

    def by(self, person: str) -> Workspace:
        return self.workspace.acting(user_id=person)

    # ------------------------------------------------------------------------------ asking

    async def propose(self, proposal_id: str = "p", **more: Any) -> str:
        command = CreateProposal(proposal_id=proposal_id, name=f"Proposal {proposal_id}", **more)
        await self.by("author").send(command)
        return proposal_id

    async def remark(self, comment_id: str = "c", target_file: str = "a.md") -> None:
        """Have a selected comment on a proposal that is in review."""
        advance = AdvanceProposal(proposal_id="p", step="submit")
        if (await self.proposal()).status == "DRAFT":
            await self.validated()
            await self.by("author").send(advance)
        await self.by("reviewer").send(
            AddComment(
                proposal_id="p",
                proposal_comment_id=comment_id,
                target_file=target_file,
                comment_text="Why?",
            )
        )
        await self.by("author").send(SelectComment(proposal_comment_id=comment_id))

    async def validate(self, by: str = "author", proposal_id: str = "p") -> str:
        """Ask for a validation; its run."""
        await self.by(by).send(ValidateProposal(proposal_id=proposal_id))
        return await self.job(proposal_id)

    async def iterate(self, by: str = "author", proposal_id: str = "p") -> str:
        await self.by(by).send(IterateProposal(proposal_id=proposal_id))
        return await self.job(proposal_id)

    async def validated(self, proposal_id: str = "p") -> Told:
        """Have a validation, to its end."""
        return await self.told(await self.validate(proposal_id=proposal_id))

    async def iterated(self, proposal_id: str = "p") -> Told:
        return await self.told(await self.iterate(proposal_id=proposal_id))

    # ----------------------------------------------------------------------------- looking on

    async def proposal(self, proposal_id: str = "p") -> Proposal:
        found = await self.workspace.get(proposals, proposal_id)
        assert found is not None
        return found

    async def job(self, proposal_id: str = "p") -> str:
        job = (await self.proposal(proposal_id)).job
        assert job is not None
        return job.run_id

    async def lock(self) -> ProjectLock | None:
        return await self.workspace.get(project_locks, LOCK_ID)

    async def run(self, run_id: str) -> RunState:
        run = await self.workspace.get(runs, run_id)
        assert run is not None
        return run

    async def ended(self, run_id: str) -> RunState:
        with fail_after(30):
            while (run := await self.run(run_id)).is_open:
                await trio.sleep(0.01)
        return run

    async def free(self) -> None:
        """Wait until nobody holds the lock."""
        with fail_after(10):
            while await self.lock() is not None:
                await trio.sleep(0.01)

    async def events(self, run_id: str) -> list[Event]:
        found: list[Event] = []
        while page := await self.workspace.history(runs, run_id, after=len(found)):
            found += page
        return found

    async def told(self, run_id: str) -> Told:
        """What viewers are told of a job, once it has ended."""
        run = await self.ended(run_id)
        said = [each for event in await self.events(run_id) for each in messages_of(event) or ()]
        jobs = [each for each in said if isinstance(each, OfJob)]
        assert len(jobs) == len(said)
        assert {(each.proposal_id, each.job_id) for each in jobs} == {
            (run.labels["proposal_id"], run_id)
        }
        return Told(run, jobs)

    async def lines(self, run_id: str) -> list[str]:
        """What a job has said so far that is in the log."""
        said = [each for event in await self.events(run_id) for each in messages_of(event) or ()]
        return [each.line for each in said if isinstance(each, Output)]

    async def until_said(self, run_id: str, line: str) -> None:
        with fail_after(20):
            while line not in await self.lines(run_id):
                await trio.sleep(0.01)

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def files(self) -> dict[str, str]:
        there = files_below(self.folder)
        return {str(each.relative_to(self.folder)): each.read_text() for each in there}

    async def settled(self) -> None:
        """Wait until nothing waits beside the project."""
        await until(lambda: not staged_below(self.root), within_s=10)


async def status_in(store: MemoryStore, run_id: str) -> str:
    """How a run stands in the log, while no server runs."""
    bounds = PageBounds(from_seq=1, limit=1_000, bytes_max=2**24)
    state: RunState | None = None
    for event in await store.read_stream("acme", runs.stream_id(run_id), bounds):
        happened = runs.decode(event.type, event.type_version, event.payload)
        assert happened is not None
        state = runs.evolve_by(state, happened)
    assert state is not None
    return state.status


@dataclass
class Told:
    """A job that has ended, and what viewers were told of it."""

    run: RunState
    messages: Sequence[OfJob]

    @property
    def code(self) -> str | None:
        return None if self.run.error is None else self.run.error.code

    @property
    def kinds(self) -> list[str]:
        """The messages' types: once each where several follow one another."""
        tags = [str(type(each).__struct_config__.tag) for each in self.messages]
        return [tag for before, tag in zip([None, *tags], tags, strict=False) if tag != before]

    def outputs(self, attempt: int | None = None) -> list[Output]:
        """The lines of an attempt, or of all, whose numbers are dense."""
        said = [each for each in self.messages if isinstance(each, Output)]
        for one in {each.attempt for each in said}:
            numbers = [each.line_no for each in said if each.attempt == one]
            assert numbers == [*range(1, len(numbers) + 1)], "no line is missing, or there twice"
        return [each for each in said if attempt in {None, each.attempt}]

    def lines(self, stream: str = "stdout") -> list[str]:
        return [each.line for each in self.outputs() if each.stream == stream]

    def end(self) -> dict[str, Any]:
        """The last message."""
        found: dict[str, Any] = msgspec.to_builtins(self.messages[-1])
        return found


@asynccontextmanager
async def reviewed(
    root: Path,
    script: str | Sequence[str] = (),
    *,
    provider: ScriptedProvider | None = None,
    models: Sequence[ProviderSettings] | None = None,
    store: MemoryStore | None = None,
    timeout_s: float = 30.0,
    limits: Limits = SOON,
) -> AsyncIterator[Reviewed]:
    """Open a project.

    Args:
        root: where its files are.
        script: what validates, a program of Python's or a command.
        provider: whom the models are asked of.
        models: which; None: the provider's one.
        store: one that there is already.
        timeout_s: of a validation.
        limits: the runtime's.

    """
    clock = Clock()
    world: World = replace(WORLD, now=clock.now)
    validate = [sys.executable, "-c", script] if isinstance(script, str) else [*script]
    async with AsyncExitStack() as stack:
        opened = None
        if provider is not None:
            opened = await stack.enter_async_context(providers(provider))
            models = [provider.settings()] if models is None else models
        app = reviews(root=str(root), validate=validate, models=models or (), timeout_s=timeout_s)
        rt = await stack.enter_async_context(
            Runtime.open(
                app=app,
                store=MemoryStore(WORLD) if store is None else store,
                accounts=MemoryAccounts(world),
                world=world,
                limits=limits,
                node_id="a",
                providers=None if opened is None else lambda: nullcontext(opened),
            )
        )
        it = Reviewed(rt, root, clock)
        it.folder.mkdir(parents=True, exist_ok=True)
        for person, role in {"admin": "admin", "reviewer": "reviewer", "author": "author"}.items():
            await it.workspace.send(PutMember(person, role))
        yield it
