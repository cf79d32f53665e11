"""This node's lease: one row, prolonged by one beat, whatever number of workspaces it owns.

A lease says which node should serve a workspace; who may write is decided by the epoch alone (I3).
So it may be wrong for a while, and all that follows is a workspace that waits or moves.

The database compares it by its own clock alone.  The node's monotonic clock says, a margin early,
when the lease may be over: from then on nothing is answered from memory, since another node may
know better.  Whenever it was over, or may have been, what this node owned is compared with what the
store says.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from dalsegno.protocol import UnavailableError

from ._supervisor import FatalServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors.ports import Store
    from dalsegno.protocol import Limits

    from ._clock import StoreClock

_log = logging.getLogger("dalsegno.lease")

_MARGIN = 0.1
"""Of a lease: far more than two clocks drift apart while it lasts."""


class NodeReplacedError(FatalServiceError):
    """Another process serves as this node."""

    code = "STORE_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class LeaseStatistics:
    """A lease at one moment; the counts are since its start."""

    left_s: float
    """What is left of it by this node's clock; below 0: nothing is answered from memory."""
    beats: int
    missed: int
    """Beats that the store did not answer."""
    lapses: int
    """How often it was over, or may have been."""
    machine_off_s: float
    """By how much the machine's clock is ahead of the store's; 0 where nobody compares them."""


class Compare(Protocol):
    """Finds out what this node no longer owns."""

    async def __call__(self, *, everything: bool) -> None:
        """Compare; raises `UnavailableError` where the store is away."""


class Lease:
    """A node's lease, for one incarnation of the node."""

    def __init__(
        self,
        store: Store,
        *,
        node_id: str,
        incarnation: str,
        address: str | None,
        limits: Limits,
        clock: StoreClock | None = None,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        """Which process the node is."""
        self._store = store
        self._address = address
        self._limits = limits
        self._clock = clock
        self._held_until = -1.0
        self._is_unverified = False
        """Whether it ran out, and what is owned here was not compared with the store since."""
        self._is_over = self._is_forgotten = False
        self._one_at_a_time = trio.Lock()
        self._returned = trio.lowlevel.ParkingLot()
        self._beats = self._missed = self._lapses = 0

    def __repr__(self) -> str:
        left_s = self._held_until - trio.current_time()
        return f"<Lease of {self.node_id} {f'for {left_s:.1f} s' if left_s > 0 else 'not held'}>"

    def statistics(self) -> LeaseStatistics:
        """Return how it stands."""
        left_s = self._held_until - trio.current_time()
        off_s = 0.0 if self._clock is None else self._clock.machine_off_s
        return LeaseStatistics(left_s, self._beats, self._missed, self._lapses, off_s)

    @property
    def is_held(self) -> bool:
        """Whether others leave alone what this node owns, as far as can be known here."""
        return trio.current_time() < self._held_until and not self._is_unverified

    async def wait_held(self) -> None:
        """Wait until what is in memory here can be relied on again."""
        while not self.is_held:
            await self._returned.park()

    async def take(self) -> None:
        """Become the node, whichever process was it before, once no earlier release serves.

        Raises:
            StoreUnavailableError: the store is away.

        """
        while (left_s := await self._store.fenced_s(self.node_id)) > 0:
            _log.warning("waiting %.1f s for servers of the release before", left_s)
            await trio.sleep(left_s)
        await self._beat(first=True)
        await self._ask_for_the_time()

    async def end(self) -> None:
        """Leave everything to others at once; the second time does nothing.  The caller bounds it.

        Raises:
            StoreUnavailableError: they have to wait until the lease has run out.

        """
        self._is_over = True
        self._held_until = -1.0
        async with self._one_at_a_time:  # a beat on its way would begin it again
            if not self._is_forgotten:
                await self._store.forget(self.node_id, self.incarnation)
                self._is_forgotten = True

    async def keep(
        self,
        compare: Compare,
        returned: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Beat until cancelled.

        Args:
            compare: compares what this node owns with what the store says, everything of it where
                the lease was over or the store was away; asked again after it raised
                `UnavailableError`.
            returned: called when the store answers again, and where the lease was over.
            task_status: the supervisor's.

        Raises:
            NodeReplacedError: another process serves as this node now.

        """
        task_status.started()
        is_away = False
        while True:
            await trio.sleep(self._limits.lease_beat_s)
            try:
                await self._beat(first=False)
                await self._ask_for_the_time()
                is_back = self._is_unverified or is_away
                await compare(everything=is_back)
                self._is_unverified = False
                self._returned.unpark_all()
                if is_away:
                    _log.warning("the store answers again")
                    is_away = False
                if is_back:
                    returned()
            except UnavailableError as error:
                self._missed += 1
                if not is_away:
                    _log.warning("the lease could not be prolonged: %s", error)
                is_away = True

    async def _ask_for_the_time(self) -> None:
        """Compare the clocks, by a statement that waits for nobody, as a beat may."""
        if self._clock is not None:
            began = trio.current_time()
            self._clock.measured(await self._store.read_time(), began=began)

    async def _beat(self, *, first: bool) -> None:
        lease_s = self._limits.lease_s
        async with self._one_at_a_time:
            if self._is_over:
                return
            began = trio.current_time()
            left_s = await self._store.beat(
                self.node_id, self.incarnation, address=self._address, lease_s=lease_s, first=first
            )
        if left_s is None:
            raise NodeReplacedError(f"another process serves as node {self.node_id}")
        self._beats += 1
        if not first and not self._is_unverified and (left_s <= 0 or not self.is_held):
            self._is_unverified = True
            self._lapses += 1
        if not self._is_over:
            self._held_until = began + lease_s * (1 - _MARGIN)
