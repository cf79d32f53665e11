"""Whether a client reconnects, and how soon (RT-27)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from dalsegno.protocol import Backoff, Close, DalsegnoError, OverloadedError, WorkspaceMovedError

from ._errors import DisconnectedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024
MIB = 1024 * KIB

ABNORMAL = 1006
"""RFC 6455 §7.4.1: the connection ended without a close frame."""

_UNAUTHORIZED = {HTTPStatus.UNAUTHORIZED, Close.UNAUTHORIZED}
_AT_ONCE = {Close.GOING_AWAY, Close.TRY_AGAIN}
_LATER = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.MISDIRECTED_REQUEST}
_APPLICATION = range(4000, 5000)
"""RFC 6455 §7.4.2: codes for private use; an unknown one means not to reconnect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """The bounds of a client."""

    attempts_max: int | None = 10
    """Consecutive failures before `UnreachableError`; with None it never gives up."""
    looks_max: int | None = 10
    """Consecutive answers that another node has a workspace before the program gets that answer:
    with growing delays longer than a lease, after which the workspace is anybody's."""
    backoff_first_s: float = 1.0
    """First upper bound of the full-jitter delay between attempts …"""
    backoff_max_s: float = 30.0
    """… and the last; it doubles in between."""
    at_once_s: float = 0.25
    """Spread of clients that may reconnect at once, so that they do not all do so together."""
    slot_max_s: float = 60.0
    """The longest delay accepted from a server that shuts down; it names the delay itself."""
    connect_timeout_s: float = 10.0
    """For a login, or for a connection with its handshake."""
    token_timeout_s: float = 10.0
    """For the program's own ``token=``."""
    silence_s: float = 30.0
    """A server that sends nothing for three heartbeats is considered gone."""
    close_timeout_s: float = 2.0
    """For sending what is queued, and for the closing handshake, each."""
    sends_max: int = 256
    """Commands that wait for their answers; the next `send` waits."""
    stream_events_max: int = 1_000
    """Events that a loop has not taken yet; beyond it the stream rests at the server."""
    stream_bytes_max: int = 4 * MIB
    """… and their bytes."""
    follow_entities_max: int = 100_000
    """Entities of a domain that is followed as a list; beyond it that is refused."""
    state_bytes_max: int = 1 * KIB
    """What the program says of itself where it is present, as JSON: as much as a server takes."""
    message_bytes_max: int = 16 * MIB
    """A message of the server's: enough for a note of 1 MiB, escaped in the worst way."""


class Attempts:
    """Failures in a row of one command or stream, those of the wrong node counted apart."""

    def __init__(self, limits: ClientLimits, random: Callable[[], float]) -> None:
        self._otherwise = Retries(limits, random)
        self._elsewhere = Retries(replace(limits, attempts_max=limits.looks_max), random)

    def reset(self) -> None:
        """Forget the failures, after something that worked."""
        self._otherwise.reset()
        self._elsewhere.reset()

    def after(self, error: DalsegnoError) -> float:
        """Count a failure and return the delay; see `Retries.after`."""
        moved = isinstance(error, WorkspaceMovedError)
        return (self._elsewhere if moved else self._otherwise).after(error)


class Retries:
    """Failures in a row, and the delay after each."""

    def __init__(self, limits: ClientLimits, random: Callable[[], float]) -> None:
        self._limits = limits
        self._random = random
        self._backoff = Backoff(limits.backoff_first_s, limits.backoff_max_s)

    def reset(self) -> None:
        """Forget the failures, after something that worked."""
        self._backoff.reset()

    def at_once(self) -> float:
        """Return the delay of clients that were asked to come back."""
        return self._random() * self._limits.at_once_s

    def after(self, error: DalsegnoError) -> float:
        """Count a failure and return the delay: full jitter below a bound that doubles.

        Raises:
            DalsegnoError: ``error``, where that was the last attempt.

        """
        delay_s = self.again()
        most = self._limits.attempts_max
        if most is not None and self._backoff.failures >= most:
            raise error
        match error:
            case OverloadedError():  # its server has spread us already
                return max(delay_s, error.retry_after_s)
            case WorkspaceMovedError():  # all clients that asked were told the same
                return max(delay_s, self._random() * error.retry_after_s)
        return delay_s

    def again(self) -> float:
        """Count a failure and return the delay; this way no attempt is the last."""
        return self._backoff.next_s(self._random())


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended, or why there was none."""

    code: int
    """The close code; without a handshake, the HTTP status."""
    reason: str = ""
    was_open: bool = False
    """Whether the handshake succeeded."""
    was_useful: bool = False
    """Whether the server had sent anything but errors, and not ended it at once."""
    was_left: bool = False
    """Whether this client ended it, to find another server behind the same address."""
    slot_s: float | None = None
    """The delay that the server asked for, in seconds."""
    error: DalsegnoError | None = None
    """The server's answer to the handshake, if it was an error."""

    def __str__(self) -> str:
        what = "connection lost" if self.was_open else "no connection"
        said = (self.reason,) if self.code == ABNORMAL else (str(self.code), self.reason)
        return ": ".join(part for part in (what, " ".join(said).rstrip()) if part)

    @property
    def is_unauthorized(self) -> bool:
        """Whether another login is needed."""
        return self.code in _UNAUTHORIZED

    @property
    def is_invitation(self) -> bool:
        """Whether to reconnect at once."""
        return self.was_left or (self.was_useful and self.code in _AT_ONCE)

    @property
    def is_final(self) -> bool:
        """Whether the server refuses further connections."""
        if self.error is not None:
            return self.code < 500 and self.code not in _LATER
        try:
            return not Close(self.code).reconnect
        except ValueError:
            return self.code in _APPLICATION

    def as_error(self) -> DalsegnoError:
        """Return the error for the program."""
        if self.error is not None:
            return self.error
        if self.is_final:
            return DisconnectedError(self.code, self.reason)
        return UnreachableError(str(self))
