"""The drawn schedules alone kill most of the bugs that we could think of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants._mutants import MUTANTS, Mutant
from tests.mutants._run import ROOT, SCHEDULES, Outcome, table, try_all, workers

KILLED_MIN = 3 / 4


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_compiles(mutant: Mutant) -> None:
    """Else it tests nothing: whoever changes these lines changes the mutant."""
    mutated = mutant.applied_to(Path(ROOT, mutant.path).read_text())
    compile(mutated, mutant.path, "exec")


def test_what_a_mutant_replaces_stands_there_once() -> None:
    mutant = Mutant("a bug", "I1", "actors/nowhere.py", "one\n", "two\n")
    assert mutant.applied_to("zero\none\n") == "zero\ntwo\n"
    for text in ("zero\n", "one\none\n"):
        with pytest.raises(ValueError, match="not once"):
            mutant.applied_to(text)


def test_the_list_says_what_it_breaks() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20
    for mutant in MUTANTS:
        assert mutant.breaks in {f"I{number}" for number in range(1, 14)}
        assert len(mutant.after.splitlines()) <= 3
        assert len(mutant.before.splitlines()) <= 3


@pytest.mark.soak
@pytest.mark.processes
def test_the_drawn_schedules_kill_most_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    def tell(outcome: Outcome) -> None:
        with capsys.disabled():
            print(outcome, outcome.how, flush=True)

    outcomes = try_all(MUTANTS, side_by_side=workers(), told=tell)
    killed = [outcome for outcome in outcomes if outcome.killed_at is not None]
    with capsys.disabled():
        print(f"\n{len(killed)} of {len(outcomes)} within {SCHEDULES}\n{table(outcomes)}")
    assert len(killed) >= KILLED_MIN * len(outcomes)
