"""What is due to one connection by the clock, whatever is said on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Close

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from dalsegno.actors.ports import Transport
    from dalsegno.protocol import Limits

_LATE = 10
"""The part of a pong's deadline after which it is late."""


class SignsOfLife:
    """The heartbeats, pings and deadlines of one connection."""

    __slots__ = ("_grace_s", "_last_beat", "_limits", "_pinged_at", "expires_at")

    def __init__(
        self, limits: Limits, expires_at: datetime | None, *, is_renewable: bool = False
    ) -> None:
        self._limits = limits
        self.expires_at = expires_at
        """When the session or token ends, UTC; None: never."""
        self._grace_s = limits.renewal_grace_s if is_renewable else 0.0
        self._last_beat = trio.current_time()
        self._pinged_at: float | None = None

    def ending(
        self,
        now: float,
        wall_now: Callable[[], datetime],
        transport: Transport,
        *,
        is_sending: bool,
    ) -> tuple[Close, str] | None:
        """Return why the connection ends now: its session is over, or the client is silent."""
        limits = self._limits
        if self.has_expired(wall_now, after_s=self._grace_s):
            return Close.UNAUTHORIZED, "the session has expired"
        # While something is being sent, the write deadline watches over the client; what it took
        # is a sign of life, and a ping would have to wait behind the rest.
        heard = max(transport.last_heard, transport.last_taken)
        if now - heard > limits.client_timeout_s and not is_sending:
            return Close.NORMAL, "silent"
        if self._pinged_at is not None and transport.last_pong >= self._pinged_at:
            self._pinged_at = None
        if self._pinged_at is not None and now - self._pinged_at > limits.pong_deadline_s:
            return Close.NORMAL, "no pong"
        return None

    def has_expired(self, wall_now: Callable[[], datetime], *, after_s: float = 0.0) -> bool:
        """Return whether the session or token ended, so long ago at least."""
        if self.expires_at is None:
            return False
        return (wall_now() - self.expires_at).total_seconds() >= after_s

    def owes_pong(self, now: float, transport: Transport) -> bool:
        """Return whether a pong is out for longer than a client that is there takes."""
        if self._pinged_at is None or transport.last_pong >= self._pinged_at:
            return False
        return now - self._pinged_at >= self._limits.pong_deadline_s / _LATE

    def beat(self, now: float) -> bool:
        """Return whether a heartbeat is due, and count it as sent."""
        if now - self._last_beat < self._limits.heartbeat_interval_s:
            return False
        self._last_beat = now
        return True

    def ping(self, now: float, transport: Transport) -> bool:
        """Return whether a ping is due, and count it as sent."""
        if self._pinged_at is not None or now - transport.last_pong < self._limits.ping_interval_s:
            return False
        self._pinged_at = now
        return True

    def due(self, now: float, wall_now: Callable[[], datetime], transport: Transport) -> float:
        """Return when something may be due next, in Trio's time."""
        limits = self._limits
        if self._pinged_at is None:
            pinged = transport.last_pong + limits.ping_interval_s
        else:
            pinged = self._pinged_at + limits.pong_deadline_s
        heard = max(transport.last_heard, transport.last_taken)
        due = min(
            self._last_beat + limits.heartbeat_interval_s, heard + limits.client_timeout_s, pinged
        )
        if self.expires_at is not None:
            left_s = (self.expires_at - wall_now()).total_seconds()
            due = min(due, now + (left_s if left_s > 0 else left_s + self._grace_s))
        return due
