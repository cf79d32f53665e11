"""Runs as a pure domain: one end, nothing after it, no effect of an attempt that is another's."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, groupby
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from dalsegno.protocol import SYSTEM, Context, DomainError, Principal, Receipt, Reject
from dalsegno.protocol.runs import (
    OUTPUT_BYTES_MAX,
    OUTPUT_EVENT_BYTES,
    STEPS_MAX,
    CancelRun,
    ExpireRun,
    FinishRun,
    FinishStep,
    HoldAttempt,
    OutputPart,
    ReleaseRun,
    RequestRun,
    Retry,
    RunCancelRequested,
    RunFinished,
    RunOutput,
    RunProblem,
    RunReleased,
    RunRequested,
    RunRestarted,
    RunSaved,
    RunStarted,
    RunState,
    SaveRun,
    StartAttempt,
    StepFinished,
    StepReceipt,
    Worker,
    WriteOutput,
    asked_for,
    runs,
)

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ADA = Principal("ada")


async def nothing(*_: object) -> None: ...


WORKERS = {
    "translate": Worker(name="translate", function=nothing, deadline_s=100),
    "watched": Worker(name="watched", function=nothing, on_disconnect="cancel"),
    "twice": Worker(name="twice", function=nothing, retry=Retry(attempts_max=2)),
    "private": Worker(name="private", function=nothing, allow=frozenset({"owner"})),
}


@dataclass
class Log:
    """One run's events, and its state."""

    state: RunState | None = None
    events: list[Any] = field(default_factory=list)
    now: datetime = BEGAN
    ids: Any = field(default_factory=lambda: count(1))

    def send(
        self,
        command: Any,
        principal: Principal = SYSTEM,
        role: str = "system",
        earlier: tuple[Receipt, ...] = (),
    ) -> list[str]:
        """Decide and fold a command; the names of its events."""
        decider = runs.decider(type(command))
        if role != "system" and role not in decider.allow:
            raise Reject("ROLE_FORBIDDEN")
        if self.state is None and not decider.takes_none:
            raise Reject("RUN_NOT_FOUND")
        context = Context(
            entity_id="r",
            principal=principal,
            role=role,
            now=self.now,
            new_id=lambda: f"id-{next(self.ids)}",
            workers=WORKERS,
            earlier=earlier,
        )
        extras = [context] if decider.extras else []
        decided = decider.function(self.state, command, *extras)
        new = [] if decided is None else decided if isinstance(decided, list) else [decided]
        for event in new:
            self.state = runs.evolve_by(self.state, event)
            self.events.append(event)
        return [type(event).__name__ for event in new]

    @property
    def run(self) -> RunState:
        assert self.state is not None
        return self.state

    def refuses(self, command: Any, *args: Any, **kwargs: Any) -> str:
        before = len(self.events)
        with pytest.raises(Reject) as raised:
            self.send(command, *args, **kwargs)
        assert len(self.events) == before
        return raised.value.code

    def requested(self, **more: Any) -> Log:
        assert self.send(RequestRun(worker="translate", **more), ADA, "editor") == ["RunRequested"]
        return self

    def running(self) -> Log:
        self.requested()
        assert self.send(start("a")) == ["RunStarted"]
        return self


def start(attempt_id: str, after: str | None = None) -> StartAttempt:
    return StartAttempt(run_id="r", attempt_id=attempt_id, after=after)


def finish(attempt_id: str, **more: Any) -> FinishRun:
    return FinishRun(run_id="r", attempt_id=attempt_id, **{"outcome": "succeeded", **more})


FAILED = RunProblem(code="PROVIDER_UNAVAILABLE", retryable=True)


# ------------------------------------------------------------------------------ asking for one


def test_a_run_is_asked_for_by_its_worker_with_the_rights_of_who_asks() -> None:
    log = Log().requested(input={"text": "da capo"}, labels={"note": "n"}, deadline_s=500)
    run = log.run
    assert (run.kind, run.status, run.requested_by) == ("agent", "requested", "ada")
    assert run.labels == {"note": "n"}
    assert run.deadline == BEGAN + timedelta(seconds=100), "the worker's, at most"
    same = RequestRun(worker="translate", input={"text": "da capo"}, labels={"note": "n"})
    assert log.send(same, ADA, "editor") == []
    assert log.refuses(same, Principal("bob"), "editor") == "RUN_EXISTS"
    assert log.refuses(RequestRun(worker="translate"), ADA, "editor") == "RUN_EXISTS"


