"""One attempt at a run, from its beginning in the log to its end there."""

from __future__ import annotations

import logging
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from dalsegno.actors.node import look, send_group
from dalsegno.protocol import (
    SYSTEM,
    Backoff,
    DalsegnoError,
    Limits,
    OutcomeUnknownError,
    Principal,
    Reject,
    UnavailableError,
    WorkspaceHaltedError,
    WorkspaceMovedError,
)
from dalsegno.protocol.providers import ProviderError
from dalsegno.protocol.runs import (
    Done,
    FinishRun,
    ReleaseRun,
    RunProblem,
    RunState,
    StartAttempt,
    runs,
)

from ._run import Run
from ._voice import Voice, fenced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.delivery import Hub
    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.protocol.runs import Outcome, Worker, WriteOutput

_log = logging.getLogger("dalsegno.runs")

_PASSED_ON = frozenset({"RUN_OVER", "RUN_FENCED", "RUN_CANCELLED", "RUN_NOT_FOUND"})
"""Refusals by which a run says that the attempt has nothing more to say."""


_MESSAGE_CHARS_MAX = 1_000
"""Of an error, as it is recorded."""


class Ending(Enum):
    """Why an attempt is stopped from outside."""

    CANCELLED = "somebody cancelled the run"
    OVER = "the run has ended"
    DRAINED = "the node drains"


_SILENT = {Ending.CANCELLED: "RUN_CANCELLED", Ending.OVER: "RUN_OVER"}
"""Those after which nothing is said, with what a worker that does gets."""


