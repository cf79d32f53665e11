"""How a figure is made, and how it is shown.

An absolute figure says more about a machine and its other users than about us.  What counts is a
ratio to a *reference* that was measured in the same run: each round runs the subject and the
reference one right after the other, gives one ratio, and the median of those is the answer.  What
slows the machine for a minute then slows both.

A `Series` collects the samples of one subject, a `Figure` the plain numbers of one, a `Ratio`
compares two of them, and a `Report` is the tables and the JSON that are made of all that.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ._layout import table
from ._machine import machine
from ._samples import (
    PERCENTILES,
    Figure as Figure,
    Ratio as Ratio,
    Sample as Sample,
    Series as Series,
    p50 as p50,
    p99 as p99,
    rate as rate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long, how thoroughly, and with which seed."""

    rounds: int = 5
    """How often subject and reference are measured, after a warm-up round that does not count."""
    seconds: float = 0.5
    """How long one of them runs in a round."""
    seed: int = 1
    quick: bool = False
    """Only to check that everything runs: tiny sizes, and figures that mean nothing."""
    full: bool = False
    """Also the sizes that take long."""
    into: Path = Path(__file__).parent / "results"
    """Where the figures are kept."""

    def pick(self, usual: T, *, quick: T, full: T | None = None) -> T:
        """Choose a size; that of ``full`` is the usual one unless it is given."""
        if self.quick:
            return quick
        return full if self.full and full is not None else usual


@dataclass(slots=True)
class Report:
    """The answer to one question."""

    question: str
    options: Options
    percentiles: Sequence[float] = PERCENTILES
    """Which latencies the table shows."""
    series: list[Series] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Ratios that could not be measured here, and why."""
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, what: str) -> Series:
        """Begin a row of rates and latencies."""
        series = Series(name, what)
        self.series.append(series)
        return series

    def figure(self, name: str, unit: str, *, digits: int = 0) -> Figure:
        """Begin a row of plain numbers, to be appended to its ``rounds``."""
        figure = Figure(name, unit, digits)
        self.figures.append(figure)
        return figure

    def compare(
        self,
        says: str,
        subject: Series | Figure,
        reference: Series | Figure | float,
        *,
        ratio_id: str,
        of: Callable[[Sample], float] = rate,
        at_least: float = math.nan,
        at_most: float = math.nan,
    ) -> None:
        """Register a ratio: what is compared, under which name, and what is to be reached."""
        if ratio_id in self._ids():
            raise ValueError(f"there is a ratio {ratio_id} already")
        is_upper = not math.isnan(at_most)
        self.ratios.append(
            Ratio(
                ratio_id=ratio_id,
                says=says,
                subject=subject,
                reference=reference,
                of=of,
                reach=at_most if is_upper else at_least,
                at_most=is_upper,
            )
        )

    def skip(self, why: str, *ratio_ids: str) -> None:
        """Record that ratios cannot be measured here, so that their floors are not missed."""
        self.skipped |= dict.fromkeys(ratio_ids, why)
        self.notes.append(f"Skipped {', '.join(ratio_ids)}: {why}.")

    def _ids(self) -> set[str]:
        return {ratio.ratio_id for ratio in self.ratios} | self.skipped.keys()

    def table(self) -> str:
        """Return everything as text for a reader."""
        options = self.options
        lines = [
            f"{self.question}: {options.rounds} rounds of {options.seconds:g} s, "
            f"seed {options.seed}, {machine()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        ]
        heads = ["", "counts", "per second", "low…high"]
        heads += [f"p{100 * share:g} ms" for share in self.percentiles]
        heads += ["busy", "CPU µs each", "Postgres µs each", "a commit"]
        measured = [series.cells(self.percentiles) for series in self.series if series.samples]
        figures = [figure.cells() for figure in self.figures if figure.rounds]
        ratios = [ratio.cells() for ratio in self.ratios if ratio.ratios]
        ratio_heads = ["", "id", "ratio", "low…high", "to reach", "holds"]
        lines += ["", *table(heads, measured)] if measured else []
        lines += ["", *table(["", "unit", "median", "low…high"], figures)] if figures else []
        lines += ["", *table(ratio_heads, ratios, left=2)] if ratios else []
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, round by round."""
        return {
            "question": self.question,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "python": platform.python_version(),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "seed": self.options.seed,
            "series": [series.as_json(self.percentiles) for series in self.series],
            "figures": [figure.as_json() for figure in self.figures],
            "ratios": [ratio.as_json() for ratio in self.ratios],
            "skipped": self.skipped,
            "notes": self.notes,
        }

    def save(self) -> Path:
        """Save it as JSON, in place of the last one."""
        path = results(self.options) / f"{self.question}.json"
        path.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n")
        return path


def results(options: Options) -> Path:
    """Make the folder for the figures of the last run; quick ones do not replace them."""
    folder = options.into / "quick" if options.quick else options.into
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rounds(options: Options) -> Iterator[bool]:
    """Count the rounds: False for the warm-up, and True for each that counts."""
    yield False
    for _ in range(options.rounds):
        yield True
