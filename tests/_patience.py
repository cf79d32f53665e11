"""Waits that last longer on a slower machine.

A test that waits for a condition gives up at some point.  A constant is too short on one machine or
too long on another, so the deadlines in the tests are those of a reference machine, and are
multiplied by `slowness` everywhere else.  Only waits that end a test in failure belong here: a
deadline that a test expects to pass is a plain number.
"""

from __future__ import annotations

import functools
import os
import random
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import trio

_CORES = 2
_ROUNDS = 40
_ROUNDS_S = 0.25
"""How long the rounds take on the reference machine: two cores that do nothing else."""
_SLOWNESS_MAX = 20.0
"""Beyond it a test that hangs would take hours to say so."""
_KNOWN = "DALSEGNO_TEST_SLOWNESS"


@functools.cache
def slowness() -> float:
    """Return how many times slower than the reference machine this one is, at least 1.

    Measured once: both cores compress, which needs no lock of the interpreter, for longer than the
    0.1 s over which a container's quota is accounted.  So fewer cores count, and a quota, and what
    else runs.  The workers of a run are told, since they would measure each other.
    """
    if _KNOWN not in os.environ:
        data = bytes(random.Random(0).choices(range(64), k=128 * 1024))
        began = time.perf_counter()
        with ThreadPoolExecutor(_CORES) as cores:
            list(cores.map(_compress, [data] * _CORES))
        measured = (time.perf_counter() - began) / _ROUNDS_S
        os.environ[_KNOWN] = f"{min(max(1.0, measured), _SLOWNESS_MAX):.1f}"
    return float(os.environ[_KNOWN])


def _compress(data: bytes) -> None:
    for _ in range(_ROUNDS):
        zlib.compress(data)


def patient(seconds: float) -> float:
    """Return how long to wait here for what the reference machine is given so many seconds for."""
    return seconds * slowness()


def fail_after(seconds: float) -> AbstractContextManager[trio.CancelScope]:
    """Raise `trio.TooSlowError` in a block that takes longer than that on the reference machine."""
    return trio.fail_after(patient(seconds))


def lasted(since: float) -> float:
    """Return the seconds from then until now on Trio's clock, to the microsecond.

    The difference of two readings is not exact: 48.58 - 28.58 is less than 20.
    """
    return round(trio.current_time() - since, 6)


async def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    """Wait for a condition, and fail where it does not come about in time."""
    with fail_after(within_s):
        while not condition():
            await trio.sleep(0.005)
