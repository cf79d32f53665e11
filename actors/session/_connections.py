"""The open connections of this node, and the one timer of them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

from dalsegno.protocol import Agenda

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dalsegno.protocol import Close, Limits

_TICK_S = 1.0


class OpenConnection(Protocol):
    """A connection as the registry sees it."""

    session_id: bytes
    user_id: str

    def close(self, code: Close, reason: str) -> None:
        """End it: from this step on, nothing more is written but the close."""

    def tick(self, now: float) -> float:
        """Do what is due by Trio's clock; return when to ask again.  Never waits, never raises."""

    def doubt(self) -> None:
        """Write no event and take nothing from this step on: its session may have ended."""

    def trust(self) -> None:
        """Go on: its session has not ended."""


ConnectionT = TypeVar("ConnectionT", bound=OpenConnection)


class Connections(Generic[ConnectionT]):
    """The connections that are open, in the order they came."""

    def __init__(self, *, limits: Limits) -> None:
        self._open: dict[ConnectionT, None] = {}
        self._limits = limits
        self._tick_s = min(_TICK_S, limits.heartbeat_interval_s / 4)
        self._agenda: Agenda[ConnectionT] = Agenda(self._tick_s, trio.current_time())
        """When each is to be looked at: an idle one with its next heartbeat."""

    def __repr__(self) -> str:
        return f"<Connections: {len(self)} open>"

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[ConnectionT]:
        return iter(list(self._open))

    def add(self, connection: ConnectionT) -> None:
        """Add a connection that is served from now on."""
        self._open[connection] = None
        self._agenda.put(connection, trio.current_time())

    def discard(self, connection: ConnectionT) -> None:
        """Remove a connection that has ended."""
        self._open.pop(connection, None)
        self._agenda.discard(connection)

    def look_at(self, connection: ConnectionT) -> None:
        """Ask a connection at the next tick what is due: it may be sooner than it was."""
        if connection in self._open:
            self._agenda.put(connection, trio.current_time())

    def close_session(self, session_id: bytes, code: Close, reason: str) -> None:
        """Close a session's connections: from this step on nothing more is written to them."""
        for connection in self:
            if connection.session_id == session_id:
                connection.close(code, reason)

    def close_user(
        self, user_id: str, code: Close, reason: str, *, keep: bytes | None = None
    ) -> None:
        """Close a user's connections, but for those of the session to ``keep``; as above."""
        for connection in self:
            if connection.user_id == user_id and connection.session_id != keep:
                connection.close(code, reason)

    def hold(self) -> None:
        """Hold those whose session somebody may have ended, from this step on; see `resume`."""
        for connection in self:
            if connection.session_id:
                connection.doubt()

    def resume(self) -> None:
        """Let those go on that were held, and are still open."""
        for connection in self:
            connection.trust()

    def close_all(self, code: Close, reason: str) -> None:
        """Close every connection."""
        for connection in self:
            connection.close(code, reason)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the timer of heartbeats, pings and their deadlines until cancelled."""
        for connection in self._open:  # one that failed may have dropped some of them
            self._agenda.put(connection, trio.current_time())
        task_status.started()
        while True:
            await trio.sleep(self._tick_s)
            now = trio.current_time()
            for count, connection in enumerate(self._agenda.take(now), 1):
                if connection in self._open:
                    self._agenda.put(connection, connection.tick(now))
                # After a pause all may be due at once, and at the same times from then on.
                if count % self._limits.offers_per_yield == 0:
                    await trio.lowlevel.checkpoint()
