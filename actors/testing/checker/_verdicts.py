"""Verdicts: what the checker can find, by the invariants that it breaks."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Self, TypeAlias

import msgspec

from dalsegno.protocol import Event

from ._history import AckSent, Answered, CommandSent, Delivered, ReadSent, Record, Subscribed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Verdict(StrEnum):
    """The name of a violation."""

    LOG_GAP = "log-gap"
    """The log is not 1, 2, 3 …, a stream in it is not, or the chain is broken (I1)."""
    TIME_REGRESS = "time-regress"
    """``recorded_at`` steps back within a workspace."""
    DUPLICATE = "duplicate"
    """What was sent once took effect twice (I5)."""
    RUN_TERMINAL = "run-terminal"
    """A run that started does not have exactly one end (I12)."""
    LOST_WRITE = "lost-write"
    """A command was acknowledged, and the log does not have all of it (I2)."""
    GHOST_FAIL = "ghost-fail"
    """A command was reported as failed, and it is in the log (I2, I4)."""
    WRONG_RECEIPT = "wrong-receipt"
    """A receipt has another number or version than the log."""
    REAL_TIME = "real-time"
    """A command has a number below one that was known before it was sent (I1)."""
    PHANTOM_REJECT = "phantom-reject"
    """A rejection names a version that was not current while the command was in flight (I2)."""
    UNANSWERED = "unanswered"
    """A command or a read is still waiting when all has settled."""
    STALE_READ = "stale-read"
    """A read reflects less than it had to."""
    ABORTED_READ = "aborted-read"
    """Something was seen that was never committed (I2)."""
    EPOCH_REGRESS = "epoch-regress"
    """A workspace's epoch went down (I3)."""
    INCONSISTENT_OFFSET = "inconsistent-offset"
    """One number has two contents, for two readers or for one and the log (I1)."""
    GAP = "gap"
    """A subscription skipped a number (I6)."""
    STEP_BACK = "step-back"
    """A subscription repeated a number (I6)."""
    UNSEEN = "unseen"
    """A subscription that lasts lacks what was committed long ago (I6)."""
    AFTER_REVOCATION = "after-revocation"
    """A user got, read or wrote what is above the event that ended their membership (I8)."""
    ACK_REGRESS = "ack-regress"
    """A stored cursor moved back (I7)."""
    ACK_AHEAD = "ack-ahead"
    """A stored cursor is above all that its client acknowledged of this history (I6), or an ack
    was accepted of what had yet to be written (I7)."""
    LIST = "list"
    """A list does not show what was committed at the number that it names."""
    INVARIANT = "invariant"
    """A program's own invariant does not hold; see `simulate`."""


Exhibit: TypeAlias = Record | Event
"""The evidence of a violation."""


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened and must not."""

    verdict: Verdict
    workspace_id: str
    sentence: str
    """What happened, for a person."""
    exhibits: tuple[Exhibit, ...] = ()
    """The records and events that show it, the most important first."""

    def __str__(self) -> str:
        lines = [f"{self.verdict} in {self.workspace_id}: {self.sentence}"]
        lines += [f"    {_show(exhibit)}" for exhibit in self.exhibits[:3]]
        return "\n".join(lines)


def _show(exhibit: Exhibit) -> str:
    """Return a record or an event in a line."""
    if isinstance(exhibit, Event):
        return (
            f"log {exhibit.event_seq}: {exhibit.type} on {exhibit.stream_id} "
            f"({exhibit.stream_seq}), command {exhibit.command_id}"
        )
    fields = msgspec.structs.asdict(exhibit)
    at = fields.pop("at")
    # A default says nothing.
    plain = {field.name: field.default for field in msgspec.structs.fields(exhibit)}
    said = (f"{name}={value}" for name, value in fields.items() if value != plain[name])
    return f"{at:.6f} {type(exhibit).__name__} {' '.join(said)}"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The amount of evidence that was judged; reports add up."""

    records: int = 0
    commands: Counter[str] = msgspec.field(default_factory=Counter)
    """By outcome: ``ok``, ``fail``, ``unknown``, ``open``."""
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    """Commands that failed, by code."""
    reads: int = 0
    acks: int = 0
    subscriptions: int = 0
    deliveries: int = 0
    workspaces: int = 0
    events: int = 0

    @classmethod
    def of(cls, history: Iterable[Record], log: Mapping[str, Sequence[Event]]) -> Self:
        """Count what is in a history and a log."""
        counts: Counter[type] = Counter()
        outcomes: dict[str, str] = {}
        failures: Counter[str] = Counter()
        for record in history:
            counts[type(record)] += 1
            if isinstance(record, CommandSent):
                outcomes[record.op] = "open"
            elif isinstance(record, Answered) and outcomes.get(record.op) == "open":
                outcomes[record.op] = record.outcome
                if record.outcome == "fail":
                    failures[record.code or "?"] += 1
        return cls(
            records=counts.total(),
            commands=Counter(outcomes.values()),
            failures=failures,
            reads=counts[ReadSent],
            acks=counts[AckSent],
            subscriptions=counts[Subscribed],
            deliveries=counts[Delivered],
            workspaces=len(log),
            events=sum(map(len, log.values())),
        )

    def __add__(self, other: Report) -> Report:
        mine, yours = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        return Report(**{name: value + yours[name] for name, value in mine.items()})

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.commands.items()))
        codes = ", ".join(f"{count} {code}" for code, count in sorted(self.failures.items()))
        return (
            f"{self.commands.total()} commands ({outcomes or 'none'}), "
            f"{self.events} events in {self.workspaces} workspaces, "
            f"{self.deliveries} deliveries by {self.subscriptions} subscriptions, "
            f"{self.reads} reads, {self.acks} acks" + (f"; failed: {codes}" if codes else "")
        )
