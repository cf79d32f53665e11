"""Who carries out runs: coroutines under a name, and within which bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection  # at run time, as in `_deciding`
from typing import Any, Literal, TypeAlias

import msgspec

from ._deciding import WRITERS
from ._errors import DomainError

OnDisconnect: TypeAlias = Literal["continue", "cancel"]
"""What the loss of the connection that asked for a run does to it."""


ROLLUP_S = 10.0
"""How old what a run says may be before it is in the log, in seconds, unless its worker says it."""


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
    """The roles that may ask for a run; None: those that may write.  None of them: only deciders
    ask for one (`asked_for`)."""
    folder: str | None = None
    """The folder whose sub-folders, each named after a workspace's id, its runs read and write
    files in."""
    is_reactor: bool = False
    """Whether its runs are asked for by events, and by nobody else; see `Domain.react`."""
    rolls_up_s: float = ROLLUP_S
    """How old what a run says may be before it is in the log, in seconds.  Ten rows a minute, or
    ten a second for those who are to read it as events, in order and by cursor, as it comes."""

    @property
    def allowed(self) -> frozenset[str]:
        """The roles that may ask for a run."""
        return WRITERS if self.allow is None else self.allow

    def check(self) -> None:
        """Raise `DomainError` unless it is complete."""
        if not 0 < self.deadline_s <= _DEADLINE_MAX_S:
            raise DomainError(f"{self.name}: a deadline is up to {_DEADLINE_MAX_S:g} s")
        if self.concurrency < 1 or self.retry.attempts_max < 1:
            raise DomainError(f"{self.name}: concurrency and attempts_max count from 1")
        if not _ROLLUP_MIN_S <= self.rolls_up_s <= ROLLUP_S:
            raise DomainError(f"{self.name}: rolls_up_s is {_ROLLUP_MIN_S:g} to {ROLLUP_S:g} s")
        if self.folder is not None and (not self.folder or "\0" in self.folder):
            raise DomainError(f"{self.name}: a folder has a path")


_DEADLINE_MAX_S = 30 * 24 * 3600.0
_ROLLUP_MIN_S = 0.05


def worker(
    name: str,
    *,
    kind: str = "agent",
    deadline_s: float = 600.0,
    concurrency: int = 4,
    retry: Retry | None = None,
    on_disconnect: OnDisconnect = "continue",
    allow: Collection[str] | None = None,
    rolls_up_s: float = ROLLUP_S,
    folder: str | None = None,
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
            rolls_up_s=rolls_up_s,
            folder=folder,
        )

    return made
