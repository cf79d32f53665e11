"""Who carries out runs: workers, which are asked, and reactors, which follow a domain's events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection  # at run time, as in `_deciding`
from typing import Any, Literal

import msgspec

from dalsegno.protocol._errors import DomainError

from ._vocabulary import OnDisconnect

Since = Literal["now", "beginning"]


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed attempt is followed by another one."""

    attempts_max: int = 3
    """Attempts that may fail, or that may be cut off by a death of their process."""
    first_s: float = 1.0
    """The bound of the first wait, in seconds, which is drawn below it and doubles …"""
    max_s: float = 60.0
    """… up to this."""
    on: frozenset[str] | None = None
    """The codes of errors that are tried again; None: all but those of refusals."""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A coroutine that carries out runs under a name, and within which bounds."""

    name: str
    function: Callable[..., Awaitable[Any]]
    kind: str = "agent"
    """What its runs are to those who read of them."""
    deadline_s: float = 600.0
    """From the request to the end, at most, in seconds."""
    concurrency: int = 4
    """Its runs at a time in a workspace."""
    retry: Retry = Retry()
    on_disconnect: OnDisconnect = "continue"
    allow: frozenset[str] | None = None
    """The roles that may ask for a run; None: those that may write.  Of a reactor, nobody may."""

    def check(self) -> None:
        """Raise `DomainError` unless it is complete."""
        if not 0 < self.deadline_s <= _DEADLINE_MAX_S:
            raise DomainError(f"{self.name}: a deadline is up to {_DEADLINE_MAX_S:g} s")
        if self.concurrency < 1 or self.retry.attempts_max < 1:
            raise DomainError(f"{self.name}: concurrency and attempts_max count from 1")


_DEADLINE_MAX_S = 30 * 24 * 3600.0


class Reactor(Worker, frozen=True, kw_only=True):
    """A worker that is asked by an event, once for each."""

    event: str
    """The type of event."""
    domain: str
    when: Callable[[Any, Any], bool] | None = None
    """Of the entity's state at the event, and the event; None: always.  Pure."""
    depth_max: int = 1
    """Reactions that may lead to each other; past it an event is passed over."""
    since: Since = "now"
    was: str | None = None
    """The name under which it was known before."""


def worker(
    name: str,
    *,
    kind: str = "agent",
    deadline_s: float = 600.0,
    concurrency: int = 4,
    retry: Retry | None = None,
    on_disconnect: OnDisconnect = "continue",
    allow: Collection[str] | None = None,
) -> Callable[[Callable[..., Awaitable[Any]]], Worker]:
    """Return what makes a worker of a coroutine; see `Worker`."""

    def made(function: Callable[..., Awaitable[Any]]) -> Worker:
        return Worker(
            name=name,
            function=function,
            kind=kind,
            deadline_s=deadline_s,
            concurrency=concurrency,
            retry=Retry() if retry is None else retry,
            on_disconnect=on_disconnect,
            allow=None if allow is None else frozenset(allow),
        )

    return made
