"""Runs the drawn schedules against each mutant, until one of them is not sound.

    PYTHONHASHSEED=0 python -m tests.mutants._run "the hub keeps"

tries those mutants alone that have such a name, all without.  Nothing but schedules of
tests/simulation/ is run: no unit test, no hand-written variant.  A schedule that shows something is
run once more without the mutant, where it has to be sound.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests._patience import slowness
from tests.mutants._mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SCHEDULES = 300
WORKERS_MAX = 8
"""Beyond it a large machine would run out of memory before it ran out of work."""
_PACKAGES = ("actors", "protocol")
_SCHEDULE_S = 20
"""A schedule that takes more processor time on the reference machine hangs."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    killed_at: int | None
    """The first seed whose schedule was not sound; None where all were."""
    how: str
    """What that schedule showed first."""

    def __str__(self) -> str:
        fate = "survived" if self.killed_at is None else str(self.killed_at)
        return f"| {self.mutant.name} | {self.mutant.breaks} | {fate} |"


def tried(mutant: Mutant, schedules: int = SCHEDULES) -> Outcome:
    """Run the schedules against a copy of the packages that has the bug, until one is not sound.

    Raises:
        ValueError: the mutant does not apply.
        RuntimeError: a copy could not be tried.
        AssertionError: the schedule is not sound without the bug, so it proves nothing.

    """
    kind = mutant.schedules
    killed_at, how = _first_unsound(mutant, kind, range(schedules))
    if killed_at is not None:
        unsound, shown = _first_unsound(None, kind, range(killed_at, killed_at + 1))
        assert unsound is None, f"seed {killed_at} is unsound without any mutant: {shown}"
    return Outcome(mutant, killed_at, how)


def _first_unsound(mutant: Mutant | None, kind: str, seeds: range) -> tuple[int | None, str]:
    """Return the first seed whose schedule is not sound, and what it showed."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for package in _PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, Path(folder, "dalsegno", package), ignore=ignored)
        if mutant is not None:
            file = Path(folder, "dalsegno", mutant.path)
            file.write_text(mutant.applied_to(file.read_text()))
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.mutants._child",
                folder,
                kind,
                f"{seeds.start}",
                f"{seeds.stop}",
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([folder, str(ROOT)]),
                "PYTHONHASHSEED": "0",
                "DALSEGNO_TEST_SCHEDULE_S": f"{_SCHEDULE_S * slowness():.1f}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    word, _, rest = done.stdout.strip().partition(" ")
    if word == "sound":
        return None, ""
    if word != "unsound":
        name = "no mutant" if mutant is None else mutant.name
        raise RuntimeError(f"{name}: {done.stdout[-500:]}\n{done.stderr[-2000:]}")
    seed, _, how = rest.partition(" ")
    return int(seed), how


def workers() -> int:
    """Return how many mutants are tried side by side: one on each core."""
    return min(len(os.sched_getaffinity(0)), WORKERS_MAX)


def try_all(
    mutants: Sequence[Mutant],
    *,
    schedules: int = SCHEDULES,
    side_by_side: int,
    told: Callable[[Outcome], object] = lambda _: None,
) -> list[Outcome]:
    """Try several mutants side by side; the first error ends it."""
    outcomes = []
    with ThreadPoolExecutor(side_by_side) as pool:
        for outcome in pool.map(partial(tried, schedules=schedules), mutants):
            told(outcome)
            outcomes.append(outcome)
    return outcomes


def table(outcomes: Iterable[Outcome]) -> str:
    """Return a table in Markdown."""
    return "\n".join(["| Mutant | Breaks | Killed at |", "|---|---|---|", *map(str, outcomes)])


def main() -> None:
    """Try what the command line names, and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="", help="what the name of a mutant has in it")
    parser.add_argument("--schedules", type=int, default=SCHEDULES)
    parser.add_argument("--workers", type=int, default=workers())
    asked = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if asked.name in mutant.name]

    def tell(outcome: Outcome) -> None:
        print(outcome, outcome.how, flush=True)

    try_all(chosen, schedules=asked.schedules, side_by_side=asked.workers, told=tell)


if __name__ == "__main__":
    main()