class Attempt:
    """Carries out one attempt; see the module."""

    def __init__(
        self,
        directory: Directory,
        catalog: Catalog,
        workspace_id: str,
        run_id: str,
        worker: Worker,
    ) -> None:
        self.run_id = run_id
        self.worker = worker
        self._directory = directory
        self._catalog = catalog
        self._node = directory.node
        self._workspace_id = workspace_id
        self._scope = trio.CancelScope()
        self._ending: Ending | None = None
        self._depth = 0
        """Of the run, once that has begun."""
        self._voice: Voice | None = None
        """What its worker says, once that has begun."""

    def __repr__(self) -> str:
        return f"<Attempt at {self.run_id} of {self._workspace_id}>"

    def stop(self, ending: Ending) -> None:
        """Stop it: its worker is cancelled, and the first reason is the one that counts."""
        if ending in _SILENT and self._voice is not None:
            self._voice.end(Reject(_SILENT[ending], ending.value))
        if self._ending is None:
            self._ending = ending
            self._scope.cancel(reason=ending.value)

    def silence(self) -> None:
        """Say nothing from this step on: the workspace is served here no longer."""
        if self._voice is not None:
            self._voice.end(fenced(self._voice.attempt))

    async def carry_out(self, after: str | None, hub: Hub) -> float | None:
        """Carry it out; return when the run is to be looked at again, in seconds, None: it is not.

        What goes wrong is an end of the run, or of its attempt.

        Args:
            after: the attempt before it, None where there was none.
            hub: the workspace's, where those are who follow the run.

        """
        try:
            state = await self._begin(after)
            if state is None:
                return None
            return await self._carry_out(state, hub)
        except Reject as error:
            if error.code == "RUN_NOT_DUE":
                return self._node.limits.runs_scan_s
            if error.code not in _PASSED_ON:
                _log.warning("%s %s: %s", self._workspace_id, self.run_id, error)
        except (UnavailableError, OutcomeUnknownError) as error:
            _log.info("%s %s: %s", self._workspace_id, self.run_id, error)
            return None if isinstance(error, WorkspaceMovedError) else 1.0
        except WorkspaceHaltedError as error:
            _log.info("%s %s: %s", self._workspace_id, self.run_id, error)
        return None

    async def _begin(self, after: str | None) -> RunState | None:
        """Begin in the log; return the run, None where it has ended instead.

        Raises:
            DalsegnoError: as `send`.

        """
        attempt_id = self._node.world.new_id()
        start = StartAttempt(run_id=self.run_id, attempt_id=attempt_id, after=after)
        await self._insist([(start, SYSTEM)], key=attempt_id)
        state = await read_run(self._directory, self._catalog, self._workspace_id, self.run_id)
        return state if state is not None and state.attempt_id == attempt_id else None

    async def _carry_out(self, state: RunState, hub: Hub) -> float | None:
        """Run the worker, and record how that ended."""
        if not state.is_open:
            return None  # it was cancelled, or late, before it began
        self._depth = state.depth
        principal = SYSTEM if state.requested_by is None else Principal(state.requested_by)
        voice = Voice(
            self._node,
            hub,
            self.run_id,
            state,
            write=self._write,
            rolls_up_s=self.worker.rolls_up_s,
        )
        run = Run(
            self._directory,
            self._catalog,
            self._workspace_id,
            self.run_id,
            state,
            principal=principal,
            voice=voice,
            allow=self.worker.allowed,
            folder=self.worker.folder,
        )
        returned: Any = None
        error: Exception | None = None
        left_s = (state.deadline - self._node.world.now()).total_seconds()
        self._scope.deadline = trio.current_time() + max(left_s, 0)
        async with trio.open_nursery() as nursery:
            voice.begin(nursery)
            self._voice = voice
            try:
                with self._scope:
                    returned = await self._work(run)
            except Exception as raised:  # noqa: BLE001 - a worker is a user's code: its run's alone
                error = raised  # also what a nursery of its own raised beside the cancellation
            finally:
                voice.close()
                nursery.cancel_scope.cancel(reason="the worker has ended")
        if self._scope.cancelled_caught:
            return await self._stopped(run)
        error = error or voice.refusal  # where its worker has overheard that
        if error is not None:
            return await self._failed(run, state, error)
        return await self._returned(run, state, returned)

    async def _work(self, run: Run) -> Any:  # noqa: ANN401 - a worker's
        """Have the worker do it, with the event that it was asked for because of, if it is told.

        That event has to be there: the log may have lost it between the asking and the request.
        """
        function = self.worker.function
        if run.trigger is None:
            return await function(run)
        _, event = await run.event(run.trigger)
        return await (function(run, event) if self.worker.is_reactor else function(run))

    async def _stopped(self, run: Run) -> float | None:
        await _discard(run)
        match self._ending:
            case Ending.OVER:
                return None
            case Ending.DRAINED:
                with trio.CancelScope(shield=True) as scope:
                    scope.deadline = trio.current_time() + release_deadline_s(self._node.limits)
                    if self.worker.on_disconnect == "cancel":
                        await self._finish(run, "cancelled")
                    else:
                        await self._record(
                            run, ReleaseRun(run_id=run.id, attempt_id=run.attempt_id)
                        )
                return None
            case Ending.CANCELLED:
                await self._finish(run, "cancelled")
            case None:
                problem = RunProblem(code="DEADLINE_EXCEEDED", message="it was not done in time")
                await self._finish(run, "failed", error=problem)
        return None

    async def _returned(self, run: Run, state: RunState, returned: Any) -> float | None:  # noqa: ANN401 - a worker's
        try:
            done = _done(returned)
            run.files.check(done.result)
        except TypeError as error:
            await _discard(run)
            problem = RunProblem(code="WORKER_RESULT", message=str(error))
            await self._finish(run, "failed", error=problem)
            return None
        try:
            await self._finish(run, "succeeded", result=done.result, commands=done.commands)
        except (UnavailableError, OutcomeUnknownError, WorkspaceHaltedError):
            raise
        except DalsegnoError as error:  # one of its commands is refused, or its decider raises
            return await self._failed(run, state, error)
        await run.files.settle()
        return None

    async def _failed(self, run: Run, state: RunState, error: Exception) -> float | None:
        """Record that an attempt failed; the run ends with it, or is tried again."""
        await _discard(run)
        if isinstance(error, Reject) and error.code == "RUN_CANCELLED":
            await self._finish(run, "cancelled")
            return None
        if isinstance(error, Reject) and error.code in _PASSED_ON:
            return None
        problem = self._problem(error)
        if not isinstance(error, DalsegnoError):
            _log.warning("%s %s failed", self._workspace_id, run.id, exc_info=error)
        retry = self.worker.retry
        backoff = Backoff(retry.first_s, retry.max_s)
        backoff.failures = state.failures
        delay_s = backoff.next_s(self._node.world.random())
        retry_at = self._node.world.now() + timedelta(seconds=delay_s)
        released = ReleaseRun(
            run_id=run.id, attempt_id=run.attempt_id, error=problem, retry_at=retry_at
        )
        await self._record(run, released)
        return delay_s if problem.retryable else None

    def _problem(self, error: Exception) -> RunProblem:
        """Return what is recorded of an error: no text of one that is not ours."""
        if isinstance(error, DalsegnoError):
            code, message = error.code, error.message
        else:
            code, message = "WORKER_FAILED", type(error).__name__
        message = message[:_MESSAGE_CHARS_MAX].encode("utf-8", "replace").decode()
        on = self.worker.retry.on
        is_tried = not _is_final(error) if on is None else code in on
        return RunProblem(code=code, message=message, retryable=is_tried)

    async def _finish(
        self,
        run: Run,
        outcome: Outcome,
        *,
        result: Any = None,  # noqa: ANN401 - JSON
        error: RunProblem | None = None,
        commands: Sequence[msgspec.Struct] = (),
    ) -> None:
        end = FinishRun(
            run_id=run.id,
            attempt_id=run.attempt_id,
            outcome=outcome,
            result=result,
            error=error,
        )
        await self._record(run, end, commands)

    async def _record(
        self, run: Run, end: msgspec.Struct, commands: Sequence[msgspec.Struct] = ()
    ) -> None:
        """Record an end, with commands or not at all.

        Raises:
            DalsegnoError: as `_insist`.

        """
        assert self._voice is not None, "its worker has ended"
        if len(commands) + 2 > self._node.limits.group_commands_max:
            await self._voice.write()
        output = await self._voice.along()
        asked = [*map(run.asked, commands), (end, SYSTEM)]
        said = [(each, SYSTEM) for each in output]
        await self._insist([*said, *asked], key=f"{run.attempt_id}:{type(end).__name__}")
        self._voice.written(output)

    async def _write(self, output: WriteOutput) -> None:
        """Write what the worker says; what is written already is not written twice."""
        await self._insist([(output, SYSTEM)], key=None)

    async def _insist(
        self, asked: Sequence[tuple[msgspec.Struct, Principal]], *, key: str | None
    ) -> None:
        """Send something until it is certain what became of it.

        The key is the attempt's: what was applied, though nobody heard of it, is not applied twice.
        It goes on as long as the workspace is served here, at most to the run's deadline, which
        ends the run and refuses what comes then.

        Raises:
            DalsegnoError: refused, or another node's by now.

        """
        limits, world = self._node.limits, self._node.world
        backoff = Backoff(limits.backoff_first_s, limits.backoff_max_s)
        while True:
            try:
                await send_group(
                    self._directory,
                    self._catalog,
                    self._workspace_id,
                    asked,
                    key=key,
                    causation=f"run:{self.run_id}",
                    depth=self._depth,
                )
            except WorkspaceMovedError:
                raise
            except (UnavailableError, OutcomeUnknownError) as error:
                _log.info("%s %s: %s", self._workspace_id, self.run_id, error)
                await trio.sleep(backoff.next_s(world.random()))
            else:
                return


