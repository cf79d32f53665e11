"""Finds out what holds up the whole node: a step of some task that takes long, and its stack.

Everything here takes turns in one thread.  A worker that blocks, by ``time.sleep`` or a client that
is not on Trio, stops all of them, and nothing in the thread can say so.  So a thread of its own
looks whether the turns go round.  Where it is late itself, the machine has no time, or was stopped,
and nobody here is to blame.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

import trio

from ._background import in_background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = logging.getLogger("dalsegno.watchdog")

_LOOKS = 4
"""How often it looks within the time that a step may take."""
_FRAMES = 20
"""The innermost frames that are shown."""


@asynccontextmanager
async def watched(blocked_s: float) -> AsyncIterator[None]:
    """Watch over the steps of this thread for the length of a block.

    Args:
        blocked_s: a step that takes longer, in seconds, is logged with its stack, once.

    """
    watchdog = _Watchdog(blocked_s)
    async with in_background(watchdog.run, starts=True):
        yield


class _Watchdog:
    def __init__(self, blocked_s: float) -> None:
        self._blocked_s = blocked_s
        self._look_s = blocked_s / _LOOKS
        self._watched = threading.get_ident()
        self._turn_at = monotonic()
        self._ended = threading.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take a turn again and again, and have a thread look whether it came."""
        thread = threading.Thread(target=self._watch, name="dalsegno watchdog", daemon=True)
        thread.start()
        try:
            task_status.started()
            while True:
                self._turn_at = monotonic()
                await trio.sleep(self._look_s)
        finally:
            self._ended.set()
            thread.join(1.0)

    def _watch(self) -> None:
        told = 0.0
        slept_at = monotonic()
        while not self._ended.wait(self._look_s):
            now, turn_at = monotonic(), self._turn_at
            is_late = now - slept_at > 2 * self._look_s
            slept_at = now
            if not is_late and turn_at != told and now - turn_at > self._blocked_s + self._look_s:
                told = turn_at
                self._tell(now - turn_at)

    def _tell(self, blocked_s: float) -> None:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - there is no other way
        if frame is not None:
            stack = "".join(traceback.format_stack(frame)[-_FRAMES:])
            message = "a step has taken %.0f ms, and everything waits for it:\n%s"
            _log.warning(message, blocked_s * 1000, stack)
