"""What the simulations here are about: boxes that are put, moved and burned."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from dalsegno.actors.testing import Ask, Choices, Simulated, simulate
from tests.actors._boxes import Burn, Expect, Fill, Give, Move, Put, Restore, boxes

BOXES = "abcd"


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


def pairs() -> Callable[[Choices], Ask]:
    """Put a new box each time, and then, perhaps in the same batch, conflict with that."""
    numbers = count()

    def draw(_choices: Choices) -> Ask:
        box, is_second = divmod(next(numbers), 2)
        return Ask(Put(f"p{box}", "x", base_version=9 if is_second else None), 1, 1)

    return draw