def release_deadline_s(limits: Limits) -> float:
    """Return how long a draining node waits for the ends of its attempts.

    At most half of what it has to drain: commands and acks need the rest, where the store is away
    too.
    """
    return min(limits.run_end_deadline_s, limits.drain_deadline_s / 2)


async def read_run(
    directory: Directory, catalog: Catalog, workspace_id: str, run_id: str
) -> RunState | None:
    """Return a run as it is committed; None where there is none.

    Raises:
        UnavailableError: the store is away.

    """
    entity = await look(directory, catalog, workspace_id, runs, run_id, principal=SYSTEM)
    state: RunState | None = None if entity is None else entity.state
    return state


async def _discard(run: Run) -> None:
    """Delete the files of an attempt that ends without them."""
    await run.artifacts.discard()
    await run.files.discard()


def _is_final(error: Exception) -> bool:
    """Return whether an error would be the same the next time, by whoever raised it."""
    return isinstance(error, Reject) or (isinstance(error, ProviderError) and not error.retryable)


def _done(returned: Any) -> Done:  # noqa: ANN401 - a worker's
    """Return what a worker returned, in one form.

    Raises:
        TypeError: it is nothing that a worker may return.

    """
    match returned:
        case None:
            return Done()
        case Done():
            return returned
        case msgspec.Struct():
            return Done(commands=(returned,))
        case list() | tuple() if all(isinstance(each, msgspec.Struct) for each in returned):
            return Done(commands=tuple(returned))
    raise TypeError(f"a worker returns None, commands or Done, not {type(returned).__name__}")