def test_what_cannot_be_asked_for() -> None:
    log = Log()
    assert log.refuses(RequestRun(worker="nobody")) == "WORKER_UNKNOWN"
    assert log.refuses(RequestRun(worker="private"), ADA, "editor") == "ROLE_FORBIDDEN"
    assert log.refuses(RequestRun(worker="translate"), ADA, "viewer") == "ROLE_FORBIDDEN"
    assert log.send(RequestRun(worker="private"), ADA, "owner") == ["RunRequested"]


def test_only_the_program_says_what_becomes_of_a_run() -> None:
    log = Log().running()
    for command in (
        start("b", "a"),
        HoldAttempt(run_id="r", attempt_id="a"),
        SaveRun(run_id="r", attempt_id="a", checkpoint=1),
        FinishStep(run_id="r", attempt_id="a", step_id="x"),
        ReleaseRun(run_id="r", attempt_id="a"),
        finish("a"),
        ExpireRun(run_id="r"),
    ):
        assert log.refuses(command, ADA, "owner") == "ROLE_FORBIDDEN"


# ------------------------------------------------------------------------------------ attempts


def test_a_run_succeeds_and_nothing_follows() -> None:
    log = Log().running()
    assert log.send(finish("a", result={"words": 2})) == ["RunFinished"]
    assert (log.run.status, log.run.result) == ("succeeded", {"words": 2})
    for command in (
        start("b", "a"),
        HoldAttempt(run_id="r", attempt_id="a"),
        SaveRun(run_id="r", attempt_id="a", checkpoint=1),
        FinishStep(run_id="r", attempt_id="a", step_id="x"),
        ReleaseRun(run_id="r", attempt_id="a"),
        finish("a"),
    ):
        assert log.refuses(command) == "RUN_OVER"
    assert log.send(CancelRun(run_id="r"), ADA, "editor") == []
    log.now += timedelta(days=1)
    assert log.send(ExpireRun(run_id="r")) == []


def test_an_attempt_that_was_superseded_has_no_effect() -> None:
    log = Log().running()
    assert log.refuses(start("b")) == "RUN_FENCED", "it knows no attempt"
    assert log.send(start("b", "a")) == ["RunRestarted"]
    restarted = log.events[-1]
    assert (restarted.attempt, restarted.reason) == (2, "interrupted")
    for command in (
        HoldAttempt(run_id="r", attempt_id="a"),
        SaveRun(run_id="r", attempt_id="a", checkpoint=1),
        FinishStep(run_id="r", attempt_id="a", step_id="x"),
        ReleaseRun(run_id="r", attempt_id="a"),
        finish("a"),
        start("c", "a"),
    ):
        assert log.refuses(command) == "RUN_FENCED"
    assert log.send(HoldAttempt(run_id="r", attempt_id="b")) == []
    assert log.send(finish("b")) == ["RunFinished"]


def test_a_failed_attempt_is_tried_again_not_before_its_time() -> None:
    log = Log().running()
    again = log.now + timedelta(seconds=5)
    released = ReleaseRun(run_id="r", attempt_id="a", error=FAILED, retry_at=again)
    assert log.send(released) == ["RunReleased"]
    assert log.refuses(HoldAttempt(run_id="r", attempt_id="a")) == "RUN_FENCED"
    assert log.refuses(start("b", "a")) == "RUN_NOT_DUE"
    log.now = again
    assert log.send(start("b", "a")) == ["RunRestarted"]
    assert log.events[-1].reason == "retry"
    log.send(ReleaseRun(run_id="r", attempt_id="b", error=FAILED, retry_at=again))
    log.send(start("c", "b"))
    assert log.send(ReleaseRun(run_id="r", attempt_id="c", error=FAILED)) == ["RunFinished"]
    assert (log.run.status, log.run.error) == ("failed", FAILED)


def test_an_error_that_is_not_tried_again_ends_the_run() -> None:
    log = Log().running()
    final = RunProblem(code="NOTE_NOT_FOUND")
    assert log.send(ReleaseRun(run_id="r", attempt_id="a", error=final)) == ["RunFinished"]
    assert (log.run.status, log.run.error) == ("failed", final)


