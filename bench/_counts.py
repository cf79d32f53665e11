"""Counts of what the interpreter does for a command: turns, bytecodes, the collector's work.

They say what a time does not: they hardly depend on the machine, or on who else uses it.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from dalsegno.runtime._collector import set_for_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Counts(msgspec.Struct, frozen=True):
    """What was counted over some time."""

    switches: int
    """Steps of tasks: each resumes a coroutine."""
    polls: int
    """How often the event loop asked the system for what is ready."""
    collections: int
    """How often the garbage collector ran …"""
    collecting_s: float
    """… and how long that took."""


class Counting(trio.abc.Instrument):
    """Counts for one event loop; `collect` belongs into `gc.callbacks`."""

    def __init__(self) -> None:
        self._switches = self._polls = self._collections = 0
        self._collecting_s = self._since = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step."""
        self._switches += 1

    def after_io_wait(self, timeout: float) -> None:
        """Count a look at what is ready."""
        self._polls += 1

    def collect(self, phase: str, _info: dict[str, Any]) -> None:
        """Count a pass of the collector."""
        if phase == "start":
            self._since = time.perf_counter()
        else:
            self._collections += 1
            self._collecting_s += time.perf_counter() - self._since

    def take(self) -> Counts:
        """Return what was counted, and begin anew."""
        counts = Counts(self._switches, self._polls, self._collections, self._collecting_s)
        self._switches = self._polls = self._collections = 0
        self._collecting_s = 0.0
        return counts


@contextmanager
def counting() -> Iterator[Counting]:
    """Count in this event loop for the length of a block."""
    counts = Counting()
    trio.lowlevel.add_instrument(counts)
    gc.callbacks.append(counts.collect)
    try:
        yield counts
    finally:
        gc.callbacks.remove(counts.collect)
        trio.lowlevel.remove_instrument(counts)


@contextmanager
def collector(*, as_server: bool) -> Iterator[None]:
    """Have Python's collector as it is by default, or as a server sets it, for a block."""
    before = gc.get_threshold()
    if as_server:
        set_for_server()
    else:
        gc.set_threshold(700, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def bytecodes() -> Iterator[Callable[[], int]]:
    """Count the instructions of the interpreter for a block; all becomes a hundred times slower."""
    count = 0

    def in_frame(_frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        nonlocal count
        if event == "opcode":
            count += 1
        return in_frame

    def at_call(frame: FrameType, _event: str, _argument: object) -> Callable[..., Any]:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return in_frame

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        yield lambda: count
    finally:
        sys.settrace(before)
