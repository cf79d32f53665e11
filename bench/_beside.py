"""The same questions on a second Python, and a table with one row a question.

Each is asked there right after it was answered here, by a child process: with the same options,
and with a folder of its own for its figures.  A question's row has the ratio that its module names
as the ``HEADLINE``.  Whether the second Python stays above the floors is not judged.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import subprocess
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ._harness import results
from ._layout import number, or_none, span, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._harness import Options, Report
    from ._questions import Question

_VERSION = "import platform; print(platform.python_version())"


@dataclass(frozen=True, slots=True)
class Row:
    """One question's ratio on both Pythons: one number a round, none where it was not measured."""

    name: str
    """``question.ratio-id``."""
    says: str
    here: Sequence[float]
    there: Sequence[float]

    def cells(self) -> list[str]:
        """Write a row of the table."""
        return [self.name, self.says, *_middle(self.here), *_middle(self.there)]

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        both = {"here": self.here, "there": self.there}
        ratios = {where: [or_none(ratio) for ratio in its] for where, its in both.items()}
        return {"name": self.name, "says": self.says, **ratios}


def _middle(ratios: Sequence[float]) -> list[str]:
    if not ratios or any(map(math.isnan, ratios)):
        return ["", ""]
    return [number(statistics.median(ratios), 2), span(ratios, 2)]


@dataclass(slots=True)
class Beside:
    """The second Python, and what has been answered on both."""

    program: str
    version: str
    rows: list[Row] = field(default_factory=list)

    def ask(self, question: Question, report: Report) -> bool:
        """Ask there what was answered here; return whether that was answered too."""
        options = report.options
        there = replace(options, into=options.into / f"python-{self.version}")
        answer = results(there) / f"{question.name}.json"
        answer.unlink(missing_ok=True)
        print(f"On Python {self.version}:", flush=True)
        # Its exit code is of no use: 1 also says that a ratio is below its floor.
        subprocess.run([self.program, *arguments(question.name, there)], check=False)
        is_answered = answer.exists()
        document = json.loads(answer.read_text()) if is_answered else {"ratios": []}
        self.rows.append(row(question, report.as_json(), document))
        return is_answered

    def table(self) -> str:
        """Lay out the rows for reading."""
        here, there = f"here, {platform.python_version()}", f"there, {self.version}"
        heads = ("ratio", "", here, "low…high", there, "low…high")
        lines = table(heads, [its.cells() for its in self.rows], left=2)
        return "\n".join(["One ratio a question, on two Pythons", "", *lines])


def beside(program: str) -> Beside:
    """Find out what the other Python is."""
    asked = subprocess.run([program, "-c", _VERSION], check=True, capture_output=True, text=True)
    return Beside(program, asked.stdout.strip())


def arguments(question: str, options: Options) -> list[str]:
    """Write the command line that asks one question with these options."""
    line = ["-m", "bench", question, "--into", str(options.into)]
    line += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    line += ["--seed", str(options.seed)]
    sizes = {"--quick": options.quick, "--full": options.full}
    return line + [option for option, is_given in sizes.items() if is_given]


def row(question: Question, here: Mapping[str, Any], there: Mapping[str, Any]) -> Row:
    """Find a question's headline in what was answered here and there, both as JSON values."""
    both = [_find(document["ratios"], question.headline) for document in (here, there)]
    says = next((ratio["says"].strip() for ratio in both if ratio), "")
    numbers = [
        [math.nan if value is None else float(value) for value in ratio.get("ratios", ())]
        for ratio in both
    ]
    return Row(f"{question.name}.{question.headline}", says, *numbers)


def _find(ratios: Sequence[Mapping[str, Any]], ratio_id: str) -> Mapping[str, Any]:
    return next((ratio for ratio in ratios if ratio["id"] == ratio_id), {})
