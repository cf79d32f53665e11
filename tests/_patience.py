"""Waits that last longer on a slower machine.

A test that waits for a condition gives up at some point.  A constant is too short on one machine or
too long on another, so the deadlines in the tests are those of a reference machine, and are
multiplied by `slowness` everywhere else.  Only waits that end a test in failure belong here: a
deadline that a test expects to pass is a plain number.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import trio

_CORES = 2
_LOOPS, _LOOP = 3, 1_000_000
_LOOP_S = 0.075
"""How long one loop takes on the reference machine, which has two cores and does nothing else."""
_SLOWNESS_MAX = 20.0
"""Beyond it a test that hangs would take hours to say so."""


@functools.cache
def slowness() -> float:
    """Return how many times slower than the reference machine this one is, at least 1.

    Measured once: by a loop that is longer than the 0.1 s over which a container's quota is
    accounted, and from how many tasks want the cores (proc(5), ``loadavg``).
    """
    began = time.perf_counter()
    for _ in range(_LOOPS):
        _spin()
    loop = (time.perf_counter() - began) / _LOOPS / _LOOP_S
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = max(_CORES, os.getloadavg()[0]) / (cores or 1)
    return min(max(1.0, loop, load), _SLOWNESS_MAX)


def _spin() -> int:
    total = 0
    for number in range(_LOOP):
        total += number & 7
    return total


def patient(seconds: float) -> float:
    """Return how long to wait here for what the reference machine is given so many seconds for."""
    return seconds * slowness()


def fail_after(seconds: float) -> AbstractContextManager[trio.CancelScope]:
    """Raise `trio.TooSlowError` in a block that takes longer than that on the reference machine."""
    return trio.fail_after(patient(seconds))


async def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    """Wait for a condition, and fail where it does not come about in time."""
    with fail_after(within_s):
        while not condition():
            await trio.sleep(0.005)
