"""This node, as its directory, its workspaces' supervisors and its sessions know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.workspace import LocalNode
from dalsegno.protocol import DrainingError, RuntimeClosedError

if TYPE_CHECKING:
    from dalsegno.actors.delivery import Hub

    from ._lease import Lease


@dataclass(slots=True, kw_only=True)
class ServingNode(LocalNode):
    """What is shared here, and whether it may be relied on."""

    lease: Lease
    is_open: bool = False
    """Whether commands are taken."""
    is_draining: bool = False
    """Whether new commands are refused so that those that were taken can be settled."""
    _store_returned: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def drain(self) -> None:
        """Take no more commands."""
        self.is_open, self.is_draining = False, True

    def closed_error(self) -> RuntimeClosedError:
        """Return why commands are not taken."""
        error = DrainingError if self.is_draining else RuntimeClosedError
        return error("the runtime is closed")

    def knows_head(self, hub: Hub) -> bool:
        """Return whether a hub's head is the log's, as far as can be known here."""
        return self.lease.is_held and not hub.is_unverified

    def announce_store_returned(self) -> None:
        """Wake the workspaces that back off, so that they try again at once."""
        self._store_returned.unpark_all()

    async def wait_store_returned(self) -> None:
        """Wait until the store answers again after it did not."""
        await self._store_returned.park()