def test_drains_use_up_nothing() -> None:
    log = Log().running()
    attempt_id = "a"
    for number in range(20):
        assert log.send(ReleaseRun(run_id="r", attempt_id=attempt_id)) == ["RunReleased"]
        assert log.send(start(f"n{number}", attempt_id)) == ["RunRestarted"]
        assert log.events[-1].reason == "released"
        attempt_id = f"n{number}"
    assert (log.run.failures, log.run.interruptions, log.run.attempt) == (0, 0, 21)
    assert log.send(finish(attempt_id)) == ["RunFinished"]


def test_deaths_of_its_process_are_bounded() -> None:
    log = Log().running()
    assert log.send(start("b", "a")) == ["RunRestarted"]
    assert log.send(start("c", "b")) == ["RunRestarted"]
    assert log.send(start("d", "c")) == ["RunFinished"]
    assert log.run.error is not None
    assert (log.run.status, log.run.error.code) == ("failed", "RUN_INTERRUPTED")


def test_a_step_takes_effect_once_whatever_the_attempt() -> None:
    log = Log().running()
    receipt = Receipt(workspace_id="w", event_seq=9, stream_id="note:n", version=3, command_id="c")
    step = FinishStep(run_id="r", attempt_id="a", step_id="draft")
    assert log.refuses(step) == "BAD_REQUEST", "no command stands before it"
    assert log.send(step, earlier=(receipt,)) == ["StepFinished"]
    kept = StepReceipt(stream_id="note:n", event_seq=9, version=3, command_id="c")
    assert log.run.steps == {"draft": kept}
    log.send(start("b", "a"))
    with pytest.raises(Reject) as raised:
        log.send(FinishStep(run_id="r", attempt_id="b", step_id="draft"), earlier=(receipt,))
    assert raised.value.code == "STEP_FINISHED"
    assert StepReceipt(**raised.value.details["receipt"]) == kept
    for number in range(STEPS_MAX - 1):
        log.send(FinishStep(run_id="r", attempt_id="b", step_id=f"s{number}"), earlier=(receipt,))
    one_more = FinishStep(run_id="r", attempt_id="b", step_id="more")
    assert log.refuses(one_more, earlier=(receipt,)) == "RUN_TOO_MANY_STEPS"


def test_a_checkpoint_is_for_the_next_attempt() -> None:
    log = Log().running()
    assert log.send(SaveRun(run_id="r", attempt_id="a", checkpoint={"page": 2})) == ["RunSaved"]
    log.send(start("b", "a"))
    assert log.run.checkpoint == {"page": 2}


# -------------------------------------------------------------------------------------- output


def part(first: int, last: int, text: str = "x", **more: Any) -> OutputPart:
    fields = {"message_id": "m", "channel": "text", **more}
    return OutputPart(from_frame=first, to_frame=last, text=text, **fields)


def write(*parts: OutputPart, attempt_id: str = "a") -> WriteOutput:
    return WriteOutput(run_id="r", attempt_id=attempt_id, parts=parts)


def test_what_is_said_is_recorded_part_by_part_without_a_gap() -> None:
    log = Log().running()
    assert log.send(write(part(1, 2, "da ", opens=True), part(3, 3, "hm", channel="reasoning")))
    first, second = log.events[-2:]
    assert isinstance(first, RunOutput)
    assert (first.attempt, first.from_frame, first.to_frame, first.text) == (1, 1, 2, "da ")
    assert (first.opens, second.opens, second.channel) == (True, False, "reasoning")
    assert log.refuses(write(part(5, 6))) == "BAD_REQUEST"
    assert log.refuses(write(part(4, 5), part(7, 8))) == "BAD_REQUEST"
    assert log.refuses(write(part(4, 5), part(6, 5))) == "BAD_REQUEST"
    assert log.send(write(part(4, 9))) == ["RunOutput"]
    assert (log.run.written_to, log.run.written_bytes) == (9, 6 + 3 * OUTPUT_EVENT_BYTES)


