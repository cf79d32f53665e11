"""A run, as the worker that carries it out sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.node import send_group
from dalsegno.actors.ports import PageBounds
from dalsegno.protocol import (
    SYSTEM,
    WRITERS,
    CorruptLogError,
    DomainError,
    OutcomeUnknownError,
    Receipt,
    Reject,
)
from dalsegno.protocol.providers import ChatRequest, ProviderError
from dalsegno.protocol.runs import (
    AsProgram,
    FinishStep,
    HoldAttempt,
    RequestRun,
    SaveRun,
    StepReceipt,
    runs,
)

from ._archiving import AttemptArtifacts, ReadingAt, dump_of
from ._reading import Reading
from ._staging import AttemptFiles

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.actors.ports import RunningProcess
    from dalsegno.protocol import Channel, Domain, Event, Principal
    from dalsegno.protocol.providers import ChatMessage, ChatStream, ProviderSettings, Tool
    from dalsegno.protocol.runs import ArtifactWriter, Dump, PageAt, RunState, StageWriter

    from ._voice import Voice

RUNS_MAX = 1_000
"""Runs that one attempt may ask for."""
_UNKNOWN_MAX = 5
"""How often a step whose outcome is unknown is sent again: if it took effect, the run says so."""


class Run(Reading):
    """One attempt at a run.  What it does is refused once the run is over, cancelled, or another's.

    Its commands and reads have the rights of who asked for the run, judged each time.
    """

    def __init__(
        self,
        directory: Directory,
        catalog: Catalog,
        workspace_id: str,
        run_id: str,
        state: RunState,
        *,
        principal: Principal,
        voice: Voice,
        allow: frozenset[str] = WRITERS,
        folder: str | None = None,
    ) -> None:
        assert state.attempt_id is not None, "it has begun"
        super().__init__(directory, catalog, workspace_id, principal)
        self.id = run_id
        self.attempt = state.attempt
        """Counts from 1, for people."""
        self.attempt_id = state.attempt_id
        """What is shown with all that it sends."""
        self.input = state.input
        """What was asked, JSON."""
        self.labels = state.labels
        self.checkpoint = state.checkpoint
        """What was saved last, by this attempt or one before it; JSON."""
        self.trigger = state.trigger
        """The event that it was asked for because of; None: somebody asked."""
        self._depth = state.depth
        self._asked = 0
        """Runs that it has asked for."""
        self._steps = {name: self._receipt(kept) for name, kept in state.steps.items()}
        self._voice = voice
        self._allow = allow
        self._reads_at = ReadingAt(directory, catalog, workspace_id, principal)
        self.artifacts = AttemptArtifacts(directory.node, workspace_id, run_id, self.attempt_id)
        """The files that it writes."""
        ids = workspace_id, run_id, self.attempt_id
        self.files = AttemptFiles(directory.node, catalog, folder, ids)
        """Those of the workspace's folder, and those that it stages there."""

    def __repr__(self) -> str:
        return f"<Run {self.id} of {self.workspace_id}, attempt {self.attempt}>"

    async def state(self) -> Any:  # noqa: ANN401 - the domain's
        """Return the state of the entity whose event it was asked for because of, right after the
        event and not now; None where the event ended it.

        Raises:
            Reject: ``TRIGGER_GONE`` where the event is kept no longer, or there was none.
            UnavailableError: the store is away.

        """
        if self.trigger is None:
            raise Reject("TRIGGER_GONE", "somebody asked for this run")
        record, _ = await self.event(self.trigger)
        return await self.state_at(record)

    async def send(self, command: msgspec.Struct, *, step: str | None = None) -> Receipt:
        """Send a command, and wait until its change is durable.

        Args:
            command: one of a domain's commands, or an `AsProgram` of one.
            step: its name: it takes effect once in the life of the run, and every later attempt
                gets the first one's receipt.  Without one, every attempt that sends it does.

        Raises:
            Reject: refused; ``RUN_CANCELLED``, ``RUN_OVER``, ``RUN_FENCED`` where the run is.
            UnavailableError: not applied.
            OutcomeUnknownError: may have been applied; of a step, that is found out.

        """
        if isinstance(command, RequestRun) and step not in self._steps:
            self._check_may_ask()
        if step is None:
            hold = HoldAttempt(run_id=self.id, attempt_id=self.attempt_id)
            return (await self._send([(hold, SYSTEM), self.asked(command)]))[1]
        if step not in self._steps:
            self._steps[step] = await self._step(command, step)
        return self._steps[step]

    def _check_may_ask(self) -> None:
        self._asked += 1
        if self._asked > RUNS_MAX:
            raise Reject("RUN_TOO_MANY_RUNS", f"an attempt asks for at most {RUNS_MAX} runs")

    async def _step(self, command: msgspec.Struct, step: str) -> Receipt:
        done = FinishStep(run_id=self.id, attempt_id=self.attempt_id, step_id=step)
        left = _UNKNOWN_MAX
        while True:
            left -= 1
            try:
                *_, receipt, _ = await self._send_along([self.asked(command), (done, SYSTEM)])
            except OutcomeUnknownError:
                if left == 0:
                    raise
            except Reject as error:
                if error.code != "STEP_FINISHED":
                    raise
                return self._receipt(msgspec.convert(error.details["receipt"], StepReceipt))
            else:
                return receipt

    def asked(self, command: msgspec.Struct) -> tuple[msgspec.Struct, Principal]:
        """Return a command of its worker, and as whom it is sent."""
        if isinstance(command, AsProgram):
            return command.command, SYSTEM
        return command, self.principal

    def _receipt(self, kept: StepReceipt) -> Receipt:
        return Receipt(
            workspace_id=self.workspace_id,
            event_seq=kept.event_seq,
            stream_id=kept.stream_id,
            version=kept.version,
            command_id=kept.command_id,
        )

    async def save(self, checkpoint: Any) -> None:  # noqa: ANN401 - JSON
        """Record how far it got, JSON, for the attempt after this one.

        Raises:
            Reject: as `send`; ``BAD_REQUEST`` for what is no JSON, or too long.
            UnavailableError: not applied.
            OutcomeUnknownError: may have been applied.

        """
        saved = SaveRun(run_id=self.id, attempt_id=self.attempt_id, checkpoint=checkpoint)
        await self._send_along([(saved, SYSTEM)])
        self.checkpoint = checkpoint

    async def say(
        self, text: str, *, message_id: str | None = None, channel: Channel = "text"
    ) -> None:
        """Say something, at once, to those who follow the run; it is in the log a little later.

        It waits while more than `UNWRITTEN_BYTES_MAX` of it is not in the log, and for nobody who
        reads.  Cancelled, a part of it may have been said.

        Args:
            text: what is said now, not what was said so far; nothing is said where it is empty.
            message_id: what it is a part of, 1 to 200 characters; None: the attempt's own message.
            channel: what kind of text it is: ``text``, ``reasoning``, ``tool_args``, ``stdout`` or
                ``stderr``.

        Raises:
            Reject: ``BAD_REQUEST`` for what is no text, or has a NUL or a lone surrogate;
                ``RUN_OUTPUT_TOO_LONG`` once the run has said all that a run may, which ends it;
                ``RUN_CANCELLED``, ``RUN_OVER``, ``RUN_FENCED`` where the run, or this attempt, is:
                then nothing is said.
            WorkspaceMovedError: another node serves the workspace by now.
            WorkspaceHaltedError: the log needs a repair first.

        """
        await self._voice.say(text, message_id=message_id, channel=channel)

    def lines(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        inherits: Collection[str] | None = None,
        timeout_s: float = 60.0,
        line_bytes_max: int = 65_536,
        output_bytes_max: int = 10 * 1024 * 1024,
    ) -> AbstractAsyncContextManager[RunningProcess]:
        """Run a command for the length of a block, and read what it writes by line.

        At the block's end, also where the run is cancelled, it is killed with its group, and so it
        is where this program dies.  See `ProcessRunner.start`.

        Raises:
            DomainError: nothing starts processes here, as in a simulation.
            ProcessNotStartedError: it could not be started.

        """
        processes = self._directory.node.processes
        if processes is None:
            raise DomainError("nothing starts processes here")
        return processes.start(
            argv,
            cwd=cwd,
            env=env,
            inherits=inherits,
            timeout_s=timeout_s,
            line_bytes_max=line_bytes_max,
            output_bytes_max=output_bytes_max,
        )

    async def folder(self) -> str:
        """Return the absolute path of the workspace's folder, which is made where it is missing.

        All that runs of the workspace have staged that have succeeded by now is in place there.

        Raises:
            DomainError: its worker has no ``folder=``, or nothing puts files into one here, as in
                a simulation.
            FolderError: what an earlier run has staged cannot be put in place now: the disk is
                full, say, or something is in the way.
            Reject: ``PATH_FORBIDDEN`` for a workspace of whose id there can be no folder.
            UnavailableError: the store is away.

        """
        return await self.files.folder()

    def stage(self) -> AbstractAsyncContextManager[StageWriter]:
        """Stage files of the workspace's folder: ``await to.write(…)``, ``await to.finish()``.

        As `folder` does, it puts in place what earlier runs have staged first.  What was not
        finished is deleted at the block's end.  What was is put in place once the run has succeeded
        with it as its result's `STAGED`, and else is deleted.

        Raises:
            DomainError: as `folder`; or the attempt has another stage, open or finished.
            FolderError: as `folder`; or it cannot be begun.
            Reject: as `folder`.
            UnavailableError: the store is away.

        """
        return self.files.stage()

    def chat(
        self,
        settings: ProviderSettings,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[Tool] = (),
    ) -> AbstractAsyncContextManager[ChatStream]:
        """Ask a model for the length of a block, at whose end the connection is closed.

        Args:
            settings: which provider and model, how often, and whom after them.
            messages: the conversation so far.
            tools: what the model may want to have called.

        Raises:
            ProviderError: nobody is asked here: ``Runtime.open(providers=…)``.  While the answer is
                read: there is none.  It ends the run with its code where nobody catches it.

        """
        providers = self._directory.node.providers
        if providers is None:
            message = "this program asks no models"
            kind = settings.provider_kind
            raise ProviderError("bad_request", message, provider_kind=kind, model=settings.model)
        request = ChatRequest.of(settings, messages, tools=tools)
        return providers.of(settings).chat(request)

    # ------------------------------------------------------------------------------- archiving

    async def request(self) -> Event:
        """Return the event by which the run was asked for, as it stands in the log.

        Raises:
            CorruptLogError: it is kept no longer.
            UnavailableError: the store is away.

        """
        one = PageBounds(from_seq=1, limit=1, bytes_max=1)
        stream_id = runs.stream_id(self.id)
        found = await self._directory.node.store.read_stream(self.workspace_id, stream_id, one)
        if not found:
            raise CorruptLogError(f"{self.workspace_id}: {stream_id} has lost its first event")
        return found[0]

    async def pause(self) -> None:
        """Yield to other tasks if this one has run for long; for workers that compute."""
        await self._reads_at.pause()

    async def count_at(self, domain: Domain[Any, Any, Any], event_seq: int) -> int:
        """Count a domain's entities that there had been up to an event of the workspace.

        Raises:
            Reject: ``ROLE_FORBIDDEN``.
            UnavailableError: the store is away.

        """
        await self._reads_at.judge()
        return await self._reads_at.count_at(domain, event_seq)

    async def page_at(
        self, domain: Domain[Any, Any, Any], event_seq: int, *, after: str = "", limit: int = 100
    ) -> PageAt:
        """List a domain's entities with their states, as they were at an event of the workspace.

        All pages of one event are of one moment, however long it takes to read them, and whoever
        writes meanwhile.  A page has fewer than ``limit`` where their states are more than
        `Limits.list_bytes_max`.

        Args:
            domain: the entities' domain.
            event_seq: the event's number; that of `request`, say.
            after: the ``next`` of the page before.
            limit: at most so many, and `Limits.list_limit_max`.

        Raises:
            Reject: ``ROLE_FORBIDDEN``.
            UnavailableError: the store is away.
            CorruptLogError: one of them cannot be folded.

        """
        await self._reads_at.judge()
        page = await self._reads_at.page_at(domain, event_seq, after=after, limit=limit)
        await self._reads_at.judge()
        return page

    def artifact(self, suffix: str) -> AbstractAsyncContextManager[ArtifactWriter]:
        """Write a file for the length of a block: ``await out.write(…)``, ``await out.finish()``.

        What was not finished is deleted at the block's end.  What was is kept if the run succeeds
        with it as its result's ``artifact``, for `Limits.artifact_ttl_s`, and else is deleted.

        Args:
            suffix: of its name: ``".zip"``.

        Raises:
            ArtifactError: it cannot be begun: the disk is full, or there is no folder for it.

        """
        return self.artifacts.write(suffix)

    def dump(self) -> Dump:
        """Return the rows that the store keeps of the workspace; a run of ``$system``: of all.

        Whoever asked for the run has to have one of the roles that may, at each page.

        Raises:
            DomainError: the store is no database.

        """
        return dump_of(
            self._directory, self._catalog, self.workspace_id, self.principal, self._allow
        )

    async def _send_along(
        self, asked: Sequence[tuple[msgspec.Struct, Principal]]
    ) -> tuple[Receipt, ...]:
        """Send commands with what was said before them, in one commit."""
        output = await self._voice.along()
        receipts = await self._send([*((each, SYSTEM) for each in output), *asked])
        self._voice.written(output)
        return receipts

    async def _send(self, asked: Sequence[tuple[msgspec.Struct, Principal]]) -> tuple[Receipt, ...]:
        return await send_group(
            self._directory,
            self._catalog,
            self.workspace_id,
            asked,
            causation=f"run:{self.id}",
            depth=self._depth,
        )
