"""M4: the machine of runs against a model of it, command by command, whatever is sent when.

The model is the picture in docs/runs.md with its counts: it says which edge a command takes, or
with which code it is refused.  The deciders have to say the same, by one event an edge, and the
evolvers have to be where the edge leads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dalsegno.protocol import Principal, Receipt, Reject
from dalsegno.protocol.runs import (
    CancelRun,
    ExpireRun,
    FinishRun,
    FinishStep,
    HoldAttempt,
    OutputPart,
    ReleaseRun,
    RequestRun,
    RunProblem,
    SaveRun,
    StartAttempt,
    WriteOutput,
    runs,
)
from tests.protocol.test_run_domain import ADA, BEGAN, WORKERS, Log

OVER = frozenset({"succeeded", "failed", "cancelled"})

EDGES: dict[str, set[tuple[str, str]]] = {
    "RunRequested": {("absent", "requested")},
    "RunStarted": {("requested", "running")},
    "RunRestarted": {("running", "running"), ("released", "running")},
    "RunReleased": {("running", "released")},
    "RunFinished": {
        *(("running", end) for end in OVER),
        *(("released", end) for end in OVER - {"succeeded"}),
    },
}
"""Which event takes which edges: each edge has one event …"""
ASIDE = frozenset({"RunSaved", "StepFinished", "RunOutput", "RunCancelRequested"})
"""… and these leave a run where it is."""

CODES = {
    *("RUN_NOT_FOUND", "RUN_OVER", "RUN_FENCED", "RUN_NOT_DUE", "RUN_CANCELLED"),
    *("STEP_FINISHED", "BAD_REQUEST"),
}
"""What it refuses."""

AGAIN = RunProblem(code="PROVIDER_UNAVAILABLE", retryable=True)
FINAL = RunProblem(code="NOTE_NOT_FOUND")
RECEIPT = Receipt(workspace_id="w", event_seq=1, stream_id="n:1", version=1, command_id="c")


@dataclass
class Model:
    """A run, as the picture has it."""

    status: str = "absent"
    attempt: int = 0
    attempt_id: str | None = None
    failures: int = 0
    interruptions: int = 0
    is_cancelled: bool = False
    is_tied: bool = False
    """Whether it ends with whoever carries it out."""
    attempts_max: int = 0
    deadline: datetime = BEGAN
    retry_at: datetime | None = None
    steps: set[str] = field(default_factory=set)
    written_to: int = 0

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def expected(self, command: Any, now: datetime) -> list[str] | str:
        """Take the edge of a command: the names of its events, or the code of its refusal."""
        if isinstance(command, RequestRun):
            return self._request(command, now)
        if self.status == "absent":
            return "RUN_NOT_FOUND"
        match command:
            case CancelRun():
                return self._cancel()
            case ExpireRun():
                if self.is_over or self.deadline > now:
                    return []
                return self._end("cancelled" if self.is_cancelled else "failed")
        if self.is_over:
            return "RUN_OVER"
        if isinstance(command, StartAttempt):
            return self._start(command, now)
        if self.status != "running" or command.attempt_id != self.attempt_id:
            return "RUN_FENCED"
        return self._by_attempt(command)

    def _request(self, command: RequestRun, now: datetime) -> list[str] | str:
        if self.status != "absent":
            return []  # by the same user, for the same
        worker = WORKERS[command.worker]
        self.status, self.deadline = "requested", now + timedelta(seconds=worker.deadline_s)
        self.attempts_max = worker.retry.attempts_max
        self.is_tied = worker.on_disconnect == "cancel"
        return ["RunRequested"]

    def _cancel(self) -> list[str]:
        if self.is_over or self.is_cancelled:
            return []
        self.is_cancelled = True
        if self.status == "running":
            return ["RunCancelRequested"]
        return ["RunCancelRequested", *self._end("cancelled")]

    def _start(self, command: StartAttempt, now: datetime) -> list[str] | str:
        is_retried = self.status == "released" and self.retry_at is not None
        died = self.status == "running"
        if command.after != self.attempt_id:
            return "RUN_FENCED"
        if self.is_cancelled or (self.is_tied and self.attempt > 0 and not is_retried):
            return self._end("cancelled")
        if now >= self.deadline or (died and self.interruptions + 1 >= self.attempts_max):
            return self._end("failed")
        if is_retried and now < (self.retry_at or now):
            return "RUN_NOT_DUE"
        event = "RunRestarted" if self.attempt else "RunStarted"
        self.interruptions += died
        self.attempt, self.attempt_id = self.attempt + 1, command.attempt_id
        self.status, self.retry_at, self.written_to = "running", None, 0
        return [event]

    def _by_attempt(self, command: Any) -> list[str] | str:
        match command:
            case FinishRun(outcome=outcome):
                if self.is_cancelled and outcome != "cancelled":
                    return "RUN_CANCELLED"
                return self._end(outcome)
            case ReleaseRun():
                return self._release(command)
            case WriteOutput(parts=(part,)):
                if self.is_cancelled or part.to_frame <= self.written_to:
                    return []
                if part.from_frame != self.written_to + 1:
                    return "BAD_REQUEST"
                self.written_to = part.to_frame
                return ["RunOutput"]
        if self.is_cancelled:
            return "RUN_CANCELLED"
        match command:
            case SaveRun():
                return ["RunSaved"]
            case FinishStep(step_id=step_id):
                if step_id in self.steps:
                    return "STEP_FINISHED"
                self.steps.add(step_id)
                return ["StepFinished"]
        return []  # it holds

    def _release(self, command: ReleaseRun) -> list[str]:
        if self.is_cancelled:
            return self._end("cancelled")
        if command.error is not None:
            if not command.error.retryable or self.failures + 1 >= self.attempts_max:
                return self._end("failed")
            self.failures += 1
        self.status = "released"
        self.retry_at = None if command.error is None else command.retry_at
        return ["RunReleased"]

    def _end(self, outcome: str) -> list[str]:
        """End it; what never ran begins with its end, so that everybody sees both."""
        began = [] if self.attempt else ["RunStarted"]
        self.attempt, self.status, self.retry_at = max(self.attempt, 1), outcome, None
        return [*began, "RunFinished"]


AGES = st.sampled_from([0, 0, 0, 0, 0, 1, 2])
"""How many attempts began after the one that speaks."""


WORKER = st.sampled_from(["translate", "watched", "twice"])
SECONDS = st.sampled_from([0.5, 10.0, 40.0, 200.0])
HOW = st.sampled_from([*sorted(OVER), "cancel", "expire"])
STEPS = st.one_of(
    st.tuples(st.just("request")),
    *[st.tuples(st.just("start"), st.sampled_from([True, True, True, True, False]))] * 3,
    *[
        st.tuples(
            st.just("speak"), AGES, st.sampled_from(["hold", "save", "x", "y"]), st.integers(1, 3)
        )
    ]
    * 2,
    st.tuples(st.just("drain"), AGES),
    *[st.tuples(st.just("fail"), AGES, st.sampled_from([AGAIN] * 4 + [FINAL]), st.integers(0, 20))]
    * 3,
    *[st.tuples(st.just("end"), AGES, HOW)] * 2,
    st.tuples(st.just("wait"), SECONDS),
    st.tuples(st.just("another"), WORKER),
)
"""What is done next, the beginning of an attempt more often than its end.

