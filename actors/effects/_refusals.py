"""What was refused, on its way to be put on record: a queue that nobody waits for.

A request that is refused costs its place in a bounded queue and no more.  They are written a few at
a time, once a second; those that find the queue full are counted, and the count is put on record in
their stead.  So somebody who asks in vain as fast as they can writes a bounded number of rows.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.actors.ports import RefusedWrite
from dalsegno.protocol import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalsegno.actors.node import ServingNode

_log = logging.getLogger("dalsegno.audit")

_EVERY_S = 1.0
_CHARS_MAX = 256
REFUSED = "REQUEST_REFUSED"
"""The action of what somebody may not do."""
DROPPED = "REFUSALS_DROPPED"
"""The action of the row that counts those that were not put on record one by one."""


class Refusals:
    """The queue of one node."""

    def __init__(self, node: ServingNode, *, written: Callable[[], None]) -> None:
        """Make it; ``written`` is called when some have been put on record."""
        self._node = node
        self._written = written
        self._limits = node.limits
        self._waiting: deque[RefusedWrite] = deque()
        self._dropped = 0
        self._writing: list[RefusedWrite] = []
        """What is being written, until it surely was: under the same ids it is so once."""
        self._is_filled = trio.Event()
        self._turn = trio.Lock()

    def __repr__(self) -> str:
        return f"<Refusals: {len(self._waiting)} waiting, {self._dropped} dropped>"

    def __len__(self) -> int:
        return len(self._waiting) + len(self._writing)

    def note(
        self,
        action: str,
        *,
        resource_type: str,
        resource_id: str,
        code: str,
        user_id: str | None,
        workspace_id: str | None,
        request_id: str | None,
        address: str | None,
    ) -> None:
        """Have a refusal put on record, soon; it never waits and never raises."""
        if len(self._waiting) >= self._limits.refusals_queued_max:
            self._dropped += 1
            return
        self._waiting.append(
            RefusedWrite(
                refusal_id=self._node.world.new_id(),
                recorded_at=self._node.world.now(),
                workspace_id=_text(workspace_id),
                user_id=_text(user_id),
                action=action,
                resource_type=resource_type,
                resource_id=_text(resource_id) or "",
                new_value=msgspec.json.encode({"code": code}).decode(),
                request_id=_text(request_id),
                address=_text(address),
            )
        )
        self._is_filled.set()

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        while True:
            await self._is_filled.wait()
            try:
                await self.write()
            except UnavailableError as error:
                _log.info("what was refused is not on record yet: %s", error)
            await trio.sleep(_EVERY_S)

    async def write(self) -> None:
        """Write as many as may be written in a second.

        Raises:
            UnavailableError: try again.

        """
        async with self._turn:
            if not self._writing:
                self._writing = self._taken()
            if self._writing:
                await self._node.store.add_refusals(self._writing)
                self._writing = []
                self._written()
            if not self._waiting and not self._dropped:
                self._is_filled = trio.Event()

    def _taken(self) -> list[RefusedWrite]:
        taken: list[RefusedWrite] = []
        while self._waiting and len(taken) < self._limits.refusals_written_max:
            taken.append(self._waiting.popleft())
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            taken.append(
                RefusedWrite(
                    refusal_id=self._node.world.new_id(),
                    recorded_at=self._node.world.now(),
                    workspace_id=None,
                    user_id=None,
                    action=DROPPED,
                    resource_type="node",
                    resource_id=self._node.node_id,
                    new_value=msgspec.json.encode({"count": dropped}).decode(),
                    request_id=None,
                    address=None,
                )
            )
        return taken


def _text(text: str | None) -> str | None:
    """Return a text as the store can hold it, and not longer than what is on record may be."""
    if text is None:
        return None
    return text[:_CHARS_MAX].replace("\0", "?").encode(errors="replace").decode()
