"""The network between a simulated client and a node: latency, a stopped reader, silence, a cut.

A cable joins the two ends of a connection in memory.  A *cut* is noticed by both ends.  In
*silence* nothing passes and neither end notices, until one of them loses patience: the half-open
connection that a sleeping laptop or a lost route leaves behind.  A client that is *stalled* does
not read, so that the line fills up, and the node's outbox after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from dalsegno.actors.ports import TransportClosedError
from dalsegno.actors.testing.memory import memory_connection

if TYPE_CHECKING:
    from dalsegno.actors.testing.memory import MemoryTransport
    from dalsegno.protocol import Limits

    from ._choices import Noise

_ABNORMAL = 1006

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Cable:
    """One connection, from its client's side."""

    def __init__(
        self, limits: Limits, noise: Noise, *, latency_s: float = 0.0, room_bytes: int = 2_048
    ) -> None:
        self.latency_s = latency_s
        self._memory = memory_connection(limits, room_bytes=room_bytes)
        self._noise = noise
        self._is_cut = False
        self._is_silent = False
        self._is_stalled = False
        self._changed = trio.Event()
        self._in_order = trio.StrictFIFOLock()

    def __repr__(self) -> str:
        flags = (("cut", self._is_cut), ("silent", self._is_silent), ("stalled", self._is_stalled))
        return f"<Cable {' '.join(name for name, is_so in flags if is_so) or 'open'}>"

    @property
    def transport(self) -> MemoryTransport:
        """The node's end."""
        return self._memory.transport

    @property
    def is_stalled(self) -> bool:
        """Whether the client reads nothing."""
        return self._is_stalled

    # ------------------------------------------------------------------------------- faults

    def cut(self) -> None:
        """End the connection for both ends; what was in flight is lost."""
        self._is_cut = True
        self._memory.vanish()
        self._change()

    def set_silent(self, *, is_silent: bool) -> None:
        """Stop all traffic unnoticed, or resume it: what waited then arrives."""
        self._is_silent = self._memory.deaf = is_silent
        self._change()

    def set_stalled(self, *, is_stalled: bool) -> None:
        """Make the client stop reading, as one that is busy or stopped, or read again."""
        self._is_stalled = is_stalled
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # --------------------------------------------------------------------------- the client

    async def send(self, **message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message; cancelled, it may have been sent.

        Raises:
            TransportClosedError: the connection is over; the node may have the message.

        """
        async with self._in_order:
            await self._travel()
            await self._memory.send(_encode(message).decode())

    async def receive(self) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            TransportClosedError: the connection is over.

        """
        while self._is_stalled and not self._is_cut:
            await self._changed.wait()
        text = await self._memory.receive()
        await self._travel()
        message: dict[str, Any] = _decode(text)
        return message

    async def _travel(self) -> None:
        if self.latency_s:
            await trio.sleep(self._noise.uniform(0, self.latency_s))
        while self._is_silent and not self._is_cut:
            await self._changed.wait()
        if self._is_cut:
            raise TransportClosedError(_ABNORMAL, "cut")
