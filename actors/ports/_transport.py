"""The port to one client's connection: whole messages in, prepared frames out.

Implemented by `dalsegno.runtime` natively over a socket, and as the body of an HTTP response; in
memory by `dalsegno.actors.testing`.  A transport never interprets messages; it keeps the rules of
its framing: size (1009), UTF-8 (1007), pings answered, the closing handshake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.protocol import Close, Frames


class TransportClosedError(Exception):
    """The connection is over, whoever ended it; nothing more is read or written."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Transport(Protocol):
    """One client's connection.  One task receives; one task at a time sends."""

    @property
    def last_heard(self) -> float:
        """Trio's time of the last bytes from the client, a pong's included."""

    @property
    def last_pong(self) -> float:
        """Trio's time of the last pong; of the opening before the first."""

    @property
    def last_taken(self) -> float:
        """Trio's time when the client last took some of what was kept for it; at first, the
        opening.
        """

    def send_nowait(self, frames: Sequence[Frames]) -> bool:
        """Write as much as possible without waiting.

        Returns:
            True if all was written.  False: the rest is kept here, and `flush` must have
            returned before anything else is sent.

        Raises:
            TransportClosedError: the connection is over.

        """

    async def flush(self) -> None:
        """Wait until what `send_nowait` kept is written.

        Cancelled, the rest is still kept.

        Raises:
            TransportClosedError: the connection is over.

        """

    def receive_nowait(self) -> str | bytes | None:
        """Return the next message if it has arrived; None: `receive` waits, or raises why not."""

    async def receive(self) -> str | bytes:
        """Wait for the next message, text or binary.

        Raises:
            TransportClosedError: the client closed, or broke the framing's rules and was told so.

        """

    def ping_nowait(self) -> None:
        """Send a ping if that is possible at once; otherwise data on its way serves as well."""

    async def aclose(self, code: Close, reason: str) -> None:
        """Close with a handshake; the caller sets a deadline; cancelled, it aborts."""

    def abort(self) -> None:
        """End the connection at once."""
