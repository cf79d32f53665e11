"""What was measured: samples of a subject, plain figures of one, and ratios of two."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._layout import bound, number, or_none, percent, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PERCENTILES = (0.5, 0.99)


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
    percentiles_s: Mapping[float, float] = field(default_factory=dict)
    """Latencies by the share that stays below: of a load that does not tell each of them."""

    @property
    def rate(self) -> float:
        """How much was done in a second."""
        return self.count / self.wall_s

    def percentile_s(self, share: float) -> float:
        """Return the latency that this share of all stays below."""
        if share in self.percentiles_s:
            return self.percentiles_s[share]
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
        """Return the median over the rounds."""
        return statistics.median(map(of, self.samples)) if self.samples else math.nan

    def values(self, of: Callable[[Sample], float]) -> list[float]:
        """Return one number per round."""
        return [of(sample) for sample in self.samples]

    def cells(self, percentiles: Sequence[float] = PERCENTILES) -> list[str]:
        """Write a row of the table."""
        rates = [sample.rate for sample in self.samples]
        return [
            self.name,
            self.what,
            number(statistics.median(rates), 0),
            span(rates, 0),
            *(number(self.median(_percentile_ms(share)), 3) for share in percentiles),
            percent(self.median(lambda s: s.cpu_s / s.wall_s)),
            number(self.median(lambda s: 1e6 * s.cpu_s / s.count), 2),
            number(self.median(lambda s: 1e6 * s.postgres_s / s.count), 2),
            number(self.median(lambda s: s.count / s.commits if s.commits else math.nan), 1),
        ]

    def as_json(self, percentiles: Sequence[float] = PERCENTILES) -> dict[str, Any]:
        """Write everything but the individual latencies."""
        return {
            "name": self.name,
            "what": self.what,
            "rounds": [
                {
                    "count": sample.count,
                    "wall_s": sample.wall_s,
                    "cpu_s": or_none(sample.cpu_s),
                    "postgres_s": or_none(sample.postgres_s),
                    "commits": sample.commits,
                    **{
                        f"p{100 * share:g}_s": or_none(sample.percentile_s(share))
                        for share in percentiles
                    },
                }
                for sample in self.samples
            ],
        }


@dataclass(slots=True)
class Figure:
    """Plain numbers of one subject, one a round: bytes, seconds, buffers."""

    name: str
    unit: str
    digits: int = 0
    """Decimal places in the table."""
    rounds: list[float] = field(default_factory=list)

    def values(self, _of: Callable[[Sample], float] | None = None) -> list[float]:
        """Return one number per round."""
        return self.rounds

    def cells(self) -> list[str]:
        """Write a row of the table."""
        middle = statistics.median(self.rounds)
        return [self.name, self.unit, number(middle, self.digits), span(self.rounds, self.digits)]

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        rounds_ = [or_none(value) for value in self.rounds]
        return {"name": self.name, "unit": self.unit, "rounds": rounds_}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A subject beside its reference, round by round."""

    ratio_id: str
    """Its stable name within its question: `floors.toml` refers to it."""
    says: str
    subject: Series | Figure
    reference: Series | Figure | float
    """Measured in the same rounds; or a number that is always the same: a published one."""
    of: Callable[[Sample], float]
    reach: float
    """The bound to reach; NaN where the ratio is only reported."""
    at_most: bool = False

    @property
    def ratios(self) -> list[float]:
        """One ratio a round."""
        subjects = self.subject.values(self.of)
        if isinstance(self.reference, (int, float)):
            references = [float(self.reference)] * len(subjects)
        else:
            references = self.reference.values(self.of)
        pairs = zip(subjects, references, strict=True)
        return [ours / theirs if theirs else math.nan for ours, theirs in pairs]

    @property
    def median(self) -> float:
        """The answer; NaN where a round has none."""
        ratios = self.ratios
        is_whole = ratios and not any(map(math.isnan, ratios))
        return statistics.median(ratios) if is_whole else math.nan

    @property
    def holds(self) -> bool | None:
        """Whether the median reaches its bound; None where there is none."""
        if math.isnan(self.reach):
            return None
        return self.median <= self.reach if self.at_most else self.median >= self.reach

    def cells(self) -> list[str]:
        """Write a row of the table."""
        return [
            self.says,
            self.ratio_id,
            number(self.median, 2),
            span(self.ratios, 2),
            bound(self.reach, at_most=self.at_most),
            {None: "", True: "yes", False: "NO"}[self.holds],
        ]

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        reference = self.reference
        return {
            "id": self.ratio_id,
            "says": self.says,
            "subject": self.subject.name,
            "reference": reference if isinstance(reference, (int, float)) else reference.name,
            "ratios": [or_none(ratio) for ratio in self.ratios],
            "median": or_none(self.median),
            "reach": or_none(self.reach),
            "at_most": self.at_most,
            "holds": self.holds,
        }


def rate(sample: Sample) -> float:
    """Compare by what is done in a second."""
    return sample.rate


def p50(sample: Sample) -> float:
    """Compare by the median latency."""
    return sample.percentile_s(0.5)


def p99(sample: Sample) -> float:
    """Compare by the latency that one in a hundred exceeds."""
    return sample.percentile_s(0.99)


def _percentile_ms(share: float) -> Callable[[Sample], float]:
    return lambda sample: 1e3 * sample.percentile_s(share)
