"""Where files are read and written: in threads, so that a slow disk holds up nothing else."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import structlog
import trio

from dalsegno.protocol import FolderError

from ._descriptors import InTheWayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_log = structlog.get_logger("dalsegno.folders")

_THREADS = 4
_END_S = 5.0
"""How long it may take to give back what is open."""


class Threads:
    """A few threads, whose failures are `FolderError`."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_THREADS)

    def __repr__(self) -> str:
        return f"<Threads, {self._limiter.borrowed_tokens} of {_THREADS} at work>"

    async def run(self, function: Callable[[], T]) -> T:
        """Do something in a thread, to its end.

        Raises:
            FolderError: the disk refuses it.

        """
        with _translated():
            return await trio.to_thread.run_sync(function, limiter=self._limiter)

    async def end(self, function: Callable[[], None]) -> None:
        """Give something back, whoever is cancelled; a disk that hangs is left to its thread.

        What cannot be given back is logged, and swept later.
        """
        with trio.move_on_after(_END_S, shield=True):
            try:
                await trio.to_thread.run_sync(
                    function, limiter=self._limiter, abandon_on_cancel=True
                )
            except (OSError, InTheWayError) as error:
                _log.warning("folder_not_cleared", error=str(error))


@contextmanager
def _translated() -> Iterator[None]:
    """Raise `FolderError` for what a file system refuses, without the paths of this machine."""
    try:
        yield
    except InTheWayError as error:
        raise FolderError(str(error)) from error
    except OSError as error:
        _log.warning("folder_failed", error=str(error))
        code = errno.errorcode.get(error.errno or 0, "EIO")
        raise FolderError(error.strerror or "the disk fails", errno=code) from error
