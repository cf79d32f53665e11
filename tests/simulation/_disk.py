"""A disk for the files that simulated runs write: slow, full at times, and not lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from random import Random

import trio

from dalsegno.protocol import ArtifactError, ArtifactGoneError


class SimFile:
    """A file that is being written."""

    def __init__(self, disk: SimDisk, name: str) -> None:
        self._disk = disk
        self._name = name
        self._data = b""

    async def write(self, data: bytes) -> None:
        await self._disk.turn()
        self._data += data

    async def finish(self) -> tuple[int, str]:
        await self._disk.turn()
        assert self._name not in self._disk.files, "each attempt has a name of its own"
        self._disk.files[self._name] = self._data
        return len(self._data), sha256(self._data).hexdigest()


class SimDisk:
    """The files of all nodes, as `Artifacts`; what it does is as repeatable as the schedule."""

    def __init__(self, seed: int) -> None:
        self.files: dict[str, bytes] = {}
        self._random = Random(seed)

    async def turn(self) -> None:
        """Take a moment; at times the disk is full."""
        await trio.sleep(self._random.choice([0.0, 0.0, 0.1, 0.5]))
        if self._random.random() < 0.02:
            raise ArtifactError("no space left")

    @asynccontextmanager
    async def write(self, name: str) -> AsyncIterator[SimFile]:
        await self.turn()
        yield SimFile(self, name)

    @asynccontextmanager
    async def read(
        self, name: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        await self.turn()
        if name not in self.files:
            raise ArtifactGoneError("there is none")

        async def pieces() -> AsyncIterator[bytes]:
            yield self.files[name][start:end]

        yield pieces()

    async def has(self, name: str) -> bool:
        await self.turn()
        return name in self.files

    async def delete(self, name: str) -> None:
        await self.turn()
        self.files.pop(name, None)

    async def sweep(self, is_wanted: Callable[[str], Awaitable[bool]], *, limit: int) -> int:
        unwanted = [name for name in list(self.files)[:limit] if not await is_wanted(name)]
        for name in unwanted:
            del self.files[name]
        return len(unwanted)
