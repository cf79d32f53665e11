"""A disk that fails once."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from dalsegno.runtime.files import RealDisk


class FailingDisk(RealDisk):
    """Fails at one of its steps, before it or when it is done; the steps after it work."""

    left = -1
    """Steps until then."""
    is_done_first = False

    def _step(self, do: Callable[[], None]) -> None:
        self.left -= 1
        if self.left == -1:
            if self.is_done_first:
                do()
            raise OSError(errno.EIO, "Input/output error")
        do()

    def write(self, path: Path, at: int, data: bytes) -> None:
        self._step(lambda: super(FailingDisk, self).write(path, at, data))

    def sync(self, path: Path) -> None:
        self._step(lambda: super(FailingDisk, self).sync(path))

    def rename(self, path: Path, to: Path) -> None:
        self._step(lambda: super(FailingDisk, self).rename(path, to))

    def sync_folder(self, path: Path) -> None:
        self._step(lambda: super(FailingDisk, self).sync_folder(path))
