"""Run the benchmarks: ``python -m bench [question …]``; all of them without one.

Exits 1 if a ratio is below its floor, or if a question could not be answered.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ._beside import Beside, beside
from ._floors import PATH, judge, read_floors
from ._harness import Options
from ._machine import raise_file_limit
from ._questions import questions
from ._summary import save, summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._harness import Report
    from ._questions import Question

_FILES = 65_536
"""Ten thousand clients in one process, with a margin."""
_QUICK = Options(rounds=1, seconds=0.05, quick=True)


def main() -> int:
    """Ask, print the tables, keep the figures, and judge them."""
    known = questions()
    given = _parse(known)
    if given.list:
        print("\n\n".join(f"{name}\n{question.says}" for name, question in known.items()))
        return 0
    usual = _QUICK if given.quick else Options()
    options = Options(
        rounds=given.rounds or usual.rounds,
        seconds=given.seconds or usual.seconds,
        seed=given.seed,
        quick=given.quick,
        full=given.full,
        into=given.into or usual.into,
    )
    floors = read_floors(PATH.read_text())
    raise_file_limit(_FILES)
    other = None if given.beside is None else beside(given.beside)
    reports, failed = _ask([known[name] for name in given.question or known], options, other)
    verdicts = list(judge(reports, {} if options.quick else floors))
    print(summary(verdicts))
    if other is not None:
        print(f"\n{other.table()}")
    save(verdicts, options, other)
    if failed:
        print(f"Not answered: {', '.join(failed)}")
    if options.quick:
        print("Quick: these figures mean nothing, so no floor was applied.")
        return bool(failed)
    return bool(failed) or any(verdict.fails for verdict in verdicts)


def _parse(known: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("question", nargs="*", help=f"of {', '.join(known)}")
    parser.add_argument("--list", action="store_true", help="list the questions, and exit")
    usual = Options()
    parser.add_argument("--rounds", type=int, help=f"rounds that count; {usual.rounds}")
    parser.add_argument("--seconds", type=float, help=f"of a round; {usual.seconds:g}")
    parser.add_argument("--seed", type=int, default=usual.seed)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="only check that everything runs")
    sizes.add_argument("--full", action="store_true", help="also the sizes that take long")
    parser.add_argument("--beside", metavar="PYTHON", type=_program, help="also ask on this Python")
    parser.add_argument("--into", metavar="FOLDER", type=Path, help="for the figures")
    given = parser.parse_args()
    if unknown := set(given.question).difference(known):
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    return given


def _program(given: str) -> str:
    found = shutil.which(given)
    if found is None:
        raise argparse.ArgumentTypeError(f"no such program: {given}")
    return found


def _ask(
    asked: Iterable[Question], options: Options, other: Beside | None
) -> tuple[list[Report], list[str]]:
    """Ask one after the other; a failure is shown and does not stop the others."""
    reports, failed = [], []
    for question in asked:
        try:
            report = question.ask(options)
        except Exception:  # noqa: BLE001 - shown at once, and main() exits 1
            print(f"{question.name}:", flush=True)
            traceback.print_exc()
            failed.append(question.name)
            continue
        print(report.table(), end="\n\n", flush=True)
        report.save()
        reports.append(report)
        if other is not None and not other.ask(question, report):
            failed.append(f"{question.name} on Python {other.version}")
        gc.collect()  # the next one begins with a heap of its own
    return reports, failed


if __name__ == "__main__":
    sys.exit(main())
