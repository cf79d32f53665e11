"""The embedded servers that this process looks after, where it does not end as usual.

* A process that ends without having stopped them, since a second Ctrl-C interrupted that, takes
  them along: nobody would look after them any more.  One that is killed cannot; the next start
  adopts them.
* A forked child inherits the lock of a folder, and would hold it when its parent has long ended.
"""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Held(Protocol):
    """A server that this process has started or adopted, and has not stopped yet."""

    def abandon(self) -> None:
        """Stop the server within seconds, whatever its state; never raise."""

    def disown(self) -> None:
        """Forget it in a forked child: it is the parent's."""


_held: list[Held] = []


def keep(server: Held) -> None:
    """Count a server among those that are looked after here."""
    _held.append(server)


def release(server: Held) -> None:
    """Count a server no longer."""
    if server in _held:
        _held.remove(server)


def abandon_all() -> None:
    """Take every server along, for a process that ends at once."""
    for server in _emptied():
        server.abandon()


def _disown_all() -> None:
    for server in _emptied():
        server.disown()


def _emptied() -> Iterable[Held]:
    held = list(_held)
    _held.clear()
    return held


atexit.register(abandon_all)
os.register_at_fork(after_in_child=_disown_all)
