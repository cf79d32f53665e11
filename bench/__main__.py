"""Run the benchmarks: ``python -m bench [question …]``; all of them without one."""

from __future__ import annotations

import argparse

import trio

from . import append, commands, fanout
from ._harness import Options

QUESTIONS = {"append": append.ask, "commands": commands.ask, "fanout": fanout.ask}


def main() -> None:
    """Ask, print the tables, and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("question", nargs="*", help=f"of {', '.join(QUESTIONS)}")
    usual = Options()
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of a round")
    parser.add_argument("--seed", type=int, default=usual.seed)
    given = parser.parse_args()
    if unknown := set(given.question) - QUESTIONS.keys():
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    options = Options(rounds=given.rounds, seconds=given.seconds, seed=given.seed)
    for name in given.question or QUESTIONS:
        report = trio.run(QUESTIONS[name], options)
        print(report.table(), end="\n\n", flush=True)
        report.save()


if __name__ == "__main__":
    main()
