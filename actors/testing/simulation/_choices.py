"""Sources of a simulation's decisions: a seed, or Hypothesis.

A seed is fast, for thousands of schedules; Hypothesis draws interactively, so that it can shrink
what failed to the few decisions that matter.  Either way every decision is repeatable, Trio's order
of tasks included: importing Hypothesis makes Trio sort the tasks of a step and shuffle them by a
generator of its own, and `SeededChoices` does the same and seeds that generator.

Decisions of many small things (each delay of each message) are *noise*: they come from a generator
that one decision seeds, since a draw of Hypothesis costs much more.
"""

from __future__ import annotations

from contextlib import contextmanager
from random import Random  # noqa: TID251 - always seeded by a decision
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio._core._run as _trio_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from hypothesis.strategies import DataObject

ThingT = TypeVar("ThingT")

_SEED_MAX = 2**32 - 1
_GRAINS = 1_000


class Noise(Random):
    """A generator for what is not worth a decision each time."""


class Choices(Protocol):
    """A source of decisions; if it can shrink, it does so to the first and the lowest."""

    def integer(self, low: int, high: int) -> int:
        """Decide on an integer in ``low`` … ``high``, both inclusive."""

    def pick(self, things: Sequence[ThingT]) -> ThingT:
        """Decide on one of several things."""

    def chance(self, probability: float) -> bool:
        """Decide whether something happens."""

    def uniform(self, low: float, high: float) -> float:
        """Decide on a number in ``low`` … ``high``."""

    def noise(self) -> Noise:
        """Decide on the seed of a generator."""

    def scheduling(self) -> AbstractContextManager[None]:
        """Decide on the order in which Trio runs tasks, for a ``trio.run`` inside the block."""


class SeededChoices:
    """Decisions that follow from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = Noise(seed)
        self._seed = seed

    def __repr__(self) -> str:
        return f"SeededChoices({self._seed})"

    def integer(self, low: int, high: int) -> int:
        """Decide on an integer; see `Choices`."""
        return self._random.randint(low, high)

    def pick(self, things: Sequence[ThingT]) -> ThingT:
        """Decide on one of several things; see `Choices`."""
        return self._random.choice(things)

    def chance(self, probability: float) -> bool:
        """Decide whether something happens; see `Choices`."""
        return self._random.random() < probability

    def uniform(self, low: float, high: float) -> float:
        """Decide on a number; see `Choices`."""
        return self._random.uniform(low, high)

    def noise(self) -> Noise:
        """Decide on a generator; see `Choices`."""
        return Noise(self._random.getrandbits(32))

    @contextmanager
    def scheduling(self) -> Iterator[None]:
        """Make Trio's order of tasks follow from the seed as well; see `Choices`."""
        shuffler = _trio_run._r  # noqa: SLF001 - Trio has no public way yet (its issue 2675)
        state, flag = shuffler.getstate(), _trio_run._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001
        _set_sorted(value=True)
        shuffler.seed(self._seed)
        try:
            yield
        finally:
            _set_sorted(value=flag)
            shuffler.setstate(state)


class HypothesisChoices:
    """Decisions that Hypothesis draws, from the ``data`` of a ``@given(data=st.data())``."""

    def __init__(self, data: DataObject) -> None:
        from hypothesis import strategies as st

        self._data = data
        self._st = st

    def integer(self, low: int, high: int) -> int:
        """Decide on an integer; see `Choices`."""
        return self._data.draw(self._st.integers(low, high))

    def pick(self, things: Sequence[ThingT]) -> ThingT:
        """Decide on one of several things; see `Choices`."""
        return things[self.integer(0, len(things) - 1)]

    def chance(self, probability: float) -> bool:
        """Decide whether something happens; shrinks to no."""
        return self.integer(0, _GRAINS - 1) >= _GRAINS * (1 - probability)

    def uniform(self, low: float, high: float) -> float:
        """Decide on one of a thousand and one numbers; see `Choices`."""
        return low + (high - low) * self.integer(0, _GRAINS) / _GRAINS

    def noise(self) -> Noise:
        """Decide on a generator; see `Choices`."""
        return Noise(self.integer(0, _SEED_MAX))

    @contextmanager
    def scheduling(self) -> Iterator[None]:
        """Make Hypothesis seed the generator by which Trio shuffles tasks; see `Choices`."""
        self._data.draw(self._st.random_module())
        yield


def _set_sorted(*, value: bool) -> None:
    """Make Trio sort the tasks of a step before it shuffles them."""
    vars(_trio_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = value
