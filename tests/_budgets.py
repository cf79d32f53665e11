"""How long each file of tests may take: the table in README.md, held against a run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests._patience import slowness
from tests._workers import unit_of

README = Path(__file__).with_name("README.md")
_ROW = re.compile(r"^\| `([\w/]+\.py)` \| (\d+) \|$", re.MULTILINE)
_OTHERS_S = 1


@dataclass(frozen=True)
class Budgets:
    """Seconds by file, on two quiet cores; a file that has no row has a second."""

    seconds: Mapping[str, int]

    @classmethod
    def read(cls) -> Budgets:
        """Read the table."""
        rows = _ROW.findall(README.read_text())
        return cls({f"tests/{name}": int(seconds) for name, seconds in rows})

    def of_unit(self, node_id: str) -> int:
        """Return the budget of all that has to run one after the other with a test."""
        unit = unit_of(node_id)
        return sum(s for name, s in self.seconds.items() if unit_of(name) == unit) or _OTHERS_S

    def exceeded(self, reports: Iterable[pytest.TestReport]) -> list[str]:
        """Return a line for each file that took longer than it may on this machine."""
        took: defaultdict[str, float] = defaultdict(float)
        for report in reports:
            took[report.nodeid.partition("::")[0]] += report.duration
        allowed = {name: self.seconds.get(name, _OTHERS_S) * slowness() for name in took}
        return [
            f"{name} took {seconds:.1f} s of {allowed[name]:.1f} s"
            for name, seconds in sorted(took.items(), key=lambda item: -item[1])
            if seconds > allowed[name]
        ]