One rule for all of them: of several, an example leaves some out, and a run that nobody starts, or
fails, shows little.
"""


class Machine(RuleBasedStateMachine):
    """One run, and attempts that know of it what they know, and speak whenever they like."""

    taken: ClassVar[set[tuple[str, str]]] = set()
    """The edges that some example has taken …"""
    refused: ClassVar[set[str]] = set()
    """… and the codes that one was refused with."""

    def __init__(self) -> None:
        super().__init__()
        self.log, self.model = Log(), Model()
        self.path = ["absent"]
        """Where it was after each event."""
        self.attempts = ["another"]

    def of(self, age: int) -> str:
        """Return an attempt that began, the last one or one before it."""
        return self.attempts[max(-1 - age, -len(self.attempts))]

    def send(self, command: Any, principal: Principal | None = None, role: str = "system") -> None:
        expected = self.model.expected(command, self.log.now)
        known = len(self.log.events)
        try:
            found: list[str] | str = (
                self.log.send(command, earlier=(RECEIPT,))
                if principal is None
                else self.log.send(command, principal, role)
            )
        except Reject as error:
            found = error.code
            self.refused.add(found)
        assert found == expected, command
        self.follow(known)

    def follow(self, known: int) -> None:
        """Fold the new events anew, one by one, along the edges."""
        for number in range(known, len(self.log.events)):
            state = None
            for event in self.log.events[: number + 1]:
                state = runs.evolve_by(state, event)
            assert state is not None
            name, before = type(self.log.events[number]).__name__, self.path[-1]
            if name in ASIDE:
                assert state.status == before
            else:
                assert (before, state.status) in EDGES[name], name
                self.taken.add((before, state.status))
            self.path.append(state.status)

    # ------------------------------------------------------------------------------- what is sent

    @initialize(worker=WORKER, is_known=st.sampled_from([True] * 9 + [False]))
    def begin(self, worker: str, is_known: bool) -> None:
        self.worker = worker
        if is_known:
            self.request()

    @rule(step=STEPS)
    def go_on(self, step: tuple[Any, ...]) -> None:
        method, *arguments = step
        getattr(self, method)(*arguments)

    def another(self, worker: str) -> None:
        """Go on with another run where this one is over: what is refused then is seen soon."""
        if self.model.is_over:
            self.log, self.model, self.path = Log(), Model(), ["absent"]
            self.attempts = ["another"]
            self.begin(worker, is_known=True)

    def request(self) -> None:
        self.send(RequestRun(worker=self.worker), ADA, "editor")

    def start(self, is_informed: bool) -> None:
        """Begin an attempt after the last one, or after one that nobody knows."""
        attempt_id = f"a{len(self.attempts)}"
        after = self.model.attempt_id if is_informed else "another"
        self.send(StartAttempt(run_id="r", attempt_id=attempt_id, after=after))
        if self.model.attempt_id == attempt_id:
            self.attempts.append(attempt_id)

    def speak(self, age: int, what: str, first: int) -> None:
        self.send(self.said(what, self.of(age)))
        part = OutputPart(
            message_id="m", channel="text", from_frame=first, to_frame=first + 1, text="x"
        )
        self.send(WriteOutput(run_id="r", attempt_id=self.of(age), parts=(part,)))

    def said(self, what: str, attempt_id: str) -> Any:
        match what:
            case "hold":
                return HoldAttempt(run_id="r", attempt_id=attempt_id)
            case "save":
                return SaveRun(run_id="r", attempt_id=attempt_id, checkpoint=1)
        return FinishStep(run_id="r", attempt_id=attempt_id, step_id=what)

    def drain(self, age: int) -> None:
        self.send(ReleaseRun(run_id="r", attempt_id=self.of(age)))

    def fail(self, age: int, error: RunProblem, seconds: int) -> None:
        retry_at = self.log.now + timedelta(seconds=seconds)
        self.send(ReleaseRun(run_id="r", attempt_id=self.of(age), error=error, retry_at=retry_at))

    def end(self, age: int, how: Any) -> None:
        """One rule, so that a run lives for a while."""
        match how:
            case "cancel":
                self.send(CancelRun(run_id="r"), ADA, "editor")
            case "expire":
                self.send(ExpireRun(run_id="r"))
            case _:
                self.send(FinishRun(run_id="r", attempt_id=self.of(age), outcome=how))

    def wait(self, seconds: float) -> None:
        self.log.now += timedelta(seconds=seconds)

    # --------------------------------------------------------------------------------- what holds

    @invariant()
    def is_where_the_model_is(self) -> None:
        state, model = self.log.state, self.model
        if state is None:
            assert model.status == "absent"
            return
        assert (state.status, state.attempt) == (model.status, model.attempt)
        assert (state.failures, state.interruptions) == (model.failures, model.interruptions)
        assert (state.cancelled is not None) == model.is_cancelled
        assert (state.deadline, state.retry_at) == (model.deadline, model.retry_at)
        assert (set(state.steps), state.written_to) == (model.steps, model.written_to)
        assert state.is_open == (not model.is_over)
        if not model.is_over:
            assert state.attempt_id == model.attempt_id
        due = runs.due_of(state, "r")
        assert (due is None) == model.is_over, "what is open has a deadline, what is over has none"

    @invariant()
    def ends_once_and_with_its_last_event(self) -> None:
        ends = [number for number, status in enumerate(self.path) if status in OVER]
        assert ends in ([], [len(self.path) - 1])


@pytest.mark.long
def test_m4_a_run_takes_the_edges_of_its_machine_and_no_other(pytestconfig: pytest.Config) -> None:
    is_soak = pytestconfig.getoption("--soak")
    Machine.taken.clear()
    Machine.refused.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=10_000 if is_soak else 300, stateful_step_count=60),
    )
    if is_soak:  # which examples there are is chance
        assert Machine.taken == set().union(*EDGES.values())
        assert Machine.refused == CODES
