"""Short turns of the event loop: nobody else can interrupt what is done without waiting (I10)."""

from __future__ import annotations

import trio


class Turn:
    """One task's turn, from its last checkpoint on; work in portions asks it in between."""

    __slots__ = ("_began", "_turn_s")

    def __init__(self, turn_s: float) -> None:
        self._turn_s = turn_s
        self._began = trio.current_time()

    def __repr__(self) -> str:
        return f"<Turn of {trio.current_time() - self._began:.4f} s>"

    async def pause(self) -> None:
        """Let others run, if this turn has lasted long enough."""
        if trio.current_time() - self._began >= self._turn_s:
            await trio.lowlevel.checkpoint()
            self._began = trio.current_time()
