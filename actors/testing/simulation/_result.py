"""The result of a simulation: what the nodes and clients did, and how it was judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.testing.checker import Report, check, dump_record

if TYPE_CHECKING:
    from collections import Counter

    from dalsegno.actors.ports import CursorKey
    from dalsegno.actors.testing.checker import Record, RunRule, Violation
    from dalsegno.protocol import Event


_ACCEPTED_MIN = 10
"""One of so many commands at least: else the domain refuses nearly all that is drawn."""


@dataclass(frozen=True)
class Simulated:
    """The result of a simulation."""

    violations: list[Violation]
    """What happened and must not."""
    bugs: list[str]
    """Errors that the nodes logged: unexpected exceptions, workspaces that were halted.  And those
    deciders and evolvers that are not pure."""
    history: list[Record] = field(repr=False)
    log: dict[str, list[Event]] = field(repr=False)
    """Every workspace's events at the end."""
    report: Report
    """The amount of evidence that was judged."""
    faults: Counter[str]
    """The number of faults by kind."""
    steps: int
    """The number of steps that the nodes' tasks took."""
    lasted_s: float
    """The simulated time that it took."""
    digest: str
    """A digest of the history and of the logs: the same for the same schedule."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing happened that must not."""
        return not self.violations and not self.bugs

    @property
    def warnings(self) -> list[str]:
        """What makes a sound result worth little."""
        asked, accepted = self.report.commands.total(), self.report.commands["ok"]
        if accepted * _ACCEPTED_MIN >= asked:
            return []
        return [f"only {accepted} of {asked} commands were accepted: little was tried"]

    def __str__(self) -> str:
        """Return what went wrong, and how much was done."""
        return "\n".join(
            [
                *map(str, self.violations),
                *self.bugs,
                *(f"warning: {warning}" for warning in self.warnings),
                f"{self.report}; {self.lasted_s:.1f} s, {self.steps} steps",
                ", ".join(f"{count} {fault}" for fault, count in sorted(self.faults.items())),
            ]
        )


def judge(
    history: list[Record],
    log: dict[str, list[Event]],
    *,
    cursors: dict[CursorKey, int],
    bugs: list[str],
    faults: Counter[str],
    runs: RunRule | None,
    steps: int,
    lasted_s: float,
) -> Simulated:
    """Return the result of a simulation, its history judged against the logs at the end."""
    digest = blake2b(digest_size=16)
    for record in history:
        digest.update(dump_record(record))
    for events in log.values():
        digest.update(msgspec.json.encode(events))
    return Simulated(
        violations=check(history, log, cursors=cursors, runs=runs),
        bugs=bugs,
        history=history,
        log=log,
        report=Report.of(history, log),
        faults=faults,
        steps=steps,
        lasted_s=lasted_s,
        digest=digest.hexdigest(),
    )
