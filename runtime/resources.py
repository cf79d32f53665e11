"""What a system may refuse a process for a while: descriptors, memory, threads.

Whatever was refused for want of these has learnt nothing and broken nothing, so it is tried again.
"""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EXHAUSTED = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EIO}
)
"""The errors of a call that may work later, unchanged."""

_OPEN_MAX = 10_240
"""What macOS takes where the hard limit is infinite (setrlimit(2), COMPATIBILITY)."""


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of descriptors to the hard one, or as far as it may.

    The usual soft limit of 1,024, on macOS 256, is for programs that use `select`; none of ours do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _OPEN_MAX):
        if _is_above(wanted, soft):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            except (ValueError, OSError):
                continue
        return


def descriptors_max() -> int | None:
    """Return how many descriptors this process may have; None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _is_above(limit: int, other: int) -> bool:
    if other == resource.RLIM_INFINITY:
        return False
    return limit == resource.RLIM_INFINITY or limit > other


@contextmanager
def starting_thread() -> Iterator[None]:
    """Raise `OSError` where the system refuses a block a thread.

    Python raises a bare `RuntimeError` for it, which would pass for a bug.
    """
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise OSError(errno.EAGAIN, str(error)) from error


class SpareDescriptor:
    """A descriptor kept for a process that has no other: it accepts a connection to refuse it.

    Otherwise clients would wait in the listener's queue, without a word, for as long as that lasts.
    """

    def __init__(self) -> None:
        self._kept: socket.socket | None = None
        self.keep()

    def keep(self) -> None:
        """Have one again, if the system gives one."""
        if self._kept is None:
            try:
                self._kept = socket.socket()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise

    def free(self) -> bool:
        """Free it for the next call that needs one; return whether there was one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()
        return kept is not None
