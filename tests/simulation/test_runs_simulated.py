"""Runs under every fault: each ends once, and nothing of it happens after that, or twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from dalsegno.actors.effects import _voice
from dalsegno.actors.effects._attempt import Attempt, Ending
from dalsegno.actors.effects._reactors import Reactors
from dalsegno.actors.effects._workspace_runs import WorkspaceRuns
from dalsegno.actors.testing import FAULTS, Verdict
from dalsegno.protocol.runs import FinishRun, OutputPart, RunState, StepFinished, _domain, runs

from ._run_schedules import simulated_runs

BATCHES, BATCH = 10, 10
SOAK = 1_000


@pytest.mark.parametrize(
    "batch", [0, *(pytest.param(batch, marks=pytest.mark.long) for batch in range(1, BATCHES))]
)
def test_seeded_schedules_of_runs(batch: int) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        done = simulated_runs(seed)
        assert done.is_sound, f"seed {seed}:\n{done}"


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(20))
def test_many_schedules_of_runs(batch: int) -> None:
    size = SOAK // 20
    for seed in range(1_000 + batch * size, 1_000 + (batch + 1) * size):
        done = simulated_runs(seed)
        assert done.is_sound, f"seed {seed}:\n{done}"


@pytest.mark.long
def test_a_lost_tail_makes_no_second_end() -> None:
    """What began in a history that is gone is fenced by its attempt's id, which is given once."""
    for seed in range(20):
        done = simulated_runs(seed, faults=OVER_AND_OVER)
        ends = [each for each in done.violations if each.verdict is Verdict.RUN_TERMINAL]
        assert not ends, f"seed {seed}:\n{done}"
        assert not [bug for bug in done.bugs if bug.startswith("w")], f"seed {seed}:\n{done}"


# ---------------------------------------------------------------------------- what it would find


OVER_AND_OVER = (*FAULTS, *["failover"] * 3)


def _caught(seeds: int = 60, **more: Any) -> bool:
    for seed in range(seeds):
        done = simulated_runs(seed, **more)
        wrong = any(each.verdict is Verdict.RUN_TERMINAL for each in done.violations)
        if wrong or any(bug.startswith("w") for bug in done.bugs):
            return True
    return False


def _unfenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_domain, "_check_attempt", lambda _run, _attempt_id: None)


def _uncancelled(patch: pytest.MonkeyPatch) -> None:
    original: Callable[[RunState, str], None] = _domain._check_attempt

    def check(run: RunState, attempt_id: str) -> None:
        original(msgspec.structs.replace(run, cancelled=None), attempt_id)

    patch.setattr(_domain, "_check_attempt", check)


def _steps_again(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(runs._evolvers, StepFinished, (lambda run, _event: run, False))


def _ends_apart(patch: pytest.MonkeyPatch) -> None:
    """The effects in one commit, the end in the next."""
    original = Attempt._record

    async def record(
        self: Attempt, run: Any, end: msgspec.Struct, commands: Sequence[msgspec.Struct] = ()
    ) -> None:
        if isinstance(end, FinishRun) and commands:
            for command in commands:
                await run.send(command)
            commands = ()
        await original(self, run, end, commands)

    patch.setattr(Attempt, "_record", record)


def _ends_twice(patch: pytest.MonkeyPatch) -> None:
    """Nothing keeps an attempt that has not heard of the end from ending its run, too."""

    def stop(self: Attempt, ending: Ending) -> None:
        if ending is not Ending.OVER:
            original(self, ending)

    original = Attempt.stop
    patch.setattr(Attempt, "stop", stop)
    patch.setattr(_domain, "_check_open", lambda _run: None)
    patch.setattr(_domain, "_check_present", lambda _run, _attempt_id: None)


def _left_by_a_dead_owner(patch: pytest.MonkeyPatch) -> None:
    """Only what is asked for here is carried out."""

    async def nothing(self: WorkspaceRuns) -> None:
        self._is_listed = True

    patch.setattr(WorkspaceRuns, "_list", nothing)


@pytest.mark.long
def test_a_follower_that_keeps_its_place_in_a_lost_history_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes another history for its own."""
    monkeypatch.setattr(Reactors, "ended", lambda _self, _workspace_id: None)
    assert _caught(faults=OVER_AND_OVER)


def _rollups_without_their_frames(patch: pytest.MonkeyPatch) -> None:
    """A rollup says that it has frames whose text it has not."""

    def made(self: _voice._Part) -> OutputPart:
        return msgspec.structs.replace(original(self), text=self.texts[-1])

    original = _voice._Part.made
    patch.setattr(_voice._Part, "made", made)


@pytest.mark.long
@pytest.mark.parametrize(
    "break_it",
    [
        _rollups_without_their_frames,
        _left_by_a_dead_owner,
        _unfenced,
        _uncancelled,
        _steps_again,
        _ends_apart,
        _ends_twice,
    ],
)
def test_broken_runs_are_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert _caught()
