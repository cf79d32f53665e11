"""This node, as its directory, its workspaces' supervisors and its sessions know it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from dalsegno.actors.workspace import LocalNode
from dalsegno.protocol import DrainingError, RuntimeClosedError, UnavailableError

from ._connection_ids import ConnectionIds

if TYPE_CHECKING:
    from dalsegno.actors.delivery import Hub
    from dalsegno.protocol import WorkspaceHaltedError

    from ._lease import Lease

_log = logging.getLogger("dalsegno.workspace")


@dataclass(slots=True, kw_only=True)
class ServingNode(LocalNode):
    """What is shared here, and whether it may be relied on."""

    lease: Lease
    is_open: bool = False
    """Whether commands are taken."""
    is_draining: bool = False
    """Whether new commands are refused so that those that were taken can be settled."""
    connection_ids: ConnectionIds = field(default_factory=ConnectionIds)
    """The connections that are there, for the runs that end with them."""
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

    async def mark_halted(
        self, workspace_id: str, epoch: int, failure: WorkspaceHaltedError
    ) -> bool:
        """Record a halt in the log's head, for the next one that opens it; False to try again.

        A later owner's head is left alone (X-PER-9).
        """
        try:
            await self.store.halt(
                workspace_id, epoch, failure.message, code=self.code, actor=self.node_id
            )
        except UnavailableError as error:
            _log.error("%s: the halt could not be recorded: %s", workspace_id, error)
            return False
        return True

    def announce_store_returned(self) -> None:
        """Wake the workspaces that back off, so that they try again at once."""
        self._store_returned.unpark_all()

    async def wait_store_returned(self) -> None:
        """Wait until the store answers again after it did not."""
        await self._store_returned.park()