def test_what_is_recorded_already_is_not_recorded_twice() -> None:
    log = Log().running()
    log.send(write(part(1, 2)))
    assert log.send(write(part(1, 2))) == []
    assert log.send(write(part(1, 2), part(3, 4))) == ["RunOutput"]
    assert log.refuses(write(part(1, 5))) == "BAD_REQUEST", "no part changes"


def test_an_attempt_counts_from_its_beginning_and_another_ones_output_is_refused() -> None:
    log = Log().running()
    log.send(write(part(1, 2)))
    assert log.send(start("b", after="a")) == ["RunRestarted"]
    assert log.run.written_to == 0
    assert log.refuses(write(part(3, 4))) == "RUN_FENCED"
    assert log.send(write(part(1, 1), attempt_id="b")) == ["RunOutput"]
    assert log.run.written_bytes == 2 + 2 * OUTPUT_EVENT_BYTES
    log.send(finish("b"))
    assert log.refuses(write(part(2, 2), attempt_id="b")) == "RUN_OVER"


def test_of_a_run_that_was_cancelled_it_is_dropped_and_keeps_nothing_from_its_end() -> None:
    log = Log().running()
    log.send(CancelRun(run_id="r"), ADA, "editor")
    assert log.send(write(part(1, 2))) == []
    assert log.send(finish("a", outcome="cancelled")) == ["RunFinished"]


