"""The domains of the simulations here: boxes that are put, moved and burned, locks that lapse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from dalsegno.actors.testing import (
    FAULTS,
    OPERATIONS,
    SIM_LIMITS,
    Ask,
    Choices,
    Report,
    SeededChoices,
    Simulated,
    Verdict,
    simulate,
)
from dalsegno.protocol import Index
from tests.actors._boxes import Burn, Expect, Fill, Give, Move, Put, Restore, boxes
from tests.actors._locks import DropLock, Lock, RenewLock, TakeLock, honest, lock_domain, locks

LOCKS = "xxyz"
BOXES = "aaaabbbccdefghijkl"
"""Some that everybody wants, and some in which little happens: what is missed there stays so."""
FEW = "aab"


def commands(choices: Choices, boxes: str = BOXES) -> Ask:
    """Draw a command; a plain one shrinks best."""
    box = choices.pick(boxes)
    times = choices.integer(1, 5)
    return choices.pick(
        [
            Ask(Put(box, "x" * choices.pick([1, 10, 300])), 1, 1),
            Ask(Put(box, "y"), 1, 1),
            Ask(Put(box, "based", base_version=times), 1, 1),
            Ask(Fill(box, times), times, times),
            Ask(Fill(box, 0), 0, 0),
            Ask(Move(box, choices.pick(boxes)), 2, 2),
            Ask(Give(box, choices.pick(boxes), "given"), 1, 1),
            Ask(Restore(box, times), 1, 1),
            Ask(Expect(box, "x")),
            Ask(Burn(box), 1, 1),
        ]
    )


def of_few(choices: Choices) -> Ask:
    """Draw a command of boxes that everybody wants."""
    return commands(choices, FEW)


def with_locks(choices: Choices) -> Ask:
    """Draw a command of boxes, or of locks."""
    return commands(choices) if choices.chance(0.7) else of_locks(choices)


def of_locks(choices: Choices) -> Ask:
    """Draw a command of locks that lapse soon."""
    lock, holder = choices.pick(LOCKS), choices.pick(["ada", "bob"])
    for_s = choices.pick([0.5, 0.0, 0.1, 1.0, 3.0])
    return choices.pick(
        [
            Ask(TakeLock(lock, holder, for_s), 1, 1),
            Ask(RenewLock(lock, holder, for_s), 1, 1),
            Ask(DropLock(lock), 1, 1),
        ]
    )


CROWDED = (*OPERATIONS, *("crowd",) * 5)
SIZES: Sequence[dict[str, Any]] = (
    {},
    # Readers that are well, or only slow: removals, cohorts, the seam of replay and live.
    {
        "nodes": 1,
        "workspaces": 1,
        "steps": 30,
        "limits": replace(
            SIM_LIMITS, batch_commands_max=8, mailbox_commands_max=20, state_lag_events_max=1
        ),
        "faults": ("lag", "lag", "stall", "stall", "cut", "clock"),
        "operations": CROWDED,
    },
    # An owner and its successor.
    {
        "nodes": 2,
        "workspaces": 1,
        "clients": 3,
        "steps": 20,
        "limits": replace(SIM_LIMITS, passivate_after_s=10.0, entities_cached_max=20),
        "faults": ("freeze", "partition", "lag", "clock", "replace"),
        "operations": CROWDED,
    },
    # Commits whose outcome is unknown.
    {
        "nodes": 1,
        "workspaces": 1,
        "clients": 3,
        "steps": 30,
        "limits": replace(
            SIM_LIMITS, entities_cached_max=20, commit_deadline_s=0.5, command_deadline_s=1.5
        ),
        "faults": ("weather", "weather", "drop", "lag", "drain", "partition"),
        "operations": [name for name in CROWDED if name != "member"],
    },
    # Workspaces that leave memory all the time, and entities even sooner.
    {
        "nodes": 2,
        "clients": 4,
        "limits": replace(
            SIM_LIMITS, passivate_after_s=0.0, entities_cached_max=2, batch_commands_max=5
        ),
        "faults": ("lag", "stall", "drop", "weather", "partition"),
        "operations": CROWDED,
    },
    # A standby that lacks the newest events.
    {
        "nodes": 2,
        "workspaces": 1,
        "clients": 3,
        "faults": ("failover", "failover", "lag", "outage", "cut"),
        "operations": CROWDED,
    },
    {"faults": ("weather", "crash_within", "freeze_within", "partition"), "nodes": 2},
    # Lists, under two versions of what is listed.
    {
        "nodes": 2,
        "workspaces": 1,
        "clients": 3,
        "steps": 30,
        "limits": replace(SIM_LIMITS, entities_cached_max=2, passivate_after_s=0.5),
        "faults": ("lag", "clock", "crash"),
        "operations": ("command", "burst", *("entities",) * 3, "idle"),
        "commands": of_locks,
    },
    # Reads that are slow, of what changes all the time.
    {
        "nodes": 1,
        "workspaces": 1,
        "limits": replace(SIM_LIMITS, entities_cached_max=1, state_lag_events_max=1),
        "faults": ("lag",),
        "operations": ("crowd", "crowd", "read", "burst", "member", "subscribe"),
        "commands": of_few,
    },
)
ONE_HISTORY = {
    Verdict.LOG_GAP,
    Verdict.TIME_REGRESS,
    Verdict.DUPLICATE,
    Verdict.GHOST_FAIL,
    Verdict.GAP,
    Verdict.STEP_BACK,
    Verdict.ACK_AHEAD,
}
"""What holds where the end of a log is lost: how soon a node notices is another matter."""


def simulated(choices: Choices, **how: Any) -> Simulated:
    """Run a schedule on boxes."""
    return simulate(choices, **{"domains": [boxes], "commands": commands, **how})


def _renamed(lock: Lock) -> Index:
    keys = (f"of {lock.holder}",) if lock.holder else ("nobody's",)
    return Index(keys=keys, sort=lock.until.isoformat())


later_locks = lock_domain(2)
later_locks.index(_renamed)
EVERYTHING: dict[str, Any] = {
    "domains": [boxes, locks],
    "commands": with_locks,
    "later": [later_locks],
    "until": "settled",
    "invariant": honest,
}
"""Timers, lists and two versions of a program, on top of what a schedule has."""


def run(choices: Choices, number: int) -> Simulated:
    """Run a schedule of one of several sizes and kinds, with everything that there is."""
    how = SIZES[number % len(SIZES)]
    faults = how.get("faults", FAULTS)
    done = simulated(choices, **{**EVERYTHING, **how, "faults": (*faults, "deploy")})
    if "failover" in faults:
        done.violations[:] = [each for each in done.violations if each.verdict in ONE_HISTORY]
    return done


def run_sound(seeds: range) -> tuple[Report, Counter[str]]:
    """Run a schedule per seed; return how much there was to them."""
    report, faults = Report(), Counter[str]()
    for seed in seeds:
        done = run(SeededChoices(seed), seed)
        assert done.is_sound, f"seed {seed}:\n{done}"
        report += done.report
        faults += done.faults
    return report, faults


def pairs() -> Callable[[Choices], Ask]:
    """Put a new box each time, and then, perhaps in the same batch, conflict with that."""
    numbers = count()

    def draw(_choices: Choices) -> Ask:
        box, is_second = divmod(next(numbers), 2)
        return Ask(Put(f"p{box}", "x", base_version=9 if is_second else None), 1, 1)

    return draw
