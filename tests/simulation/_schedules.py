"""The domain of the simulations here: boxes that are put, moved and burned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from dalsegno.actors.testing import Ask, Choices, Report, SeededChoices, Simulated, simulate
from tests.actors._boxes import Burn, Expect, Fill, Give, Move, Put, Restore, boxes

BOXES = "abcd"
SIZES: Sequence[dict[str, Any]] = (
    {},
    {"nodes": 1, "clients": 2},
    {"nodes": 2, "workspaces": 1, "clients": 3},
    {"steps": 80},
    {"faults": ("weather", "crash_within", "freeze_within", "partition"), "nodes": 2},
)


def commands(choices: Choices) -> Ask:
    """Draw a command; a plain one shrinks best."""
    box = choices.pick(BOXES)
    times = choices.integer(1, 5)
    return choices.pick(
        [
            Ask(Put(box, "x" * choices.pick([1, 10, 300])), 1, 1),
            Ask(Put(box, "y"), 1, 1),
            Ask(Put(box, "based", base_version=times), 1, 1),
            Ask(Fill(box, times), times, times),
            Ask(Move(box, choices.pick(BOXES)), 2, 2),
            Ask(Give(box, choices.pick(BOXES), "given"), 1, 1),
            Ask(Restore(box, times), 1, 1),
            Ask(Expect(box, "x")),
            Ask(Burn(box), 1, 1),
        ]
    )


def simulated(choices: Choices, **how: Any) -> Simulated:
    """Run a schedule on boxes."""
    return simulate(choices, **{"domains": [boxes], "commands": commands, **how})


def run(choices: Choices, number: int) -> Simulated:
    """Run a schedule of one of several sizes and kinds."""
    return simulated(choices, **SIZES[number % len(SIZES)])


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
