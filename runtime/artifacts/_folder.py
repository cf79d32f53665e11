"""Artifacts in a folder.

A file has its name once its bytes are durable.  Until then it is ``{name}.part``, locked by whoever
writes it: what is not locked was left behind by a process that died, and is deleted.  Everything
blocks, so it is done in threads, a few at a time.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import structlog
import trio

from dalsegno.protocol import ArtifactError, ArtifactGoneError
from dalsegno.runtime.disk import RealDisk, make_durable_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from dalsegno.actors import World
    from dalsegno.protocol import Limits
    from dalsegno.runtime.disk import Disk, Lock

T = TypeVar("T")

_log = structlog.get_logger("dalsegno.artifacts")

_PART = ".part"
_NAME = re.compile(r"[A-Za-z0-9_%][A-Za-z0-9_.%!~-]{0,239}", re.ASCII)
_PIECE = 1024 * 1024
"""What is written at once …"""
_READ = 256 * 1024
"""… and read at once."""
_THREADS = 4
_END_S = 5.0
"""How long it may take to give back what is open."""
_RECORDED_AFTER_S = 3600.0
"""How long after it was written a file is looked for in the log, and how often from then on: the
run that wrote it has ended by then, or has another attempt."""


class FolderArtifacts:
    """An `Artifacts` in a folder, which is made where it is not there."""

    def __init__(
        self,
        root: Path,
        *,
        world: World,
        limits: Limits,
        disk: Disk | None = None,
        free: Callable[[Path], int] | None = None,
    ) -> None:
        """Make it; the folder is looked at when there is something to do.

        Args:
            root: the folder; another process may have the same.
            world: tells the time.
            limits: the bounds of what is in it.
            disk: the file system.
            free: tells how many bytes are free of that.

        """
        self.root = root
        self._world = world
        self._limits = limits
        self._disk = RealDisk() if disk is None else disk
        self._free = _free_bytes if free is None else free
        self._threads = trio.CapacityLimiter(_THREADS)
        self._looked: dict[str, float] = {}
        """When each file was last looked for in the log."""

    def __repr__(self) -> str:
        return f"<FolderArtifacts {self.root}>"

    async def _run(self, function: Callable[[], T]) -> T:
        """Do something in a thread, to its end.

        Raises:
            ArtifactError: the disk refuses it.

        """
        with _translated():
            return await trio.to_thread.run_sync(function, limiter=self._threads)

    async def _end(self, function: Callable[[], None]) -> None:
        """Give something back, whoever is cancelled; a disk that hangs is left to its thread."""
        with _translated(), trio.move_on_after(_END_S, shield=True):
            await trio.to_thread.run_sync(function, limiter=self._threads, abandon_on_cancel=True)

    # -------------------------------------------------------------------------------- writing

    @asynccontextmanager
    async def write(self, name: str) -> AsyncIterator[_File]:
        """Write a file; see `Artifacts.write`."""
        path = self._path(name)
        file = await self._run(lambda: self._begin(path))
        try:
            yield file
        finally:
            await self._end(file.close)

    def _begin(self, path: Path) -> _File:
        make_durable_folder(self._disk, self.root)
        others = self._others(path)
        others = self._made_room(path, others)
        part = path.with_name(path.name + _PART)
        _make_private(part)
        lock = self._disk.try_lock(part, shared=False)
        if lock is None:
            raise ArtifactError("somebody else writes this file")
        file = _File(self, path, part, lock, sum(others.values()))
        try:
            self._disk.write(part, 0, b"")
            file.check_room()
        except BaseException:
            file.close()
            raise
        return file

    def _others(self, path: Path) -> dict[str, int]:
        """Return the other files, temporary ones included, by their names, each with its size."""
        found = {}
        for name in self._disk.names(self.root):
            identity = self._disk.identity(self.root / name)
            if identity is not None and name not in (path.name, path.name + _PART):
                found[name] = identity.size
        return found

    def _made_room(self, path: Path, others: dict[str, int]) -> dict[str, int]:
        """Delete the oldest of the same workspace, so that there is room for one more."""
        whose = path.name.partition("!")[0] + "!"
        own = [n for n in others if n.startswith(whose) and not n.endswith(_PART)]
        own.sort(key=self._written_ns)
        for name in own[: max(len(own) + 1 - self._limits.artifacts_per_workspace_max, 0)]:
            self._disk.remove(self.root / name)
            del others[name]
        return others

    def _written_ns(self, name: str) -> int:
        identity = self._disk.identity(self.root / name)
        return 0 if identity is None else identity.modified_ns

    # -------------------------------------------------------------------------------- reading

    @asynccontextmanager
    async def read(
        self, name: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a part of a file; see `Artifacts.read`."""
        path = self._path(name)

        def begin() -> int:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                return os.open(path, flags)
            except FileNotFoundError:
                raise ArtifactGoneError("it is not kept any longer") from None

        descriptor = await self._run(begin)
        try:
            yield _Pieces(self._run, descriptor, start, end)
        finally:
            await self._end(lambda: os.close(descriptor))

    async def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        path = self._path(name)
        return await self._run(lambda: self._disk.identity(path)) is not None

    # ------------------------------------------------------------------------------- deleting

    async def delete(self, name: str) -> None:
        """Delete a file, if it is there; see `Artifacts.delete`."""
        path = self._path(name)
        await self._run(lambda: self._disk.remove(path))

    async def sweep(self, is_wanted: Callable[[str], Awaitable[bool]], *, limit: int) -> int:
        """Delete what is too old, left behind or not wanted; see `Artifacts.sweep`."""
        swept = 0
        names = await self._run(lambda: self._disk.names(self.root))
        self._looked = {name: self._looked[name] for name in names if name in self._looked}
        for name in sorted(names):
            if swept == limit:
                break
            if name.endswith(_PART):
                swept += await self._run(lambda name=name: self._sweep_part(name))  # type: ignore[misc]  # of this turn
            elif _NAME.fullmatch(name) and await self._is_over(name, is_wanted):
                await self.delete(name)
                swept += 1
        return swept

    async def _is_over(self, name: str, is_wanted: Callable[[str], Awaitable[bool]]) -> bool:
        identity = await self._run(lambda: self._disk.identity(self.root / name))
        if identity is None:
            return False
        now = self._world.now().timestamp()
        written = identity.modified_ns / 1e9
        if now - written >= self._limits.artifact_ttl_s:
            return True
        if now - self._looked.get(name, written) < _RECORDED_AFTER_S:
            return False
        self._looked[name] = now
        return not await is_wanted(name)

    def _sweep_part(self, name: str) -> bool:
        """Delete a temporary file that nobody writes any longer."""
        path = self.root / name
        if not _NAME.fullmatch(name) or self._disk.identity(path) is None:
            return False
        lock = self._disk.try_lock(path, shared=False)
        if lock is None:
            return False
        try:
            self._disk.remove(path)
        finally:
            lock.release()
        return True

    def _path(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            ArtifactGoneError: no file has such a name.

        """
        if not _NAME.fullmatch(name) or name.endswith(_PART):
            raise ArtifactGoneError("there is no artifact of this name")
        return self.root / name


class _File:
    """A file that is being written, its bytes a piece at a time."""

    def __init__(
        self, folder: FolderArtifacts, path: Path, part: Path, lock: Lock, beside: int
    ) -> None:
        self._folder = folder
        self._path = path
        self._part = part
        self._lock = lock
        self._beside = beside
        """The bytes of the others, when it was begun."""
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._written = 0
        self._sum = sha256()
        self._is_finished = False

    def __repr__(self) -> str:
        return f"<_File {self._path.name}, {self._written + self._waiting_bytes} bytes>"

    async def write(self, data: bytes) -> None:
        """Write more; see `ArtifactFile.write`."""
        assert not self._is_finished, "nothing is written behind its end"
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _PIECE:
            await self._folder._run(self._write_waiting)  # noqa: SLF001 - its own
        else:
            await trio.lowlevel.checkpoint()

    async def finish(self) -> tuple[int, str]:
        """Make it durable; see `ArtifactFile.finish`."""
        await self._folder._run(self._finish)  # noqa: SLF001 - its own
        return self._written, self._sum.hexdigest()

    def check_room(self, more: int = 0) -> None:
        """Raise `ArtifactError` unless there is room for so many bytes more."""
        limits, size = self._folder._limits, self._written + more  # noqa: SLF001 - its own
        if size > limits.artifact_bytes_max:
            raise ArtifactError(f"it has more than {limits.artifact_bytes_max} bytes")
        if self._beside + size > limits.artifacts_bytes_max:
            raise ArtifactError(f"artifacts have more than {limits.artifacts_bytes_max} bytes")
        left = self._folder._free(self._folder.root) - more  # noqa: SLF001 - its own
        if left < limits.artifacts_free_bytes_min:
            raise ArtifactError(
                f"less than {limits.artifacts_free_bytes_min} bytes would be left on the disk"
            )

    def _write_waiting(self) -> None:
        data = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self.check_room(len(data))
        self._folder._disk.write(self._part, self._written, data)  # noqa: SLF001 - its own
        self._sum.update(data)
        self._written += len(data)

    def _finish(self) -> None:
        disk = self._folder._disk  # noqa: SLF001 - its own
        self._write_waiting()
        disk.sync(self._part)
        disk.rename(self._part, self._path)
        self._is_finished = True
        disk.sync_folder(self._path.parent)

    def close(self) -> None:
        """Leave nothing of it, unless it is finished."""
        try:
            if not self._is_finished:
                with suppress(OSError):  # it is swept
                    self._folder._disk.remove(self._part)  # noqa: SLF001 - its own
        finally:
            self._lock.release()


class _Pieces:
    """The pieces of a part of a file, as an async iterator."""

    def __init__(
        self,
        run: Callable[[Callable[[], bytes]], Awaitable[bytes]],
        descriptor: int,
        start: int,
        end: int | None,
    ) -> None:
        self._run = run
        self._descriptor = descriptor
        self._at = start
        self._end = end

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        length = _READ if self._end is None else min(self._end - self._at, _READ)
        if length <= 0:
            raise StopAsyncIteration
        piece = await self._run(lambda: os.pread(self._descriptor, length, self._at))
        if not piece:
            if self._end is not None:
                raise ArtifactError("the file is shorter than it was")
            raise StopAsyncIteration
        self._at += len(piece)
        return piece


@contextmanager
def _translated() -> Iterator[None]:
    """Raise `ArtifactError` for what a file system refuses, without the paths of this machine."""
    try:
        yield
    except OSError as error:
        _log.warning("artifact_failed", error=str(error))
        code = errno.errorcode.get(error.errno or 0, "EIO")
        raise ArtifactError(error.strerror or "the disk fails", errno=code) from error


def _make_private(path: Path) -> None:
    """Make a file that nobody else may read, unless it is there: a backup has password hashes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600))


def _free_bytes(root: Path) -> int:
    return shutil.disk_usage(root).free
