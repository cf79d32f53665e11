"""Room for the commands that wait on this node, in all workspaces, by what they really take.

Mailboxes are bounded one by one, and there are thousands of them.  So whoever admits a command
takes room for it first, and its answer gives the room back.  Those that find none wait in order; a
part is kept for short commands, so that those who upload do not keep out those who type.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

_SHORT_BYTES = 16 * 1024
_KEPT_FOR_SHORT = 1 / 8


class _Queue:
    """Those that wait, in order, and the bytes up to which they may fill the room."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.senders: OrderedDict[trio.Event, int] = OrderedDict()
        """Each with what it needs."""


class Room:
    """A number of bytes; what is larger than all of it fits when it is alone."""

    def __init__(self, bytes_max: int) -> None:
        self._taken = 0
        self._short = _Queue(bytes_max)
        self._long = _Queue(bytes_max - int(bytes_max * _KEPT_FOR_SHORT))

    def __repr__(self) -> str:
        waiting = len(self._short.senders) + len(self._long.senders)
        return f"<Room {self._taken}/{self._short.bytes_max} bytes, {waiting} waiting>"

    @property
    def taken(self) -> int:
        """Bytes that are taken now."""
        return self._taken

    def take_nowait(self, size: int) -> bool:
        """Take so many bytes; return False where there are too few, or others wait for theirs."""
        queue = self._queue(size)
        if queue.senders or not self._fits(queue, size):
            return False
        self._taken += size
        return True

    async def take(self, size: int) -> None:
        """Wait for so many bytes; cancelled, nothing was taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.take_nowait(size):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        taken, senders = trio.Event(), self._queue(size).senders
        senders[taken] = size
        try:
            await taken.wait()
        except trio.Cancelled:
            if senders.pop(taken, None) is None:
                self.give_back(size)
            else:
                self._admit()  # those behind it may need less
            raise

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._taken -= size
        if self._short.senders or self._long.senders:
            self._admit()

    def _queue(self, size: int) -> _Queue:
        return self._short if size <= _SHORT_BYTES else self._long

    def _fits(self, queue: _Queue, size: int) -> bool:
        return self._taken == 0 or self._taken + size <= queue.bytes_max

    def _admit(self) -> None:
        for queue in (self._short, self._long):
            senders = queue.senders
            while senders and self._fits(queue, size := next(iter(senders.values()))):
                taken, _ = senders.popitem(last=False)
                self._taken += size
                taken.set()