def test_i9_a_run_says_so_much_in_its_life() -> None:
    log = Log().running()
    log.send(write(part(1, 1, "é" * (OUTPUT_BYTES_MAX // 2 - OUTPUT_EVENT_BYTES - 1))))
    log.send(start("b", after="a"))
    assert log.refuses(write(part(1, 1, "abc"), attempt_id="b")) == "RUN_OUTPUT_TOO_LONG"
    assert log.send(write(part(1, 1, "ab"), attempt_id="b")) == ["RunOutput"]


# -------------------------------------------------------------------------- cancel, deadline


def test_a_run_that_was_cancelled_has_no_effect_any_more() -> None:
    log = Log().running()
    assert log.send(CancelRun(run_id="r", reason="no"), ADA, "editor") == ["RunCancelRequested"]
    assert log.send(CancelRun(run_id="r"), ADA, "editor") == []
    for command in (
        HoldAttempt(run_id="r", attempt_id="a"),
        SaveRun(run_id="r", attempt_id="a", checkpoint=1),
        FinishStep(run_id="r", attempt_id="a", step_id="x"),
        finish("a"),
        finish("a", outcome="failed"),
    ):
        assert log.refuses(command) == "RUN_CANCELLED"
    assert log.send(finish("a", outcome="cancelled")) == ["RunFinished"]
    assert log.run.status == "cancelled"


def test_cancel_and_finish_of_which_the_first_wins() -> None:
    log = Log().running()
    log.send(finish("a"))
    assert log.send(CancelRun(run_id="r"), ADA, "editor") == []
    assert log.run.status == "succeeded"


@pytest.mark.parametrize("how", ["requested", "released"])
def test_a_run_that_nobody_runs_is_cancelled_at_once(how: str) -> None:
    log = Log().requested()
    if how == "released":
        log.send(start("a"))
        log.send(ReleaseRun(run_id="r", attempt_id="a"))
    names = log.send(CancelRun(run_id="r"), ADA, "editor")
    began = ["RunStarted"] if how == "requested" else []
    assert names == ["RunCancelRequested", *began, "RunFinished"], (
        "everybody sees it begin, and end"
    )
    assert log.run.status == "cancelled"


def test_a_cancelled_run_whose_process_died_is_ended_by_the_next() -> None:
    log = Log().running()
    log.send(CancelRun(run_id="r"), ADA, "editor")
    assert log.send(start("b", "a")) == ["RunFinished"]
    assert log.run.status == "cancelled"


def test_a_run_that_is_not_taken_over_is_cancelled() -> None:
    log = Log()
    log.send(RequestRun(worker="watched"), ADA, "editor")
    log.send(start("a"))
    assert log.send(start("b", "a")) == ["RunFinished"]
    assert log.run.status == "cancelled"


def test_a_run_that_is_not_taken_over_is_tried_again_all_the_same() -> None:
    log = Log()
    log.send(RequestRun(worker="watched"), ADA, "editor")
    log.send(start("a"))
    log.send(ReleaseRun(run_id="r", attempt_id="a", error=FAILED, retry_at=BEGAN))
    assert log.send(start("b", "a")) == ["RunRestarted"]
    assert log.send(start("c", "b")) == ["RunFinished"], "that one died"


@pytest.mark.parametrize(("worker", "kept"), [("watched", "c1"), ("translate", None)])
def test_the_connection_that_asked_is_kept_where_the_worker_ends_with_it(
    worker: str, kept: str | None
) -> None:
    log = Log()
    log.send(RequestRun(worker=worker), Principal("ada", connection_id="c1"), "editor")
    assert log.run.connection_id == kept
    assert log.send(RequestRun(worker=worker), Principal("ada", connection_id="c2"), "editor") == []
    assert log.run.connection_id == kept, "that was no other request"


def test_a_cancelled_run_whose_attempt_fails_is_cancelled() -> None:
    log = Log().running()
    log.send(CancelRun(run_id="r"), ADA, "editor")
    assert log.send(ReleaseRun(run_id="r", attempt_id="a", error=FAILED)) == ["RunFinished"]
    assert log.run.status == "cancelled"


def test_a_run_has_a_deadline_which_is_a_timer() -> None:
    log = Log().requested()
    due = runs.due_of(log.run, "r")
    assert due is not None
    assert (due.at, due.command) == (log.run.deadline, ExpireRun(run_id="r"))
    assert log.send(due.command) == [], "not before"
    log.now = due.at
    assert log.send(due.command) == ["RunStarted", "RunFinished"]
    assert log.run.error is not None
    assert (log.run.status, log.run.error.code) == ("failed", "DEADLINE_EXCEEDED")
    assert runs.due_of(log.run, "r") is None


def test_an_attempt_past_the_deadline_ends_the_run() -> None:
    log = Log().running()
    log.send(ReleaseRun(run_id="r", attempt_id="a"))
    log.now = log.run.deadline
    assert log.send(start("b", "a")) == ["RunFinished"]
    assert log.run.status == "failed"


# --------------------------------------------------------------------------------- declarations


def test_every_event_has_kind_and_labels() -> None:
    for event in runs.events.values():
        assert {"kind", "labels"} <= set(event.__struct_fields__), event


def test_workers_within_no_bounds_are_refused() -> None:
    for wrong in ({"deadline_s": 0}, {"deadline_s": 1e9}, {"concurrency": 0}):
        with pytest.raises(DomainError):
            Worker(name="w", function=nothing, **wrong).check()
    with pytest.raises(DomainError):
        Worker(name="w", function=nothing, retry=Retry(attempts_max=0)).check()
    WORKERS["translate"].check()


# ------------------------------------------------------------------------------------ at random

_IDS = st.sampled_from(["a", "b", "c", "d"])
_COMMANDS = st.one_of(
    st.builds(start, _IDS, st.none() | _IDS),
    st.builds(lambda a: HoldAttempt(run_id="r", attempt_id=a), _IDS),
    st.builds(lambda a: SaveRun(run_id="r", attempt_id=a, checkpoint=1), _IDS),
    st.builds(lambda a, s: FinishStep(run_id="r", attempt_id=a, step_id=s), _IDS, _IDS),
    st.builds(
        lambda a, e: ReleaseRun(run_id="r", attempt_id=a, error=e),
        _IDS,
        st.none() | st.just(FAILED) | st.just(RunProblem(code="X")),
    ),
    st.builds(lambda a, o: finish(a, outcome=o), _IDS, st.sampled_from(["succeeded", "failed"])),
    st.builds(lambda a: finish(a, outcome="cancelled"), _IDS),
    st.builds(
        lambda a, first, count: write(part(first, first + count), attempt_id=a),
        _IDS,
        st.integers(1, 4),
        st.integers(0, 2),
    ),
    st.just(CancelRun(run_id="r")),
    st.just(ExpireRun(run_id="r")),
    st.just(RequestRun(worker="translate")),
)
_RECEIPT = Receipt(workspace_id="w", event_seq=1, stream_id="n:1", version=1, command_id="c")


def numbers_of(output: RunOutput) -> range:
    return range(output.from_frame, output.to_frame + 1)


def dense(numbers: Iterable[Any]) -> range:
    return range(1, len(list(numbers)) + 1)


@given(st.lists(st.tuples(_COMMANDS, st.sampled_from([0, 0, 0, 30])), max_size=40))
def test_i12_whatever_is_sent_a_run_ends_once_and_nothing_follows(
    sent: list[tuple[Any, int]],
) -> None:
    log = Log().requested()
    for command, seconds in sent:
        log.now += timedelta(seconds=seconds)
        with suppress(Reject):
            log.send(command, earlier=(_RECEIPT,))
    events = log.events
    assert isinstance(events[0], RunRequested)
    ends = [n for n, event in enumerate(events) if isinstance(event, RunFinished)]
    assert len(ends) <= 1
    if ends:
        assert ends == [len(events) - 1]
        assert any(isinstance(event, RunStarted) for event in events)
        assert not log.run.is_open
    begins = [e for e in events if isinstance(e, (RunStarted, RunRestarted))]
    assert [e.attempt for e in begins] == list(range(1, len(begins) + 1))
    assert sum(isinstance(e, RunRequested) for e in events) == 1
    steps = [e.step_id for e in events if isinstance(e, StepFinished)]
    assert len(steps) == len(set(steps))
    written = [(e.attempt, n) for e in events if isinstance(e, RunOutput) for n in numbers_of(e)]
    assert written == [(a, n) for a, of in groupby(written, key=itemgetter(0)) for n in dense(of)]
    cancelled = [n for n, e in enumerate(events) if isinstance(e, RunCancelRequested)]
    for event in events[cancelled[0] + 1 :] if cancelled else ():
        assert not isinstance(event, (RunSaved, StepFinished, RunReleased, RunOutput))
        assert not isinstance(event, RunFinished) or event.outcome == "cancelled"
    assert log.run.failures < 3
    assert log.run.interruptions < 3


# ------------------------------------------------------------------- times, lists, records


def test_a_run_says_when_it_was_asked_for_began_and_ended_and_is_listed_by_the_first() -> None:
    log = Log().requested()
    log.now += timedelta(seconds=1)
    log.send(start("a"))
    log.now += timedelta(seconds=1)
    log.send(finish("a"))
    run = log.run
    assert [run.requested_at, run.started_at, run.finished_at] == [
        BEGAN,
        BEGAN + timedelta(seconds=1),
        BEGAN + timedelta(seconds=2),
    ]
    assert runs.indexed(run).sort == "2026-01-01T00:00:00.000000Z"
    assert runs.indexed(replace(run, requested_at=None)).sort is None


def test_the_steps_of_an_automations_run_are_on_record_and_those_of_others_are_not() -> None:
    def recorded(kind: str, *commands: Any) -> list[str]:
        log, found = Log(), []
        log.requested()
        for command in commands:
            log.send(command)
        state = None
        for event in log.events:
            event = replace(event, kind=kind)
            after = runs.evolve_by(state, event)
            found += [each.action for each in runs.audited(event, state, after)]
            state = after
        return found

    begun = ["AUTOMATION_RUN_LAUNCHED", "AUTOMATION_RUN_QUEUED", "AUTOMATION_RUN_RUNNING"]
    saved = SaveRun(run_id="r", attempt_id="a", checkpoint=1)
    assert recorded("automation", start("a"), saved, finish("a")) == [
        *begun,
        "AUTOMATION_RUN_SUCCEEDED",
    ]
    failed = finish("a", outcome="failed", error=RunProblem(code="X"))
    assert recorded("automation", start("a"), failed) == [*begun, "AUTOMATION_RUN_FAILED"]
    assert recorded("agent", start("a"), finish("a")) == []


def test_a_decider_of_another_domain_asks_for_a_run_with_the_rights_of_who_sent_it() -> None:
    context = Context(
        entity_id="e", principal=ADA, role="viewer", now=BEGAN, new_id=str, workers=WORKERS, depth=2
    )
    asked = asked_for(RequestRun(worker="private", input=1, labels={"a": "b"}), context)
    assert (asked.requested_by, asked.input, asked.labels, asked.depth) == ("ada", 1, {"a": "b"}, 2)
    assert (asked.at, asked.trigger) == (BEGAN, None)
    with pytest.raises(Reject, match="WORKER_UNKNOWN"):
        asked_for(RequestRun(worker="nobody"), context)
