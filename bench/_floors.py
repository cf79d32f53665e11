"""No regressions: `floors.toml`, and which ratios are below it.

    [question]
    ratio-id = { at_least = 0.5 }      # or at_most, where less is better

Only ratios have floors, since they hold from one machine to the next.  The questions have
the targets; a floor is what has been reached, less what a shared machine varies by.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._layout import bound, number, or_none, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ._harness import Ratio, Report

PATH = Path(__file__).with_name("floors.toml")

_WORDS = ("at_least", "at_most")


class FloorsError(Exception):
    """The file has an entry that means nothing."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The worst that a ratio's median may be."""

    value: float
    at_most: bool

    def __str__(self) -> str:
        return bound(self.value, at_most=self.at_most)

    def allows(self, median: float) -> bool:
        """Whether a median is good enough; NaN is not."""
        return median <= self.value if self.at_most else median >= self.value


Floors = dict[str, dict[str, Floor]]
"""By question and ratio."""


def read_floors(text: str) -> Floors:
    """Understand the file.

    Raises:
        FloorsError: an entry is not one bound of the two kinds.

    """
    return {
        question: {
            ratio_id: _floor(f"{question}.{ratio_id}", entry) for ratio_id, entry in entries.items()
        }
        for question, entries in tomllib.loads(text).items()
    }


def _floor(name: str, entry: Mapping[str, Any]) -> Floor:
    if not isinstance(entry, dict) or len(entry) != 1 or not entry.keys() <= set(_WORDS):
        raise FloorsError(f"{name}: one of {' or '.join(_WORDS)} is wanted, with a number")
    ((word, value),) = entry.items()
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise FloorsError(f"{name}: {value!r} is no number")
    return Floor(float(value), word == "at_most")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one ratio, or on a floor that no ratio matches."""

    name: str
    """``question.ratio-id``."""
    says: str
    ratio: Ratio | None
    floor: Floor | None
    skipped: str = ""
    """Why it was not measured, if that is acceptable."""

    @property
    def fails(self) -> bool:
        """Whether the floor is missed."""
        if self.floor is None or self.skipped:
            return False
        return self.ratio is None or not self.floor.allows(self.ratio.median)

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        if self.skipped:
            return "skipped"
        if self.ratio is None:
            return "NOT MEASURED"
        if self.fails:
            return "BELOW ITS FLOOR"
        return {None: "reported", True: "reached", False: "falls short"}[self.ratio.holds]

    def cells(self) -> list[str]:
        """Write a row of the table."""
        ratio, floor = self.ratio, "" if self.floor is None else str(self.floor)
        if ratio is None:
            return [self.name, self.says, "", "", "", floor, self.word]
        values = number(ratio.median, 2), span(ratio.ratios, 2)
        reach = bound(ratio.reach, at_most=ratio.at_most)
        return [self.name, self.says, *values, reach, floor, self.word]

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        ratio = self.ratio
        return {
            "name": self.name,
            "says": self.says,
            "median": None if ratio is None else or_none(ratio.median),
            "ratios": [] if ratio is None else [or_none(value) for value in ratio.ratios],
            "reach": None if ratio is None else or_none(ratio.reach),
            "at_most": None if ratio is None else ratio.at_most,
            "floor": None if self.floor is None else self.floor.value,
            "verdict": self.word,
        }


def judge(reports: Iterable[Report], floors: Floors) -> Iterator[Verdict]:
    """Judge every ratio of some reports, and every floor of their questions."""
    for report in reports:
        entries = dict(floors.get(report.question, {}))
        for ratio in report.ratios:
            floor = entries.pop(ratio.ratio_id, None)
            name = f"{report.question}.{ratio.ratio_id}"
            if ratio.ratios and not math.isnan(ratio.median):
                yield Verdict(name, ratio.says.strip(), ratio, floor)
            else:
                yield Verdict(name, ratio.says.strip(), None, floor)
        for ratio_id, why in report.skipped.items():
            floor = entries.pop(ratio_id, None)
            yield Verdict(f"{report.question}.{ratio_id}", why, None, floor, skipped=why)
        for ratio_id, floor in entries.items():
            says = "no ratio has this name"
            yield Verdict(f"{report.question}.{ratio_id}", says, None, floor)
