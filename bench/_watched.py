"""``dalsegno`` with a watch on its event loop: ``python -m bench._watched serve …``.

A *step* is what a task does from one checkpoint to the next.  Nothing else runs meanwhile, so the
longest one is how long everybody else may have to wait.  It is measured in the processor time of
the loop's thread: that neither grows when others have the core, nor when the thread waits for the
interpreter's lock.

On SIGUSR1 the process writes a line of JSON to standard output: the longest step since the last
such line.  What it did is found by sampling: while a step is longer than usual, a timer of the
process's time notes every few milliseconds which function runs.  How much of it was garbage
collection is measured; that begins when it is due, in whoever's step that is.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from dalsegno.runtime._cli import main as run_cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SAMPLE_S = 0.001
"""Kernels round this up to their tick, of some milliseconds."""
_LONG_NS = 2_000_000
"""Shorter steps are not sampled, so that a busy server is not slowed by its watch."""
_DEPTH = 3
"""Functions that a place names, the innermost first."""


class Step(msgspec.Struct, frozen=True):
    """What a task did from one checkpoint to the next."""

    took_s: float
    """Its processor time …"""
    collecting_s: float
    """… and how much of it went to garbage collection."""
    task: str
    place: str
    """Where most samples found it, the innermost function first; empty: there were none."""


_NO_STEP = Step(0.0, 0.0, "", "")


class Watch(trio.abc.Instrument):
    """The longest step of an event loop."""

    def __init__(self, now_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self._now_ns = now_ns
        self._began = 0
        self._is_stepping = False
        self._collecting_since = 0
        self._collecting_ns = 0
        self._places: Counter[str] = Counter()
        self._longest = _NO_STEP

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Begin a step."""
        self._is_stepping = True
        self._began = self._now_ns()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """End a step."""
        took = self._now_ns() - self._began
        self._is_stepping = False
        if took > self._longest.took_s * 1e9:
            places = self._places.most_common(1)
            place = places[0][0] if places else ""
            self._longest = Step(took / 1e9, self._collecting_ns / 1e9, task.name, place)
        self._collecting_ns = 0
        if self._places:
            self._places.clear()

    def collect(self, phase: str, _info: dict[str, int]) -> None:
        """Note that a garbage collection begins or ends; the collector's callback."""
        if not self._is_stepping:
            return
        if phase == "start":
            self._collecting_since = self._now_ns()
        else:
            self._collecting_ns += self._now_ns() - self._collecting_since

    def sample(self, frame: FrameType | None) -> None:
        """Note what a long step does now."""
        if self._is_stepping and self._now_ns() - self._began > _LONG_NS:
            self._places[_place(frame)] += 1

    def take(self) -> Step:
        """Return the longest step so far, and begin anew."""
        longest, self._longest = self._longest, _NO_STEP
        return longest


def _place(frame: FrameType | None) -> str:
    names: list[str] = []
    while frame is not None and len(names) < _DEPTH:
        path = "/".join(frame.f_code.co_filename.split("/")[-2:])
        names.append(f"{path}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return " < ".join(names)


def main() -> None:
    """Run the command line with a watch on every event loop."""
    watch = Watch()

    def tell(_number: int, _frame: FrameType | None) -> None:
        # Not print(): the signal may have interrupted one.
        os.write(sys.stdout.fileno(), msgspec.json.encode(watch.take()) + b"\n")

    def sample(_number: int, frame: FrameType | None) -> None:
        watch.sample(frame)

    run: Callable[..., Any] = trio.run
    setattr(trio, "run", functools.partial(run, instruments=[watch]))  # noqa: B010 - it is typed
    gc.callbacks.append(watch.collect)
    signal.signal(signal.SIGUSR1, tell)
    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, _SAMPLE_S, _SAMPLE_S)
    run_cli()


if __name__ == "__main__":
    main()
