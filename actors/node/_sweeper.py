"""What grows old in the store is forgotten: a few rows at a time, at random times."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import trio

from dalsegno.protocol import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors.ports import CursorKey, Store, World
    from dalsegno.protocol import Limits

_log = logging.getLogger("dalsegno.service")

_INTERVAL_S = 60.0
_ROWS = 500


class Sweep(Protocol):
    """Something that grows old in the store."""

    async def __call__(self, *, limit: int) -> int:
        """Forget at most ``limit`` rows and return how many; raises `UnavailableError`."""


class Sweeper:
    """Runs the sweeps of one node; others run theirs at other times."""

    def __init__(
        self,
        store: Store,
        sweeps: Sequence[Sweep],
        *,
        first: Sequence[Sweep] = (),
        world: World,
        limits: Limits,
    ) -> None:
        """Make it.

        Args:
            store: its rows, of which some are swept in any case.
            sweeps: what else is swept.
            first: what else is swept, as it begins as well.
            world: decides when.
            limits: its bounds.

        """
        self._store = store
        self._first = first
        self._sweeps = (store.sweep_results, store.sweep_refusals, *sweeps, *first)
        self._world = world
        self._limits = limits

    def __repr__(self) -> str:
        return f"<Sweeper of {len(self._sweeps) + 1} kinds of rows>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweep until cancelled."""
        task_status.started()
        cursor: CursorKey | None = None
        try:
            for sweep in self._first:
                await self._sweep_all(sweep)
        except UnavailableError as error:
            _log.warning("what is too old was not swept: %s", error)
        while True:
            await trio.sleep(_INTERVAL_S * (1 + self._world.random()))
            try:
                for sweep in self._sweeps:
                    await self._sweep_all(sweep)
                cursor = await self._store.sweep_cursors(
                    cursor, limit=_ROWS, unused_s=self._limits.cursor_unused_s
                )
            except UnavailableError as error:
                _log.warning("what is too old was not swept: %s", error)

    async def _sweep_all(self, sweep: Sweep) -> None:
        swept = _ROWS
        while swept == _ROWS:
            swept = await sweep(limit=_ROWS)
            await trio.sleep(self._limits.ack_flush_s)
