"""How a figure is made, and how it is shown.

An absolute figure says more about a machine and its neighbours than about us.  What counts is a
ratio to a *reference* that was measured in the same run: each round runs the subject and the
reference one right after the other, gives one ratio, and the median of those is the answer.  What
slows the machine for a minute then slows both.

A `Series` collects the samples of one subject, a `Ratio` those of two, and a `Report` is the table
and the JSON that are made of them.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long, and with which seed."""

    rounds: int = 5
    """How often subject and reference are measured, after a warm-up round that does not count."""
    seconds: float = 0.5
    """How long one of them runs in a round."""
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One subject in one round."""

    count: int
    """What was done: commands, events, deliveries."""
    wall_s: float
    cpu_s: float = math.nan
    """Processor time of the process that is measured."""
    postgres_s: float = math.nan
    """Processor time of PostgreSQL, all its processes."""
    commits: int = 0
    """Statements that all this was written in."""
    latencies_s: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """How much was done in a second."""
        return self.count / self.wall_s

    def percentile_s(self, share: float) -> float:
        """Tell the latency that this share of all stays below."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


@dataclass(slots=True)
class Series:
    """The samples of one subject."""

    name: str
    what: str
    """What is counted, in the singular."""
    samples: list[Sample] = field(default_factory=list)

    def median(self, of: Callable[[Sample], float]) -> float:
        """Tell the median over the rounds."""
        return statistics.median(map(of, self.samples)) if self.samples else math.nan

    @property
    def rates(self) -> tuple[float, float, float]:
        """The slowest round, the median, and the fastest."""
        rates = [sample.rate for sample in self.samples]
        return min(rates), statistics.median(rates), max(rates)

    def cells(self) -> list[str]:
        """Write a row of the table."""
        low, middle, high = self.rates
        return [
            self.name,
            self.what,
            f"{middle:,.0f}",
            f"{low:,.0f}…{high:,.0f}",
            _number(self.median(lambda s: 1e3 * s.percentile_s(0.5)), 3),
            _number(self.median(lambda s: 1e3 * s.percentile_s(0.99)), 3),
            _share(self.median(lambda s: s.cpu_s / s.wall_s)),
            _number(self.median(lambda s: 1e6 * s.cpu_s / s.count), 2),
            _number(self.median(lambda s: 1e6 * s.postgres_s / s.count), 2),
            _number(self.median(lambda s: s.count / s.commits if s.commits else math.nan), 1),
        ]

    def as_json(self) -> dict[str, Any]:
        """Write everything but the single latencies."""
        return {
            "name": self.name,
            "what": self.what,
            "rounds": [
                {
                    "count": sample.count,
                    "wall_s": sample.wall_s,
                    "cpu_s": _or_none(sample.cpu_s),
                    "postgres_s": _or_none(sample.postgres_s),
                    "commits": sample.commits,
                    "p50_s": _or_none(sample.percentile_s(0.5)),
                    "p99_s": _or_none(sample.percentile_s(0.99)),
                }
                for sample in self.samples
            ],
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """A subject beside its reference, round by round."""

    says: str
    subject: Series
    reference: Series
    of: Callable[[Sample], float]
    reach: float
    """The bound to reach; NaN where the ratio is only reported."""
    at_most: bool = False

    @property
    def ratios(self) -> list[float]:
        """One ratio a round."""
        pairs = zip(self.subject.samples, self.reference.samples, strict=True)
        return [self.of(subject) / self.of(reference) for subject, reference in pairs]

    @property
    def holds(self) -> bool | None:
        """Whether the median reaches its bound; None where there is none."""
        if math.isnan(self.reach):
            return None
        median = statistics.median(self.ratios)
        return median <= self.reach if self.at_most else median >= self.reach

    def cells(self) -> list[str]:
        """Write a row of the table."""
        ratios = self.ratios
        sign = "≤" if self.at_most else "≥"
        return [
            self.says,
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}…{max(ratios):.2f}",
            "" if math.isnan(self.reach) else f"{sign} {self.reach:g}",
            {None: "", True: "yes", False: "NO"}[self.holds],
        ]

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        return {
            "says": self.says,
            "subject": self.subject.name,
            "reference": self.reference.name,
            "ratios": self.ratios,
            "median": statistics.median(self.ratios),
            "reach": _or_none(self.reach),
            "at_most": self.at_most,
            "holds": self.holds,
        }


def rate(sample: Sample) -> float:
    """Compare by what is done in a second."""
    return sample.rate


def p50(sample: Sample) -> float:
    """Compare by the median latency."""
    return sample.percentile_s(0.5)


@dataclass(slots=True)
class Report:
    """The answer to one question."""

    question: str
    options: Options
    series: list[Series] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, what: str) -> Series:
        """Begin a row."""
        series = Series(name, what)
        self.series.append(series)
        return series

    def compare(
        self,
        says: str,
        subject: Series,
        reference: Series,
        *,
        of: Callable[[Sample], float] = rate,
        at_least: float = math.nan,
        at_most: float = math.nan,
    ) -> None:
        """Say what is compared, and what is to be reached."""
        is_upper = not math.isnan(at_most)
        reach = at_most if is_upper else at_least
        self.ratios.append(Ratio(says, subject, reference, of, reach, is_upper))

    def table(self) -> str:
        """Lay everything out for reading."""
        options = self.options
        heading = (
            f"{self.question}: {options.rounds} rounds of {options.seconds:g} s, "
            f"seed {options.seed}, {machine()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        )
        columns = ["", "counts", "per second", "low…high", "p50 ms", "p99 ms"]
        columns += ["busy", "CPU µs each", "Postgres µs each", "a commit"]
        lines = [heading, ""]
        lines += _aligned([columns, *(series.cells() for series in self.series if series.samples)])
        if self.ratios:
            heads = ["", "ratio", "low…high", "to reach", "holds"]
            lines += ["", *_aligned([heads, *(ratio.cells() for ratio in self.ratios)])]
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines)

    def save(self) -> Path:
        """Keep it as JSON, in place of the last one."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.question}.json"
        document = {
            "question": self.question,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "python": platform.python_version(),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "seed": self.options.seed,
            "series": [series.as_json() for series in self.series],
            "ratios": [ratio.as_json() for ratio in self.ratios],
            "notes": self.notes,
        }
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        return path


def rounds(options: Options) -> Iterator[bool]:
    """Count the rounds: False for the warm-up, and True for each that counts."""
    yield False
    for _ in range(options.rounds):
        yield True


def machine() -> str:
    """Name the class of machine, and how busy it is with other things."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}"


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
